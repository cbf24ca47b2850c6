"""Discretion as numbers: worked values, limiting cases and symmetries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from truing.measures import principle_tables as tables

NAN = math.nan


def random_table(seed: int = 0, n: int = 300, m: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.choice([1, -1, NAN], p=[0.3, 0.3, 0.4], size=(n, m)), rng.choice([1.0, -1.0, 0.0, NAN], size=n)


def test_kinds_of_rows() -> None:
    rows = [[1, 1, NAN], [1, -1, NAN], [NAN, NAN, NAN], [0, NAN, NAN], [0, -1, NAN]]
    assert tables.classify_rows(rows) == ["consensus", "conflict", "indifference", "undecided", "consensus"]
    assert tables.directions(rows).tolist() == [1, 0, 0, 0, -1]


def test_arbitrariness_of_one_that_follows_and_of_one_that_does_not() -> None:
    principles, chosen = np.array([[1, 1], [NAN, 1], [-1, -1]]), np.array([1, 1, -1])
    assert tables.arbitrariness(principles, chosen) == 0
    assert tables.arbitrariness(principles, -chosen) == 1
    assert math.isnan(tables.arbitrariness(principles, [NAN, 0, NAN]))


def test_a_mirrored_annotator_has_the_rest() -> None:
    principles, chosen = random_table()
    assert tables.arbitrariness(principles, -chosen) == pytest.approx(1 - tables.arbitrariness(principles, chosen))


def test_a_coin_is_arbitrary_half_the_time() -> None:
    rng = np.random.default_rng(1)
    principles = np.where(rng.random((2000, 3)) < 0.5, 1.0, NAN)
    principles[:, 0] = 1
    assert abs(tables.arbitrariness(principles, rng.choice([1.0, -1.0], 2000)) - 0.5) < 0.035


def test_supremacy_by_loops() -> None:
    principles, chosen = random_table()
    share, clashes = tables.supremacy(principles, chosen)
    for i, j in itertools.product(range(5), repeat=2):
        rows = (principles[:, i] * principles[:, j] < 0) & ~np.isnan(chosen) & (chosen != 0)
        assert clashes[i, j] == rows.sum()
        if rows.any():
            assert share[i, j] == pytest.approx((principles[rows, i] * chosen[rows] > 0).mean())
    assert np.array_equal(clashes, clashes.T)
    assert not np.diag(clashes).any()
    met = clashes > 0
    assert np.allclose((share + share.T)[met], 1)


def test_resampled_wins_are_those_of_the_resampled_rows() -> None:
    principles, chosen = random_table()
    counts = np.random.default_rng(2).multinomial(300, np.full(300, 1 / 300), size=3)
    found = tables.wins(principles, chosen, counts)
    for draw, one in zip(counts, found):
        rows = np.repeat(np.arange(300), draw)
        assert np.array_equal(one, tables.wins(principles[rows], chosen[rows]))


def test_three_of_four_clashes_are_worth_ln_3() -> None:
    weights = tables.principle_weights([[0, 3], [1, 0]])
    assert weights[0] - weights[1] == pytest.approx(math.log(3))
    assert weights.sum() == pytest.approx(0)


def test_weights_are_at_the_maximum_and_those_of_single_fits() -> None:
    many = np.stack([tables.wins(*random_table(seed)) for seed in range(4)])
    found = tables.principle_weights(many)
    for won, weights in zip(many, found):
        expected = (won + won.T) / (1 + np.exp(weights[None, :] - weights[:, None]))
        assert np.allclose(expected.sum(1), won.sum(1))
        assert np.allclose(weights, tables.principle_weights(won))


def test_one_that_wins_all_one_that_loses_all_and_one_that_meets_none() -> None:
    won = np.array([[0, 2, 2, 1, 0], [0, 0, 3, 1, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0.0]])
    weights = tables.principle_weights(won)
    assert weights[0] == math.inf
    assert weights[3] == -math.inf
    assert math.isnan(weights[4])
    assert weights[1] - weights[2] == pytest.approx(math.log(3))
    assert tables.principle_weights(won, isolated=-math.inf)[4] == -math.inf


def test_all_decided_alike_is_no_error() -> None:
    assert tables.principle_weights([[0, 2, 2], [0, 0, 2], [0, 0, 0]]).tolist()[::2] == [math.inf, -math.inf]
    # Without the first and last, the second meets nobody any more: any weight, so the mean.
    assert tables.principle_weights([[0, 2, 2], [0, 0, 2], [0, 0, 0]])[1] == 0
    # A chain among the rest has no maximum: a finite order.
    won = np.array([[0, 1, 0, 1], [1, 0, 5, 0], [0, 0, 0, 1], [1, 0, 1, 0.0]])
    assert np.isfinite(tables.principle_weights(won)).all()


def test_discrepancy() -> None:
    assert tables.discrepancy([3, 2, 1], [30, 20, 10]) == 0
    assert tables.discrepancy([3, 2, 1], [1, 2, 3]) == 1
    assert tables.discrepancy([3, NAN, 1], [1, 2, 3]) == 1
    assert math.isnan(tables.discrepancy([1, 1], [1, 2]))
    assert math.isnan(tables.discrepancy([1, NAN], [1, 2]))


def test_one_who_always_follows_a_principle() -> None:
    principles, _ = random_table()
    chosen = np.where(np.isnan(principles[:, 2]), NAN, principles[:, 2])
    assert tables.principle_weights(tables.wins(principles, chosen))[2] == math.inf


def test_preferences_from_probabilities_and_both_orders() -> None:
    found = tables.preferences([[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [0.1, 0.5, 0.5], [0.3, 0.2, 0.5]])
    assert np.array_equal(found, [1, NAN, -1, NAN], equal_nan=True)
    assert np.array_equal(tables.both_orders([1, 1, NAN, -1], [-1, 1, 1, 1]), [1, 0, NAN, -1], equal_nan=True)
