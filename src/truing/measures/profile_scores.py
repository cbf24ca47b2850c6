"""How strongly factors of texts go with being preferred, as pure functions of NumPy arrays.

Source: Oh et al., "Uncovering Factor Level Preferences to Improve Human-Model Alignment", Findings of EMNLP 2025 (arXiv
2410.06965); the form of Kendall's tau is that of WMT 2014.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from truing.measures.rank_correlation import kendall, pearson, spearman

Array = NDArray[np.float64]
CORRELATIONS = {"kendall": kendall, "spearman": spearman, "pearson": pearson}


def signs(factor_pairs: ArrayLike, preferences: ArrayLike) -> Array:
    """1 where the preferred response has more of a factor, -1 where it has less, 0 where both have the same, [n].

    NaN where nobody prefers either (preference 0 or NaN), or a value is not a number.

    Args:
        factor_pairs: values of response 1 and response 2, [n, 2].
        preferences: 1, -1 or 0, [n].
    """
    pairs, chosen = np.asarray(factor_pairs, dtype=np.float64).reshape(-1, 2), np.asarray(preferences, dtype=np.float64)
    found = np.sign(pairs[:, 0] - pairs[:, 1]) * chosen
    return np.where(chosen == 0, np.nan, found)


def factor_score(factor_pairs: ArrayLike, preferences: ArrayLike) -> dict[str, Any]:
    """``tau14`` = (C - D) / (C + D + T) of one factor, with the counts.

    C and D are the pairs whose preferred response has more, or less, of the factor, T those with equal values, which
    count in the denominator; pairs without a preference do not count. ``tau_ties_dropped`` leaves T out. None where
    there is nothing to divide by. Not scipy's tau-b: binary factors have many ties, and their tau cannot reach 1.

    Args:
        factor_pairs: values of response 1 and response 2, [n, 2].
        preferences: 1, -1 or 0, [n].
    """
    return _counted(signs(factor_pairs, preferences))


def score_levels(groups: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """`factor_score` over all pairs within each group of responses, the higher ``scores`` preferred; equal ones are no
    pair. With ``n_pairs``.

    Args:
        groups: ``scores`` and the ``factor``, a value each for every response to one prompt.
    """
    found = [level_signs(group["scores"], group["factor"]) for group in groups]
    every = np.concatenate(found) if found else np.zeros(0)
    return {"n_pairs": int((~np.isnan(every)).sum()), **_counted(every)}


def level_signs(scores: ArrayLike, factor: ArrayLike) -> Array:
    """`signs` of all pairs of responses to one prompt, by their scores: [k (k - 1) / 2]."""
    first, second = np.triu_indices(len(np.asarray(scores)), 1)
    given, values = np.asarray(scores, dtype=np.float64), np.asarray(factor, dtype=np.float64)
    pairs = np.stack([values[first], values[second]], axis=1)
    return signs(pairs, np.sign(given[first] - given[second]))


def factor_alignment(reference: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, Any]:
    """Correlations of two agents' factor scores, over the factors that both have; None where undefined.

    Returns:
        ``n_factors``, ``kendall_tau`` (tau-b), ``spearman``, ``pearson``.
    """
    both = [name for name in reference if _has(reference[name]) and _has(other.get(name))]
    one, two = ([float(side[name]) for name in both] for side in (reference, other))  # type: ignore[arg-type]
    values = {name: function(one, two) if len(both) > 1 else math.nan for name, function in CORRELATIONS.items()}
    plain = {name: None if math.isnan(value) else value for name, value in values.items()}
    return {
        "n_factors": len(both), "kendall_tau": plain["kendall"], "spearman": plain["spearman"],
        "pearson": plain["pearson"],
    }  # fmt: skip


def logistic(differences: ArrayLike, preferences: ArrayLike, clusters: ArrayLike, ridge: float = 1.0) -> Any:
    """What each factor adds to a preference when the others are held: coefficients and standard errors, [factors] each.

    Log-odds of preferring response 1 by factor differences in standard deviations, without an intercept (the order of
    two responses tells nothing), with a ridge on coefficients, so that a factor which decides everything stays finite.
    Standard errors are those of the sandwich, clustered. Factors without variation have 0 and NaN.

    Args:
        differences: value of response 1 less that of response 2, [n, factors], no NaN.
        preferences: 1 or -1, [n].
        clusters: a number for each pair, [n]: pairs of one prompt are not independent.
        ridge: half this times the squared length of the coefficients is added to the loss.
    """
    given, chosen = np.asarray(differences, dtype=np.float64), np.asarray(preferences, dtype=np.float64)
    spread = np.sqrt((given**2).mean(axis=0))
    moving = spread > 0
    features = given[:, moving] / spread[moving] * chosen[:, None]
    found = np.zeros(features.shape[1])
    held = ridge * np.eye(len(found))
    for _ in range(50):
        wrong = 1 / (1 + np.exp(np.clip(features @ found, -500, 500)))
        hessian = (features * (wrong * (1 - wrong))[:, None]).T @ features + held
        step = np.linalg.solve(hessian, features.T @ wrong - ridge * found)
        found = found + step
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    wrong = 1 / (1 + np.exp(np.clip(features @ found, -500, 500)))
    hessian = (features * (wrong * (1 - wrong))[:, None]).T @ features + held
    _, groups = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((int(groups.max(initial=-1)) + 1, len(found)))
    np.add.at(sums, groups, features * wrong[:, None])
    many = max(2, len(sums))
    inverse = np.linalg.inv(hessian)
    variance = inverse @ (sums.T @ sums * many / (many - 1)) @ inverse
    values, errors = np.zeros(len(spread)), np.full(len(spread), np.nan)
    values[moving], errors[moving] = found, np.sqrt(np.diag(variance))
    return values, errors


def _counted(found: Array) -> dict[str, Any]:
    more, less, same = (int((found == sign).sum()) for sign in (1, -1, 0))
    whole, moved = more + less + same, more + less
    return {
        "concordant": more, "discordant": less, "factor_ties": same,
        "tau14": (more - less) / whole if whole else None,
        "tau_ties_dropped": (more - less) / moved if moved else None,
    }  # fmt: skip


def _has(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
