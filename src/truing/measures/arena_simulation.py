"""Judges that are simulated from known strengths, and how well two designs of comparison find a known ranking.

A model has a log-strength on every prompt, 0 being the fixed reference that anchored comparison uses; so it beats the
reference with the probability that was measured, and another model with that of the difference of the two
(Bradley-Terry). The judge is right with some accuracy. Source: Son et al. 2025, "Varco Arena" (arXiv 2411.01281).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from truing.measures import ratings
from truing.measures.brackets import Numbers, Play, knock_out, play_more, shuffled
from truing.measures.ratings import Array
from truing.measures.result import Curve, Figure

DESIGNS = ("tournament", "anchored", "active")
NEAREST = 5e-5
"""Probabilities of four digits are told from 0 and 1 by half of the last."""
_CHUNK = 3_000_000


def strengths_of(probabilities: Array) -> Array:
    """Log-strengths against the reference, [prompts, models], of probabilities to beat it; NaN stays NaN."""
    inside = np.clip(probabilities, NEAREST, 1 - NEAREST)
    return np.log(inside) - np.log1p(-inside)


def simulated(strengths: Array, accuracy: float, rng: np.random.Generator) -> Play:
    """Plays matches by drawing the winner; a match of a model without a strength on that prompt is not read.

    Args:
        strengths: [prompts, models], in nats.
        accuracy: of the judge.
        rng: draws the winners, so that a match played twice may end in two ways.
    """

    def play(prompts: Numbers, a: Numbers, b: Numbers) -> Array:
        one, two = strengths[prompts, a], strengths[prompts, b]
        chance = ratings.judged(ratings.expit(one - two), accuracy)
        return np.where(np.isfinite(chance), rng.random(len(a)) < chance, np.nan)

    return play


def agreements(
    strengths: Array, trusted: Array, prompts: int, design: str, *, draws: int, accuracy: float = 1.0,
    prior: float = 0.1, seed: int = 0,
) -> Array:  # fmt: skip
    """Rank correlation with a trusted ranking of many simulated comparisons, [draws].

    Each draws its own prompts (without replacement), brackets and verdicts. A tournament has ``models - 1`` matches a
    prompt, anchored comparison ``models``, of which the ranking is that of the shares won. "active" plays brackets on
    half of the prompts and spends the rest of a tournament's matches on the pairs that tell most.

    Args:
        strengths: [prompts, models], in nats, 0 being the reference.
        trusted: higher is better, [models].
        prompts: how many each comparison uses.
        design: one of `DESIGNS`.
        draws: how many comparisons.
        accuracy: of the judge.
        prior: see `ratings.bradley_terry`.
        seed: of everything that is drawn.
    """
    rng = np.random.default_rng([seed, prompts, DESIGNS.index(design)])
    found = [
        _ranked(strengths, picked, design, accuracy, prior, rng) for picked in _picked(strengths, prompts, draws, rng)
    ]
    return np.concatenate([ratings.spearman(values, trusted) for values in found])


def _picked(strengths: Array, prompts: int, draws: int, rng: np.random.Generator) -> Iterator[Numbers]:
    """Prompts of some draws at a time, [draws, prompts]."""
    total, models = strengths.shape
    each = max(1, _CHUNK // (prompts * models))
    for start in range(0, draws, each):
        yield np.argsort(rng.random((min(each, draws - start), total)), axis=1)[:, :prompts]


def _ranked(
    strengths: Array, picked: Numbers, design: str, accuracy: float, prior: float, rng: np.random.Generator
) -> Array:
    """What models are ranked by, [draws, models]."""
    models = strengths.shape[1]
    if design == "anchored":
        chance = ratings.judged(ratings.expit(strengths[picked]), accuracy)
        won = np.where(np.isfinite(chance), rng.random(chance.shape) < chance, np.nan)
        return np.asarray(np.nanmean(won, axis=1))
    play = simulated(strengths, accuracy, rng)
    draws, prompts = picked.shape
    if design == "active":
        wins = []
        for one in picked:
            first = one[: -(-prompts // 2)]
            played = knock_out(shuffled(len(first), models, rng), play, first)
            left = (models - 1) * (prompts - len(first))
            played = play_more(played, models, one, left, play, rng, prior=prior, batch=max(models, left // 8))
            wins.append(ratings.count_wins(played.a, played.b, played.score, models))
        return ratings.bradley_terry(np.stack(wins), prior)
    played = knock_out(shuffled(draws * prompts, models, rng), play, picked.ravel())
    board = np.repeat(np.arange(draws), prompts * (models - 1))
    return ratings.bradley_terry(ratings.count_boards(board, played.a, played.b, played.score, draws, models), prior)


def compared(
    strengths: Array, trusted: Array, sizes: Sequence[int], *, draws: int, accuracy: float, prior: float, seed: int,
    designs: Sequence[str] = ("tournament", "anchored"),
) -> list[Curve]:  # fmt: skip
    """The median agreement of each design by the number of judgments; intervals hold 95 % of the draws."""
    models = strengths.shape[1]
    curves = []
    for design in designs:
        points = []
        for prompts in sizes:
            found = agreements(
                strengths, trusted, prompts, design, draws=draws, accuracy=accuracy, prior=prior, seed=seed
            )
            points.append((float(prompts * (models - (design != "anchored"))), spread(found)))
        curves.append(Curve(design, "judgments", points))
    return curves


def spread(found: Array) -> Figure:
    """The median of draws, with the ends between which 95 % of them lie."""
    low, middle, high = np.nanquantile(found, [0.025, 0.5, 0.975])
    return Figure(float(middle), float(low), float(high), len(found), "95 % of draws", "rank correlation")
