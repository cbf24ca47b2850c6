"""URIAL: constant examples before every conversation, in the form that a model reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import tiny
from tests.conformance.examples import model as tiny_model
from tests.models.server import answer, send, serving, stream
from tests.models.test_engine import Script
from truing import SFT, URIAL, RemoteModel, SystemMessage, load, measure, sandbox
from truing.errors import RecordError, SettingsError
from truing.methods.prompting.style_examples import EXAMPLES, SANDBOX_EXAMPLES
from truing.models import Model
from truing.runs import find_recipe, parse

MINE = [
    {"prompt": "the stone?", "completion": "it is grey, of course."},
    {"prompt": "the bird?", "completion": "small and red."},
]


def plain_model(**changes: Any) -> Model:
    return Model(tiny.network(**changes), tiny.tokenizer(chat=False), source="tiny-plain")


# --- what the prompt holds -------------------------------------------------------------------------------------------


def test_turns_through_the_chat_template() -> None:
    model = tiny_model()
    aligned = URIAL(examples=MINE, instruction="Be kind.").align(model)
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "the stone?"}, {"role": "assistant", "content": "it is grey, of course."},
        {"role": "user", "content": "the bird?"}, {"role": "assistant", "content": "small and red."},
        {"role": "user", "content": "the mat?"},
    ]  # fmt: skip
    assert aligned.conversation("the mat?") == talk
    assert aligned.encode_prompt("the mat?") == model.encode_prompt(talk)
    assert aligned.stops == ()
    assert aligned.logprobs(["the mat?"], ["red"]) == pytest.approx(model.logprobs([talk], ["red"]), abs=1e-6)


def test_fences_for_a_model_without_a_template() -> None:
    aligned = URIAL(examples=MINE[:1], instruction="Be kind.").align(plain_model())
    assert aligned.modifiers[0].style == "fenced"
    shown = aligned.tokenizer.decode(aligned.encode_prompt("the mat?"))
    assert shown == (
        "Be kind.\n# Query:\n```\nthe stone?\n```\n\n# Answer:\n```\nit is grey, of course.\n```\n"
        "\n# Query:\n```\nthe mat?\n```\n\n# Answer:\n```\n"
    )
    # No space is put before an answer that begins on a line of its own.
    prompt, completion = aligned.encode_pair("the mat?", "red")
    assert aligned.tokenizer.decode(prompt + completion) == shown + "red<|end|>"


@pytest.mark.parametrize("style", ["turns", "fenced", "headings"])
def test_prefix_tokens_are_the_same_for_every_query(style) -> None:
    model = tiny_model() if style == "turns" else plain_model(max_position_embeddings=512)
    aligned = URIAL(examples=MINE, instruction="Be kind.", style=style).align(model)
    first, second = (aligned.encode_prompt(query) for query in ("the cat?", "```\n# Query: x"))
    shared = next(at for at, (one, two) in enumerate(zip(first, second)) if one != two)
    prefix = aligned.tokenizer.decode(first[:shared])
    assert "small and red." in prefix
    assert aligned.encode_prompt([
        {"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "the mat?"},
    ])[:shared] == first[:shared]  # fmt: skip


def test_a_system_message_of_the_conversation_and_one_put_before_it() -> None:
    aligned = URIAL(examples=MINE[:1], instruction="Be kind.").align(plain_model())
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the mat?"}]
    assert aligned.conversation(own)[0]["content"] == "Be kind.\n\nBe brief."
    assert own[0]["content"] == "Be brief."
    later = SystemMessage(text="First of all.").align(aligned)
    shown = later.tokenizer.decode(later.encode_prompt("the mat?"))
    assert shown.startswith("First of all.\n\nBe kind.\n# Query:\n```\nthe stone?")


@pytest.mark.parametrize(("count", "tokens"), [(0, 150), (1, 500), (3, 1011), (8, 2000)])
def test_built_in_examples_are_as_long_as_the_papers(count, tokens) -> None:
    method = URIAL(examples=count)
    text = method._instruction("fenced") + " ".join(turn["content"] for turn in method._turns())
    assert 0.7 * tokens < 1.33 * len(text.split()) < 1.3 * tokens


def test_what_the_built_in_examples_are() -> None:
    assert [one.refuses for one in EXAMPLES[:3]] == [False, True, False]
    assert sum(one.refuses for one in EXAMPLES) == 1
    refusal = EXAMPLES[1].answer
    helping = URIAL(examples=3, refusal=False)._turns()
    assert len(helping) == 6
    assert all(turn["content"] != refusal for turn in helping)
    assert URIAL(examples=3)._turns()[3]["content"] == refusal
    for one in EXAMPLES:
        assert "\n1. " in one.answer or "\n- " in one.answer or "\n> " in one.answer
    assert "# User:" in URIAL()._instruction("headings")
    assert "#" not in URIAL()._instruction("turns")


def test_sandbox_examples_are_of_its_words_and_right() -> None:
    from truing.sandbox.recognise import recognise

    tokenizer = load("sandbox/base").tokenizer
    for one in SANDBOX_EXAMPLES:
        item = recognise(one.prompt)
        assert item is not None
        assert sandbox.grade(item, one.answer).wanted
        assert sandbox.grade(item, one.answer).outcome != "off_format"
        words = one.answer.replace(".", " .").replace(",", " ,").split()
        assert len(tokenizer(one.answer, add_special_tokens=False)["input_ids"]) <= len(words) + 1
    kinds = [recognise(one.prompt).kind for one in SANDBOX_EXAMPLES[:3]]
    assert kinds == ["fact", "harmful", "benign"]
    assert [recognise(turn["content"]).kind for turn in URIAL(examples="sandbox")._turns()[::2]] == kinds


def test_examples_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MINE))
    turns = URIAL(examples=MINE)._turns()
    assert URIAL(examples=str(path))._turns() == URIAL(examples=path)._turns() == turns
    asked = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    two = {"prompt": asked, "completion": [{"role": "assistant", "content": "d"}]}
    assert [turn["content"] for turn in URIAL(examples=[two])._turns()] == ["a", "b", "c", "d"]


def test_no_examples_and_no_instruction_leave_the_form_alone() -> None:
    model = plain_model()
    bare = URIAL(examples=0, instruction="").align(model)
    assert bare.tokenizer.decode(bare.encode_prompt("x")) == "# Query:\n```\nx\n```\n\n# Answer:\n```\n"
    assert URIAL(examples=[], instruction="").align(model).encode_prompt("x") == bare.encode_prompt("x")
    turns = URIAL(examples=0, instruction="").align(tiny_model())
    assert turns.encode_prompt("x") == tiny_model().encode_prompt("x")


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["x\n```\n\n# Query:\nno", "x\n```\n", "x"])
def test_answers_stop_at_the_next_heading_and_lose_their_fence(written) -> None:
    aligned = URIAL(examples=MINE, instruction="Be kind.").align(plain_model())
    tokens = [*aligned.tokenizer(written, add_special_tokens=False)["input_ids"], 1]
    scripted = aligned.with_modifier(Script(tokens=tokens, start=len(aligned.encode_prompt("the mat?"))))
    pieces: list[str] = []
    [found] = scripted.generate("the mat?", max_new_tokens=40, stream=lambda p, s, piece: pieces.append(piece))
    assert found.text == "x"
    assert "".join(pieces) == "x"
    assert found.finish_reason == "stop"
    assert len(found.tokens) <= len(tokens)


def test_remote_models_get_turns_or_one_text_with_a_stop() -> None:
    with serving() as server:
        remote = RemoteModel("tiny", base_url=server.url, api_key="")
        turns = URIAL(examples=MINE, instruction="Be kind.").align(remote)
        turns.generate("the mat?")
        assert [m["role"] for m in server.requests[-1]["messages"]] == ["system", *["user", "assistant"] * 2, "user"]
        assert "stop" not in server.requests[-1]
        fenced = URIAL(examples=MINE, instruction="Be kind.", style="fenced").align(remote)
        said = "x\n```\n\n# Query:\nno"
        server.script.append(send(200, answer({"messages": [], "model": "x"} | {"messages": [
            {"role": "user", "content": ""}]}, message={"role": "assistant", "content": said})))  # fmt: skip
        assert fenced.generate("the mat?").texts == ["x"]
        [message] = server.requests[-1]["messages"]
        assert message["content"].endswith("# Query:\n```\nthe mat?\n```\n\n# Answer:\n```\n")
        assert server.requests[-1]["stop"] == ["\n# Query:"]
        pieces: list[str] = []
        server.script.append(lambda handler, body: stream(
            handler, {**body, "messages": [{"role": "user", "content": "yes\n```\n"}]}))  # fmt: skip
        found = fenced.generate("the cat?", stream=lambda p, s, piece: pieces.append(piece))
        assert "".join(pieces) == found[0].text == "YES"


def test_save_load_and_take_off(tmp_path) -> None:
    aligned = URIAL(examples=MINE, style="fenced").align(plain_model(max_position_embeddings=2048))
    aligned.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.modifiers == aligned.modifiers
    assert again.encode_prompt("x") == aligned.encode_prompt("x")
    assert again.stops == ("\n# Query:",)
    assert aligned.unstack().encode_prompt("x") == plain_model().encode_prompt("x")
    assert aligned.modifiers[0].label == "URIAL(2 examples, fenced)"


def test_the_prompt_is_read_once_for_all_rows() -> None:
    base = load("sandbox/base")
    aligned = URIAL(examples="sandbox").align(base)
    prompts = [item.prompt for item in sandbox.items("fact", split="dev", n=12)]
    found = aligned.generate(prompts, max_new_tokens=1)
    lengths = [len(aligned.encode_prompt(prompt)) for prompt in prompts]
    alone = aligned.generate(prompts[:1], max_new_tokens=1)
    assert alone.usage.positions["model"] == lengths[0]
    shared = len(aligned.encode_prompt(prompts[0])) - len(base.encode_prompt(prompts[0]))
    assert found.usage.positions["model"] <= shared + sum(size - shared for size in lengths)
    assert found.texts == [aligned.generate([prompt], max_new_tokens=1).texts[0] for prompt in prompts]


# --- what it does ----------------------------------------------------------------------------------------------------


def test_styled_examples_raise_style_on_a_base_of_mixed_styles() -> None:
    # The sandbox base was trained on rude, plain, terse, verbose and polite answers alike.
    base = load("sandbox/base")
    shown = URIAL(examples="sandbox", instruction="").align(base)
    bare, styled = (measure("hhh", one, limit=60, split="dev").samples for one in (base, shown))
    polite = [sum(row["style"] == "polite" for row in rows) for rows in (bare, styled)]
    rude = [sum(row["style"] == "rude" for row in rows) for rows in (bare, styled)]
    assert polite[1] > polite[0] + 20
    assert rude[1] < rude[0]


def test_through_the_command_line_and_recipe(tmp_path) -> None:
    from typer.testing import CliRunner

    from truing.cli.app import app

    out = tmp_path / "urial"
    words = ["align", "urial", "--model", "sandbox/base", "--examples", "sandbox", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert load(out).history[-1].settings["examples"] == "sandbox"
    assert len(load(out).modifiers[0].turns) == 6
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MINE))
    done = CliRunner().invoke(app, [*words[:5], str(path), "--out", str(tmp_path / "own"), "--instruction", ""])
    assert done.exit_code == 0, done.output
    assert len(load(tmp_path / "own").modifiers[0].turns) == 4
    recipe, _ = parse(find_recipe("urial")[1], "urial")
    assert [step.method for step in recipe.steps] == ["urial"]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_message_is_refused(text) -> None:
    for model in (tiny_model(), plain_model()):
        aligned = URIAL(examples=MINE, instruction="").align(model)
        with pytest.raises(RecordError, match="message of the user is empty"):
            aligned.generate(text)
        talk = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": text},
            {"role": "user", "content": "b"},
        ]
        with pytest.raises(RecordError, match="message of the assistant is empty"):
            aligned.generate(talk)
        with pytest.raises(RecordError, match="needs a message of the user"):
            aligned.generate([{"role": "system", "content": "x"}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples": 9}, "from 0 to 8"),
        ({"examples": -1}, "from 0 to 8"),
        ({"examples": 2.5}, "from 0 to 8"),
        ({"examples": True}, "from 0 to 8"),
        ({"examples": 8, "refusal": False}, "from 0 to 7"),
        ({"style": "chat"}, "style is one of"),
        ({"instruction": 3}, "instruction is a text"),
        ({"refusal": 1}, "refusal is true or false"),
    ],
)
def test_settings_that_cannot_work(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        URIAL(**settings).align(tiny_model())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], "demonstration"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": " ", "completion": "b"}], "example 2 is empty"),
        (
            [{"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "a"}], "completion": "b"}],
            "role `system`",
        ),
        ("no/such/file.jsonl", "no/such/file.jsonl"),
    ],
)
def test_examples_that_are_none(rows, message) -> None:
    with pytest.raises(RecordError, match=message):
        URIAL(examples=rows).align(tiny_model())


def test_a_prompt_longer_than_the_context_is_known_at_once() -> None:
    with pytest.raises(RecordError, match=r"URIAL's prompt does not fit: .* Take fewer or shorter examples"):
        URIAL().align(tiny_model())


def test_it_stacks_on_a_trained_model() -> None:
    trained = SFT(max_steps=1, batch_size=2).align(tiny_model(), MINE)
    assert len(URIAL(examples=MINE, instruction="").align(trained).history) == 2
