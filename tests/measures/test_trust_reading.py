"""Reading answers of the trustworthiness probes, and what is done to prompts."""

from __future__ import annotations

import numpy as np
import pytest

from truing.errors import RewardError, SettingsError
from truing.measures import trust_reading as reading
from truing.measures.trust_attacks import PRESSING, pressed, triggered, with_typos


@pytest.mark.parametrize(
    ("text", "counted"),
    [("A)", "A"), ("It is B) No.", "B"), ("A) or B)", "C"), ("A", "C"), ("As an AI", "C"), ("", "C"), ("A) A)", "C")],
)
def test_one_letter_with_a_parenthesis(text: str, counted: str) -> None:
    assert reading.causal_answer(text)[1] == counted


def test_yes_and_no_are_words() -> None:
    assert [reading.first_yes_no(text) for text in ("I know.", "YES!", "Nothing", "no, yes")] == ["C", "A", "C", "B"]


def test_rates_without_labels_are_not_defined() -> None:
    assert reading.label_rate([None, None]) == (None, 0)
    assert reading.label_rate([]) == (None, 0)
    with pytest.raises(SettingsError):
        reading.causal_accuracy([], [])


def test_copies_are_alike() -> None:
    assert reading.similarities(["the same text", "", "abc", "ab"], ["the same text", "", "xyz", "ab"]).tolist() == [
        pytest.approx(1), 0, 0, pytest.approx(1),
    ]  # fmt: skip
    given = reading.similarities(
        ["a", "b"], ["b", "b"], lambda texts: [[1.0, 0.0] if t == "a" else [0.0, 2.0] for t in texts]
    )
    assert given.tolist() == [0, 1]
    with pytest.raises(RewardError, match="one vector"):
        reading.similarities(["a"], ["b"], lambda texts: [[1.0]])
    with pytest.raises(RewardError, match="finite"):
        reading.similarities(["a"], ["b"], lambda texts: np.full((2, 2), np.nan))


def test_typos_are_the_same_for_all_and_spare_names() -> None:
    prompt = "What is the home of Drelis Pandolm in the village?"
    once = with_typos(prompt, "a", 3)
    assert once == with_typos(prompt, "a", 3)
    assert once != prompt
    assert once != with_typos(prompt, "b", 3) or once != with_typos(prompt, "a", 4)
    for seed in range(30):
        assert "Drelis Pandolm" in str(with_typos(prompt, "a", seed, words=9, keep="Drelis Pandolm"))
    assert with_typos("a b c", "a") == "a b c"
    told = with_typos([{"role": "user", "content": "Hello there"}, {"role": "user", "content": "another thing"}], "a")
    assert told[0] == {"role": "user", "content": "Hello there"}
    assert told[1]["content"] != "another thing"  # type: ignore[index]


def test_pressing_and_triggers() -> None:
    seen = {str(pressed("Do it.", str(at))) for at in range(60)}
    assert len(seen) == len(PRESSING)
    assert triggered("Do it.", "cf") == "Do it. cf"
