"""Means over many items that a judge scored, corrected by the few that people labelled (prediction-powered inference).

A judge's scores are cheap and may be off; people's labels are right and few. Their mean difference on the labelled
items corrects the mean over all, and its uncertainty enters the interval: the result is right whatever the judge's
errors, and narrower than the labels alone allow as far as the judge is good.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from truing.measures.intervals import beyond, student
from truing.measures.statistics import Estimate, cluster_sums, rarely

Array = np.ndarray
Keys = Sequence[Hashable] | None


class Corrected(NamedTuple):
    """A mean that labels correct.

    Args:
        estimate: the corrected mean with its 95 % interval; ``n`` is the number of all items.
        weight: lambda, how much the judge's scores count: 0 not at all (the labels' own mean), 1 in full.
        bias: the judge's mean error on the labelled items, judge less label, with its interval.
        labelled: how many items have a label.
        worth: by what factor the judge multiplies the labels: labels alone would need so many times as many of them
            for an interval as narrow. 1 for a useless judge.
    """

    estimate: Estimate
    weight: float
    bias: Estimate
    labelled: int
    worth: float


def corrected_mean(
    labels: Sequence[float], judged: Sequence[float], others: Sequence[float], *, weight: float | None = None,
    clusters: Keys = None, other_clusters: Keys = None, bounds: tuple[float, float] | None = None,
) -> Corrected | None:  # fmt: skip
    """The mean of what people would say of all items (PPI++).

    theta = mean(labels) + lambda * (mean(others) - mean(judged)), with the lambda of the least variance,
    cov(labels, judged) / ((1 + n / N) * var(judged)), kept within 0 and 1. Its variance is
    var(labels - lambda * judged) / n + lambda^2 * var(others) / N, the first part by jackknife, so that the choice of
    lambda counts, and the interval Student's, with n - 1 degrees of freedom. The labelled items must be a random sample
    of all: labels of the hard cases alone correct nothing.

    Args:
        labels: what people say of the labelled items, [n], n at least 2.
        judged: what the judge says of the same, [n].
        others: what the judge says of the items without a label, [N]; with none the labels' own mean comes out.
        weight: lambda; None for the best one.
        clusters: a key for each labelled item; items with the same key are not independent.
        other_clusters: the same for the others.
        bounds: lowest and highest value that a label can have. Then labels that are all alike, or all as the judge
            says, leave room for those that so few cannot rule out, and the interval stays within the bounds.

    Returns:
        None below two labels or clusters of them.

    Raises:
        ValueError: labels and judged differ in length.

    Source: Angelopoulos, Duchi and Zrnic 2023 (PPI++), arXiv 2311.01453, sections 2 and 6, with Student's t and the
    jackknife instead of the normal limit; Angelopoulos et al. 2023, Science 382, for the idea.
    """
    y, f, rest = (np.asarray(values, dtype=np.float64) for values in (labels, judged, others))
    if len(y) != len(f):
        raise ValueError(f"Every label goes with a score of the judge; there are {len(y)} and {len(f)}.")
    n, many = len(y), len(rest)
    units = n if clusters is None else len(set(clusters))
    if units < 2:
        return None
    chosen = _weights(y, f, rest)[-1] if weight is None else float(weight)
    if not many:
        chosen = 0.0
    value = float(y.mean() + (chosen * (rest.mean() - f.mean()) if many else 0.0))
    rectifier = _variance(y - chosen * f, clusters)
    if weight is None and many:
        rectifier = max(rectifier, _jackknifed(y, f, rest, clusters))
    variance = rectifier + (chosen**2 * _variance(rest, other_clusters) if many else 0.0)
    reach = student(units - 1)
    half = reach * float(np.sqrt(variance))
    if bounds is not None and rectifier <= 1e-24:
        # All labels follow the judge; how many do not could be as many as the rule of three allows.
        half += beyond(units) * (bounds[1] - bounds[0])
    low, high = value - half, value + half
    if bounds is not None:
        low, high = max(bounds[0], min(low, bounds[1])), min(bounds[1], max(high, bounds[0]))
        value = min(max(value, low), high)
    error = float(f.mean() - y.mean())
    error_ends = _error_ends(f - y, error, reach, clusters, None if bounds is None else bounds[1] - bounds[0])
    alone = _variance(y, clusters)
    method = "prediction-powered" + (", clustered" if units < n else "")
    return Corrected(
        Estimate(value, low, high, n + many, method), chosen,
        Estimate(error, *error_ends, n, "Student"), n,
        alone / variance if variance > 0 else 1.0,
    )  # fmt: skip


def _error_ends(off: Array, error: float, reach: float, clusters: Keys, most: float | None) -> tuple[float, float]:
    """Student's interval of a mean error; where few items are off, at least as wide as so few leave possible."""
    half = reach * float(np.sqrt(_variance(off, clusters)))
    low, high = error - half, error + half
    if most is not None:
        sums = cluster_sums(np.stack([off, np.ones(len(off))], axis=1), clusters)
        each = sums[:, 0] * len(sums) / len(off)
        above, below = np.maximum(each, 0), np.maximum(-each, 0)
        low, high = min(low, above.mean() - rarely(below, most)), max(high, rarely(above, most) - below.mean())
        low, high = max(-most, low), min(most, high)
    return float(low), float(high)


def _weights(y: Array, f: Array, rest: Array, clusters: Keys = None) -> Array:
    """The best lambda without each unit of the labelled items in turn, and last that of all of them, [units + 1]."""
    zero, one = y.mean(), np.concatenate([f, rest]).mean()
    parts = np.stack([np.ones(len(y)), y - zero, f - one, (f - one) ** 2, (y - zero) * (f - one)], axis=1)
    whole = parts.sum(0)
    n, sy, sf, sff, syf = np.vstack([whole - cluster_sums(parts, clusters), whole]).T
    many, sr, srr = len(rest), float((rest - one).sum()), float(((rest - one) ** 2).sum())
    if not many:
        return np.zeros(len(n))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (sff + srr - (sf + sr) ** 2 / (n + many)) / (n + many - 1)
        found = (syf - sy * sf / n) / (n - 1) / (spread * (1 + n / many))
    return np.where((spread > 1e-24) & (n > 1), np.clip(found, 0, 1), 0.0)


def _jackknifed(y: Array, f: Array, rest: Array, clusters: Keys) -> float:
    """Variance of the corrected mean from the labelled items, the choice of lambda included, by leaving out each unit.

    The plain formula takes lambda for given, and its intervals hold the truth too seldom with some dozens of labels.
    """
    sums = cluster_sums(np.stack([np.ones(len(y)), y, f], axis=1), clusters)
    units = len(sums)
    n, sy, sf = (sums.sum(0) - sums).T
    without = sy / n + _weights(y, f, rest, clusters)[:-1] * (rest.mean() - sf / n)
    return float(((without - without.mean()) ** 2).sum()) * (units - 1) / units


def _variance(values: Array, clusters: Keys) -> float:
    """Of the mean of the values."""
    sums = cluster_sums((values - values.mean())[:, None], clusters)[:, 0]
    units = len(sums)
    return float((sums**2).sum()) / len(values) ** 2 * units / (units - 1) if units > 1 else 0.0
