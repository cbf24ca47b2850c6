from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.examples import PROMPTS, guide
from tests.conformance.examples import model as tiny_model
from tests.methods.prompting.hands import Counting, Heard
from tests.methods.training import toy
from tests.models.server import answer, send, serving
from truing import SFT, RemoteModel, SystemMessage, load, progress
from truing.errors import ModelError, SettingsError
from truing.methods.prompting.prompt_augmentation import (
    INSTRUCTION,
    PromptAugmentation,
    PromptAugmentationModifier,
    cleaned,
    unfit,
)
from truing.methods.prompting.writers import count_words
from truing.runs import find_recipe, parse
from truing.safe_text import filled

USER = {"role": "user", "content": "the bird?"}


def in_short(prompts: list[str]) -> list[str]:
    """A guide written by hand."""
    return [f"Say it in {len(prompt.split())} words." for prompt in prompts]


def test_the_complement_stands_after_the_last_message_of_the_user() -> None:
    modifier = PromptAugmentationModifier(guide=in_short)
    talk = [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "a b c"},
        {"role": "assistant", "content": "yes"}, {**USER, "name": "x"}, {"role": "tool", "content": "7"},
    ]  # fmt: skip
    before = [dict(message) for message in talk]
    changed = modifier.messages(talk)
    assert changed[3] == {"role": "user", "content": "the bird?\n\nSay it in 2 words.", "name": "x"}
    assert changed[:3] + changed[4:] == before[:3] + before[4:]
    assert talk == before
    nothing = [{"role": "assistant", "content": "hello"}]
    assert modifier.messages(nothing) == nothing
    assert modifier.messages([{"role": "user", "content": " "}]) == [{"role": "user", "content": " "}]


def test_the_model_answers_as_if_the_user_had_written_both() -> None:
    model = tiny_model()
    aligned = PromptAugmentation(guide=in_short, template="{complement} {prompt}").align(model)
    written = "Say it in 2 words. the bird?"
    assert aligned.encode_prompt("the bird?") == model.encode_prompt(written)
    assert aligned.generate("the bird?", max_new_tokens=8).texts == model.generate(written, max_new_tokens=8).texts
    assert aligned.logprobs(["the bird?"], ["red"]) == pytest.approx(model.logprobs([written], ["red"]), abs=1e-6)
    assert model.conversation("the bird?") == [USER]


def test_a_batch_is_one_call_and_equal_prompts_are_written_for_once() -> None:
    count = Counting(lambda prompt: f"Mind {prompt}")
    modifier = PromptAugmentationModifier(guide=count)
    talks = [[{"role": "user", "content": text}] for text in ("a", "b", "a")]
    assert [talk[0]["content"] for talk in modifier.batch(talks)] == ["a\n\nMind a", "b\n\nMind b", "a\n\nMind a"]
    modifier.messages(talks[1])
    modifier.batch([*talks, [{"role": "user", "content": "c"}]])
    assert count.calls == [["a", "b"], ["c"]]
    assert modifier.counts == {"used": 3}
    assert PromptAugmentationModifier(guide=count).counts == {}


def test_a_batch_of_a_model_gives_what_single_prompts_give_whatever_the_seed_of_the_answer() -> None:
    how = {"guide": guide(), **PromptAugmentation.quick}
    together, alone = PromptAugmentationModifier(**how), PromptAugmentationModifier(**how)
    talks = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    assert together.batch(talks) == [alone.messages(talk) for talk in talks]
    assert together.counts == {"used": 2, "cut off": 1}
    assert together.batch(talks) != PromptAugmentationModifier(**{**how, "seed": 2}).batch(talks)
    aligned = PromptAugmentation(**how).align(tiny_model())
    for seed in (0, 1):
        aligned.generate(PROMPTS, max_new_tokens=2, temperature=1.0, seed=seed)
    assert aligned.modifiers[-1].counts == {"used": 2, "cut off": 1}


@pytest.mark.parametrize(
    ("complement", "why"),
    [
        ("Please keep it short.", ""), ("No more than 100 words, please.", ""), ("Yesterday's data is enough.", ""),
        ("Certainly useful: a table.", ""), ("I can not find my notes, so give the source.", "answers the prompt"),
        ("", "empty"), ("word " * 7, "too long"), ("  the   bird? ", "only repeats the prompt"),
        ("Yes, it is red.", "answers the prompt"), ("No.", "answers the prompt"), ("Sure", "answers the prompt"),
        ("Here is the list: a, b", "answers the prompt"), ("The answer is red.", "answers the prompt"),
        ("Answer: red", "answers the prompt"), ("The correct answer to this is 4.", "answers the prompt"),
        ("I'm sorry, I cannot help.", "answers the prompt"), ("As an AI I have none.", "answers the prompt"),
        ("The answer should be short.", ""), ("答案是红色。", "answers the prompt"), ("请用表格回答", ""),
        ("请用表格回答我", "too long"),
    ],
)  # fmt: skip
def test_what_cannot_stand_beside_a_prompt(complement: str, why: str) -> None:
    most = 6 if why == "too long" else 20
    assert unfit("the bird?", complement, max_words=most) == why
    modifier = PromptAugmentationModifier(guide=lambda prompts: [complement], max_words=most)
    content = modifier.messages([USER])[0]["content"]
    assert content == ("the bird?" if why else f"the bird?\n\n{complement}")
    assert modifier.counts == {why or "used": 1}


def test_labels_and_quotation_marks_are_taken_off() -> None:
    assert cleaned(' Complement: "Keep it short."\n') == "Keep it short."
    assert cleaned("The final complement： “短一点”") == "短一点"
    assert cleaned('"One" and "two"') == '"One" and "two"'
    assert cleaned("Complements matter: say why.") == "Complements matter: say why."
    assert count_words("two words 和四个字") == 6


@given(st.text(max_size=40), st.text(max_size=40))
def test_braces_in_texts_are_text(prompt: str, complement: str) -> None:
    assert filled("{prompt}|{complement}", prompt=prompt, complement=complement) == f"{prompt}|{complement}"


def test_prompts_that_go_on_as_they_are_are_counted_and_said_seldom() -> None:
    modifier = PromptAugmentationModifier(guide=Counting(lambda prompt: "" if int(prompt) % 2 else "Be kind."))
    heard = Heard()
    with progress.listening(heard):
        for number in range(1, 41):
            modifier.messages([{"role": "user", "content": str(number)}])
    assert modifier.counts == {"empty": 20, "used": 20}
    assert [re.search(r"(\d+) of (\d+) prompts", line).groups() for line in heard.said] == [("1", "1"), ("10", "19")]
    assert "(10 empty)" in heard.said[1]


def test_a_prompt_too_long_for_the_guide_does_not_stop_the_others() -> None:
    short = PromptAugmentationModifier(**{"guide": guide(), **PromptAugmentation.quick})
    texts = ["what is the colour of the stone?", "the stone is grey, " * 90]
    found = short.batch([[{"role": "user", "content": text}] for text in texts])
    assert found[0][0]["content"] != texts[0]
    assert found[1][0]["content"] == texts[1]
    assert short.counts == {"used": 1, "prompt too long": 1}


def trained_writer():
    rows = [
        {"prompt": row["prompt"], "completion": "look at it" if at % 2 else "look at the mat"}
        for at, row in enumerate(toy.demonstrations(4))
    ]
    learning = {"learning_rate": 1e-2, "epochs": 60, "batch_size": 4}
    return rows, SFT(**learning).align(tiny_model("qwen3", seed=7), rows)


def test_a_writer_trained_on_complements_writes_them_before_and_after_a_save(tmp_path) -> None:
    rows, writer = trained_writer()
    augmented = PromptAugmentation(guide=writer, instruction="{prompt}").align(tiny_model())
    prompts = [row["prompt"] for row in rows]
    expected = [f"{row['prompt']}\n\n{row['completion']}" for row in rows]
    assert [augmented.conversation(prompt)[-1]["content"] for prompt in prompts] == expected
    augmented.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert [again.conversation(prompt)[-1]["content"] for prompt in prompts] == expected
    assert again.generate(prompts, max_new_tokens=6).texts == augmented.generate(prompts, max_new_tokens=6).texts
    assert again.fingerprint == augmented.fingerprint
    assert again.unstack().conversation("the bird?") == [USER]


def test_a_saved_function_is_loaded_only_if_it_is_given(tmp_path) -> None:
    PromptAugmentation(guide=in_short).align(tiny_model()).save(tmp_path / "model")
    with pytest.raises(ModelError, match="functions="):
        load(tmp_path / "model")
    again = load(tmp_path / "model", functions=[in_short])
    assert again.conversation("the bird?")[-1]["content"] == "the bird?\n\nSay it in 2 words."


def test_it_stacks_with_a_system_message_in_either_order() -> None:
    spoken = SystemMessage(text="Be kind.")
    augment = PromptAugmentation(guide=in_short)
    both = [{"role": "system", "content": "Be kind."}, {**USER, "content": "the bird?\n\nSay it in 2 words."}]
    assert augment.align(spoken.align(tiny_model())).conversation("the bird?") == both
    assert spoken.align(augment.align(tiny_model())).conversation("the bird?") == both


def test_a_remote_guide_and_a_remote_model(tmp_path) -> None:
    with serving() as server:
        remote = RemoteModel("m", base_url=server.url, api_key="k", max_retries=0)
        server.script = [
            lambda handler, body: send(200, answer(body, message={"role": "assistant", "content": "Be brief."}))(
                handler, body
            )
        ]
        aligned = PromptAugmentation(guide=remote).align(remote)
        assert server.requests == []
        assert aligned.generate("the bird?").texts == ["THE BIRD?\n\nBE BRIEF."]
        assert aligned.generate("the bird?").texts == ["THE BIRD?\n\nBE BRIEF."]
        asked = [body["messages"][-1]["content"] for body in server.requests]
        assert asked == [filled(INSTRUCTION, prompt="the bird?")] + ["the bird?\n\nBe brief."] * 2
        aligned.save(tmp_path / "model")
        assert load(tmp_path / "model").modifiers[-1].guide.url == server.url


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guide": "out/writer"}, "Load it"), ({"guide": None}, "guide is a model"),
        ({"instruction": "Write."}, "instruction .*{prompt}"), ({"template": "{prompt}"}, "{prompt} and {complement}"),
        ({"template": "{prompt}{prompt}{complement}"}, "once"), ({"max_words": 0}, "max_words"),
        ({"max_new_tokens": True}, "max_new_tokens"), ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        PromptAugmentation(**{"guide": in_short, **settings}).align(tiny_model())


@pytest.mark.parametrize("said", [["one"], "ab", [1, 2], None])
def test_a_function_that_gives_something_else_is_told(said) -> None:
    modifier = PromptAugmentationModifier(guide=lambda prompts: said)
    with pytest.raises(ModelError, match="given 2 prompts"):
        modifier.batch([[USER], [{**USER, "content": "b"}]])


def test_recipe() -> None:
    recipe, _ = parse(find_recipe("prompt-augmentation")[1], "prompt-augmentation")
    assert [step.method for step in recipe.steps] == ["sft", "prompt_augmentation"]
    assert recipe.steps[1].settings["guide"] == f"steps/{recipe.steps[0].name}"
    assert recipe.steps[1].start == "start"
