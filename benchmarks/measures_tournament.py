"""A tournament of 64 models on 400 prompts, besides judging, against the same done match by match.

    PYTHONPATH=. python benchmarks/measures_tournament.py

The plain way is that of the paper's description: a recursion for each prompt, then for each resample a row a match and
L-BFGS on the likelihood of the rows (logistic regression without a penalty, as arena-hard-auto has it, with our prior).
Both are given the same verdicts, and their ratings must agree. Times are CPU seconds of one process, the least of
the rounds; the plain way fits 5 resamples, and its time for as many as the tournament's is told from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize

from benchmarks.proving import table
from truing.measures import brackets, ratings
from truing.measures.arena_report import Board, figures_of, rated
from truing.measures.ratings import Array, expit

MODELS, PROMPTS, RESAMPLES, FITTED, ROUNDS, PRIOR = 64, 400, 500, 5, 3, 0.1


def verdicts(seed: int = 0) -> Array:
    """Strengths on each prompt, [prompts, models]; the stronger one wins, so that both ways hear the same judge."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, MODELS) + rng.normal(0, 1, (PROMPTS, MODELS))


def fast(strengths: Array, orders: Any) -> Array:
    """As the measure does it: brackets round by round, ratings, intervals, ranks, win rates, online Elo, the log."""
    played = _played(strengths, orders)
    names = [f"model {at}" for at in range(MODELS)]
    board = Board(names, [f"prompt {at}" for at in range(PROMPTS)], None, played, None, None, None, PRIOR, RESAMPLES, 0)
    found = figures_of(board).figures
    return np.array([found[f"rating/{name}"].value for name in names])


def _played(strengths: Array, orders: Any) -> brackets.Matches:
    return brackets.knock_out(orders, lambda at, a, b: (strengths[at, a] > strengths[at, b]).astype(float))


def plain_matches(strengths: Array, orders: Any) -> list[list[tuple[int, int, int]]]:
    """By prompt: (a, b, winner), match by match."""
    out = []
    for at, order in enumerate(orders.tolist()):
        row, played = strengths[at], list[tuple[int, int, int]]()

        def bracket(names: list[int], row: Any = row, played: Any = played) -> int:
            if len(names) == 1:
                return names[0]
            half = len(names) // 2
            one, two = bracket(names[:half]), bracket(names[half:])
            winner = one if row[one] > row[two] else two
            played.append((one, two, winner))
            return winner

        bracket(order)
        out.append(played)
    return out


def plain_fit(matches: list[tuple[int, int, int]]) -> Array:
    """Ratings by a row for each match."""
    won = np.array([winner for *_, winner in matches])
    lost = np.array([a + b - winner for a, b, winner in matches])
    off = 1 - np.eye(MODELS)

    def loss(theta: Array) -> tuple[float, Array]:
        gap = theta[won] - theta[lost]
        miss = expit(-gap)
        slope = np.bincount(lost, miss, MODELS) - np.bincount(won, miss, MODELS)
        spare = theta[:, None] - theta[None]
        virtual = PRIOR * off * (expit(spare) - expit(-spare))
        value = np.logaddexp(0, -gap).sum() + (PRIOR * off * np.logaddexp(0, -spare)).sum()
        return float(value), slope + virtual.sum(1)

    found = optimize.minimize(
        loss, np.zeros(MODELS), jac=True, method="L-BFGS-B", options={"gtol": 1e-6, "ftol": 1e-14}
    )
    return ratings.on_elo_scale(found.x)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def race() -> str:
    """Seconds of both, and how far their ratings are apart."""
    strengths = verdicts()
    orders = brackets.shuffled(PROMPTS, MODELS, np.random.default_rng(1))
    fast(strengths, orders)
    whole, fits, slow, each = [], [], [], []
    for _ in range(ROUNDS):
        seconds, found = _timed(lambda: fast(strengths, orders))
        whole.append(seconds)
        played = _played(strengths, orders)
        fits.append(_timed(lambda: rated(played, MODELS, prior=PRIOR, resamples=RESAMPLES))[0])  # noqa: B023
        seconds, matches = _timed(lambda: plain_matches(strengths, orders))
        slow.append(seconds)
        rng = np.random.default_rng(2)
        drawn = [[one for at in rng.integers(PROMPTS, size=PROMPTS) for one in matches[at]] for _ in range(FITTED)]
        each.append(_timed(lambda: [plain_fit(one) for one in drawn])[0] / FITTED)  # noqa: B023
        peer = plain_fit([one for own in matches for one in own])
    apart = float(np.abs(peer - found).max())
    told = min(slow) + min(each) * (RESAMPLES + 1)
    rows = [
        ["truing, everything the measure gives", f"{min(whole):.2f}"],
        [f"truing, ratings with {RESAMPLES} resamples alone", f"{min(fits):.2f}"],
        [f"match by match, ratings with {RESAMPLES} resamples (from {FITTED})", f"{told:.1f}"],
    ]
    head = f"{MODELS} models, {PROMPTS} prompts, {PROMPTS * (MODELS - 1):,} matches, besides judging; CPU seconds."
    foot = f"Ratings differ by at most {apart:.4f} Elo; {told / min(fits):.0f} times the speed for the same figures."
    return f"{head}\n\n{table(['', 'seconds'], rows)}\n\n{foot}"


if __name__ == "__main__":
    print(race())
