"""Means corrected by labels: limits, the formula by hand, coverage, and what bad input gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from truing.measures.prediction_powered import corrected_mean


def test_the_formula_by_hand() -> None:
    labels, judged, others = [1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    found = corrected_mean(labels, judged, others, weight=1.0)
    value = 0.75 + (4 / 6 - 0.75)
    # Errors 0, -1, 0, 1: variance 2/3; the others' variance 4/15.
    half = special.stdtrit(3, 0.975) * np.sqrt((2 / 3) / 4 + (4 / 15) / 6)
    assert found.estimate[:4] == pytest.approx((value, value - half, value + half, 10))
    assert found.bias.value == pytest.approx(0)
    assert found.labelled == 4


def test_the_best_weight() -> None:
    rng = np.random.default_rng(1)
    y, f, rest = rng.random(50), rng.random(50), rng.random(400)
    f = 0.6 * y + 0.4 * f
    found = corrected_mean(y, f, rest)
    shared = np.cov(y, f)[0, 1]
    expected = shared / np.concatenate([f, rest]).var(ddof=1) / (1 + 50 / 400)
    assert found.weight == pytest.approx(min(1, expected))
    assert found.estimate.value == pytest.approx(y.mean() + found.weight * (rest.mean() - f.mean()))


def test_a_judge_without_worth_leaves_the_labels_alone() -> None:
    labels = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    for judged, others in (([1.0] * 6, [1.0] * 50), ([0.0, 1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 1.0] * 25)):
        found = corrected_mean(labels, judged, others)
        assert found.weight == 0
        assert found.estimate.value == pytest.approx(4 / 6)
        half = special.stdtrit(5, 0.975) * np.std(labels, ddof=1) / np.sqrt(6)
        assert found.estimate.high - found.estimate.value == pytest.approx(half)
    assert corrected_mean(labels, labels, []).estimate.value == pytest.approx(4 / 6)


def test_a_perfect_judge_is_worth_all_its_verdicts() -> None:
    rng = np.random.default_rng(0)
    everything = (rng.random(2050) < 0.7).astype(float)
    found = corrected_mean(everything[:50], everything[:50], everything[50:])
    assert found.weight == pytest.approx(1, abs=0.06)
    assert found.worth > 10
    # With bounds, 50 labels that all follow the judge still leave room for errors that they did not meet.
    careful = corrected_mean(everything[:50], everything[:50], everything[50:], weight=1.0, bounds=(0, 1))
    assert careful.estimate.high - careful.estimate.low > 2 * (1 - 0.025 ** (1 / 50))
    flat = corrected_mean([1.0] * 20, [1.0] * 20, [1.0] * 100, bounds=(0, 1)).estimate
    assert flat.low == pytest.approx(0.025 ** (1 / 20))
    assert flat.high == 1


def test_a_wrong_judge_is_put_right() -> None:
    """A judge that likes everything says 90 % where people say 50 %."""
    rng = np.random.default_rng(4)
    truth = rng.random(5000) < 0.5
    said = truth | (rng.random(5000) < 0.8)
    found = corrected_mean(truth[:200].astype(float), said[:200].astype(float), said[200:].astype(float))
    assert said.mean() > 0.88
    assert found.estimate.low < 0.5 < found.estimate.high
    assert found.bias.low > 0.3


@pytest.mark.parametrize(
    ("n", "many", "share", "right", "wrong"),
    [(50, 500, 0.7, 0.9, 0.2), (100, 2000, 0.9, 0.97, 0.1), (100, 1000, 0.5, 0.99, 0.03), (200, 200, 0.5, 0.8, 0.4),
     (100, 1000, 0.7, 0.5, 0.5), (30, 1000, 0.6, 0.9, 0.3)],
)  # fmt: skip
def test_coverage(n: int, many: int, share: float, right: float, wrong: float) -> None:
    rng = np.random.default_rng(n)
    hits, times = 0, 1500
    for _ in range(times):
        truth = rng.random(n + many) < share
        said = (rng.random(n + many) < np.where(truth, right, wrong)).astype(float)
        found = corrected_mean(truth[:n].astype(float), said[:n], said[n:], bounds=(0, 1)).estimate
        hits += found.low <= share <= found.high
    assert 0.93 <= hits / times <= 0.97


def test_coverage_of_scores_in_clusters() -> None:
    """Prompts with four answers each, whose quality they share; the judge is harsh, and harsher on some prompts."""
    rng = np.random.default_rng(9)
    hits, times = 0, 800
    for _ in range(times):
        shared = np.repeat(rng.normal(0, 1, 240), 4)
        y = 3 + shared + rng.normal(0, 0.5, 960)
        f = y - 0.7 + np.repeat(rng.normal(0, 0.6, 240), 4) + rng.normal(0, 0.3, 960)
        keys = np.repeat(np.arange(240), 4)
        found = corrected_mean(
            y[:160], f[:160], f[160:], clusters=keys[:160].tolist(), other_clusters=keys[160:].tolist()
        ).estimate
        hits += found.low <= 3 <= found.high
    assert 0.93 <= hits / times <= 0.97


def test_too_few_labels() -> None:
    assert corrected_mean([1.0], [1.0], [0.0, 1.0]) is None
    assert corrected_mean([1.0, 0.0], [1.0, 0.0], [0.0], clusters=["a", "a"]) is None
    with pytest.raises(ValueError, match="there are 2 and 1"):
        corrected_mean([1.0, 0.0], [1.0], [])
