"""RadFact as numbers: the checks that a right implementation passes."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from truing.measures import radfact_rule as rule
from truing.measures.radfact_rule import Verdict
from truing.records.grounded_text import Phrase

HALF, QUARTER = ((0.0, 0.0, 0.5, 0.5),), ((0.0, 0.0, 0.25, 0.5),)


def values(*sides: Any) -> dict[str, float]:
    return rule.score_report(*sides).values


def drawn(seed: int) -> tuple[Any, ...]:
    """Two reports with verdicts, at random."""
    rng = random.Random(seed)

    def report(size: int) -> list[Phrase]:
        def box() -> tuple[float, ...]:
            x, y = rng.random() * 0.7, rng.random() * 0.7
            return x, y, x + rng.random() * 0.3, y + rng.random() * 0.3

        return [
            Phrase(f"p{at}", tuple(box() for _ in range(rng.randint(1, 2))) if rng.random() < 0.7 else None)  # type: ignore[misc]
            for at in range(size)
        ]

    def verdicts(many: int, others: int) -> list[Verdict]:
        out = []
        for _ in range(many):
            evidence = tuple(rng.sample(range(others), rng.randint(1, others)))
            out.append(Verdict(rng.random() < 0.6, evidence))
        return out

    one, two = report(rng.randint(1, 5)), report(rng.randint(1, 5))
    return one, two, verdicts(len(one), len(two)), verdicts(len(two), len(one))


def test_a_report_against_itself() -> None:
    phrases = [Phrase(name, HALF) for name in "abc"]
    verdicts = [Verdict(True, (at,)) for at in range(3)]
    found = values(phrases, phrases, verdicts, verdicts)
    assert all(found[name] == 1 for name in rule.RATIOS)
    assert all(found[name] == 3 for name in rule.COUNTS)


def test_an_empty_report_has_no_precision_and_no_recall() -> None:
    found = values([], [Phrase("a")], [], [Verdict(False)])
    assert math.isnan(found["logical_precision"])
    assert found["logical_recall"] == 0
    both = values([], [], [], [])
    assert all(math.isnan(both[name]) for name in rule.RATIOS)


def test_exactly_half_is_not_enough() -> None:
    found = rule.score_report([Phrase("a", HALF)], [Phrase("b", QUARTER)], [Verdict(True, (0,))], [Verdict(True, (0,))])
    assert found.candidate == ["no_spatial_entailment"]
    assert found.reference == ["spatial_entailment"]
    assert rule.box_metrics(HALF, QUARTER)["precision"] == 0.5
    looser = rule.score_report(
        [Phrase("a", HALF)], [Phrase("b", QUARTER)], [Verdict(True, (0,))], [Verdict(True, (0,))], threshold=0.49
    )
    assert looser.candidate == ["spatial_entailment"]


def test_two_halves_on_two_phrases_of_evidence_pass_together() -> None:
    right = ((0.25, 0.0, 0.5, 0.5),)
    others = [Phrase("b", QUARTER), Phrase("c", right)]
    assert rule.spatial_status([Phrase("a", HALF)], [Verdict(True, (0, 1))], others) == ["spatial_entailment"]
    assert rule.spatial_status([Phrase("a", HALF)], [Verdict(True, (0,))], others) == ["no_spatial_entailment"]
    assert rule.spatial_status([Phrase("a", HALF)], [Verdict(False, (0, 1))], others) == ["no_spatial_entailment"]


def test_precisions_and_recalls_change_places_with_the_reports() -> None:
    for seed in range(30):
        one, two, forward, backward = drawn(seed)
        here, there = values(one, two, forward, backward), values(two, one, backward, forward)
        for name in rule.F1:
            assert here[f"{name}_precision"] == pytest.approx(there[f"{name}_recall"], nan_ok=True)


def test_spatial_is_at_most_grounding_and_equal_where_all_boxed_phrases_follow() -> None:
    for seed in range(40):
        one, two, forward, backward = drawn(seed)
        found = values(one, two, forward, backward)
        if not math.isnan(found["grounding_precision"]):
            assert found["spatial_precision"] <= found["grounding_precision"]
        sure = values(one, two, [Verdict(True, verdict.evidence) for verdict in forward], backward)
        assert sure["spatial_precision"] == pytest.approx(sure["grounding_precision"], nan_ok=True)


def test_ratios_equal_a_count_pixel_by_pixel() -> None:
    """Against counting in plain loops, on a small grid."""
    size = 20

    def pixels(boxes: Any) -> set[tuple[int, int]]:
        return {(i, j) for x, y, u, v in boxes for i in range(int(x * size), int(u * size))
                for j in range(int(y * size), int(v * size))}  # fmt: skip

    for seed in range(30):
        one, two, forward, backward = drawn(seed)
        found = rule.score_report(one, two, forward, backward, size=size)
        for phrase, verdict, status in zip(one, forward, found.candidate):
            if phrase.boxes is None:
                assert status == "no_boxes"
                continue
            own, shown = pixels(phrase.boxes), pixels([b for at in verdict.evidence for b in two[at].boxes or ()])
            passed = verdict.entailed and bool(own) and len(own & shown) > len(own) / 2
            assert (status == "spatial_entailment") == passed


def test_boxes_go_to_whole_pixels_towards_zero() -> None:
    assert rule.mask(((0.29, 0.0, 0.58, 1.0),), 100).any(axis=1).nonzero()[0].tolist() == list(range(28, 57))
    thin = ((0.3001, 0.3, 0.3002, 0.6),)
    assert math.isnan(rule.box_metrics(thin, HALF)["precision"])
    assert all(math.isnan(value) for value in rule.box_metrics(thin, thin).values())


def test_f1_is_of_the_means() -> None:
    reports: list[Any] = [dict.fromkeys((*rule.RATIOS, *rule.COUNTS), 1.0) for _ in range(2)]
    reports[0].update(logical_recall=0.0)
    reports[1].update(logical_precision=0.0)
    found = rule.aggregate([*reports, None])
    assert found["logical_f1"] == 0.5
    assert found["num_samples"] == 2
    assert found["num_invalid_processed_samples"] == 1
    assert rule.f1(0.0, 0.0) == 0
    assert math.isnan(rule.f1(math.nan, 1.0))
    assert math.isnan(rule.aggregate([None])["logical_precision"])


def test_reports_in_plain_words_have_no_figures_of_boxes() -> None:
    report = dict.fromkeys((*rule.RATIOS, *rule.COUNTS), 0.5)
    found = rule.aggregate([report], narrative=True)
    assert found["logical_f1"] == 0.5
    assert all(found[name] == 0 for name in rule.BOXED)
    assert found["spatial_f1"] == found["grounding_f1"] == 0


def test_bootstrap_of_equal_reports_and_of_many() -> None:
    report = dict.fromkeys((*rule.RATIOS, *rule.COUNTS), 0.5)
    flat = rule.bootstrap([report] * 5, rounds=20)["logical_f1"]
    assert (flat["mean"], flat["stderr"], flat["p97.5th"]) == (0.5, 0.0, 0.5)
    rng = np.random.default_rng(0)
    reports = [{**report, "logical_precision": float(one)} for one in rng.random(200)]
    found = rule.bootstrap(reports, rounds=400)["logical_precision"]
    assert found["stderr"] == pytest.approx(np.sqrt(1 / 12 / 200), rel=0.15)


@pytest.mark.parametrize(
    ("text", "candidates", "expected"),
    [
        ("No effusion.", ["no effusion!", "x"], 0),
        ("Well-known  thing", ["other", "wellknown thing"], 1),
        ("abc", ["xyz", "zab", "yabc"], 2),
        ("abcd", ["abx", "cdx"], 0),
        ("abc", ["xyz"], None),
        ("abc", [], None),
    ],
)
def test_quoted_phrases_are_found(text: str, candidates: list[str], expected: int | None) -> None:
    assert rule.match_phrase(text, candidates) == expected
