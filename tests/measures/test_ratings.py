"""Ratings from matches: closed forms, limits, and agreement with an independent fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from truing.measures import ratings


def board(wins: int, losses: int) -> np.ndarray:
    return np.array([[0.0, wins], [losses, 0.0]])


@pytest.mark.parametrize(("wins", "losses", "gap"), [(3, 1, 190.85), (4, 1, 240.82), (2, 2, 0.0)])
def test_two_models(wins: int, losses: int, gap: float) -> None:
    found = ratings.on_elo_scale(ratings.bradley_terry(board(wins, losses)))
    assert found[0] - found[1] == pytest.approx(gap, abs=0.005)
    assert found.mean() == pytest.approx(1000)
    anchored = ratings.on_elo_scale(ratings.bradley_terry(board(wins, losses)), anchor=1, at=1200)
    assert anchored[1] == pytest.approx(1200)
    assert anchored[0] - anchored[1] == pytest.approx(gap, abs=0.005)


def test_win_probabilities() -> None:
    p = ratings.win_probability(1200, 1000)
    assert float(p) == pytest.approx(0.7597, abs=5e-5)
    assert float(ratings.judged(p, 0.8)) == pytest.approx(0.6558, abs=5e-5)
    assert ratings.judged(ratings.win_probability([0, 500, 3000], 1000), 0.5) == pytest.approx([0.5] * 3)


def test_the_fit_is_that_of_maximum_likelihood_and_knows_no_sides() -> None:
    rng = np.random.default_rng(0)
    wins = np.triu(rng.integers(1, 9, (6, 6)), 1) + np.tril(rng.integers(1, 9, (6, 6)), -1).astype(float)

    def loss(theta: np.ndarray) -> float:
        return float((wins * np.log1p(np.exp(theta[None] - theta[:, None]))).sum())

    peer = optimize.minimize(loss, np.zeros(6), method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-10}).x
    found = ratings.bradley_terry(wins)
    assert found == pytest.approx(peer - peer.mean(), abs=1e-5)
    assert ratings.bradley_terry(np.stack([wins, wins.T]), start=found)[1] == pytest.approx(-found, abs=1e-9)
    # The wins that the fit expects of each model are those it had.
    expected = ((wins + wins.T) * ratings.expit(found[:, None] - found[None])).sum(1)
    assert expected == pytest.approx(wins.sum(1), abs=1e-6)


def test_swapped_sides_and_ties() -> None:
    matches = [["a", "b", "a"], ["b", "c", "c"], ["c", "a", "a"], ["a", "b", "b"], ["b", "c", "tie"], ["c", "a", "c"]]
    found = ratings.elo_ratings(matches)
    assert ratings.elo_ratings([[b, a, won] for a, b, won in matches]) == pytest.approx(found)
    ties = ratings.elo_ratings([[a, b, "tie"] for a, b, _ in matches])
    assert list(ties.values()) == pytest.approx([1000] * 3)
    assert ratings.ranking(ties) is None
    assert ratings.ranking({"x": 1.0, "y": 2.0}) == ["y", "x"]


def test_a_model_that_won_all_needs_a_prior() -> None:
    assert not np.isfinite(ratings.bradley_terry(board(4, 0))).any()
    assert not np.isfinite(ratings.bradley_terry(np.zeros((3, 3)))).any()
    with pytest.raises(ValueError, match="Give a prior"):
        ratings.elo_ratings([["a", "b", "a"]])
    gap = np.ptp(ratings.on_elo_scale(ratings.bradley_terry(board(4, 0), prior=0.1)))
    assert gap == pytest.approx(400 * math.log10(4.1 / 0.1), abs=1e-6)
    with pytest.raises(ValueError, match="anchor"):
        ratings.elo_ratings([["a", "b", "a"]], prior=1, anchor="z")
    with pytest.raises(ValueError, match="A match is"):
        ratings.elo_ratings([["a", "b", "c"]])


def test_the_covariance_is_that_of_a_binomial() -> None:
    wins = board(30, 10)
    theta = ratings.bradley_terry(wins)
    cover = ratings.covariance(theta, wins)
    gap = cover[0, 0] + cover[1, 1] - 2 * cover[0, 1]
    assert gap == pytest.approx(1 / (40 * 0.75 * 0.25))


def test_counts_leave_out_what_was_not_read() -> None:
    wins = ratings.count_wins([0, 0, 1, 0], [1, 1, 2, 2], [1.0, 0.5, 0.0, math.nan], 3)
    assert wins.tolist() == [[0, 1.5, 0], [0.5, 0, 0], [0, 1, 0]]
    both = ratings.count_boards([0, 1], [0, 0], [1, 1], [1.0, 0.0], 2, 2)
    assert both.tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]


def test_online_elo_depends_on_the_order() -> None:
    a, b, score = np.array([0, 0]), np.array([1, 1]), np.array([1.0, 0.0])
    one = ratings.online_elo(a, b, score, 2)[0]
    two = ratings.online_elo(a, b, score[::-1], 2)[0]
    assert one[0] < 1000 < two[0]
    assert one.sum() == pytest.approx(2000)
    several = ratings.online_elo(np.stack([a, a]), np.stack([b, b]), np.stack([score, score[::-1]]), 2)
    assert several == pytest.approx(np.stack([one, two]))
    unread = ratings.online_elo(a, b, np.array([1.0, math.nan]), 2)[0]
    assert unread[0] == pytest.approx(1002)


def test_rank_correlation() -> None:
    assert float(ratings.spearman([3, 2, 1], [30, 20, 10])) == pytest.approx(1)
    assert float(ratings.spearman([1, 2, 3], [30, 20, 10])) == pytest.approx(-1)
    assert math.isnan(float(ratings.spearman([1, 1, 1], [30, 20, 10])))
    assert ratings.spearman(np.array([[1, 2, 3], [3, 2, 1]]), [1, 2, 3]).tolist() == pytest.approx([1, -1])
