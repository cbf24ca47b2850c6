"""Factor scores: the page's worked values, limits, and scipy's and numpy's word where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from truing.measures.profile_scores import factor_alignment, factor_score, level_signs, logistic, score_levels, signs
from truing.measures.rank_correlation import kendall


def test_the_longer_is_always_liked() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.permuted(np.tile([5.0, 9.0], (40, 1)), axis=1)
    likes = np.sign(pairs[:, 0] - pairs[:, 1])
    assert factor_score(pairs, likes)["tau14"] == 1
    assert factor_score(-pairs, likes)["tau14"] == -1
    assert factor_score(np.exp(pairs) + 3, likes)["tau14"] == 1


def test_ties_count_in_the_denominator() -> None:
    found = factor_score([[10, 5], [3, 7], [4, 4], [9, 1], [2, 2]], [1, 1, 1, -1, -1])
    assert (found["concordant"], found["discordant"], found["factor_ties"]) == (1, 2, 2)
    assert found["tau14"] == pytest.approx(-0.2)
    assert found["tau_ties_dropped"] == pytest.approx(-1 / 3)


def test_nothing_is_undefined_and_all_ties_are_zero() -> None:
    assert factor_score([], [])["tau14"] is None
    assert factor_score([[1, 2]], [0])["tau14"] is None
    assert factor_score([[1, np.nan]], [1])["tau14"] is None
    assert factor_score([[1, 1]] * 3, [1, -1, 1])["tau14"] == 0
    assert np.isnan(signs([[1, 2]], [np.nan])).all()


def test_levels() -> None:
    assert score_levels([{"scores": [1, 2, 3, 4, 5], "factor": [1, 2, 3, 4, 9]}])["n_pairs"] == 10
    assert score_levels([{"scores": [1, 2, 3, 4, 5], "factor": [1, 2, 3, 4, 9]}])["tau14"] == 1
    found = score_levels([{"scores": [1, 3, 3, 5], "factor": [0, 1, 0, 1]}])
    assert (found["n_pairs"], found["tau14"]) == (5, pytest.approx(0.6))
    assert score_levels([])["tau14"] is None
    assert len(level_signs([1], [2])) == 0


def test_alignment_of_a_column_with_itself_and_its_negative() -> None:
    column = {"a": 0.3, "b": -0.2, "c": 0.1, "d": None}
    assert factor_alignment(column, column) == {
        "n_factors": 3,
        "kendall_tau": 1,
        "spearman": 1,
        "pearson": pytest.approx(1),
    }
    turned = {name: None if value is None else -value for name, value in column.items()}
    assert factor_alignment(column, turned)["kendall_tau"] == -1
    assert factor_alignment({"a": 1.0}, {"a": 1.0})["kendall_tau"] is None
    assert factor_alignment({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0})["pearson"] is None


def annotated(seed: int, n: int = 400, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gaps = rng.normal(size=(n, 8, 2))
    lean = (gaps[:, :, 0] - gaps[:, :, 1]) @ (np.linspace(-1.2, 1.2, 8) if weights is None else weights)
    return gaps, np.where(rng.random(n) < 1 / (1 + np.exp(-lean)), 1.0, -1.0)


def test_two_halves_of_one_annotator_agree_as_the_page_says() -> None:
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        gaps = rng.normal(size=(400, 8))  # the page's figure is for differences of variance 1
        likes = np.where(rng.random(400) < 1 / (1 + np.exp(-gaps @ np.linspace(-1.2, 1.2, 8))), 1.0, -1.0)
        halves = [
            [factor_score(np.stack([gaps[part, at], np.zeros(200)], axis=1), likes[part])["tau14"] for at in range(8)]
            for part in (slice(0, 200), slice(200, 400))
        ]
        found.append(kendall(*halves))
    assert np.median(found) == pytest.approx(0.79, abs=0.03)
    assert np.quantile(found, 0.05) == pytest.approx(0.55, abs=0.1)


def test_shuffled_preferences_score_nothing() -> None:
    gaps, likes = annotated(3, 1000)
    shuffled = np.random.default_rng(4).permutation(likes)
    assert all(abs(factor_score(gaps[:, at], shuffled)["tau14"]) < 0.1 for at in range(8))


def test_regression_tells_a_cause_from_its_companion() -> None:
    rng = np.random.default_rng(0)
    facts = rng.normal(size=(2000, 1))
    length = facts + 0.5 * rng.normal(size=(2000, 1))
    likes = np.where(rng.random(2000) < 1 / (1 + np.exp(-2 * facts[:, 0])), 1.0, -1.0)
    assert signs(np.hstack([length, 0 * length]), likes).mean() > 0.3, "length is liked"
    values, errors = logistic(np.hstack([facts, length]), likes, np.arange(2000))
    assert values[0] == pytest.approx(2, abs=4 * errors[0])
    assert abs(values[1]) < 3 * errors[1], "but adds nothing"


def test_regression_is_finite_where_one_factor_decides_all_and_silent_where_none_varies() -> None:
    gaps = np.column_stack([np.tile([1.0, -1.0], 50), np.zeros(100)])
    values, errors = logistic(gaps, gaps[:, 0], np.arange(100))
    assert 3 < values[0] < 10
    assert values[1] == 0
    assert np.isnan(errors[1])


def test_regression_intervals_hold_the_truth() -> None:
    weights, hits = np.linspace(-0.4, 0.4, 8), 0
    for seed in range(100):
        gaps, likes = annotated(seed, 400, weights)
        moved = gaps[:, :, 0] - gaps[:, :, 1]
        values, errors = logistic(moved, likes, np.arange(400))
        truth = weights * np.sqrt((moved**2).mean(0))
        hits += int((np.abs(values - truth) <= 1.96 * errors).sum())
    assert hits / 800 >= 0.93
