"""Rank correlations against scipy, and the interval of a distance between noisy orders."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from truing.measures.rank_correlation import average_ranks, distance_interval, kendall, pearson, spearman


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scipy_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 5, 12), rng.integers(0, 5, 12)
    assert average_ranks(one).tolist() == stats.rankdata(one).tolist()
    assert kendall(one, other) == pytest.approx(stats.kendalltau(one, other).statistic)
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert pearson(one, other) == pytest.approx(stats.pearsonr(one, other).statistic)


def test_many_at_once_and_infinities() -> None:
    one = np.array([[1.0, 2, 3], [3, 2, 1]])
    assert kendall(one, [1, 2, 3]).tolist() == [1, -1]
    assert kendall([np.inf, 0, -np.inf, -np.inf], [4, 3, 2, 2]) == pytest.approx(1)


def test_undefined() -> None:
    for correlate in (kendall, spearman, pearson):
        assert np.isnan(correlate([1, 1, 1], [1, 2, 3]))
        assert np.isnan(correlate([1], [1]))


def test_distances_no_larger_than_noise_reach_zero() -> None:
    assert distance_interval(0.1, [0.2, 0.3, 0.4], [0.05, 0.1, 0.2])[0] == 0
    low, high = distance_interval(0.5, [0.5, 0.51, 0.49, 0.5], [0.1, 0.1, 0.2])
    assert 0.4 < low < 0.5 < high < 0.6
    assert np.isnan(distance_interval(0.5, [np.nan], [])).all()
