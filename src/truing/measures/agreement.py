"""How well raters agree beyond chance, as pure functions: Cohen's and Fleiss' kappa with intervals, and what sways a
judge besides the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from truing.measures import intervals, statistics
from truing.measures.logistic import fit
from truing.measures.statistics import Estimate

Array = np.ndarray
Keys = Sequence[Hashable] | None
_PRIOR = 1 / 9  # of log-odds: a normal with a standard deviation of 3, so that a judge without mistakes has some


# --- kappa ----------------------------------------------------------------------------------------------------------


def table(first: Sequence[Hashable], second: Sequence[Hashable], categories: Sequence[Hashable]) -> Array:
    """How often two raters gave each pair of categories, [K, K], the first rater's in rows.

    Raises:
        ValueError: the two differ in length, or hold a category that is not listed.
    """
    if len(first) != len(second):
        raise ValueError(f"Both raters rate the same items, not {len(first)} and {len(second)}.")
    at = {category: index for index, category in enumerate(categories)}
    strange = {str(value) for value in (*first, *second) if value not in at}
    if strange:
        raise ValueError(f"No category {', '.join(sorted(strange))}. There are {', '.join(map(str, categories))}.")
    counts = np.zeros((len(at), len(at)))
    np.add.at(counts, ([at[value] for value in first], [at[value] for value in second]), 1)
    return counts


def cohen_kappa(counts: Array) -> Any:
    """(p_o - p_e) / (1 - p_e) of a table of two raters, [..., K, K]: agreement beyond that of their own marginals.

    NaN where both use one and the same category only, since chance alone agrees then. Cohen 1960.
    """
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = np.trace(counts, axis1=-2, axis2=-1) / total
        chance = (counts.sum(-1) * counts.sum(-2)).sum(-1) / total**2
        kappa = np.where(chance >= 1 - 1e-12, np.nan, (seen - chance) / (1 - chance))
    return float(kappa) if kappa.ndim == 0 else kappa


def fleiss_kappa(counts: Array) -> float:
    """Agreement of many raters beyond chance, from how many put each item into each category, [n, K].

    Items may have different numbers of raters, at least 2 each. NaN where all ratings are of one category.
    With two raters this is Scott's pi. Fleiss 1971.

    Raises:
        ValueError: an item has fewer than 2 ratings.
    """
    agree, shares = _fleiss_parts(np.asarray(counts, dtype=np.float64))
    return float(_fleiss_of(agree.mean(), shares.sum(0)))


def _fleiss_parts(counts: Array) -> tuple[Array, Array]:
    """Of each item: the share of its pairs of raters that agree, [n], and its ratings by category, [n, K]."""
    raters = counts.sum(1)
    if counts.ndim != 2 or not len(counts) or raters.min() < 2:
        raise ValueError("Fleiss' kappa needs at least one item, and at least 2 ratings of each.")
    return ((counts**2).sum(1) - raters) / (raters * (raters - 1)), counts


def _fleiss_of(agree: Array, totals: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = ((totals / totals.sum(-1, keepdims=True)) ** 2).sum(-1)
        return np.where(chance >= 1 - 1e-12, np.nan, (agree - chance) / (1 - chance))


def cohen(
    first: Sequence[Hashable], second: Sequence[Hashable], categories: Sequence[Hashable], *,
    mirror: dict[Hashable, Hashable] | None = None, clusters: Keys = None, seed: int = 0,
) -> Estimate | None:  # fmt: skip
    """Cohen's kappa of two raters with a bootstrap interval over items or clusters; None where it is not defined.

    Args:
        first: the category that one rater gave each item, [n].
        second: that of the other.
        categories: all there are.
        mirror: for pairs of answers, what each category becomes when the answers change places ("chosen" and
            "rejected"): every item then counts in both orders, so that the kappa does not hang on which answer was
            written first.
        clusters: a key for each item.
        seed: of the resampling.
    """
    if len(first) < 2:
        return None
    k, at = len(categories), {category: index for index, category in enumerate(categories)}
    table(first, second, categories)
    units = np.zeros((len(first), k * k))
    rows = np.arange(len(first))
    units[rows, [at[a] * k + at[b] for a, b in zip(first, second)]] += 1
    if mirror is not None:
        turned = np.array([at[mirror[a]] * k + at[mirror[b]] for a, b in zip(first, second)])
        np.add.at(units, (rows, turned), 1)
    value = cohen_kappa(units.sum(0).reshape(k, k))
    agree = sum(a == b for a, b in zip(first, second)) / len(first)
    whole = units.sum(0).reshape(k, k)
    chance = float((whole.sum(0) * whole.sum(1)).sum() / whole.sum() ** 2)
    return _with_interval(value, agree, chance, units, clusters, lambda sums: cohen_kappa(sums.reshape(-1, k, k)), seed)


def fleiss(counts: Array, *, clusters: Keys = None, seed: int = 0) -> Estimate | None:
    """Fleiss' kappa with a bootstrap interval over items or clusters; None where it is not defined.

    Args:
        counts: [n, K], as in `fleiss_kappa`.
        clusters: a key for each item.
        seed: of the resampling.
    """
    agree, shares = _fleiss_parts(np.asarray(counts, dtype=np.float64))
    if len(agree) < 2:
        return None
    units = np.column_stack([agree, np.ones(len(agree)), shares])
    totals = shares.sum(0)
    value, chance = float(_fleiss_of(agree.mean(), totals)), float(((totals / totals.sum()) ** 2).sum())
    return _with_interval(
        value, float(agree.mean()), chance, units, clusters,
        lambda sums: _fleiss_of(sums[:, 0] / sums[:, 1], sums[:, 2:]), seed,
    )  # fmt: skip


def _with_interval(
    value: float, agree: float, chance: float, units: Array, clusters: Keys, of: Callable[[Array], Array], seed: int
) -> Estimate | None:
    """Kappa with its interval from the sums of some columns over items, [draws, columns] in each resample."""
    sums = statistics.cluster_sums(units, clusters)
    n, many = len(units), len(sums)
    if not math.isfinite(value) or many < 2:
        return None
    low, high = intervals.percentiles(of(statistics.resampled_means(sums, seed=seed)), many)
    method = "bootstrap" if many == n else "clustered bootstrap"
    if agree in (0.0, 1.0) or not math.isfinite(low):
        # Resamples of raters who always agree show no spread; other samples of as many could have.
        low, high = ((end - chance) / (1 - chance) for end in statistics.clopper_pearson(agree * many, many))
        method = "Clopper-Pearson"
    return Estimate(value, min(low, value), min(1.0, max(high, value)), n, method)


# --- what sways a judge ---------------------------------------------------------------------------------------------


class Sway(NamedTuple):
    """What moves a judge, in log-odds, each with the others held still.

    Args:
        truth: for being right, from -1 (wrong) to 1 (right): half of what a whole turn of the truth moves.
        length: for one unit of the length term, of answers that people value alike.
        accuracy: how often it would be right on answers of one length, shown without an order.
    """

    truth: Estimate
    length: Estimate
    accuracy: Estimate


def sway(
    preferred: Sequence[float], truth: Sequence[float], length: Sequence[float], *,
    ordered: bool = True, clusters: Keys = None,
) -> Sway | None:  # fmt: skip
    """A logistic model of verdicts on the truth, on length and, as its intercept, on the place.

    logit P(first preferred) = position + a * truth + b * length. What people prefer is often longer, so length has to
    be weighed beside the truth: a judge who is right, or wrong at random, has b = 0 however long good answers are.

    Args:
        preferred: of each verdict 1 (the first answer, or the only one, was taken), 0, or 0.5 for a tie, [n].
        truth: 1 where people take it, -1 where they do not, 0 where they are even, [n].
        length: the length term of the first answer over the second, about 0, [n]; see `length_terms`.
        ordered: whether two answers stood in an order. With False the intercept is how easily it takes an answer.
        clusters: a key for each verdict: two verdicts on one pair are not independent.

    Returns:
        None where nothing can be told: fewer than 4 verdicts, no verdict against the truth (a judge without mistakes
        shows no leaning), or lengths that are all alike.
    """
    y, t, term = (np.asarray(values, dtype=np.float64) for values in (preferred, truth, length))
    wrong = bool(((y - 0.5) * t < 0).any() or (y == 0.5).any())
    if len(y) < 4 or not wrong or np.ptp(term) == 0:
        return None
    model = fit(np.stack([np.ones(len(y)), t, term], axis=1), y, penalties=[_PRIOR] * 3, clusters=clusters)
    if model is None:
        return None
    # With few mistakes the sandwich sees too little spread, and the curvature tells how little is known.
    errors = np.sqrt(np.maximum(np.diag(model.covariance), np.diag(model.curvature)))
    method = "sandwich" + (", clustered" if model.units < len(y) else "")

    def about(index: int) -> Estimate:
        value, half = float(model.coefficients[index]), model.reach * float(errors[index])
        return Estimate(value, value - half, value + half, model.units, method)

    slope = about(1)
    # The intercept is the place, which both orders cancel, or else how easily an answer is taken, which stays.
    base = 0.0 if ordered else float(model.coefficients[0])
    value, low, high = (float(special.expit(base + end) + special.expit(end - base)) / 2 for end in slope[:3])
    return Sway(slope, about(2), Estimate(value, low, high, model.units, method))
