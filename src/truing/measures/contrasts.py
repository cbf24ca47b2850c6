"""Tests of one model against another: McNemar's or a randomisation test on the same items, else from two intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from truing.measures.result import Column, Figure
from truing.measures.run import clusters_of, paired_values
from truing.measures.statistics import mcnemar

DRAWS = 9999
EXACT = 13
"""Up to so many items (or clusters) all ways of swapping are tried instead of drawn ones."""
MANY = 20_000
"""From so many items on the spread of few draws and the normal curve stand for the count of many."""

Row = dict[str, Any]
Array = np.ndarray


def paired_p(column: Column, rows: Sequence[Row], others: Sequence[Row], seed: int = 0) -> tuple[float, str] | None:
    """Two-sided p-value that two models, asked the same items, are alike, and the name of the test.

    McNemar's exact test where every value is 0 or 1 and items are independent; else a randomisation test: under the
    hypothesis both values of an item may be swapped between the models. None where no item is shared, or a value is
    not finite.

    Args:
        column: how the figure follows from the rows.
        rows, others: of the two models; items are told apart by ``id``.
        seed: of the draws.

    Source: McNemar 1947; Noreen 1989, section 2.3, for the randomisation of pairs.
    """
    found = paired_values(column, rows, others)
    if found is None:
        return None
    column, used, (one, weight), (two, other) = found
    clusters = clusters_of(used)
    alone = clusters is None or len(set(clusters)) == len(clusters)
    binary = all(value in (0.0, 1.0) for value in (*one, *two))
    if alone and binary and weight is None and column.statistic in ("share", "stratified_share"):
        return mcnemar(one, two), "McNemar, exact"
    if column.statistic == "stratified_share":
        # Each kind counts the same: items weigh the inverse of how many there are of their kind.
        kinds = [row[column.strata or "kind"] for row in used]
        count = {kind: kinds.count(kind) for kind in set(kinds)}
        weight = other = [1 / count[kind] for kind in kinds]
    p = randomisation(one, two, weight, other, clusters, exp=column.statistic == "exp_mean", seed=seed)
    return p, "randomisation of pairs" if alone else "randomisation of clusters"


def randomisation(
    one: Sequence[float],
    two: Sequence[float],
    weights: Sequence[float] | None = None,
    other_weights: Sequence[float] | None = None,
    clusters: Sequence[Any] | None = None,
    *,
    exp: bool = False,
    seed: int = 0,
) -> float:
    """Two-sided p-value that the (weighted) means of two models over the same items are equal.

    The values of each item, or of each whole cluster, are swapped between the models or not, and the difference of the
    means is taken again: every way up to `EXACT` items, else `DRAWS` drawn ways, the observed one counted among them.

    Args:
        one, two: values of the two models for the same items, shape [n].
        weights, other_weights: of the values; the second model's are the first's unless given.
        clusters: a key for each item.
        exp: the difference of the exponentials of the means.
        seed: of the draws.
    """
    first, second = np.asarray(one, np.float64), np.asarray(two, np.float64)
    weight = np.ones(len(first)) if weights is None else np.asarray(weights, np.float64)
    other = weight if other_weights is None else np.asarray(other_weights, np.float64)
    mine = np.stack([first * weight, weight], axis=1)
    theirs = np.stack([second * other, other], axis=1)
    if clusters is not None:
        numbers: dict[Any, int] = {}
        place = np.array([numbers.setdefault(key, len(numbers)) for key in clusters])
        mine, theirs = (
            np.stack([np.bincount(place, side[:, at]) for at in range(2)], axis=1) for side in (mine, theirs)
        )

    def statistic(swapped: Array) -> Array:
        """Differences of the means, where ``swapped`` [ways, units] says what is swapped."""
        moved = swapped @ (theirs - mine)
        here, there = mine.sum(0) + moved, theirs.sum(0) - moved
        means = here[:, 0] / here[:, 1], there[:, 0] / there[:, 1]
        return np.exp(means[0]) - np.exp(means[1]) if exp else means[0] - means[1]

    units = len(mine)
    observed = abs(float(statistic(np.zeros((1, units)))[0]))
    # Ways that give the same difference must count as such whatever the order of the sums.
    least = observed * (1 - 1e-9) - 1e-12 * max(1.0, float(np.abs(first).max()), float(np.abs(second).max()))
    if units <= EXACT:
        ways = (np.arange(2**units)[:, None] >> np.arange(units)) & 1
        return float((np.abs(statistic(ways.astype(np.float64))) >= least).mean())
    rng = np.random.default_rng(seed)
    draws = DRAWS if units < MANY else 400
    each = max(1, 4_000_000 // units)
    parts = [
        statistic(rng.integers(0, 2, (min(each, draws - start), units)).astype(np.float64))
        for start in range(0, draws, each)
    ]
    drawn = np.abs(np.concatenate(parts))
    if units < MANY:
        return float((1 + (drawn >= least).sum()) / (1 + draws))
    spread = math.sqrt(float((drawn**2).mean()))
    return 1.0 if spread == 0 else float(2 * special.ndtr(-observed / spread))


def from_intervals(first: Figure, second: Figure) -> Figure:
    """First minus second where they share no items: from the two 95 % intervals, each side's spread taken apart.

    It needs nothing but the figures, so it serves any of them; p is that of the interval which just reaches 0.

    Source: Zou and Donner 2008, eq. 2; for shares the method of Newcombe 1998.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    side = below if value > 0 else above
    z = float(special.ndtri(0.975))
    p = 1.0 if value == 0 else float(2 * special.ndtr(-z * abs(value) / side)) if side > 0 else 0.0
    return Figure(
        value, value - below, value + above, min(first.n, second.n), "unpaired, from both intervals",
        first.unit, first.better, p,
    )  # fmt: skip
