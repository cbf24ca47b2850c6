"""Whether a survey's number can be trusted: effects of format, clusters of dimensions, and how far personas spread.

Pure functions over numbers. Source: Khan, Casper and Hadfield-Menell 2025, arXiv 2503.08688, and its code; where the
two or good practice differ, the functions say so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

EXACT = 200_000
"""Most arrangements that are all tried, in place of drawing some."""
_TIE = 1e-9  # an arrangement with an equal effect counts, whatever rounding did to it

VSM = {
    "pdi": ((35, 7, 2), (25, 20, 23)), "idv": ((35, 4, 1), (35, 9, 6)), "mas": ((35, 5, 3), (35, 8, 10)),
    "uai": ((40, 18, 15), (25, 21, 24)), "lto": ((40, 13, 14), (25, 19, 22)), "ivr": ((35, 12, 11), (40, 17, 16)),
}  # fmt: skip
"""The six dimensions of the Values Survey Module 2013: a weight times the mean answer to one question less another."""


# --- effects of a format ----------------------------------------------------------------------------------------------


def weighted_mean_difference(ratings: np.ndarray, first: np.ndarray) -> float:
    """|w_0 m_0 - w_1 m_1| of two groups, w being their shares: the paper's effect.

    It is half the difference of means for equal groups, and not 0 for equal ratings in unequal ones.

    Args:
        ratings: [n].
        first: bool [n], who is in the first group.
    """
    return abs(float(ratings[first].sum()) - float(ratings[~first].sum())) / len(ratings)


def mean_difference(ratings: np.ndarray, first: np.ndarray) -> float:
    """|m_0 - m_1| of two groups, on the scale of the ratings."""
    return abs(float(ratings[first].mean()) - float(ratings[~first].mean()))


def format_effect(
    ratings: Sequence[float | None], conditions: Sequence[Hashable], *, permutations: int = 5000, seed: int = 42
) -> dict[str, float | None]:
    """What a two-level factor does to ratings, with permutation tests; missing ratings are dropped.

    Args:
        ratings: [n], None for an answer that could not be read.
        conditions: [n], two different levels.
        permutations: how many are drawn. The p-values of all arrangements are exact, and None where there are more than
            `EXACT` of them.
        seed: of the drawn ones.

    Returns:
        ``weighted_mean_difference`` (the paper's), ``mean_difference``, their ``p_exact_weighted`` and
        ``p_exact_mean_difference``, and drawn: ``p_monte_carlo_weighted`` is the share of permutations as published,
        ``p`` that of the mean difference as (count + 1) / (permutations + 1), which is never 0.

    Raises:
        ValueError: fewer or more than two levels have ratings.
    """
    kept = [(float(one), level) for one, level in zip(ratings, conditions, strict=True) if one is not None]
    levels = list(dict.fromkeys(level for _, level in kept))
    if len(levels) != 2:
        raise ValueError(f"A two-level factor needs ratings at exactly two levels, got {len(levels)}.")
    values = np.array([one for one, _ in kept])
    first = np.array([level == levels[0] for _, level in kept])
    n, size, total = len(values), int(first.sum()), float(values.sum())
    # Both effects follow from the sum of the first group alone.
    found = {"weighted": weighted_mean_difference(values, first), "mean_difference": mean_difference(values, first)}

    def effects(sums: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "weighted": np.abs(2 * sums - total) / n,
            "mean_difference": np.abs(sums / size - (total - sums) / (n - size)),
        }

    exact: dict[str, float | None] = dict.fromkeys(found)
    if math.comb(n, size) <= EXACT:
        sums = np.fromiter((sum(some) for some in itertools.combinations(values.tolist(), size)), dtype=np.float64)
        exact = {name: float(np.mean(each >= found[name] - _TIE)) for name, each in effects(sums).items()}
    # NumPy's older generator, so that the drawn permutations are those of the published code.
    state = np.random.RandomState(seed)
    drawn = effects(np.array([state.permutation(values)[first].sum() for _ in range(permutations)]))
    counts = {name: int(np.sum(each >= found[name] - _TIE)) for name, each in drawn.items()}
    return {
        "weighted_mean_difference": found["weighted"], "mean_difference": found["mean_difference"],
        "p_exact_weighted": exact["weighted"], "p_exact_mean_difference": exact["mean_difference"],
        "p_monte_carlo_weighted": counts["weighted"] / permutations if permutations else None,
        "p": (counts["mean_difference"] + 1) / (permutations + 1),
    }  # fmt: skip


def paired_p(differences: Sequence[float], *, permutations: int = 5000, seed: int = 42) -> float:
    """Two-sided p-value that paired differences are as often one way as the other: their signs are changed at random.

    Exact where there are at most `EXACT` ways, else (count + 1) / (permutations + 1). 1 where nothing differs.
    """
    values = np.array([one for one in differences if one], dtype=np.float64)
    if not len(values):
        return 1.0
    observed = abs(float(values.sum())) - _TIE
    if 2 ** len(values) <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
        return float(np.mean(np.abs(signs @ values) >= observed))
    rng = np.random.default_rng(seed)
    signs = rng.choice((1.0, -1.0), size=(permutations, len(values)))
    return (int(np.sum(np.abs(signs @ values) >= observed)) + 1) / (permutations + 1)


def multi_condition_effect(ratings: Sequence[float | None], conditions: Sequence[Hashable]) -> float:
    """sqrt(sum_k w_k (m_k - sum_j w_j m_j)^2) over the levels of a factor, w being their shares; missing ones dropped.

    Raises:
        ValueError: no rating is left.
    """
    groups: dict[Hashable, list[float]] = {}
    for one, level in zip(ratings, conditions, strict=True):
        if one is not None:
            groups.setdefault(level, []).append(float(one))
    n = sum(map(len, groups.values()))
    if not n:
        raise ValueError("An effect needs at least one rating.")
    shares = [len(values) / n for values in groups.values()]
    means = [sum(values) / len(values) for values in groups.values()]
    whole = sum(share * mean for share, mean in zip(shares, means))
    return math.sqrt(sum(share * (mean - whole) ** 2 for share, mean in zip(shares, means)))


def category_shift(pairs: Sequence[tuple[float | None, float | None]], options: int) -> float | None:
    """Mean distance of two answers to the same item under two formats, by content, over the length of the scale.

    Args:
        pairs: content positions under either format; a pair with a missing answer is left out.
        options: of the scale, at least 2.

    Returns:
        From 0 to 1; None where no pair is whole.
    """
    if options < 2:
        raise ValueError(f"A scale has at least two options, got {options}.")
    whole = [(one, other) for one, other in pairs if one is not None and other is not None]
    return sum(abs(one - other) for one, other in whole) / len(whole) / (options - 1) if whole else None


def pairwise_likert_preference(rows: Sequence[tuple[str, str, float | None]], points: int) -> dict[str, float]:
    """Scores from 0 to 1 of what is compared in pairs on a scale from "strongly A" (1) to "strongly B".

    Args:
        rows: A, B and the rating; None for one that could not be read.
        points: of the scale, at least 2.
    """
    if points < 2:
        raise ValueError(f"A scale has at least two points, got {points}.")
    marks: dict[str, list[float]] = {}
    for one, other, rating in rows:
        if rating is not None:
            marks.setdefault(one, []).append(points + 1 - float(rating))
            marks.setdefault(other, []).append(float(rating))
    return {name: (sum(values) / len(values) - 1) / (points - 1) for name, values in marks.items()}


# --- extrapolability --------------------------------------------------------------------------------------------------


def vsm2013_dimensions(answers: Sequence[float], constant: float = 0.0) -> dict[str, float]:
    """Hofstede's six dimensions from the mean answers m01 to m24 of the Values Survey Module 2013.

    Raises:
        ValueError: there are not 24 answers.
    """
    if len(answers) != 24:
        raise ValueError(f"The Values Survey Module has 24 questions, got {len(answers)} answers.")
    return {
        name: sum(weight * (answers[a - 1] - answers[b - 1]) for weight, a, b in parts) + constant
        for name, parts in VSM.items()
    }


def adjusted_rand_index(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Agreement of two clusterings beyond chance: 1 for equal ones, about 0 for unrelated ones. Hubert and Arabie 1985.

    Two clusterings that are both trivial (all in one, or each alone) in the same way agree: 1.
    """
    if len(one) != len(other):
        raise ValueError(f"Two clusterings of the same things, got {len(one)} and {len(other)} labels.")
    table: dict[tuple[Hashable, Hashable], int] = {}
    for pair in zip(one, other):
        table[pair] = table.get(pair, 0) + 1
    rows: dict[Hashable, int] = {}
    columns: dict[Hashable, int] = {}
    for (a, b), count in table.items():
        rows[a] = rows.get(a, 0) + count
        columns[b] = columns.get(b, 0) + count
    both = sum(math.comb(count, 2) for count in table.values())
    first = sum(math.comb(count, 2) for count in rows.values())
    second = sum(math.comb(count, 2) for count in columns.values())
    pairs = math.comb(len(one), 2)
    expected = first * second / pairs if pairs else 0.0
    most = (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def dimension_impact(dimensions: Sequence[str], ari: Mapping[frozenset[str], float]) -> dict[str, dict[int, float]]:
    """For each dimension and size of subset: the mean index of the subsets with it, less that of those without it.

    Args:
        dimensions: names.
        ari: the index of each subset against the clustering by all.
    """
    found: dict[str, dict[int, float]] = {}
    for name in dimensions:
        found[name] = {}
        for size in sorted({len(subset) for subset in ari}):
            some = [(subset, value) for subset, value in ari.items() if len(subset) == size]
            inside = [value for subset, value in some if name in subset]
            outside = [value for subset, value in some if name not in subset]
            if inside and outside:
                found[name][size] = sum(inside) / len(inside) - sum(outside) / len(outside)
    return found


def standardised(points: np.ndarray) -> np.ndarray:
    """Columns [n, d] with mean 0 and spread 1; a column without spread is 0."""
    spread = points.std(0)
    return np.asarray((points - points.mean(0)) / np.where(spread > 1e-12, spread, 1.0))


def k_means(points: np.ndarray, k: int, *, seed: int = 42, starts: int = 10, rounds: int = 100) -> np.ndarray:
    """Cluster numbers [n] by Lloyd's algorithm from k-means++ starts, the tightest of several; some may be empty."""
    rng = np.random.default_rng(seed)
    best: tuple[float, np.ndarray] | None = None
    for _ in range(starts):
        centres = points[[int(rng.integers(len(points)))]]
        while len(centres) < k:
            near = _squares(points, centres).min(1)
            weights = near / near.sum() if near.sum() > 0 else None
            centres = np.concatenate([centres, points[[int(rng.choice(len(points), p=weights))]]])
        labels = np.zeros(len(points), dtype=int)
        for _ in range(rounds):
            new = _squares(points, centres).argmin(1)
            centres = np.stack(
                [points[new == at].mean(0) if (new == at).any() else centre for at, centre in enumerate(centres)]
            )
            if (new == labels).all():
                break
            labels = new
        loss = float(_squares(points, centres)[np.arange(len(points)), labels].sum())
        if best is None or loss < best[0] - 1e-12:
            best = (loss, labels)
    assert best is not None
    return best[1]


def silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette of a clustering of [n, d], from -1 to 1; a point alone counts 0. Rousseeuw 1987."""
    apart = np.sqrt(_squares(points, points))
    names = np.unique(labels)
    if len(names) < 2:
        return -1.0
    total = 0.0
    for at, own in enumerate(labels):
        mine = labels == own
        if mine.sum() < 2:
            continue
        inside = apart[at, mine].sum() / (mine.sum() - 1)
        outside = min(float(apart[at, labels == name].mean()) for name in names if name != own)
        total += (outside - inside) / max(inside, outside, 1e-12)
    return total / len(labels)


def extrapolability(
    points: np.ndarray, names: Sequence[str], *, most: int = 10, permutations: int = 1000, seed: int = 42,
    largest: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Whether few dimensions find the clusters that all of them find.

    Args:
        points: [places, dimensions], at least 4 places and 2 dimensions.
        names: of the dimensions.
        most: largest number of clusters tried; the best silhouette decides.
        permutations: of labels, for p-values (count + 1) / (permutations + 1).
        seed: of starts and permutations.
        largest: most dimensions of a subset; all proper subsets unless given.

    Returns:
        ``clusters``, ``silhouette``, ``ari`` and ``p`` by subset (frozenset of names), ``impact`` by dimension and
        size.

    Raises:
        ValueError: too few places or dimensions, or places that do not differ.
    """
    values = np.asarray(points, dtype=np.float64)
    if len(values) < 4 or len(names) < 2 or values.shape != (len(values), len(names)):
        raise ValueError(f"Clusters by subsets need 4 places and 2 dimensions at least, got {values.shape}.")
    if not (values.std(0) > 1e-12).any():
        raise ValueError("All places are alike, so they form no clusters.")
    whole = standardised(values)
    different = len(np.unique(whole.round(9), axis=0))
    tried = range(2, min(most, len(values) - 1, different) + 1)
    clusterings = {k: k_means(whole, k, seed=seed) for k in tried}
    score, best = max((silhouette(whole, labels), -k) for k, labels in clusterings.items())
    reference = clusterings[-best]
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(reference, (permutations, 1)), axis=1)
    ari: dict[frozenset[str], float] = {}
    p: dict[frozenset[str], float] = {}
    for size in range(1, min(len(names) - 1, largest or len(names)) + 1):
        for subset in itertools.combinations(range(len(names)), size):
            labels = k_means(standardised(values[:, subset]), -best, seed=seed)
            key = frozenset(names[at] for at in subset)
            ari[key] = adjusted_rand_index(reference.tolist(), labels.tolist())
            by_chance = [adjusted_rand_index(row, labels.tolist()) for row in shuffled.tolist()]
            p[key] = (sum(value >= ari[key] - _TIE for value in by_chance) + 1) / (permutations + 1)
    return {
        "clusters": -best, "silhouette": score, "ari": ari, "p": p, "impact": dimension_impact(names, ari),
        "labels": reference,
    }  # fmt: skip


def _squares(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.asarray(((points[:, None] - centres[None]) ** 2).sum(2))


# --- steerability -----------------------------------------------------------------------------------------------------


def mean_distance(points: np.ndarray) -> float:
    """Mean Euclidean distance over the pairs of points [n, d]; 0 for a single one."""
    n = len(points)
    return float(np.sqrt(_squares(points, points)).sum() / (n * (n - 1))) if n > 1 else 0.0


def steerability_spread(
    human: np.ndarray, models: Sequence[np.ndarray], *, draws: int = 10_000, seed: int = 42
) -> dict[str, Any]:
    """How far apart a model's personas answer, beside how far apart people do.

    Args:
        human: [countries, items], each from 0 to 1, at least two countries that differ.
        models: for each model [personas, items].
        draws: sets of as many model vectors as there are countries, all of them where there are at most so many.
        seed: of the drawn sets.

    Returns:
        ``human_mean_distance``, ``pooled_model_ratio``, ``per_model_ratio``, ``human_percentile`` (the share of sets of
        model vectors that lie no farther apart than people do, in percent) and ``n_subsets``.

    Raises:
        ValueError: fewer than two countries, or countries that do not differ, or fewer model vectors than countries.
    """
    human = np.asarray(human, dtype=np.float64)
    pooled = np.concatenate([np.asarray(one, dtype=np.float64) for one in models])
    people = mean_distance(human)
    if len(human) < 2 or not people > 0:
        raise ValueError("A spread is compared with that of people: give at least two countries that differ.")
    if len(pooled) < len(human):
        raise ValueError(f"{len(human)} countries are compared with as many personas, got {len(pooled)}.")
    apart = np.sqrt(_squares(pooled, pooled))
    size = len(human)
    if math.comb(len(pooled), size) <= draws:
        sets = np.array(list(itertools.combinations(range(len(pooled)), size)))
    else:
        rng = np.random.default_rng(seed)
        sets = rng.random((draws, len(pooled))).argsort(1)[:, :size]
    spreads = np.array([apart[np.ix_(some, some)].sum() for some in sets]) / (size * (size - 1))
    return {
        "human_mean_distance": people,
        "pooled_model_ratio": mean_distance(pooled) / people,
        "per_model_ratio": [mean_distance(np.asarray(one, dtype=np.float64)) / people for one in models],
        "human_percentile": 100 * float(np.mean(spreads <= people + _TIE)),
        "n_subsets": len(sets),
    }
