"""Rank correlations of two lists, or of many pairs of lists at once, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def average_ranks(values: ArrayLike) -> Array:
    """Ranks from 1, the smallest first, along the last axis; equal values share the mean of their ranks.

    Infinities count as the most extreme values, equal ones as equal.
    """
    found = np.asarray(values, dtype=np.float64)
    below = (found[..., None, :] < found[..., :, None]).sum(-1)
    same = (found[..., None, :] == found[..., :, None]).sum(-1)
    return np.asarray(below + (same + 1) / 2, dtype=np.float64)


def kendall(one: ArrayLike, other: ArrayLike) -> Any:
    """Kendall's tau-b along the last axis; NaN where a list is all equal or shorter than 2. Kendall 1945."""
    first, second = average_ranks(one), average_ranks(other)
    left = np.sign(first[..., :, None] - first[..., None, :])
    right = np.sign(second[..., :, None] - second[..., None, :])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (left * right).sum((-1, -2)) / np.sqrt((left**2).sum((-1, -2)) * (right**2).sum((-1, -2)))
    return _plain(found)


def spearman(one: ArrayLike, other: ArrayLike) -> Any:
    """Spearman's rho along the last axis: Pearson's correlation of average ranks; NaN where undefined."""
    return pearson(average_ranks(one), average_ranks(other))


def pearson(one: ArrayLike, other: ArrayLike) -> Any:
    """Pearson's correlation along the last axis; NaN where a list is constant, shorter than 2, or not finite."""
    first, second = (np.asarray(values, dtype=np.float64) for values in (one, other))
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = first - first.mean(-1, keepdims=True), second - second.mean(-1, keepdims=True)
        found = (first * second).sum(-1) / np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    # What is left of a constant list by rounding is no variation.
    return _plain(np.clip(found, -1.0, 1.0))


def _plain(found: Any) -> Any:
    return float(found) if np.ndim(found) == 0 else found


def distance_interval(value: float, draws: ArrayLike, alike: ArrayLike, apart: ArrayLike = ()) -> tuple[float, float]:
    """Ends of a 95 % interval of a distance between two orders that are themselves estimates; the lower is at least 0.

    Noise drives two estimated orders apart, so their distance is too large on average, and its resamples twice so. The
    interval therefore reaches down by twice the shift of the resamples beyond a normal interval, and to 0 where the
    distance is no larger than what two orders show whose annotators were mixed at random (97.5 % of those). In
    simulations with 8 to 21 items it held the truth in 93 to 98 of 100 cases; percentiles alone in 0 to 96.

    Args:
        value: the distance, at least 0.
        draws: distances of resamples; those that are not finite are left out.
        alike: distances after each unit's two annotators have been swapped or not by the toss of a coin.
        apart: distances of resamples of which each side draws its own units; where two annotators choose alike on every
            unit, so that resamples show no spread, 97.5 % of these are the upper end.
    """
    found, mixed, others = (np.asarray(one, dtype=np.float64) for one in (draws, alike, apart))
    found, mixed = found[np.isfinite(found)], mixed[np.isfinite(mixed)]
    if not len(found):
        return float("nan"), float("nan")
    tails = np.quantile(found, [0.025, 0.975])
    half = 1.96 * float(found.std())
    shift = max(0.0, float(found.mean()) - value)
    low = min(float(tails[0]), value - 2 * shift - half)
    if len(mixed) and value <= float(np.quantile(mixed, 0.975)):
        low = 0.0
    high = max(float(tails[1]), value + half)
    if high - low < 1e-12 and np.isfinite(others).any():
        high = max(high, float(np.nanquantile(others, 0.975)))
    return max(0.0, low), high
