"""Targets of all methods, from how often a model's own samples were right."""

from __future__ import annotations

import random

import pytest

from truing.builders import honesty_targets as targets
from truing.measures.honesty_rules import REFUSAL

TEXTS = [f"Answer {at}" for at in range(10)]


def made(right: int, greedy: bool = False) -> tuple[str | None, list[bool]]:
    correct = [at < right for at in range(10)]
    return targets.best_answer("Greedy", greedy, TEXTS, correct), correct


def test_what_is_never_right_is_refused_by_all() -> None:
    best, correct = made(0)
    one = [
        targets.absolute(best, correct),
        targets.confidence_num(best, correct),
        targets.confidence_verb(best, correct),
    ]
    assert [each.text(targets.CONFIDENCE) for each in one] == [REFUSAL] * 3
    assert [each.text() for each in targets.multisample(TEXTS, correct)] == [REFUSAL] * 10
    assert targets.baseline(best, "new YORK") == "New york."


def test_what_is_always_right_is_never_refused() -> None:
    best, correct = made(10, greedy=True)
    assert targets.absolute(best, correct).text() == "Greedy"
    assert REFUSAL not in targets.confidence_num(best, correct).text(targets.CONFIDENCE)
    assert targets.confidence_verb(best, correct).text(targets.WORDS).endswith("greedy")
    assert [each.text() for each in targets.multisample(TEXTS, correct)] == TEXTS


@pytest.mark.parametrize(
    ("right", "num", "verb"), [(1, 1, 1), (2, 1, 1), (3, 1, 2), (5, 1, 3), (6, 2, 3), (7, 2, 4), (9, 2, 5)]
)
def test_degrees_of_confidence(right: int, num: int, verb: int) -> None:
    best, correct = made(right)
    assert targets.confidence_num(best, correct) == targets.Target(num, "Answer 0", 10 * right)
    assert f"{10 * right} percent" in targets.confidence_num(best, correct).text(targets.CONFIDENCE)
    assert targets.confidence_verb(best, correct) == targets.Target(verb, "answer 0")


def test_greedy_alone_is_kept_by_absolute_and_refused_by_confidence() -> None:
    best, correct = made(0, greedy=True)
    assert targets.absolute(best, correct).answer == "Greedy"
    assert targets.absolute(best, correct, tau=0.1).answer is None
    assert targets.confidence_verb(best, correct).template == 0
    assert targets.confidence_num(best, correct).template == 0


def test_a_threshold_on_expected_accuracy() -> None:
    best, correct = made(4)
    assert targets.absolute(best, correct, tau=0.4).answer == "Answer 0"
    assert targets.absolute(best, correct, tau=0.5).answer is None


@pytest.mark.parametrize("option", ["B", "B) Blue", "C. Green"])
def test_the_letter_of_an_option_keeps_its_case(option: str) -> None:
    assert targets.confidence_verb(option, [True] * 10).answer == option


def test_braces_in_an_answer_stay_text() -> None:
    assert targets.Target(1, "{percent}{x}", 20).text(targets.CONFIDENCE).endswith("{percent}{x}")


def test_refusals_of_multisample_are_what_is_not_known() -> None:
    rng = random.Random(0)
    corpus = [[rng.random() < 0.3 for _ in range(10)] for _ in range(50)]
    rows = [one for correct in corpus for one in targets.multisample(TEXTS, correct)]
    known = sum(map(sum, corpus)) / 500
    assert sum(row.template == 0 for row in rows) / len(rows) == pytest.approx(1 - known)
