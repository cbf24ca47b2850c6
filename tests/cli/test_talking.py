from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Truing, shell

Models = dict[str, Path]
SHORT = ("--max-new-tokens", 8)


def answers(model: Path, prompts: list[object], **options: object) -> list[str]:
    from truing.models import load

    return load(model).generate(prompts, max_new_tokens=8, **options).texts  # type: ignore[arg-type]


def test_one_prompt_is_answered_with_the_answer_alone(truing: Truing, models: Models) -> None:
    from truing.cli.text import printable

    done = truing("generate", "--model", models["a"], "the cat", *SHORT)
    assert done.code == 0
    assert done.out == printable(answers(models["a"], ["the cat"])[0]) + "\n"


def test_many_prompts_as_text_and_json(truing: Truing, models: Models, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("the cat\n\nthe mat\r\n")
    expected = answers(models["b"], ["the cat", "the mat"], n=2, temperature=1.0, seed=3)
    options = ["--file", file, *SHORT, "-n", 2, "--temperature", 1, "--seed", 3]
    rows = [json.loads(line) for line in truing("generate", "-m", models["b"], *options, "--json").out.splitlines()]
    assert [row["completion"] for row in rows] == expected
    assert [(row["prompt"], row["sample"]) for row in rows] == [
        ("the cat", 0), ("the cat", 1), ("the mat", 0), ("the mat", 1),
    ]  # fmt: skip
    text = truing("generate", "-m", models["b"], *options).out
    assert [line for line in text.splitlines() if line.startswith("> ")] == ["> the cat", "> the mat"]


def test_more_prompts_than_one_batch_answer_as_alone(
    truing: Truing, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    from truing.cli import talking

    prompts = [f"the cat {n}" for n in range(5)]
    monkeypatch.setattr(talking, "CHUNK", 2)
    words = ["generate", "-m", models["a"], "--file", "-", *SHORT, "--json", "--temperature", 1]
    rows = [json.loads(line) for line in truing(*words, stdin="\n".join(prompts)).out.splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    assert [row["completion"] for row in rows] == answers(models["a"], prompts, temperature=1.0)


def test_messages_and_a_system_message(truing: Truing, models: Models, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "?"},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "the cat"}) + "\n" + json.dumps({"messages": turns}) + "\n")
    done = truing("generate", "-m", models["a"], "--file", file, *SHORT, "--json", "--system", "Be brief.")
    system = {"role": "system", "content": "Be brief."}
    expected = answers(models["a"], [[system, {"role": "user", "content": "the cat"}], [system, *turns]])
    assert [json.loads(line)["completion"] for line in done.out.splitlines()] == expected


def test_stop(truing: Truing, models: Models) -> None:
    whole = answers(models["a"], ["the cat"])[0]
    stop = whole[2:3]
    done = truing("generate", "-m", models["a"], "the cat", *SHORT, "--stop", stop, "--json")
    row = json.loads(done.out)
    assert row["completion"] == whole[: whole.index(stop)]
    assert row["finish_reason"] == "stop"
    assert done.err == ""


def test_an_answer_that_was_cut_is_said(truing: Truing, models: Models) -> None:
    done = truing("generate", "-m", models["a"], "the cat", "--max-new-tokens", 2)
    assert "--max-new-tokens" in done.err


@pytest.mark.parametrize(
    ("words", "stdin", "expected"),
    [
        ([], "", "no prompt"),
        (["--file", "-"], "\n \n", "no prompt"),
        (["--file", "nowhere.txt"], "", "nowhere.txt cannot be read"),
        (["hello", "--file", "-"], "x", "not from both"),
        (["\udcff"], "", "Unicode"),
        (["hello", "--top-p", "0"], "", "top_p"),
    ],
)
def test_prompts_that_are_none(truing: Truing, models: Models, words: list[str], stdin: str, expected: str) -> None:
    done = truing("generate", "-m", models["a"], *words, stdin=stdin)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


def test_a_bad_line_of_prompts_is_named(truing: Truing, models: Models, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"question": "b"}\n')
    done = truing("generate", "-m", models["a"], "--file", file)
    assert "line 2" in done.err
    file.write_bytes(b'"a"\n\xff\xfe')
    assert "not text in UTF-8" in truing("generate", "-m", models["a"], "--file", file).err


def test_no_such_model(truing: Truing) -> None:
    done = truing("generate", "-m", "./nowhere", "hello")
    assert (done.code, done.out) == (2, "")
    assert "nowhere" in done.err
    assert truing("generate", "-m", "sandbox/bse", "hello").code == 2


def test_a_pipe_through_real_processes(models: Models) -> None:
    done = shell("generate", "--model", models["a"], "--file", "-", "--json", *SHORT, input="the cat\nthe mat\n")
    assert (done.returncode, done.stderr.count("\n")) == (0, done.stderr.count("--max-new-tokens"))
    assert [json.loads(line)["completion"] for line in done.stdout.splitlines()] == answers(
        models["a"], ["the cat", "the mat"]
    )


# --- chat ---


def dialogue(model: Path, turns: list[str], system: str | None = None) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        messages.append({"role": "assistant", "content": answers(model, [messages])[0]})
    return messages


def test_a_chat_through_a_pipe(truing: Truing, models: Models, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    lines = f"the cat\n\n/what\nhello\n/undo\n//mat\n/save {file}\n/quit\nnever\n"
    done = truing("chat", "-m", models["a"], *SHORT, stdin=lines)
    assert done.code == 0
    expected = dialogue(models["a"], ["the cat", "/mat"])
    assert json.loads(file.read_text()) == {"messages": expected}
    assert "There is no /what" in done.err
    from truing.records import read

    assert len(read(file, "dialogue")) == 1
    assert done.out.count("\n") >= 3


def test_system_and_reset(truing: Truing, models: Models, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{n}.jsonl" for n in range(3))
    lines = (
        f"the cat\n/system Be brief.\n/save {first}\n/reset\n/system\nthe mat\n/save {second}\n"
        f"/save {second}\n/save {tmp_path / 'no' / 'x'}\n/system -\n/reset\n/save {third}\n/save\n/help\n"
    )
    done = truing("chat", "-m", models["b"], *SHORT, "--system", "Be long.", stdin=lines)
    assert json.loads(first.read_text())["messages"][0] == {"role": "system", "content": "Be brief."}
    assert json.loads(second.read_text())["messages"] == dialogue(models["b"], ["the mat"], "Be brief.")
    assert not third.exists()
    assert "System message: Be brief." in done.err
    assert "cannot be written" in done.err
    assert "nothing to save" in done.err
    assert "/undo" in done.err


def test_a_chat_keeps_no_file_of_others(truing: Truing, models: Models, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("keep me")
    done = truing("chat", "-m", models["a"], *SHORT, stdin=f"hi\n/save {file}\n")
    assert "exists already" in done.err
    assert file.read_text() == "keep me"


def test_a_conversation_that_grew_too_long_can_go_on(truing: Truing, models: Models, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    done = truing("chat", "-m", models["a"], *SHORT, stdin=f"the cat\n{'qz ' * 400}\n/save {file}\n")
    assert done.code == 0
    assert "error: " in done.err
    assert json.loads(file.read_text())["messages"] == dialogue(models["a"], ["the cat"])


def test_an_interrupt_stops_the_answer_and_not_the_chat(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    import os
    import signal

    from truing.cli.chatting import Conversation
    from truing.models import load
    from truing.models.local import Model

    talk = Conversation(load(models["a"]), None, {"max_new_tokens": 64})
    pieces = 0

    class Slow:
        """The model, with somebody at the keyboard who stops it after the third piece."""

        def generate(self, prompts: object, stream: object, **options: object) -> object:
            def watched(*piece: object) -> None:
                nonlocal pieces
                stream(*piece)  # type: ignore[operator]
                pieces += 1
                if pieces == 3:
                    os.kill(os.getpid(), signal.SIGINT)

            return real.generate(prompts, stream=watched, **options)  # type: ignore[arg-type]

    real: Model = talk.model  # type: ignore[assignment]
    talk.model = Slow()  # type: ignore[assignment]
    assert talk.turn("the cat")
    talk.model = real
    kept = talk.messages[1]["content"]
    whole = real.generate(["the cat"], max_new_tokens=64).texts[0]
    assert kept
    assert whole.startswith(kept)
    assert len(kept) < len(whole)
    assert "Stopped" in capsys.readouterr().err
    assert talk.turn("go on")
    assert len(talk.messages) == 4


# --- compare ---


def test_compare_shows_where_probability_moved(truing: Truing, models: Models) -> None:
    from truing.models import load

    done = truing("compare", models["a"], models["b"], "the cat", "the mat", *SHORT, "--json")
    found = json.loads(done.out)
    a, b = load(models["a"]), load(models["b"])
    for row, prompt in zip(found["answers"], ("the cat", "the mat")):
        assert row["a"]["answer"] == answers(models["a"], [prompt])[0]
        assert row["b"]["answer"] == answers(models["b"], [prompt])[0]
        scored = [model.logprobs([prompt], [row["b"]["answer"]], per_token=True)[0] for model in (a, b)]
        if row["b"]["finish_reason"] == "length":
            scored = [values[:-1] for values in scored]
        for token, one, two in zip(row["tokens"], *scored, strict=True):
            assert token["shift"] == pytest.approx(two - one, abs=1e-5)
        assert "".join(token["token"] for token in row["tokens"]) == row["b"]["answer"].rstrip("\ufffd")


def test_compare_a_model_with_itself(truing: Truing, models: Models) -> None:
    done = truing("compare", models["a"], models["a"], "the cat", *SHORT)
    assert done.code == 0
    assert "1 of 1 answers are the same." in done.out
    assert "⟨" not in done.out
    assert "shift in nats" not in done.out


@pytest.mark.parametrize("width", [80, 120])
def test_compare_asks_the_sandbox_when_not_told(truing: Truing, models: Models, width: int) -> None:
    from truing.sandbox import items

    done = truing("compare", models["a"], models["b"], "--limit", 2, *SHORT, width=width)
    asked = [line for line in done.out.splitlines() if line.startswith("> ")]
    assert asked == [f"> {items(kind, split='dev', n=1)[0].prompt}" for kind in ("fact", "unknown")]
    assert max(map(len, done.out.splitlines())) <= width
    assert "shift in nats" in done.out


def test_compare_needs_one_tokenizer_for_tokens(truing: Truing, models: Models) -> None:
    done = truing("compare", models["a"], models["other"], "the cat", *SHORT)
    assert done.code == 0
    assert "different tokenizers" in done.out
    assert (
        json.loads(truing("compare", models["a"], models["other"], "x", *SHORT, "--json").out)["answers"][0]["tokens"]
        == []
    )


def test_differences_are_marked_with_and_without_colours() -> None:
    from truing.cli.comparing import _marked

    left, right = _marked("I will not help", "I will [b]help[/b] now", plain=True)
    assert left.plain == "I will [-not help-]"
    assert right.plain == "I will {+[b]help[/b] now+}"
    coloured, _ = _marked("I will not help", "I will help", plain=False)
    assert coloured.plain == "I will not help"
    assert [(span.start, span.end, span.style) for span in coloured.spans if "strike" in str(span.style)] == [
        (7, 10, "red strike")
    ]
    empty, same = _marked("", "x", plain=True)
    assert (empty.plain, same.plain) == ("(nothing)", "{+x+}")


@pytest.fixture(scope="module")
def nudged(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model a, nudged by b."""
    from truing import Nudging
    from truing.models import load

    folder = tmp_path_factory.mktemp("nudged") / "model"
    Nudging(guide=load(models["b"]), gamma=0.5, lookahead=4).align(load(models["a"])).save(folder)
    return folder


def test_compare_marks_what_a_guide_wrote(truing: Truing, models: Models, nudged: Path) -> None:
    from truing.models import load

    found = json.loads(truing("compare", models["b"], nudged, "the cat", *SHORT, "--json").out)["answers"][0]
    answer = load(nudged).generate(["the cat"], max_new_tokens=int(SHORT[-1]))[0]
    assert found["b"]["trace"]["pieces"] == answer.trace["pieces"]
    assert "trace" not in found["a"]
    writers = {who for who, _ in answer.trace["pieces"]}
    assert {token["by"] for token in found["tokens"]} <= writers
    assert found["tokens"][0]["by"] == "guide"
    done = truing("compare", models["b"], nudged, "the cat", *SHORT)
    assert "«" in done.out
    assert "»" in done.out
    # Without tokens to compare the pieces are shown all the same.
    other = truing("compare", models["other"], nudged, "the cat", *SHORT)
    assert "«" in other.out
    assert "different tokenizers" in other.out
    assert "shift in nats" not in other.out


@pytest.mark.parametrize("width", [30, 59, 60, 200])
def test_compare_fits_any_terminal(truing: Truing, models: Models, nudged: Path, width: int) -> None:
    done = truing("compare", models["a"], models["b"], "the cat", *SHORT, "--top", 0, width=width)
    lines = done.out.splitlines()
    assert max(map(len, lines[:-1])) <= width
    assert lines[1].startswith("A  ")
    assert (any(line.startswith("B  ") for line in lines)) == (width < 60)


def tokens_of(*shifts: float, by: str | None = None) -> list[Any]:
    from truing.cli.comparing import Token

    return [Token(f" w{at}", -5.0, -5.0 + shift, by) for at, shift in enumerate(shifts)]


def test_colours_follow_the_shift_in_both_directions() -> None:
    from truing.cli.comparing import SCALE, Token, _legend, _line, style_of

    styles = [style_of(token) for token in tokens_of(4, 1.5, 0.5, 0.1, 0, -0.1, -0.5, -1.5, -4)]
    assert styles == [*(up for _, up, _ in SCALE), "dim", "dim", "dim", *(down for _, _, down in reversed(SCALE))]
    assert style_of(tokens_of(0, by="guide")[0]) == "dim underline"
    assert style_of(tokens_of(4, by="guide")[0]) == f"{SCALE[0][1]} underline"
    assert style_of(tokens_of(4, by="base")[0]) == SCALE[0][1]
    line = _line(tokens_of(4, -4), plain=False)
    assert [str(span.style) for span in line.spans] == [SCALE[0][1], SCALE[0][2]]
    assert _legend(tokens_of(4, -1.5, 0)).plain == "shift in nats from  +3  -1"
    assert _legend([*tokens_of(0), *tokens_of(0, by="guide")]).plain == "by the guide"
    assert Token("x", float("-inf"), float("-inf")).shift == 0
    assert style_of(Token("x", float("-inf"), -1.0)) == SCALE[0][1]


def test_marks_stand_in_for_colours() -> None:
    from truing.cli.comparing import _line

    mixed = [*tokens_of(0.2, -1.3), *tokens_of(2, 0, by="guide"), *tokens_of(0, by="base"), *tokens_of(0, by="guide")]
    assert _line(mixed, plain=True).plain == "B by token:  w0 w1⟨-1.3⟩ «w0⟨+2.0⟩ w1» w0 «w0»"


def test_who_wrote_a_token_is_where_its_first_letter_stands() -> None:
    from truing.cli.comparing import Token, _written_by
    from truing.models.types import Completion

    pieces = [["guide", "I am"], ["base", " sorry"], ["guide", "."]]
    answer = Completion("I am sorry.", trace={"pieces": pieces, "stopped": "guide stopped"})
    texts = [" I", " am", " sor", "ry", ".", "<|end|>"]
    found = _written_by([Token(text, 0.0, 0.0) for text in texts], answer)
    assert [token.by for token in found] == ["guide", "guide", "base", "base", "guide", "guide"]
    assert [token.text for token in _written_by([], answer)] == ["I am", " sorry", "."]
    plain = [Token("x", 0.0, 0.0)]
    assert _written_by(plain, Completion("x")) == plain
    assert _written_by(plain, Completion("x", trace={"pieces": [["base", "y"]]})) == plain


# --- strengths in a chat ---


@pytest.fixture(scope="module")
def mixed(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model a, which reads a system message first, in an ensemble with b."""
    from truing import Ensemble, SystemMessage
    from truing.models import load

    folder = tmp_path_factory.mktemp("mixed") / "model"
    spoken = SystemMessage(text="look at the mat").align(load(models["a"]))
    Ensemble(guide=load(models["b"]), weight=0.5).align(spoken).save(folder)
    return folder


def test_modifiers_are_turned_and_switched_in_a_chat(truing: Truing, mixed: Path, tmp_path: Path) -> None:
    from truing.models import load

    model = load(mixed)
    asked = [
        ("", model),
        ("/strength 1", model.with_strength(1.0)),
        ("/strength ensemble 0.25", model.with_strength(0.25)),
        ("/modifiers off system-message", model.with_strength(0.25).without("system_message")),
        ("/modifiers off 2", model.without(1).without(0)),
        ("/strength 2 0", model.without(1).without(0)),
        ("/modifiers on ensemble\n/modifiers on 1", model.with_strength(0.0)),
    ]
    lines = "".join(f"{line}\n/reset\nthe cat\n/save {tmp_path / str(at)}\n" for at, (line, _) in enumerate(asked))
    done = truing("chat", "-m", mixed, *SHORT, stdin=lines)
    assert done.code == 0
    for at, (_, one) in enumerate(asked):
        said = json.loads((tmp_path / str(at)).read_text())["messages"][-1]["content"]
        assert said == one.generate("the cat", max_new_tokens=int(SHORT[-1])).texts[0], asked[at][0]
    assert "1  system_message  no strength\n2  ensemble  weight 1\n" in done.err
    assert "1  system_message  no strength  (off)\n2  ensemble  weight 0.25  (off)\n" in done.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/strength", "takes a number"), ("/strength much", "takes a number"), ("/strength nothing 1", "nothing"),
        ("/strength 2", "from 0 to 1"), ("/strength nan", "finite"), ("/strength system_message 1", "no strength"),
        ("/modifiers off 7", "no modifier"), ("/modifiers on", "lists them"), ("/modifiers ensemble", "lists them"),
        ("/modifiers off 0", "no modifier"),
    ],
)  # fmt: skip
def test_a_strength_that_cannot_be_set_changes_nothing(truing: Truing, mixed: Path, line: str, expected: str) -> None:
    from truing.models import load

    done = truing("chat", "-m", mixed, *SHORT, stdin=f"{line}\nthe cat\n/modifiers\n")
    assert expected in done.err.splitlines()[0]
    assert "error: " in done.err
    assert done.err.rstrip().endswith("ensemble  weight 0.5")
    assert done.out.rstrip("\n") == load(mixed).generate("the cat", max_new_tokens=int(SHORT[-1])).texts[0].rstrip("\n")


def test_a_model_without_modifiers_says_so(truing: Truing, models: Models) -> None:
    done = truing("chat", "-m", models["a"], *SHORT, stdin="/modifiers\n/strength 1\n")
    assert "Nothing acts on the model." in done.err
    assert "no modifier with a strength" in done.err


def test_a_nudged_answer_is_shown_as_it_is_written(nudged: Path) -> None:
    from truing.cli.chatting import Conversation
    from truing.models import load

    talk, pieces = Conversation(load(nudged), None, {"max_new_tokens": 24}), []
    generate = talk.model.generate

    class Watched:
        def generate(self, prompts: object, stream: Any, **options: Any) -> Any:
            def shown(*piece: Any) -> None:
                pieces.append(piece[2])
                stream(*piece)

            return generate(prompts, stream=shown, **options)

    talk.model = Watched()  # type: ignore[assignment]
    assert talk.turn("the cat")
    assert len(pieces) > 3
    assert "".join(pieces) == talk.messages[-1]["content"]
