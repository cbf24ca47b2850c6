"""Ratings from matches: Bradley-Terry by maximum likelihood on the Elo scale, online Elo, and agreement of rankings.

Pure functions of NumPy arrays. Matches are counted in a matrix of wins, [models, models]: row beats column, a tie being
half a win each, so that a fit costs the same whatever the number of matches. Source: Son et al. 2025, "Varco Arena"
(arXiv 2411.01281), and Bradley and Terry 1952.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
SCALE = 400.0
START = 1000.0
PER_NAT = SCALE / math.log(10)
_STEP = 2.0
_ROUNDS = 60


def win_probability(rating_a: ArrayLike, rating_b: ArrayLike, scale: float = SCALE, base: float = 10.0) -> Array:
    """Probability that a beats b: ``1 / (1 + base ** ((b - a) / scale))``."""
    return np.asarray(expit((np.asarray(rating_a, float) - np.asarray(rating_b, float)) * math.log(base) / scale))


def judged(probability: ArrayLike, accuracy: float = 1.0) -> Array:
    """Probability that a judge of some accuracy says so: it is turned round in ``1 - accuracy`` of the matches."""
    true = np.asarray(probability, float)
    return true * accuracy + (1 - true) * (1 - accuracy)


def expit(x: ArrayLike) -> Array:
    """The logistic function."""
    from scipy import special

    return np.asarray(special.expit(np.asarray(x, float)))


# --- Bradley-Terry ----------------------------------------------------------------------------------------------------


def count_wins(a: ArrayLike, b: ArrayLike, score: ArrayLike, models: int) -> Array:
    """Wins of row over column, [models, models].

    Args:
        a: index of the one side of each match, [n].
        b: of the other.
        score: 1 where a won, 0 where b did, 0.5 for a tie; a match that is NaN counts for nothing.
        models: how many there are.
    """
    return count_boards(np.zeros(len(np.asarray(a)), np.int64), a, b, score, 1, models)[0]


def count_boards(board: ArrayLike, a: ArrayLike, b: ArrayLike, score: ArrayLike, boards: int, models: int) -> Array:
    """Wins of row over column on several boards at once, [boards, models, models]; see `count_wins`.

    Args:
        board: the number of each match's board, [n].
        a, b, score, models: as in `count_wins`.
        boards: how many there are.
    """
    won = np.asarray(score, float)
    read = np.isfinite(won)
    own, one, two = (np.asarray(values, np.int64)[read] for values in (board, a, b))
    won = won[read]
    cells = np.concatenate([(own * models + one) * models + two, (own * models + two) * models + one])
    found = np.bincount(cells, np.concatenate([won, 1 - won]), boards * models * models)
    return np.asarray(found.reshape(boards, models, models))


def decided(wins: Array) -> bool:
    """Whether a fit without a prior is finite: every group of models has both won and lost against the rest."""
    from scipy.sparse import csgraph

    return bool(csgraph.connected_components(wins > 0, directed=True, connection="strong")[0] == 1)


def bradley_terry(wins: ArrayLike, prior: float = 0.0, start: ArrayLike | None = None) -> Array:
    """Log-strengths of maximum likelihood, [..., models], in nats, of mean 0.

    Newton's method on the counts. A board whose strengths have no finite value gives NaN.

    Args:
        wins: of row over column, [..., models, models]; any number of boards at once.
        prior: virtual wins each way between any two models; above 0 every board has a finite fit.
        start: strengths to begin at, [models].
    """
    counts = np.asarray(wins, float)
    many = counts.shape[-1]
    boards = (counts.reshape(-1, many, many) + prior) * (1 - np.eye(many))
    found = np.zeros((len(boards), many)) if start is None else np.tile(np.asarray(start, float), (len(boards), 1))
    finite = np.ones(len(boards), bool) if prior > 0 else np.array([decided(board) for board in boards])
    games = boards + boards.swapaxes(1, 2)
    won = boards.sum(2)
    open_ = np.flatnonzero(finite)
    for _ in range(_ROUNDS):
        if not len(open_):
            break
        slope, curve = _derivatives(found[open_], games[open_], won[open_])
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        largest = np.abs(step).max(1, keepdims=True)
        found[open_] += step * np.minimum(1.0, _STEP / np.maximum(largest, 1e-300))
        open_ = open_[largest[:, 0] > 1e-9]
    finite[open_] = False
    found[~finite] = np.nan
    return (found - found.mean(1, keepdims=True)).reshape(counts.shape[:-1])


def _derivatives(strengths: Array, games: Array, won: Array) -> tuple[Array, Array]:
    """Slope of the log-likelihood and minus its curvature, made definite along the direction that changes nothing."""
    expected = expit(strengths[:, :, None] - strengths[:, None, :])
    slope = won - (games * expected).sum(2)
    weight = games * expected * (1 - expected)
    curve = -weight
    at = np.arange(weight.shape[1])
    curve[:, at, at] += weight.sum(2)
    return slope, curve + curve[:, at, at].mean(1)[:, None, None] / weight.shape[1]


def covariance(strengths: Array, wins: Array, prior: float = 0.0) -> Array:
    """Covariance of the log-strengths by the curvature of the likelihood, [models, models], at mean 0."""
    many = len(strengths)
    boards = (np.asarray(wins, float) + prior) * (1 - np.eye(many))
    games = boards + boards.T
    _, curve = _derivatives(strengths[None], games[None], boards.sum(1)[None])
    centre = np.eye(many) - 1 / many
    return np.asarray(centre @ np.linalg.inv(curve[0]) @ centre)


def on_elo_scale(strengths: ArrayLike, anchor: int | None = None, at: float = START, per_nat: float = PER_NAT) -> Array:
    """Ratings of log-strengths, [..., models]: those of the anchor, or the mean, are ``at``."""
    found = np.asarray(strengths, float)
    zero = found.mean(-1, keepdims=True) if anchor is None else found[..., anchor : anchor + 1]
    return at + (found - zero) * per_nat


def elo_ratings(
    matches: Sequence[Sequence[str]], prior: float = 0.0, anchor: str | None = None, at: float = START, *,
    scale: float = SCALE, base: float = 10.0,
) -> dict[str, float]:  # fmt: skip
    """Bradley-Terry ratings of named models, in order of their first match.

    Args:
        matches: (a, b, winner) each; the winner "tie" is half a win each.
        prior: see `bradley_terry`.
        anchor: the model whose rating is ``at``; None puts the mean there.
        at: that rating.
        scale, base: as in `win_probability`.

    Raises:
        ValueError: an unknown winner or anchor, or ratings that are not finite without a prior.
    """
    names, a, b, score = indexed(matches)
    if anchor is not None and anchor not in names:
        raise ValueError(f"The anchor {anchor!r} has played no match. Models: {', '.join(names)}.")
    strengths = bradley_terry(count_wins(a, b, score, len(names)), prior)
    if not np.isfinite(strengths).all():
        raise ValueError(
            "Without a prior these ratings are not finite: some models have won or lost all that they played against "
            "the rest. Give a prior, such as 0.1."
        )
    ratings = on_elo_scale(strengths, None if anchor is None else names.index(anchor), at, scale / math.log(base))
    return {name: float(rating) for name, rating in zip(names, ratings)}


def indexed(
    matches: Sequence[Sequence[str]],
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], Array]:
    """Names in order of their first match, and matches as indices of them and scores of the first side."""
    numbers: dict[str, int] = {}
    a, b, score = [], [], []
    for one, two, winner in matches:
        if winner not in (one, two, "tie") or one == two:
            raise ValueError(
                f"A match is (a, b, winner), the winner being one of them or tie, not {(one, two, winner)}."
            )
        a.append(numbers.setdefault(one, len(numbers)))
        b.append(numbers.setdefault(two, len(numbers)))
        score.append(0.5 if winner == "tie" else float(winner == one))
    return list(numbers), np.array(a, np.int64), np.array(b, np.int64), np.array(score, float)


# --- online Elo -------------------------------------------------------------------------------------------------------


def online_elo(
    a: NDArray[np.int64], b: NDArray[np.int64], score: Array, models: int, k: float = 4.0, start: float = START, *,
    scale: float = SCALE, base: float = 10.0,
) -> Array:  # fmt: skip
    """Elo after one match after another, [orders, models]. It depends on their order: never rank by it.

    Args:
        a: [n], or [orders, n] for several orders at once.
        b: likewise.
        score: likewise; a match that is NaN changes nothing.
        models: how many there are.
        k: points that a match can move at most.
        start: of every model.
        scale, base: as in `win_probability`.
    """
    one, two, won = np.atleast_2d(a).T, np.atleast_2d(b).T, np.atleast_2d(score).T
    orders = one.shape[1]
    ratings = np.full(orders * models, float(start))
    offset = np.arange(orders) * models
    one, two = one + offset, two + offset
    # A tie of ratings moves nobody where the match counts for nothing.
    gain, won = np.where(np.isfinite(won), k, 0.0), np.nan_to_num(won)
    rate = math.log(base) / scale
    for first, second, points, result in zip(one, two, gain, won):
        ahead, behind = ratings[first], ratings[second]
        moved = points * (result - 1 / (1 + np.exp((behind - ahead) * rate)))
        ratings[first] = ahead + moved
        ratings[second] = behind - moved
    return ratings.reshape(orders, models)


# --- rankings ---------------------------------------------------------------------------------------------------------


def ranks(values: ArrayLike) -> Array:
    """Ranks from 1 for the highest, [..., models]; equal values share the mean of their places."""
    from scipy import stats

    return np.asarray(stats.rankdata(-np.asarray(values, float), axis=-1))


def spearman(values: ArrayLike, others: ArrayLike) -> Array:
    """Rank correlation along the last axis, equal values sharing the mean of their places; NaN where all are equal."""
    one, two = (ranks(each) for each in (values, others))
    one, two = (each - each.mean(-1, keepdims=True) for each in (one, two))
    scale = np.sqrt((one**2).sum(-1) * (two**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((one * two).sum(-1) / scale)


def ranking(ratings: Mapping[str, float], tolerance: float = 1e-6) -> list[str] | None:
    """Names from the best; None where all ratings are equal, so that there is nothing to rank."""
    found = list(ratings.values())
    if len(found) > 1 and max(found) - min(found) <= tolerance:
        return None
    return sorted(ratings, key=lambda name: -ratings[name])
