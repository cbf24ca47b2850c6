"""Cases of simulated coverage: judges, labels, calibration and ratings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from benchmarks.covering import Case, Found, Held, Rng, of
from truing.measures import agreement, ratings
from truing.measures import arena_simulation as simulation
from truing.measures.arena_report import Board, figures_of, rated
from truing.measures.arena_report import agreement as rank_agreement
from truing.measures.brackets import Matches, knock_out, shuffled
from truing.measures.calibration import calibration_error
from truing.measures.length_control import length_controlled
from truing.measures.prediction_powered import corrected_mean
from truing.measures.result import Figure
from truing.measures.statistics import mean
from truing.measures.trust_probes import equality_values

Make = Callable[[Rng], Found]


# --- judges ---------------------------------------------------------------------------------------------------------


def _cohen(right: float, n: int, shares: Sequence[float] = (0.4, 0.4, 0.2), each: int = 1) -> Make:
    """A judge that is right so often, and else takes one of the other categories."""
    k = len(shares)
    chance = np.outer(shares, np.full(k, (1 - right) / (k - 1)))
    np.fill_diagonal(chance, np.array(shares) * right)
    truth = agreement.cohen_kappa(chance)
    keys = np.repeat(np.arange(n), each).tolist()

    def make(rng: Rng) -> list[Held]:
        true = rng.choice(k, n, p=shares)
        if each == 1:
            said = np.where(rng.random(n) < right, true, (true + rng.integers(1, k, n)) % k)
        else:
            # All verdicts on one prompt are right or wrong together, in half of the prompts.
            together = rng.random(n) < 0.5
            good = np.where(together[:, None], rng.random((n, 1)) < right, rng.random((n, each)) < right)
            true = np.repeat(true, each)
            said = np.where(good.ravel(), true, (true + rng.integers(1, k, n * each)) % k)
        found = agreement.cohen(true.tolist(), said.tolist(), list(range(k)), clusters=keys)
        return of(found, truth)

    return make


def _mirrored(right: float, n: int) -> Make:
    truth = 2 * right - 1

    def make(rng: Rng) -> list[Held]:
        said = np.where(rng.random(n) < right, "chosen", "rejected").tolist()
        turn = {"chosen": "rejected", "rejected": "chosen"}
        return of(agreement.cohen(["chosen"] * n, said, list(turn), mirror=turn), truth)

    return make


def _fleiss(right: float, n: int, raters: int, shares: Sequence[float] = (0.5, 0.3, 0.2)) -> Make:
    k = len(shares)

    def counts(rng: Rng, n: int) -> np.ndarray:
        true = rng.choice(k, n, p=shares)[:, None]
        said = np.where(rng.random((n, raters)) < right, true, (true + rng.integers(1, k, (n, raters))) % k)
        return np.stack([(said == at).sum(1) for at in range(k)], 1)

    truth = agreement.fleiss_kappa(counts(np.random.default_rng(0), 400_000))
    return lambda rng: of(agreement.fleiss(counts(rng, n)), truth)


def _sway(n: int, length: float, which: str) -> Make:
    def make(rng: Rng) -> list[Held]:
        truth = rng.choice([-1.0, 1.0], n)
        term = np.tanh(rng.normal(0.4 * truth, 1))
        said = (rng.random(n) < special.expit(1.5 * truth + length * term)).astype(float)
        found = agreement.sway(said, truth, term)
        return [] if found is None else of(getattr(found, which), {"length": length, "truth": 1.5,
                                                                   "accuracy": special.expit(1.5)}[which])  # fmt: skip

    return make


def _length(n: int, theta: float, phi: float, which: str, each: int = 1) -> Make:
    keys = np.repeat(np.arange(n // each), each).tolist()

    def make(rng: Rng) -> list[Held]:
        gap = rng.normal(0.3, 1, n)
        # The term has the spread of the differences that are drawn, as in the fit.
        term = np.tanh(gap / gap.std())
        shared = np.repeat(rng.normal(0, 1, n // each), each) * (each > 1)
        won = (rng.random(n) < special.expit(theta + phi * term + shared)).astype(float)
        found = length_controlled(won, gap, np.zeros(n), clusters=keys)
        return [] if found is None else of(getattr(found, which), truths[which])

    if each == 1:
        truths = {"win_rate": special.expit(theta), "effect": phi}
    else:
        draws = theta + np.random.default_rng(0).normal(0, 1, 2_000_000)
        # What is the same over prompts flattens the curve: the fit is of the flatter one.
        flat = np.sqrt(1 + 1 / 1.7**2)
        truths = {"win_rate": special.expit(draws).mean(), "effect": phi / flat}
    return make


def _labelled(n: int, many: int, right: float, which: str, bounds: tuple[float, float] = (0, 1)) -> Make:
    def make(rng: Rng) -> list[Held]:
        true = (rng.random(n + many) < 0.7).astype(float)
        # The judge is kind: it errs upwards twice as often as downwards.
        wrong = rng.random(n + many) < np.where(true == 1, (1 - right) * 0.6, (1 - right) * 2)
        said = np.where(wrong, 1 - true, true)
        found = corrected_mean(true[:n], said[:n], said[n:], bounds=bounds)
        return [] if found is None else of(getattr(found, which), truths[which])

    truths = {"estimate": 0.7, "bias": 0.3 * (1 - right) * 2 - 0.7 * (1 - right) * 0.6}
    return make


def _calibrated(n: int, off: float) -> Make:
    def make(rng: Rng) -> list[Held]:
        sure = rng.uniform(0.55, 0.95, n)
        found = calibration_error(sure, (rng.random(n) < sure - off).astype(float), seed=int(rng.integers(2**31)))
        return of(found, off)

    return make


def _groups(n: int, gap: float) -> Make:
    names = ["a", "b"] * (n // 2)

    def make(rng: Rng) -> list[Held]:
        values = equality_values((rng.random(n) < np.where(np.array(names) == "a", 0.75, 0.75 - gap)).astype(float),
                                 names)  # fmt: skip
        found = None if values is None else mean(values)
        return of(found if found is None else found._replace(high=min(1.0, found.high)), 1 - gap)

    return make


# --- ratings --------------------------------------------------------------------------------------------------------


def _strengths(models: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    true = np.linspace(1110, 1290, models)
    return np.tile((true - 1186) / ratings.PER_NAT, (prompts, 1)), true


def _played(rng: Rng, models: int, prompts: int) -> Matches:
    strengths, _ = _strengths(models, prompts)
    return knock_out(shuffled(prompts, models, rng), simulation.simulated(strengths, 1.0, rng))


def _rated(models: int, prompts: int, anchor: int | None = None) -> Make:
    _, true = _strengths(models, prompts)
    truth = true - (true.mean() if anchor is None else true[anchor]) + 1000

    def make(rng: Rng) -> list[Held]:
        found = rated(
            _played(rng, models, prompts), models, anchor=anchor, resamples=300, seed=int(rng.integers(2**31))
        )
        return [each for at, each in enumerate(zip(found.low, found.high, truth)) if at != anchor]

    return make


def _ranked(models: int, prompts: int) -> Make:
    strengths, true = _strengths(models, prompts)
    usual = float(np.median(simulation.agreements(strengths, true, prompts, "tournament", draws=1000, seed=99)))

    def make(rng: Rng) -> list[Held]:
        found = rated(_played(rng, models, prompts), models, resamples=300, seed=int(rng.integers(2**31)))
        return of(rank_agreement(found, true), usual)

    return make


def _standings(rng: Rng, models: int, prompts: int) -> dict[str, Figure]:
    board = Board([f"m{at}" for at in range(models)], list(range(prompts)), None, _played(rng, models, prompts), None,
                  None, None, 0.1, 300, int(rng.integers(2**31)))  # fmt: skip
    return figures_of(board).figures


def _board(models: int, prompts: int) -> Make:
    _, true = _strengths(models, prompts)
    odds = special.expit(np.subtract.outer(true, true) / ratings.PER_NAT)
    names = [f"m{at}" for at in range(models)]

    @functools.cache
    def usual() -> list[dict[str, Figure]]:
        rng = np.random.default_rng(1)
        return [_standings(rng, models, prompts) for _ in range(40)]

    def mean_of(name: str) -> float:
        return float(np.mean([one[name].value for one in usual()]))

    def make(rng: Rng) -> dict[str, list[Held]]:
        found = _standings(rng, models, prompts)
        beats = [(i, j) for i in range(models) for j in range(i)]
        return {
            "rank": [e for at, n in enumerate(names) for e in of(found[f"rank/{n}"], models - at)],
            "online Elo": [e for n in names for e in of(found[f"elo/{n}"], mean_of(f"elo/{n}"))],
            "win rate of a model": [e for n in names for e in of(found[f"win_rate/{n}"], mean_of(f"win_rate/{n}"))],
            "who beats whom": [e for i, j in beats for e in of(found.get(f"beats/m{i}/m{j}"), odds[i, j])],
        }

    return make


def cases() -> list[Case]:
    """Judges, labels, calibration and ratings."""
    cohen, fleiss = "Cohen's kappa: judge_agreement", "Fleiss' kappa: judge_agreement"
    at_length = "win rate at equal length"
    ppi = "mean corrected by labels"
    ece = "calibration error: trustworthiness"
    equal = "distance of two groups: trustworthiness"
    bt = "Bradley-Terry rating: arena"
    spear = "rank correlation with a trusted board: arena"
    return [
        Case(cohen, "n 100, 3 categories, right in 80 %", _cohen(0.8, 100)),
        Case(cohen, "n 60 x 3 of one prompt, right in 75 %", _cohen(0.75, 60, each=3)),
        Case(cohen, "n 150, 2 categories of 90 % and 10 %, right in 90 %", _cohen(0.9, 150, (0.9, 0.1))),
        Case(cohen, "n 100 pairs in both orders, right in 75 %", _mirrored(0.75, 100)),
        Case(cohen, "n 25, 2 categories, right in 80 %", _cohen(0.8, 25, (0.5, 0.5)), hard="small"),
        Case(cohen, "n 60, 2 categories, right in 98 %", _cohen(0.98, 60, (0.5, 0.5)), hard="extreme", why="a"),
        Case(fleiss, "n 80, 4 raters right in 75 %", _fleiss(0.75, 80, 4)),
        Case(fleiss, "n 100, 2 raters right in 85 %", _fleiss(0.85, 100, 2)),
        Case(fleiss, "n 15, 3 raters right in 75 %", _fleiss(0.75, 15, 3), hard="small"),
        Case("length effect on a judge (log-odds)", "n 200, 0.8", _sway(200, 0.8, "length")),
        Case("length effect on a judge (log-odds)", "n 200, none", _sway(200, 0.0, "length")),
        Case("length effect on a judge (log-odds)", "n 40, 0.8", _sway(40, 0.8, "length"), hard="small", why="g"),
        Case("accuracy at equal length", "n 200, 0.82", _sway(200, 0.8, "accuracy")),
        Case(at_length, "n 200, 0.6", _length(200, 0.4, 1.0, "win_rate")),
        Case(at_length, "100 x 2 of one prompt, 0.58", _length(200, 0.4, 0.0, "win_rate", 2)),
        Case(at_length, "n 40, 0.88", _length(40, 2.0, 1.0, "win_rate"), hard="small", why="g"),
        Case("length effect of a win rate (log-odds)", "n 200, 1", _length(200, 0.4, 1.0, "effect")),
        Case(ppi, "50 labels, 1,000 answers, judge right in 85 %", _labelled(50, 1000, 0.85, "estimate")),
        Case(ppi, "200 labels, 1,000 answers, judge right in 70 %", _labelled(200, 1000, 0.7, "estimate")),
        Case(ppi, "15 labels, 300 answers, judge right in 85 %", _labelled(15, 300, 0.85, "estimate"), hard="small"),
        Case(ppi, "50 labels, 1,000 answers, judge right in 98 %", _labelled(50, 1000, 0.98, "estimate"),
             hard="extreme", why="f"),
        Case("a judge's mean error", "50 labels, judge right in 85 %", _labelled(50, 100, 0.85, "bias")),
        Case("a judge's mean error", "50 labels, judge right in 98 %", _labelled(50, 100, 0.98, "bias"),
             hard="extreme", why="f"),
        Case(ece, "100 answers, error 0.1", _calibrated(100, 0.1), 900),
        Case(ece, "100 answers, error 0.25", _calibrated(100, 0.25), 300),
        Case(ece, "100 answers, none", _calibrated(100, 0.0), 300, "extreme"),
        Case(ece, "24 answers, error 0.1", _calibrated(24, 0.1), 300, "small"),
        Case(equal, "100 answers, 0.8", _groups(100, 0.2)),
        Case(equal, "100 answers, none", _groups(100, 0.0), hard="extreme"),
        Case(equal, "24 answers, 0.8", _groups(24, 0.2), hard="small", why="k"),
        Case(bt, "8 models, 100 prompts", _rated(8, 100), 300),
        Case(bt, "20 models, 60 prompts", _rated(20, 60), 300),
        Case(bt, "8 models, 100 prompts, one as anchor", _rated(8, 100, 3), 300),
        Case(bt, "4 models, 10 prompts", _rated(4, 10), 300, "small", "c"),
        Case(spear, "8 models, 100 prompts", _ranked(8, 100), 300, why="e"),
        Case(spear, "20 models, 60 prompts", _ranked(20, 60), 300, why="e"),
        Case(": arena", "8 models, 100 prompts", _board(8, 100), 300, why={"rank": "e", "who beats whom": "a"}),
    ]  # fmt: skip
