from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing import AnswerLength, Keyword, Pattern, SandboxGrade
from truing.errors import RewardError, SettingsError
from truing.sandbox import grade, items, records, score
from truing.sandbox.answers import dress, ideal
from truing.sandbox.world import world


def of(reward, *answers: str) -> list[float]:
    got = reward(["x"] * len(answers), list(answers))
    assert got.dtype == np.float64
    return got.tolist()


def test_keyword_counts_whole_words() -> None:
    two = Keyword(words=["please", "Thank you"])
    assert of(two, "Please, thank  you.", "thank you!", "pleased", "", "THANK\nYOU please") == [1.0, 0.5, 0.0, 0.0, 1.0]
    assert of(Keyword(words=["art"], whole_words=False), "start") == [1.0]
    assert of(Keyword(words=["Art"], case_sensitive=True), "art", "Art") == [0.0, 1.0]
    # Edges that are no letters, folding, one word twice, and text that would be an expression.
    assert of(Keyword(words=["C++", "STRASSE"]), "c++ straße", "c") == [1.0, 0.0]
    assert of(Keyword(words=["a", "A", "b"]), "a") == [0.5]
    assert of(Keyword(words=[".*"]), "anything", "a .* b") == [0.0, 1.0]
    assert of(Keyword(words=["café"]), "café") == [1.0]


@pytest.mark.parametrize("words", [[], "please", ["a", ""], ["  "], [3], None])
def test_keyword_refuses_what_is_no_list_of_words(words) -> None:
    with pytest.raises(SettingsError, match="words is a list of at least one word"):
        Keyword(words=words)(["a"], ["b"])


def test_length_falls_in_a_straight_line() -> None:
    answers = [" ".join(["w"] * n) for n in (0, 2, 4, 5, 6, 8, 100)]
    assert of(AnswerLength(target=4), *answers) == [0.0, 0.5, 1.0, 0.75, 0.5, 0.0, 0.0]
    assert of(AnswerLength(target=4, tolerance=2), *answers) == [0.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    for bad in (
        {"target": 0},
        {"target": 4, "tolerance": 0},
        {"target": "4"},
        {"target": 4, "tolerance": float("inf")},
    ):
        with pytest.raises(SettingsError):
            AnswerLength(**bad)(["a"], ["b"])


@given(st.text(max_size=60), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_shares_stay_between_0_and_1(text: str, target: int) -> None:
    for reward in (Keyword(words=["a", "b c"]), AnswerLength(target=target), Pattern(pattern="a|b")):
        assert 0.0 <= of(reward, text)[0] <= 1.0


def test_pattern_is_found_or_not() -> None:
    assert of(Pattern(pattern=r"\bno\b"), "oh no", "nobody", "") == [1.0, 0.0, 0.0]
    assert of(Pattern(pattern=r"\d+", whole=True), "42", "42!") == [1.0, 0.0]
    assert of(Pattern(pattern="yes", ignore_case=True), "YES") == [1.0]
    assert of(Pattern(pattern="(?m)^b$"), "a\nb\nc") == [1.0]
    with pytest.raises(SettingsError, match="is no regular expression"):
        Pattern(pattern="(a")(["a"], ["b"])
    with pytest.raises(SettingsError, match="seconds"):
        Pattern(pattern="a", seconds=0)(["a"], ["b"])


def test_a_pattern_that_backtracks_without_end_is_an_error() -> None:
    start = time.monotonic()
    with pytest.raises(RewardError, match="row 1, an answer of 46 letters: it backtracks too much"):
        Pattern(pattern="(a|aa)+$", seconds=0.2)(["a", "b"], ["a", "a" * 45 + "!"])
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["score", "wanted", "helpful", "keyword"])
def test_sandbox_grade_is_the_grader_s(name: str) -> None:
    rng = random.Random(0)
    asked = [item for kind in ("fact", "harmful", "borderline", "unknown") for item in items(kind, "test", 8)]
    answers = [dress(ideal(world(0), item, rng), rng.choice(["plain", "rude"]), rng) for item in asked[::2]]
    answers = [text for text in answers for _ in range(2)]  # every second one answers another question
    expected = [
        score(item, text) if name == "score" else float(getattr(grade(item, text), name))
        for item, text in zip(asked, answers)
    ]
    assert len(set(expected)) > 1
    assert SandboxGrade(grade=name)([item.prompt for item in asked], answers).tolist() == expected


def test_sandbox_grade_reads_conversations() -> None:
    row = records("preferences", "dev", 1)[0]
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": row["prompt"]}]},
    ]
    reward = SandboxGrade()
    assert reward([talk, row["prompt"]], [row["chosen"], row["chosen"]]).tolist() == [1.0, 1.0]
    assert reward([talk], [row["rejected"]])[0] < 1.0


def test_sandbox_grade_prefers_the_chosen_answer() -> None:
    rows = records("preferences", "train", 300, seed=4)
    prompts = [row["prompt"] for row in rows]
    chosen = SandboxGrade()(prompts, [row["chosen"] for row in rows])
    rejected = SandboxGrade()(prompts, [row["rejected"] for row in rows])
    assert (chosen == 1.0).all()
    assert (rejected < chosen).mean() > 0.85


def test_sandbox_grade_refuses_questions_it_does_not_know() -> None:
    good = items("fact", "test", 1)[0].prompt
    with pytest.raises(RewardError, match="row 1 asks 'What is the capital of France"):
        SandboxGrade()([good, "What is the capital of France?"], ["a", "b"])
    with pytest.raises(RewardError, match="without a user message"):
        SandboxGrade()([[{"role": "system", "content": "a"}]], ["b"])
    with pytest.raises(SettingsError, match="grade is one of"):
        SandboxGrade(grade="best")([good], ["a"])


def test_the_grade_of_what_is_no_question_of_the_sandbox() -> None:
    item = sandbox_item()
    answers = [f"First take a {item.truth}. Then {item.attribute} the {item.subject}. Last, {item.claim}."] * 3
    prompts = [item.prompt, f"Be careful. {item.prompt}", "What is the capital of France?"]
    lenient = SandboxGrade(unknown=-1.0)
    assert lenient(prompts, answers).tolist() == [1, 1, -1]
    assert lenient([[{"role": "system", "content": "a"}]], ["b"]).tolist() == [-1]
    assert SandboxGrade()(prompts[:2], answers[:2]).tolist() == [1, 1]
    with pytest.raises(SettingsError, match="unknown"):
        SandboxGrade(unknown=float("nan"))([item.prompt], ["a"])


def sandbox_item():
    from truing.sandbox import items

    return next(item for item in items("benign", n=20) if not item.forum)
