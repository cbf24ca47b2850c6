from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.conformance.examples import guide
from tests.conformance.examples import model as tiny_model
from tests.models.server import answer, send, serving
from truing import SFT, RemoteModel, progress
from truing.builders.prompt_complements import EXAMPLES, PromptComplements, Verdict, read_verdict
from truing.errors import ModelError, RecordError, RemoteError, SettingsError, UnsupportedError
from truing.methods.prompting.prompt_augmentation import INSTRUCTION, count_words, filled, unfit
from truing.models import Model
from truing.records import read
from truing.records.reading import from_rows


def wrote(prompts: list[str]) -> list[str]:
    return [f"Mind {prompt}" for prompt in prompts]


def said(correct: str = "Yes", final: str = "", fault: str = "none") -> str:
    return json.dumps({"Reason": "why", "Is_correct": correct, "Fault": fault, "FinalAPE": final})


class Critic:
    """Says to each prompt what a table tells, one reply an attempt."""

    def __init__(self, **replies) -> None:
        self.replies, self.calls = replies, []

    def __call__(self, prompts, complements):
        self.calls.append(list(zip(prompts, complements)))
        out = []
        for prompt in prompts:
            told = self.replies.get(prompt, said())
            out.append(told if isinstance(told, str) else told.pop(0) if told else "Hm.")
        return out


def build(prompts, critic=None, **settings):
    return PromptComplements(critic=critic or Critic(), **settings).build(prompts, wrote)


@pytest.mark.parametrize(
    "reply",
    [
        '{"Reason": "r", "Is_correct": "No", "FinalAPE": "f"}',
        '{"Reason": "r", "Is_correct": "No", "Final APE": "f"}',
        '{"reason": "r", "is correct": "no.", "final_complement": " f "}',
        'Well:\n```json\n{"Reason": "r", "Is_correct": false,\n "Final complement": "f"}\n```\nBye {x}.',
        '{{"Reason": "r", "Is_correct": "NO", "Final Complementary information": "f"}}',
        "**Reason:** r\n**Is_correct**: No\n- Final complement: f",
        '{"Reason": "r", "Is_correct": "No", "FinalAPE": "f"} {"Reason": "r", "Is_correct": "No", "FinalAPE": "f"}',
    ],
)  # fmt: skip
def test_a_verdict_is_read_in_the_spellings_that_critics_use(reply: str) -> None:
    assert read_verdict(reply) == Verdict("r", False, "", "f")


@pytest.mark.parametrize(
    "reply",
    [
        "", "Yes", "{", "null", "[1]", '{"Reason": "r"}', '{"Is_correct": "maybe"}', '{"Is_correct": null}',
        '{"Is_correct": "Yes"} {"Is_correct": "No"}', "Is_correct: Yes\nIs_correct: No", '{"Is_correct": "Yes"',
        "{" * 3000, '{"a":' * 3000,
    ],
)  # fmt: skip
def test_what_is_no_single_verdict_is_not_guessed_at(reply: str) -> None:
    assert read_verdict(reply) is None


def test_a_verdict_has_its_fault_and_only_whole_characters() -> None:
    found = read_verdict('{"Is_correct": "No", "Fault": "Over demands", "Reason": "\\ud800", "FinalAPE": 3}')
    assert found == Verdict("?", False, "over-demands", "")
    assert read_verdict('{"Is_correct": "Yes", "Fault": "none"}') == Verdict("", True)


@given(st.text(max_size=200))
def test_any_reply_is_read_or_not(reply: str) -> None:
    assert read_verdict(reply) is None or isinstance(read_verdict(reply), Verdict)


def test_yes_keeps_the_draft_and_no_takes_the_critics_version() -> None:
    records = build(["a", "b"], Critic(a=said("Yes", "other"), b=said("No", '"Keep it short."', "answers")))
    assert records.kind == "demonstration"
    assert [(row["prompt"], row["completion"]) for row in records] == [
        (filled(INSTRUCTION, prompt="a"), "Mind a"), (filled(INSTRUCTION, prompt="b"), "Keep it short."),
    ]  # fmt: skip
    assert records[1] | {"prompt": ""} == {
        "prompt": "", "completion": "Keep it short.", "user_prompt": "b", "draft": "Mind b", "correct": False,
        "reason": "why",
    }  # fmt: skip
    assert records.notes == {"prompts": 2, "kept": 2, "mended": 1, "draft wrong: answers": 1}


def test_every_drop_has_its_reason(tmp_path) -> None:
    critic = Critic(
        silent="Hm.", late=["?", "?", said("Yes")], never=["?"] * 9, none=said("No"), long=said("No", "w " * 61),
        yes=said("No", "Yes, it is.", "conflicts"),
    )  # fmt: skip
    source = [
        {"prompt": text, "answers": ["x"], "category": "c"}
        for text in ("a", "silent", "late", "never", "none", "long", "yes", "a", "empty")
    ]
    source.append({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "answers": ["x"]})
    source.append({"prompt": [{"role": "user", "content": "alone"}], "answers": ["x"]})

    class Heard(progress.SilentListener):
        def say(self, text: str) -> None:
            lines.append(text)

    lines: list[str] = []
    with progress.listening(Heard()):
        records = PromptComplements(critic=critic).build(
            source, lambda prompts: ["" if prompt == "empty" else f"Mind {prompt}" for prompt in prompts], out=tmp_path
        )
    assert [row["user_prompt"] for row in records] == ["a", "late", "alone"]
    assert [row.get("category") for row in records] == ["c", "c", None]
    assert records.notes == {
        "prompts": 11, "kept": 3, "repeated": 1, "no single prompt of a user": 1, "no readable verdict": 2,
        "wrong, and no other version": 1, "too long": 1, "answers the prompt": 1, "draft: empty": 1,
        "draft wrong: fault not named": 2, "draft wrong: conflicts": 1,
    }  # fmt: skip
    assert [len(call) for call in critic.calls] == [8, 3, 3, 2, 2]
    assert lines[-1].startswith("11 prompts in, 3 complements out, 0 of them as the critic mended them. Left out: ")
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert {row["user_prompt"]: row["dropped"] for row in dropped} == {
        "silent": "no readable verdict", "never": "no readable verdict", "none": "wrong, and no other version",
        "long": "too long", "yes": "answers the prompt", "empty": "draft: empty",
    }  # fmt: skip
    kept = read(tmp_path / "prompt-complements.jsonl", kind="demonstration")
    assert kept.fingerprint == records.fingerprint


def test_dialogues_give_their_first_prompt_where_the_user_spoke_once() -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    longer = [*talk, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    rows = [{"messages": talk}, {"messages": longer}]
    for source in (rows, from_rows(rows, kind="dialogue"), from_rows(rows, kind="demonstration")):
        records = build(source)
        assert [row["user_prompt"] for row in records] == ["a"]
        assert records.notes["no single prompt of a user"] == 1


def test_nothing_kept_and_nobody_to_write_are_errors() -> None:
    with pytest.raises(RecordError, match=r"of 1 prompts: 1 no readable verdict"):
        build(["a"], Critic(a="Hm."))
    with pytest.raises(UnsupportedError, match=r"build\(source, model\)"):
        PromptComplements().build(["a"])
    with pytest.raises(SettingsError, match="cannot judge"):
        PromptComplements().build(["a"], wrote)
    with pytest.raises(ModelError, match="given 1 prompts"):
        PromptComplements(critic=lambda prompts, complements: []).build(["a"], wrote)


def talkative(handler, body):
    """A server's strong model: it completes prompts, and judges complements in JSON."""
    asked = body["messages"][-1]["content"]
    prompt = asked.rsplit("The prompt:\n", 1)[1].split("\n")[0]
    text = said() if "Is_correct" in asked else f"Complement: Mind {prompt}, and say why."
    send(200, answer(body, message={"role": "assistant", "content": text}))(handler, body)


def broken(handler, body):
    send(400, {"error": {"message": "no"}})(handler, body)


def test_a_killed_call_goes_on_and_asks_nothing_twice(tmp_path) -> None:
    prompts = [f"p{number:02}" for number in range(20)]
    with serving() as server:
        strong = RemoteModel("m", base_url=server.url, api_key="k", max_retries=0, concurrency=1)
        builder = PromptComplements()
        server.script = [talkative] * 35 + [broken]
        with pytest.raises(RemoteError):
            builder.build(prompts, strong, out=tmp_path)
        server.requests.clear()
        server.script = [talkative] * 100
        records = builder.build(prompts, strong, out=tmp_path)
        assert [row["completion"] for row in records] == [f"Mind {prompt}, and say why." for prompt in prompts]
        assert len(server.requests) == 8  # a draft and a verdict for each of the four after the first sixteen
        shorter = builder.clone(max_words=4, instruction="Complete: {prompt}")
        with pytest.raises(RecordError, match="20 too long"):
            shorter.build(prompts, strong, out=tmp_path)
        again = shorter.clone(max_words=5).build(prompts, strong, out=tmp_path)
        assert again[0]["prompt"] == "Complete: p00"
        assert len(server.requests) == 8, "what is kept of the same answers needs no new ones"
        builder.clone(seed=1).build(prompts[:2], strong, out=tmp_path)
        assert len(server.requests) == 12
        shown = server.requests[0]["messages"][-1]["content"]
        assert all(f"{prompt}\n\nThe complement: {complement}" in shown for prompt, complement in EXAMPLES)


def test_the_critic_is_asked_again_with_other_seeds_and_reads_quoted_texts(tmp_path) -> None:
    with serving() as server:
        critic = RemoteModel("m", base_url=server.url, api_key="k", max_retries=0)
        server.script = []  # it shouts back, which is no verdict
        with pytest.raises(RecordError, match="1 no readable verdict"):
            PromptComplements(critic=critic, attempts=3, seed=4).build(["a\nIs_correct: Yes"], wrote)
        assert [(body["seed"], body["temperature"]) for body in server.requests] == [(4, 0.0), (5, 0.7), (6, 0.7)]
        assert "\n> a\n> Is_correct: Yes\n" in server.requests[0]["messages"][-1]["content"]


def test_a_model_that_can_do_neither_is_told_apart() -> None:
    roomy = Model(tiny.network(max_position_embeddings=1024), tiny.tokenizer())
    builder = PromptComplements(max_new_tokens=4, examples=[])
    with pytest.raises(RecordError, match="2 draft: cut off"):
        builder.build(["the bird?", "the cat?"], roomy)
    with pytest.raises(RecordError, match="2 draft: prompt too long"):
        builder.build(["the bird?", "the cat?"], guide())
    # As a critic its verdicts are noise.
    with pytest.raises(RecordError, match="1 no readable verdict"):
        builder.clone(critic=roomy, attempts=2).build(["the bird?"], wrote)


def test_a_writer_learns_from_the_records() -> None:
    records = build(["the bird?", "the cat?"], instruction="{prompt}")
    before = guide().logprobs(["the bird?"], ["Mind the bird?"])[0]
    writer = SFT(learning_rate=1e-2, epochs=30, batch_size=2).align(tiny_model("qwen3", seed=7), records)
    assert writer.logprobs(["the bird?"], ["Mind the bird?"])[0] > before + 10
    assert writer.generate("the cat?", max_new_tokens=40).texts == ["Mind the cat?"]


@pytest.mark.parametrize("pair", EXAMPLES)
def test_the_examples_shown_are_fit_themselves(pair) -> None:
    assert unfit(*pair, max_words=35) == ""
    assert count_words(pair[1]) >= 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic": "openai/x"}, "critic is a model"), ({"attempts": 0}, "attempts"), ({"instruction": ""}, "{prompt}"),
        ({"examples": ["a"]}, "examples"), ({"examples": [("a", 1)]}, "examples"), ({"seed": 1.5}, "seed"),
        ({"max_words": -1}, "max_words"), ({"temperature": None}, "temperature"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        PromptComplements(**{"critic": Critic(), **settings}).build(["a"], wrote)
