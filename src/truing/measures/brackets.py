"""Knock-out brackets, one for each prompt, all played round by round at once; and which match to play next.

Pure functions apart from the match itself, which is given. Source: Son et al. 2025, "Varco Arena" (arXiv 2411.01281).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from truing.measures.ratings import Array, bradley_terry, count_wins, covariance, expit

Numbers = NDArray[np.int64]
Play = Callable[[Numbers, Numbers, Numbers], Array]
"""Plays matches: prompts [n], one side [n], the other [n]; gives 1 where the one won, 0 where the other did, 0.5 for a
tie, NaN where nothing could be read."""


@dataclasses.dataclass(frozen=True)
class Matches:
    """Matches that were played, each an entry of every array, [n].

    Args:
        prompt: its number.
        a: index of the model on the left.
        b: of the one on the right.
        score: 1 where a won, 0 where b did, 0.5 for a tie, NaN where no verdict could be read.
        round: 1 for the first round of a bracket; 0 for a match that was chosen after it.
    """

    prompt: Numbers
    a: Numbers
    b: Numbers
    score: Array
    round: Numbers

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def winner(self) -> Numbers:
        """Who goes on: the better one, or the one on the left where neither is."""
        return np.where(self.score == 0, self.b, self.a)

    def and_(self, other: Matches) -> Matches:
        """These, then others."""
        both = [np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in dataclasses.fields(self)]
        return Matches(*both)


@functools.cache
def schedule(players: int) -> tuple[tuple[tuple[int, int, int, int], ...], ...]:
    """The matches of a bracket by round: left slot, right slot, slot of the winner, place in post-order.

    A list is split into a left half of ``players // 2`` and a right half; the winners of both meet. Slots 0 to
    ``players - 1`` are the places of the list, further ones hold winners.
    """
    found: list[tuple[int, int, int, int, int]] = []

    def bracket(places: range) -> tuple[int, int]:
        if len(places) == 1:
            return places[0], 0
        half = len(places) // 2
        (left, before), (right, after) = bracket(places[:half]), bracket(places[half:])
        height = 1 + max(before, after)
        slot = players + len(found)
        found.append((height, left, right, slot, len(found)))
        return slot, height

    bracket(range(players))
    highest = max((height for height, *_ in found), default=0)
    return tuple(tuple(rest for height, *rest in found if height == at) for at in range(1, highest + 1))  # type: ignore[misc]


def knock_out(orders: Numbers, play: Play, prompts: Numbers | None = None) -> Matches:
    """One bracket for each prompt; all first rounds are played as one batch, then all second ones, and so on.

    Args:
        orders: the models in the order of each bracket, [brackets, models].
        play: see `Play`; called once a round.
        prompts: the prompt of each bracket, [brackets]; by default the first is for the first, and so on.

    Returns:
        All matches, bracket by bracket, within one in post-order (left half, right half, the two winners).
    """
    brackets, players = orders.shape
    rows = np.arange(brackets) if prompts is None else prompts
    many = max(0, players - 1)
    slots = np.concatenate([orders, np.zeros((brackets, many), np.int64)], axis=1)
    a, b = (np.zeros((brackets, many), np.int64) for _ in range(2))
    score, at = np.zeros((brackets, many)), np.zeros((brackets, many), np.int64)
    for height, matches in enumerate(schedule(players), 1):
        left, right, out, place = (list(column) for column in zip(*matches))
        one, two = slots[:, left], slots[:, right]
        asked = np.repeat(rows, len(left))
        found = np.asarray(play(asked, one.ravel(), two.ravel()), float).reshape(one.shape)
        slots[:, out] = np.where(found == 0, two, one)
        a[:, place], b[:, place], score[:, place], at[:, place] = one, two, found, height
    return Matches(np.repeat(rows, many), a.ravel(), b.ravel(), score.ravel(), at.ravel())


def shuffled(brackets: int, models: int, rng: np.random.Generator) -> Numbers:
    """A new order of the models for each bracket, [brackets, models]."""
    return np.argsort(rng.random((brackets, models)), axis=1)


def single_elimination(order: Sequence[str], better: Callable[[str, str], float]) -> tuple[str, list[list[str]]]:
    """One bracket of named players: the champion, and the matches (a, b, winner) in post-order.

    Args:
        order: the players as they stand in the bracket, at least 1.
        better: 1 where the first of two wins, 0 where the second does, 0.5 for a tie, in which the left one goes on.
    """
    names = list(order)

    def play(prompts: Numbers, a: Numbers, b: Numbers) -> Array:
        return np.array([better(names[one], names[two]) for one, two in zip(a, b)])

    found = knock_out(np.arange(len(names))[None], play)
    won = found.winner
    played = [[names[a], names[b], names[winner]] for a, b, winner in zip(found.a, found.b, won)]
    return (played[-1][2] if played else names[0]), played


def next_pairs(
    wins: Array, many: int, prior: float, left: Array | None = None, overlap: float = 1.96
) -> list[tuple[int, int]]:
    """The pairs whose matches would tell most about the ratings, with repetitions.

    Of the pairs whose 95 % intervals overlap (all pairs where none do) each time the one is taken whose match lowers
    the volume of the uncertainty most: the largest ``p (1 - p) v``, v being the variance of the difference of the two
    log-strengths. The uncertainty then shrinks as by that match, so that a batch does not repeat one pair.

    Args:
        wins: so far, of row over column, [models, models].
        many: how many pairs.
        prior: of the fit, above 0; see `bradley_terry`.
        left: how many more matches each pair can play, [models, models]; None for any number. Fewer pairs come back
            where too few are left.
        overlap: standard errors to each side of a rating.

    Source: D-optimal design for paired comparisons; the restriction to overlapping intervals is the paper's.
    """
    strengths = bradley_terry(wins, prior)
    cover = covariance(strengths, wins, prior)
    chance = expit(strengths[:, None] - strengths[None])
    told = chance * (1 - chance)
    reach = overlap * np.sqrt(np.diag(cover))
    close = np.abs(strengths[:, None] - strengths[None]) <= reach[:, None] + reach[None]
    room = np.triu(np.full(wins.shape, np.inf) if left is None else np.array(left, float), 1)
    found: list[tuple[int, int]] = []
    while len(found) < many and (room > 0).any():
        open_ = room > 0
        own = np.diag(cover)
        variance = own[:, None] + own[None] - 2 * cover
        gain = np.where(open_ & close if (open_ & close).any() else open_, told * variance, -1.0)
        one, two = divmod(int(gain.argmax()), len(strengths))
        found.append((one, two))
        room[one, two] -= 1
        turn = cover[:, one] - cover[:, two]
        cover = cover - np.outer(turn, turn) * told[one, two] / (1 + told[one, two] * variance[one, two])
    return found


def play_more(
    played: Matches, models: int, prompts: Numbers, many: int, play: Play, rng: np.random.Generator, *,
    prior: float, batch: int = 64,
) -> Matches:  # fmt: skip
    """Matches that tell most, chosen from what was played, each on a prompt on which the pair has not met.

    Args:
        played: so far.
        models: how many there are.
        prompts: numbers of the prompts, [n], all different.
        many: how many matches; fewer come back where all pairs have met on all prompts.
        play: see `Play`; called once a batch, after which the ratings are fitted again.
        rng: draws prompts, and sides.
        prior: see `next_pairs`.
        batch: matches between two fits.
    """
    met = set(
        zip(np.minimum(played.a, played.b).tolist(), np.maximum(played.a, played.b).tolist(), played.prompt.tolist())
    )
    left = np.full((models, models), float(len(prompts)))
    for one, two, _ in met:
        left[one, two] -= 1
    start = len(played)
    while len(played) - start < many:
        wins = count_wins(played.a, played.b, played.score, models)
        pairs = next_pairs(wins, min(batch, many - (len(played) - start)), prior, left)
        if not pairs:
            break
        chosen = []
        for one, two in pairs:
            free = [prompt for prompt in prompts.tolist() if (one, two, prompt) not in met]
            prompt = free[int(rng.integers(len(free)))]
            met.add((one, two, prompt))
            left[one, two] -= 1
            chosen.append((prompt, one, two) if rng.random() < 0.5 else (prompt, two, one))
        asked, a, b = (np.array(column, np.int64) for column in zip(*chosen))
        played = played.and_(Matches(asked, a, b, np.asarray(play(asked, a, b), float), np.zeros_like(asked)))
    return played


def anchored(models: int, anchor: int, prompts: Numbers, play: Play) -> Matches:
    """Every model against one of them on every prompt: the comparison that brackets are held against."""
    others = np.array([model for model in range(models) if model != anchor])
    asked, a = np.repeat(prompts, len(others)), np.tile(others, len(prompts))
    b = np.full_like(a, anchor)
    return Matches(asked, a, b, np.asarray(play(asked, a, b), float), np.ones_like(asked))
