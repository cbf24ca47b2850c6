"""From played matches to figures: ratings, ranks, win rates and online Elo of each model, with intervals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from truing.errors import RewardError
from truing.measures import intervals, ratings, statistics
from truing.measures.arena_judging import Judging
from truing.measures.brackets import Matches
from truing.measures.ratings import Array
from truing.measures.result import Figure, Grid, Outcome

SHOWN = 12
"""Models up to which every pair is shown, and tasks up to which each has ratings of its own."""
_ORDERS = 100
_REACH = 1.96


@dataclasses.dataclass(frozen=True)
class Board:
    """All that figures follow from.

    Args:
        names: of the models.
        prompts: what was asked; None each where only probabilities are known.
        tasks: of the prompts, or None.
        matches: that were played.
        judging: what judged them; None for a simulated judge.
        anchor: the model whose rating is 1000; None puts the mean there.
        trusted: figures of a trusted ranking, [models], or None.
        prior: of the fit.
        resamples: for intervals.
        seed: of the resampling.
    """

    names: list[str]
    prompts: list[Any]
    tasks: list[str] | None
    matches: Matches
    judging: Judging | None
    anchor: int | None
    trusted: Array | None
    prior: float
    resamples: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Rated:
    """Ratings of one board, with those of its resamples.

    Args:
        ratings: [models].
        draws: [resamples, models].
        low, high: ends of 95 % intervals, [models].
        wins: counts of row over column, [models, models].
    """

    ratings: Array
    draws: Array
    low: Array
    high: Array
    wins: Array


def rated(
    matches: Matches, models: int, *, anchor: int | None = None, prior: float = 0.1, resamples: int = 500, seed: int = 0
) -> Rated:
    """Ratings with intervals that resample prompts, whole brackets together.

    Matches of a bracket are no independent draws (who meets whom follows from them), so single ones are not resampled.
    Each interval is at least as wide as the curvature of the likelihood has it after one win and one defeat more, since
    resamples of a model that won all know nothing of what it might have lost.

    Args:
        matches: that were played, on 2 prompts at least.
        models: how many there are.
        anchor: see `ratings.on_elo_scale`.
        prior: see `ratings.bradley_terry`.
        resamples: how many.
        seed: of them.

    Raises:
        RewardError: no match could be read, or without a prior ratings are not finite.
    """
    from scipy import sparse

    wins = ratings.count_wins(matches.a, matches.b, matches.score, models)
    if not wins.any():
        raise RewardError("No verdict could be read, so there is nothing to rank by. Take an abler judge.")
    strengths = ratings.bradley_terry(wins, prior)
    if not np.isfinite(strengths).all():
        raise RewardError(
            "Without a prior these ratings are not finite: some models won or lost all that they played against the "
            "rest. Set `prior` to 0.1, or give more prompts."
        )
    _, unit = np.unique(matches.prompt, return_inverse=True)
    many = int(unit.max()) + 1
    read = np.isfinite(matches.score)
    a, b, won, unit = matches.a[read], matches.b[read], matches.score[read], unit[read]
    each = sparse.csr_array(
        (np.concatenate([won, 1 - won]), (np.tile(unit, 2), np.concatenate([a * models + b, b * models + a]))),
        shape=(many, models * models),
    )
    counts = np.random.default_rng(seed).multinomial(many, np.full(many, 1 / many), size=resamples)
    boards = np.asarray((each.T @ counts.T).T, float).reshape(resamples, models, models)
    draws = ratings.on_elo_scale(ratings.bradley_terry(boards, prior, strengths), anchor)
    found = ratings.on_elo_scale(strengths, anchor)
    # One win and one defeat more for each model keep one without either from counting as certain, or as unknown.
    careful = prior + 1 / (models - 1)
    middle = ratings.bradley_terry(wins, careful)
    cover = ratings.covariance(middle, wins, careful)
    own = np.diag(cover)
    variance = own if anchor is None else own + own[anchor] - 2 * cover[anchor]
    half = _REACH * ratings.PER_NAT * np.sqrt(np.maximum(variance, 0))
    other = ratings.on_elo_scale(middle, anchor)
    ends = np.array([intervals.percentiles(draws[:, model], many) for model in range(models)])
    low = np.fmin(ends[:, 0], np.minimum(found, other) - half)
    high = np.fmax(ends[:, 1], np.maximum(found, other) + half)
    return Rated(found, draws, low, high, wins)


def figures_of(board: Board) -> Outcome:
    """The figures, grids, notes and matches of a board."""
    matches, names, models = board.matches, board.names, len(board.names)
    found = _rated(board, matches)
    order = np.argsort(-found.ratings, kind="stable")
    games = found.wins + found.wins.T
    played = np.bincount(np.concatenate([matches.a, matches.b]), minlength=models)
    own = dict[str, Figure]()
    if board.trusted is not None:
        own["spearman"] = agreement(found, board.trusted)
    places, drawn = ratings.ranks(found.ratings), ratings.ranks(found.draws)
    elo, elo_draws = _online(board)
    many = len(np.unique(matches.prompt))
    rows = []
    for model in order.tolist():
        name, n = names[model], int(played[model])
        values = {
            "rating": Figure(float(found.ratings[model]), float(found.low[model]), float(found.high[model]), n,
                             "bootstrap over prompts", "Elo"),
            "rank": _of_draws(float(places[model]), drawn[:, model], many, n, "place", "lower"),
            "win_rate": _share(matches, model, n),
            "elo": _of_draws(float(elo[model]), elo_draws[:, model], many, n, "Elo", "neither"),
        }  # fmt: skip
        own |= {f"{label}/{name}": figure for label, figure in values.items() if figure is not None}
        rows.append((f"{name} ({n:,})", [f"{label}/{name}" for label in values]))
    grids = [Grid("Ranking", ["model (matches)", "rating", "rank", "win rate", "online Elo"], rows)]
    notes = [] if board.judging is None else board.judging.notes()
    if board.judging is None and not np.isfinite(matches.score).all():
        lost = int((~np.isfinite(matches.score)).sum())
        notes.append(f"{lost:,} matches were of a model without a probability; they count for no rating.")
    one_sided = [names[at] for at in order if games[at].sum() and found.wins[at].sum() in (0, games[at].sum())]
    if one_sided:
        notes.append(
            f"{len(one_sided)} models won or lost all their matches ({', '.join(one_sided[:5])}); their ratings rest "
            f"on the prior of {board.prior:g} virtual wins, and on no result."
        )
    if np.ptp(found.ratings) < 1e-6:
        notes.append("All ratings are equal: there is nothing to rank by.")
    more, grid = _pairs(board, found, order)
    own |= more
    grids += grid
    more, grid, told = _by_task(board, order)
    own |= more
    return Outcome(_log(board), {}, notes + told, figures=own | _leanings(board), grids=grids + grid)


def agreement(found: Rated, trusted: Array) -> Figure:
    """Rank correlation of ratings with trusted figures, and where that of boards of this size lies.

    It grows with the number of prompts, since noise of ratings turns neighbours round; resampled boards have more noise
    and agree less. So the spread of the resamples is laid about the found value, and the interval reaches as far as
    they do: it is that of the middle agreement of boards of as many prompts, not of endless ones. Few models have few
    values that a rank correlation can take, which makes it too wide rather than too narrow.
    """
    value = float(ratings.spearman(found.ratings, trusted))
    draws = ratings.spearman(found.draws, trusted)
    draws = draws[np.isfinite(draws)]
    how = ("bootstrap over prompts", "rank correlation")
    if not math.isfinite(value) or not len(draws):
        return Figure(math.nan, math.nan, math.nan, len(trusted), *how)
    below, middle, above = np.quantile(draws, [0.025, 0.5, 0.975])
    low, high = min(below, value - (above - middle)), max(above, value + (middle - below))
    return Figure(value, max(-1.0, float(low)), min(1.0, float(high)), len(trusted), *how)


def _rated(board: Board, matches: Matches) -> Rated:
    return rated(
        matches, len(board.names), anchor=board.anchor, prior=board.prior, resamples=board.resamples, seed=board.seed
    )


def _of_draws(value: float, draws: Array, many: int, n: int, unit: str, better: str) -> Figure:
    low, high = intervals.percentiles(draws, many)
    return Figure(value, min(low, value), max(high, value), n, "bootstrap over prompts", unit, better)


def _share(matches: Matches, model: int, n: int) -> Figure | None:
    """The share of a model's matches that it won."""
    left, right = matches.a == model, matches.b == model
    won = np.where(left, matches.score, 1 - matches.score)
    used = (left | right) & np.isfinite(matches.score)
    if not used.any():
        return None
    found = statistics.share(won[used].tolist(), matches.prompt[used].tolist())
    return Figure(found.value, found.low, found.high, found.n, found.method)


def _online(board: Board) -> tuple[Array, Array]:
    """Online Elo: its mean over random orders of the prompts, [models], and after orders of resampled prompts."""
    matches, rng = board.matches, np.random.default_rng([board.seed, 1])
    _, unit = np.unique(matches.prompt, return_inverse=True)
    many = int(unit.max()) + 1
    sorted_, sizes = np.argsort(unit, kind="stable"), np.bincount(unit)
    starts = np.cumsum(sizes) - sizes
    prompts = np.concatenate([rng.permuted(np.tile(np.arange(many), (_ORDERS, 1)), axis=1),
                              rng.integers(many, size=(_ORDERS, many))])  # fmt: skip
    lengths = sizes[prompts].sum(1)
    at = np.full((2 * _ORDERS, int(lengths.max())), -1)
    for row, (order, length) in enumerate(zip(prompts, lengths)):
        many_each = sizes[order]
        first = np.repeat(starts[order] - np.cumsum(many_each) + many_each, many_each)
        at[row, :length] = sorted_[first + np.arange(length)]
    score = np.where(at < 0, np.nan, matches.score[at])
    found = ratings.online_elo(matches.a[at], matches.b[at], score, len(board.names))
    return found[:_ORDERS].mean(0), found[_ORDERS:]


def _pairs(board: Board, found: Rated, order: Any) -> tuple[dict[str, Figure], list[Grid]]:
    """How often each model beat each other, where they are few enough to show."""
    names = board.names
    if len(names) > SHOWN:
        return {}, []
    figures, rows = {}, []
    for one in order.tolist():
        cells = []
        for two in order.tolist():
            won, games = float(found.wins[one, two]), float(found.wins[one, two] + found.wins[two, one])
            name = f"beats/{names[one]}/{names[two]}" if games else ""
            cells.append(name)
            if games:
                low, high = statistics.clopper_pearson(won, games)
                figures[name] = Figure(won / games, low, high, int(games), "Clopper-Pearson")
        rows.append((names[one], cells))
    return figures, [Grid("How often the model of the row beat that of the column",
                          ["", *(names[at] for at in order)], rows)]  # fmt: skip


def _by_task(board: Board, order: Any) -> tuple[dict[str, Figure], list[Grid], list[str]]:
    """Ratings of each task by itself."""
    if board.tasks is None:
        return {}, [], []
    tasks = sorted(set(board.tasks))
    if not 2 <= len(tasks) <= SHOWN:
        return (
            {},
            [],
            [f"Of {len(tasks)} tasks none has ratings of its own; up to {SHOWN} are shown."] * (len(tasks) > 1),
        )
    figures, shown, notes = {}, [], []
    of = np.array([tasks.index(task) for task in board.tasks])
    for at, task in enumerate(tasks):
        inside = of[board.matches.prompt] == at
        some = Matches(*(getattr(board.matches, field.name)[inside] for field in dataclasses.fields(Matches)))
        if len(np.unique(some.prompt)) < 2 or not np.isfinite(some.score).any():
            notes.append(f"The task {task} has no ratings of its own: it has no 2 prompts with a readable verdict.")
            continue
        found = _rated(board, some)
        shown.append(task)
        for model, name in enumerate(board.names):
            figures[f"rating/{task}/{name}"] = Figure(
                float(found.ratings[model]), float(found.low[model]), float(found.high[model]),
                int(((some.a == model) | (some.b == model)).sum()), "bootstrap over prompts", "Elo",
            )  # fmt: skip
    rows = [(board.names[at], [f"rating/{task}/{board.names[at]}" for task in shown]) for at in order]
    return figures, [Grid("Ratings by task", ["model", *shown], rows)] if shown else [], notes


def _leanings(board: Board) -> dict[str, Figure]:
    """How often the answer that was shown first won, and how often the longer one."""
    judging, matches = board.judging, board.matches
    if judging is None:
        return {}
    out = {}
    if judging.first:
        place = statistics.share([score for _, score in judging.first], [at for at, _ in judging.first])
        out["first_place"] = Figure(*place[:5], better="neither")
    one, two = (judging.lengths[matches.prompt, side] for side in (matches.a, matches.b))
    used = np.isfinite(matches.score) & (one != two) & (one > 0) & (two > 0)
    if used.any():
        won = np.where(one > two, matches.score, 1 - matches.score)[used]
        longer = statistics.share(won.tolist(), matches.prompt[used].tolist())
        out["longer"] = Figure(*longer[:5], better="neither")
    return out


def _log(board: Board) -> list[dict[str, Any]]:
    """A row for each match."""
    matches, names = board.matches, board.names
    shown = {} if board.judging is None else board.judging.shown
    rows = []
    columns = (matches.prompt, matches.a, matches.b, matches.score, matches.round)
    for at, (prompt, a, b, score, height) in enumerate(zip(*(column.tolist() for column in columns))):
        winner = None if score != score else "tie" if score == 0.5 else names[a] if score == 1 else names[b]
        rows.append(
            {
                "id": f"match-{at + 1}", "prompt_id": prompt, "prompt": board.prompts[prompt],
                "kind": board.tasks[prompt] if board.tasks else "match", "round": height, "a": names[a],
                "b": names[b], "winner": winner, "order": shown.get((prompt, a, b), ""),
                "grade": "not read" if winner is None else "tie" if winner == "tie" else "won",
            }
        )  # fmt: skip
    return rows
