"""Win rates at equal length: what is left of a win rate when the judge's liking for long answers is taken out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from truing.measures.logistic import fit
from truing.measures.statistics import Estimate, share

_PRIOR = 1 / 9  # of the length's coefficient: a normal with a standard deviation of 3


class Controlled(NamedTuple):
    """A length-controlled win rate.

    Args:
        win_rate: the share of wins expected were both answers of one length.
        effect: log-odds of winning for one unit of `length_terms`, which runs from -1 to 1; above 0 the judge, or the
            matter, favours longer answers.
    """

    win_rate: Estimate
    effect: Estimate


def length_terms(lengths: Sequence[float], others: Sequence[float]) -> np.ndarray:
    """tanh of each difference in length over the standard deviation of all differences, [n]; 0 where all are alike.

    Source: Dubois et al. 2024 (length-controlled AlpacaEval), arXiv 2404.04475, eq. 3.
    """
    ahead = np.asarray(lengths, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    spread = float(ahead.std()) if len(ahead) else 0.0
    return np.tanh(ahead / spread) if spread > 0 else np.zeros(len(ahead))


def length_controlled(
    wins: Sequence[float], lengths: Sequence[float], others: Sequence[float], *,
    clusters: Sequence[Hashable] | None = None, difficulty: Sequence[float] | None = None,
) -> Controlled | None:  # fmt: skip
    """The win rate of a logistic model with a length term, read off where the length term is 0.

    logit P(win) = theta + phi * tanh(difference / spread) [+ psi * difficulty]. The figure is the mean over items of
    the model's probability with the length term left out. phi has a weak normal prior, so that it stays finite where
    length alone decides. Where all pairs are won, or all lost, the figure is that share, with its exact interval.

    A difference of length that follows from a difference of quality is taken out as well: the figure answers what the
    judge would say of answers of one length, not what it should say.

    Args:
        wins: for each item 1 (won), 0 (lost), 0.5 (tie) or a probability, [n].
        lengths: of the model's answers, in any one unit, [n].
        others: of the other model's, [n].
        clusters: a key for each item; items with the same key are not independent.
        difficulty: a known number for each item, [n], that moves the odds of all models (AlpacaEval fits one from
            many models); left out unless given.

    Returns:
        None below two items, or where the model cannot be fitted.

    Source: Dubois et al. 2024, arXiv 2404.04475, section 3, for one model and one baseline. Intervals: delta method
    with the sandwich covariance over items or clusters.
    """
    won = np.asarray(wins, dtype=np.float64)
    if len(won) < 2:
        return None
    if won.min() == won.max() and won.max() in (0.0, 1.0):
        found = share(won.tolist(), clusters)
        return Controlled(found, Estimate(0.0, -np.inf, np.inf, len(won), "not known: no pair went the other way"))
    columns = [np.ones(len(won)), length_terms(lengths, others)]
    penalties = [0.0, _PRIOR]
    hard = None
    if difficulty is not None:
        hard = np.asarray(difficulty, dtype=np.float64)
        columns.append(hard)
        penalties.append(_PRIOR)
    features = np.stack(columns, axis=1)
    model = fit(features, won, penalties=penalties, clusters=clusters)
    if model is None:
        return None
    theta, phi = model.coefficients[:2]
    odds = np.full(len(won), theta) if hard is None else theta + model.coefficients[2] * hard
    p = special.expit(odds)
    value = float(p.mean())
    slopes = np.zeros(len(model.coefficients))
    slopes[0] = (p * (1 - p)).mean()
    if hard is not None:
        slopes[2] = (p * (1 - p) * hard).mean()
    # On the scale of log-odds, where the interval cannot leave 0 to 1.
    # With few defeats the sandwich sees too little spread and the curvature tells how little is known, which ties,
    # closer to what is expected than wins and defeats, make smaller.
    expected = special.expit(features @ model.coefficients)
    spread = min(1.0, float(((won - expected) ** 2).sum() / (expected * (1 - expected)).sum()))
    curvature = spread * model.curvature
    error = float(np.sqrt(max(slopes @ model.covariance @ slopes, slopes @ curvature @ slopes))) / (value * (1 - value))
    centre, half = special.logit(value), model.reach * error
    low, high = (float(special.expit(centre + side * half)) for side in (-1, 1))
    around = model.reach * float(np.sqrt(max(model.covariance[1, 1], curvature[1, 1])))
    method = "sandwich" + (", clustered" if clusters is not None and model.units < len(won) else "")
    return Controlled(
        Estimate(value, low, high, len(won), method),
        Estimate(float(phi), float(phi - around), float(phi + around), len(won), method),
    )
