"""Estimates with 95 % intervals, and paired differences: exact or score intervals for shares, bootstrap for means.

Every interval is two-sided and has a width above 0 wherever the truth could be another value. What each one covers in
simulations is measured in ``tests/measures/test_coverage.py``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from truing.measures.intervals import ALPHA, beyond, chance, ends, student

DRAWS = 4000
Z = float(special.ndtri(1 - ALPHA / 2))
_CHUNK = 4_000_000
_MANY, _FAR = 4096, 512

Array = np.ndarray
Keys = Sequence[Hashable] | None


class Estimate(NamedTuple):
    """A value, the ends of its 95 % interval, the samples behind it, how the interval was made, and for a difference
    the exact two-sided p-value of no difference where a test applies.
    """

    value: float
    low: float
    high: float
    n: int
    method: str
    p: float | None = None


# --- shares ---------------------------------------------------------------------------------------------------------


def clopper_pearson(successes: float, n: float) -> tuple[float, float]:
    """Ends of the exact interval of a binomial share. Halves count as such (a tie), which makes it conservative.

    Source: Clopper and Pearson 1934.
    """
    low = 0.0 if successes <= 0 else float(special.betaincinv(successes, n - successes + 1, ALPHA / 2))
    high = 1.0 if successes >= n else float(special.betaincinv(successes + 1, n - successes, 1 - ALPHA / 2))
    return low, high


def share(values: Sequence[float], clusters: Keys = None) -> Estimate:
    """The mean of values in [0, 1]: exact, or with clusters exact at the effective number of samples.

    Args:
        values: 0 or 1 for each sample; 0.5 for a tie.
        clusters: a key for each sample; samples with the same key are not independent.
    """
    return stratified_share(values, None, clusters)


def stratified_share(
    values: Sequence[float], strata: Sequence[Hashable] | None = None, clusters: Keys = None
) -> Estimate:
    """The mean of the shares of several kinds, each kind with the same weight; exact where there is one kind.

    Otherwise the exact interval at the effective number of samples: as many independent ones as would know the mean
    as well. Clusters count within a kind.

    Source: Clopper and Pearson 1934; Korn and Graubard 1998 for kinds and clusters.
    """
    found, n = _floats(values), len(values)
    groups = _groups(clusters, n)
    parts = _parts(strata) if strata is not None else [np.arange(n)]
    shares = np.array([found[rows].mean() for rows in parts])
    sizes = np.array([_size(found[rows], None if groups is None else groups[rows]) for rows in parts])
    # One success and one failure more keep a kind without either from counting as certain.
    smooth = (shares * sizes + 1) / (sizes + 2)
    variance = (smooth * (1 - smooth) / sizes).sum() / len(parts) ** 2
    effective = float(smooth.mean() * (1 - smooth.mean()) / variance)
    value = float(shares.mean())
    low, high = clopper_pearson(value * effective, effective)
    extra = ", stratified" * (len(parts) > 1) + ", clustered" * (groups is not None)
    return Estimate(value, low, high, n, "Clopper-Pearson" + extra)


def pooled_share(counts: Sequence[float], totals: Sequence[float], clusters: Keys = None) -> Estimate | None:
    """The share of successes among all trials of all samples: exact at the effective number of trials, since those of
    one sample are a cluster. None where there are no trials.

    Args:
        counts: successes of each sample.
        totals: trials of each sample.
        clusters: a key for each sample, where several samples belong together.
    """
    keys = list(range(len(counts))) if clusters is None else list(clusters)
    values: list[float] = []
    groups: list[Hashable] = []
    for count, total, key in zip(counts, totals, keys):
        values += [1.0] * int(count) + [0.0] * (int(total) - int(count))
        groups += [key] * int(total)
    return share(values, groups) if values else None


def difference_of_shares(
    first: Sequence[float], second: Sequence[float], strata: Sequence[Hashable] | None = None, clusters: Keys = None
) -> Estimate:
    """First minus second, paired: two columns of values in [0, 1] for the same items.

    The interval is the Laplace-adjusted one for paired shares: one discordant pair each way is added, spread over the
    kinds, so that pairs that all agree leave a width above 0. With ``strata`` each kind has the same weight. The
    p-value is McNemar's, exact, over all pairs; with clusters there is none.

    Source: Bonett and Price 2012, eq. 4.
    """
    ahead = _floats(first) - _floats(second)
    n = len(ahead)
    parts = _parts(strata) if strata is not None else [np.arange(n)]
    groups = _groups(clusters, n)
    extra = 1 / len(parts)
    value = centre = variance = 0.0
    for rows in parts:
        part = ahead[rows]
        size = _size(part, None if groups is None else groups[rows])
        total = size + 2 * extra
        mean = float(part.mean()) * size / total
        square = (float((part**2).mean()) * size + 2 * extra) / total
        value += float(part.mean()) / len(parts)
        centre += mean / len(parts)
        variance += (square - mean**2) / total / len(parts) ** 2
    half = Z * float(np.sqrt(variance))
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    method = "paired, Laplace-adjusted" + (", stratified" if len(parts) > 1 else "")
    return Estimate(
        value, min(low, value), max(high, value), n, method + (", clustered" if groups is not None else ""),
        mcnemar(first, second) if groups is None else None,
    )  # fmt: skip


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Exact two-sided p-value that two models, asked the same items, do better equally often."""
    return sign_test(_floats(first) - _floats(second))


def sign_test(differences: Sequence[float] | Array) -> float:
    """Exact two-sided p-value that a difference is as often above 0 as below; zeros do not count."""
    found = np.asarray(differences, dtype=np.float64)
    above, below = int((found > 0).sum()), int((found < 0).sum())
    return min(1.0, 2 * float(special.bdtr(min(above, below), above + below, 0.5))) if above + below else 1.0


# --- means ----------------------------------------------------------------------------------------------------------


def mean(
    values: Sequence[float] | Array, weights: Sequence[float] | Array | None = None, clusters: Keys = None, *,
    exp: bool = False, seed: int = 0, bounds: tuple[float, float] | None = None,
) -> Estimate | None:  # fmt: skip
    """A (weighted) mean, or its exponential, by bootstrap over samples or clusters; None below two of them.

    Percentiles are taken further out, as far as Student's t lies beyond the normal, since plain ones are too narrow
    for few samples, and the interval is at least as wide as Student's with the bootstrap's standard error, reaching
    further on the side to which the resamples lean. Where all samples are equal the bootstrap sees no spread: then the
    interval allows for the share of other samples that so many equal ones leave possible (the rule of three), each off
    by the value itself. Where few lie off a bound it sees too little: see `rarely`.

    Args:
        values: one for each sample.
        weights: tokens, say; the bootstrap resamples value and weight together, so this is a ratio of sums.
        clusters: a key for each sample; whole clusters are resampled.
        exp: give the exponential of the mean (perplexity, from nats).
        seed: of the resampling.
        bounds: lowest and highest value that a sample can have; the interval ends there.

    Source: Efron 1979; Hesterberg 2015, section 4.2, for the percentiles; Johnson 1978, eq. 3.4, for the lean.
    """
    found, weight = _floats(values), _weights(weights, len(values))
    groups = _groups(clusters, len(found))
    sums = _sums([found * weight, weight], groups)
    many = len(sums[0])
    if many < 2:
        return None
    totals = _resampled(sums, seed)
    value = _shape(found @ weight / weight.sum(), exp)
    low, high = ends(_shape(totals[0] / totals[1], exp), float(value), many)
    if _flat(found):
        low, high = value - beyond(many) * abs(value), value + beyond(many) * abs(value)
    if bounds is not None:
        (least, most), each = bounds, weight.sum() / many
        low = min(low, most - rarely((most * sums[1] - sums[0]) / each, most - least))
        high = max(high, least + rarely((sums[0] - least * sums[1]) / each, most - least))
    made = Estimate(float(value), float(low), float(high), len(found), _named("bootstrap", groups))
    return made if bounds is None else bounded(made, bounds, many)


def ratio(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Keys = None, *, seed: int = 0
) -> Estimate | None:
    """The sum of numerators over that of denominators, by bootstrap over samples or clusters; None below two."""
    above, below = _floats(numerators), _floats(denominators)
    return mean(above / below, below, clusters, seed=seed)


def difference_of_means(
    first: Sequence[float],
    second: Sequence[float],
    weights: Sequence[float] | None = None,
    second_weights: Sequence[float] | None = None,
    clusters: Keys = None,
    *,
    exp: bool = False,
    seed: int = 0,
    test: bool = False,
) -> Estimate | None:
    """First minus second mean over the same items: each resample draws an item with both its values.

    Pairs that are all equal leave room for the differences that so many of them cannot rule out, each as large as the
    values' own spread.

    Args:
        first: values of the one model.
        second: values of the other for the same items.
        weights: of the first model's values.
        second_weights: of the second's; those of the first unless given.
        clusters: a key for each item.
        exp: the difference of the exponentials of the means.
        seed: of the resampling.
        test: also give a two-sided p-value: that of the interval which just reaches 0, so that it is below 0.05 where
            the 95 % interval leaves 0 out; the sign test's where all differences are one number. (Elsewhere that test
            asks about the median, which may move the other way.)
    """
    one, two = _floats(first), _floats(second)
    weight = _weights(weights, len(one))
    other = weight if second_weights is None else _floats(second_weights)
    groups = _groups(clusters, len(one))
    sums = _sums([one * weight, weight, two * other, other], groups)
    many = len(sums[0])
    if many < 2:
        return None
    totals = _resampled(sums, seed)
    value = float(_shape(one @ weight / weight.sum(), exp) - _shape(two @ other / other.sum(), exp))
    draws = _shape(totals[0] / totals[1], exp) - _shape(totals[2] / totals[3], exp)
    low, high = ends(draws, value, many)
    p = chance(draws, value, many) if test else None
    if _flat(one - two) and _flat(weight - other):
        both = np.concatenate([one, two])
        scale = float(both.std()) or float(np.abs(both).mean())
        half = beyond(many) * scale * float(_shape(both.mean(), True) if exp else 1.0)
        low, high = value - half, value + half
        p = (1.0 if value == 0 else min(1.0, 2 * 0.5**many)) if test else None
    return Estimate(value, low, high, len(one), "paired " + _named("bootstrap", groups), p)


def bounded(found: Estimate, bounds: tuple[float, float], many: int) -> Estimate:
    """The estimate of a figure that lies within bounds: its interval ends there.

    Where the interval has no width, since all samples have the value 0, it allows for the share of other samples that
    so many equal ones leave possible, each at a bound.

    Args:
        found: a mean.
        bounds: lowest and highest value that it can have.
        many: samples, or clusters of them, behind it.
    """
    low, high = found.low, found.high
    if high - low < 1e-9:
        low, high = (found.value + beyond(many) * (end - found.value) for end in bounds)
    return found._replace(low=max(bounds[0], low), high=min(bounds[1], high))


def resampled_means(values: Array, *, seed: int = 0) -> Array:
    """Means of several columns in every resample, whole rows drawn together, so that what follows from them is paired.

    Args:
        values: [n, columns], at least 2 rows.
        seed: of the resampling.

    Returns:
        [`DRAWS`, columns].
    """
    return np.stack(_resampled(list(_floats(values).T), seed), axis=1) / len(values)


def cluster_sums(values: Array, clusters: Keys) -> Array:
    """Columns summed over each cluster, [clusters, columns]; as they are where every row is its own.

    Args:
        values: [n, columns].
        clusters: a key for each row.
    """
    return np.stack(_sums(list(_floats(values).T), _groups(clusters, len(values))), axis=1)


def rarely(parts: Array, most: float) -> float:
    """How large the mean of parts may be that are above 0 in few units only, and at most ``most``.

    The exact upper end of the share of such units, times their mean with one more of the largest size: what 1 of 100
    units is off by, 60 units may not show. The mean itself where half of the units and more are above 0.
    """
    above = int((parts > 1e-12).sum())
    if 2 * above > len(parts):
        return float(parts.mean())
    total = float(np.maximum(parts, 0).sum()) + most
    return clopper_pearson(above, len(parts))[1] * total / (above + 1)


# --- parts ----------------------------------------------------------------------------------------------------------


def jackknife(whole: float, without: Sequence[float]) -> Array:
    """One value for each sample whose mean is ``whole`` and whose spread gives its standard error, for a statistic
    that is no mean (distinct n-grams): `mean` and `difference_of_means` over them are then right to first order.

    Args:
        whole: the statistic over all samples.
        without: the statistic with each sample left out in turn, shape [n].

    Source: Tukey 1958, the pseudo-values; centred on the statistic itself instead of its bias-corrected form.
    """
    left = _floats(without)
    return whole + (len(left) - 1) * (left.mean() - left)


def _floats(values: Sequence[float] | Array) -> Array:
    return np.asarray(values, dtype=np.float64)


def _weights(weights: Sequence[float] | Array | None, n: int) -> Array:
    return np.ones(n) if weights is None else _floats(weights)


def _groups(clusters: Keys, n: int) -> Array | None:
    """The number of each sample's cluster; None where every sample is its own."""
    if clusters is None:
        return None
    numbers: dict[Hashable, int] = {}
    found = np.array([numbers.setdefault(key, len(numbers)) for key in clusters])
    return None if len(numbers) == n else found


def _parts(strata: Sequence[Hashable]) -> list[Array]:
    rows: dict[Hashable, list[int]] = {}
    for index, key in enumerate(strata):
        rows.setdefault(key, []).append(index)
    return [np.array(found) for found in rows.values()]


def _size(values: Array, groups: Array | None) -> float:
    return float(len(values)) if groups is None else _effective(values, groups)


def _effective(values: Array, groups: Array) -> float:
    """How many independent samples would know the mean as well (Korn and Graubard 1998, with their t factor)."""
    n = len(values)
    _, numbers = np.unique(groups, return_inverse=True)
    count = int(numbers.max()) + 1
    if count == n:
        return float(n)
    off = values - values.mean()
    if _flat(values) or count < 2:
        # Nothing shows how alike the samples of a cluster are; as alike as can be is the careful reading.
        return float(count)
    between = float((np.bincount(numbers, off) ** 2).sum()) * count / (count - 1) / n**2
    plain = float((off**2).mean()) / n
    t = student(n - 1) / student(count - 1)
    return max(1.0, min(float(n), n * plain / max(between, 1e-300) * t**2))


def _sums(columns: list[Array], groups: Array | None) -> list[Array]:
    return columns if groups is None else [np.bincount(groups, column) for column in columns]


def _resampled(columns: list[Array], seed: int) -> list[Array]:
    """Totals of each column in every resample: how often each unit was drawn is all that matters.

    Of many units the farthest from the mean are drawn one by one, so that heavy tails stay as they are. How many of the
    rest are drawn is drawn too, and the total of so many near units is as good as normal.
    """
    rng, units = np.random.default_rng(seed), np.stack(columns, axis=1)
    n = len(units)
    rest, chances = units[:0], np.full(n, 1 / n)
    if n > _MANY:
        off = np.abs(units - units.mean(axis=0))
        order = np.argpartition((off / np.maximum(off.mean(axis=0), 1e-300)).max(axis=1), n - _FAR)
        rest, units = units[order[:-_FAR]], units[order[-_FAR:]]
        chances = np.append(np.full(_FAR, 1 / n), len(rest) / n)
    each, parts = max(1, _CHUNK // len(chances)), []
    for start in range(0, DRAWS, each):
        counts = rng.multinomial(n, chances, size=min(each, DRAWS - start))
        parts.append(counts[:, : len(units)] @ units)
        if len(rest):
            parts[-1] += _normal_totals(rest, counts[:, -1:], rng)
    return list(np.concatenate(parts).T)


def _normal_totals(units: Array, counts: Array, rng: np.random.Generator) -> Array:
    """Totals of so many draws of units as `counts` [draws, 1] says, by their means and covariances."""
    centre = units.mean(axis=0)
    _, sizes, axes = np.linalg.svd((units - centre) / np.sqrt(len(units)), full_matrices=False)
    return counts * centre + np.sqrt(counts) * (rng.standard_normal((len(counts), len(sizes))) * sizes) @ axes


def _shape(value: Array | float, exp: bool) -> Array:
    return np.exp(value) if exp else np.asarray(value)


def _flat(values: Array) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def _named(method: str, groups: Array | None) -> str:
    return method if groups is None else f"clustered {method}"
