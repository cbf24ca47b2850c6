"""Tests of one model against another: McNemar's or a bootstrap over the same items, else from two intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy import special

from truing.measures.result import Column, Figure
from truing.measures.run import paired_difference, paired_values
from truing.measures.statistics import Estimate, Z

Row = dict[str, Any]


def paired_test(column: Column, rows: Sequence[Row], others: Sequence[Row], seed: int = 0) -> tuple[Figure, str] | None:
    """The paired difference of a figure with its 95 % interval and p-value, and the name of the test.

    McNemar's exact test for shares of independent items whose values are 0 and 1. For other shares (ties, clusters)
    and for means p is that of the interval which just reaches 0: Laplace-adjusted, or bootstrap. None where no item
    is shared, a mean is over one item, or a value is not finite.

    Args:
        column: how the figure follows from the rows.
        rows, others: of the two models; items are told apart by ``id``.
        seed: of the bootstrap.

    Source: McNemar 1947; Bonett and Price 2012; Efron 1979.
    """
    found = paired_values(column, rows, others)
    if found is None:
        return None
    change = paired_difference(*found, seed, test=True)
    if change is None:
        return None
    column, _, (one, _), (two, _) = found
    if column.statistic not in ("share", "stratified_share"):
        return _figure(change, column, change.p), "paired bootstrap"
    if change.p is not None and all(value in (0.0, 1.0) for value in (*one, *two)):
        return _figure(change, column, change.p), "McNemar, exact"
    centre, half = (change.low + change.high) / 2, (change.high - change.low) / 2
    p = float(2 * special.ndtr(-Z * abs(centre) / half)) if half > 0 else 1.0
    return _figure(change, column, p), "paired, from the interval"


def _figure(change: Estimate, column: Column, p: float | None) -> Figure:
    return Figure(*change[:5], unit=column.unit, better=column.better, p=p)


def unpaired_test(first: Figure, second: Figure) -> tuple[Figure, str]:
    """First minus second where they share no items, from their 95 % intervals, and the name of the test.

    It needs nothing but the figures, so it serves any of them; p is that of the interval which just reaches 0.

    Source: Zou and Donner 2008, eq. 2; for shares the method of Newcombe 1998.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    side = below if value > 0 else above
    p = 1.0 if value == 0 else float(2 * special.ndtr(-Z * abs(value) / side)) if side > 0 else 0.0
    found = Figure(
        value, value - below, value + above, min(first.n, second.n), "unpaired, of both intervals", first.unit,
        first.better, p,
    )  # fmt: skip
    return found, "from both intervals"
