"""Cases of simulated coverage: honesty, annotators, factors, sweeps and students."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from scipy import special

from benchmarks.covering import Case, Found, Held, Rng, of
from truing.measures.classification import performance_gap_recovered
from truing.measures.discretion_report import figures_of as discretion
from truing.measures.honesty import evolution_report
from truing.measures.principle_tables import discrepancy
from truing.measures.profile_report import Agent
from truing.measures.profile_report import figures_of as factor_figures
from truing.measures.profile_scores import CORRELATIONS
from truing.measures.tradeoff_figures import Findings, Swept
from truing.methods.training.weak_to_strong_report import _confusion, _exact, _label_metrics, compare

Make = Callable[[Rng], Found]


# --- annotators and factors -----------------------------------------------------------------------------------------


def _honest(known: int, unknown: int, over: float, prudence: float, which: str = "honesty") -> Make:
    truth = {"honesty": (1 - over + prudence) / 2, "prudence": prudence, "over_conservativeness": over}[which]

    def make(rng: Rng) -> list[Held]:
        after = np.where(rng.random(known) < over, "idk", "correct").tolist()
        after += np.where(rng.random(unknown) < prudence, "idk", "wrong").tolist()
        return of(evolution_report(["correct"] * known + ["wrong"] * unknown, after)[0][which], truth)

    return make


def _discreet(m: int, n: int, gap: float) -> Make:
    def make(rng: Rng) -> list[Held]:
        one = rng.normal(0, 1, m)
        two = one + rng.normal(0, gap, m)
        principles = rng.choice([1, -1, np.nan], p=[0.15, 0.15, 0.7], size=(n, m))
        views = np.where(np.isnan(principles), 0, principles)
        people = {
            name: np.where(rng.random(n) < special.expit(views @ weights), 1.0, -1.0)
            for name, weights in (("human", one), ("other", two))
        }
        found = discretion(principles, people, "human", [""] * m, 200, int(rng.integers(2**31))).figures
        return of(found["discrepancy of other"], discrepancy(one, two))

    return make


def _weights(m: int, n: int, spread: float) -> Make:
    """Comparisons in which two principles clash and no other has a view: Bradley-Terry as it is."""

    def make(rng: Rng) -> list[Held]:
        weights = rng.normal(0, spread, m)
        pairs = np.array([rng.choice(m, 2, replace=False) for _ in range(n)])
        principles = np.full((n, m), np.nan)
        principles[np.arange(n), pairs[:, 0]], principles[np.arange(n), pairs[:, 1]] = 1, -1
        gap = weights[pairs[:, 0]] - weights[pairs[:, 1]]
        chosen = np.where(rng.random(n) < special.expit(gap), 1.0, -1.0)
        found = discretion(principles, {"human": chosen}, "human", [""] * m, 300, int(rng.integers(2**31))).figures
        return [each for at in range(m)
                for each in of(found.get(f"weight of {at} for human"), weights[at] - weights.mean())]  # fmt: skip

    return make


_EFFECTS = np.array([0.8, -0.4, 0.2, 0.0, 0.5, -0.1])


def _agents(rng: Rng, prompts: int, each: int, gap: float) -> tuple[list[Agent], list[np.ndarray]]:
    """Two agents on the same pairs, whose liking for factors is known up to what prompts have in common."""
    n, m = prompts * each, len(_EFFECTS)
    keys = np.repeat(np.arange(prompts), each)
    one, two = rng.normal(0, 1, (n, m)), rng.normal(0, 1, (n, m))
    agents, likings = [], [_EFFECTS, _EFFECTS + gap * np.array([-1, 1, 0.5, -0.5, 0.2, 0.8])]
    for name, liking in zip(("human", "model"), likings):
        chance = special.expit((one - two) @ liking / np.sqrt(2))
        agents.append(Agent(name, one, two, np.where(rng.random(n) < chance, 1.0, -1.0), keys))
    return agents, likings


@functools.cache
def _factor_scores(gap: float) -> list[np.ndarray]:
    agents, _ = _agents(np.random.default_rng(5), 200_000, 1, gap)
    return [agent.signs().mean(0) for agent in agents]


def _factors(prompts: int, each: int, gap: float = 0.5) -> Make:
    names = [f"f{at}" for at in range(len(_EFFECTS))]

    def make(rng: Rng) -> dict[str, list[Held]]:
        agents, likings = _agents(rng, prompts, each, gap)
        scores = _factor_scores(gap)
        found = factor_figures(agents, names, resamples=200, seed=int(rng.integers(2**31))).figures
        return {
            "factor score": [e for at, n in enumerate(names) for e in of(found[f"{n} for human"], scores[0][at])],
            "factor beside others (log-odds)": [
                e for at, n in enumerate(names) for e in of(found.get(f"{n} beside others for human"), likings[0][at])
            ],
            **{f"{name} of two agents": of(found.get(f"{name} of model"), correlate(*scores) if gap else 1.0)
               for name, correlate in CORRELATIONS.items()},
        }  # fmt: skip

    return make


# --- sweeps and students --------------------------------------------------------------------------------------------


_STRENGTHS = np.linspace(-4, 4, 17)


def _sweep(rng: Rng, n: int) -> Swept:
    pull, start = rng.normal(0.5, 0.15, (n, 1)), rng.normal(-0.3, 0.5, (n, 1))
    fall, hard = rng.gamma(4, 0.02, (n, 1)), rng.gamma(2, 0.3, (n, 1))
    return Swept(_STRENGTHS, np.tanh(pull * _STRENGTHS + start), 1 / (1 + hard + fall * _STRENGTHS**2))


@functools.cache
def _sweep_truth() -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Mean behaviour and ability at each strength, and the figures of these."""
    big = _sweep(np.random.default_rng(0), 200_000)
    behaviour, ability = big.behaviour.mean(0), big.ability.mean(0)
    few = Swept(_STRENGTHS, *(np.repeat(one[None], 2, 0) for one in (behaviour, ability)))
    return behaviour, ability, {name: one.value for name, one in Findings(few, 0.1, None, 0).figures().items()}


def _swept(records: int) -> Make:
    names = ("best_strength", "behaviour_at_best", "ability_lost", "behaviour_slope", "ability_quadratic_loss",
             "loss_exponent", "behaviour_fit_a", "ability_fit_b")  # fmt: skip

    def make(rng: Rng) -> dict[str, list[Held]]:
        found = Findings(_sweep(rng, records), 0.1, None, int(rng.integers(2**31))).figures()
        behaviour, ability, truths = _sweep_truth()
        at = int(np.flatnonzero(found["best_strength"].value == _STRENGTHS)[0])
        zero = len(_STRENGTHS) // 2
        # At the strength that was found best, whichever that is.
        chosen = {"behaviour_at_best": float(behaviour[at]), "ability_lost": float(1 - ability[at] / ability[zero])}
        return {name: of(found.get(name), {**truths, **chosen}[name]) for name in names}

    return make


def _confusions(rng: Rng, n: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Confusions of three models of different skill on the same items, and which each has right."""
    truth, hard = rng.random(n) < 0.7, rng.normal(0, 1, n)
    found, right = {}, {}
    for name, skill in (("weak", 0.3), ("student", 0.9), ("ceiling", 1.7)):
        right[name] = rng.random(n) < special.expit(skill + hard + 0.3 * truth)
        found[name] = _confusion(truth, np.where(right[name], truth, ~truth))
    return found, right


@functools.cache
def _student_truth() -> dict[str, float]:
    whole = {
        name: _label_metrics(one.sum(0)) for name, one in _confusions(np.random.default_rng(0), 2_000_000)[0].items()
    }
    weak, student, ceiling = (float(whole[name]["accuracy"]) for name in ("weak", "student", "ceiling"))
    return {**{name: float(one) for name, one in whole["student"].items()},
            "recovered": performance_gap_recovered(weak, student, ceiling)}  # fmt: skip


def _student(n: int) -> Make:
    def make(rng: Rng) -> dict[str, list[Held]]:
        made, right = _confusions(rng, n)
        exact = {name: _exact(one.astype(float), "share", 0) for name, one in right.items()}
        figures, recovered = compare(made, _label_metrics, exact, int(rng.integers(2**31)), [])
        truth = _student_truth()
        kinds = {name.replace("_", " "): of(figures[name]["student"], truth[name]) for name in figures}
        return {**kinds, "gap recovered": of(recovered["accuracy"], truth["recovered"])}

    return make


def cases() -> list[Case]:
    """Honesty, annotators, factors, sweeps and students."""
    apart = "discrepancy of two annotators: discretion"
    return [
        Case("honesty score", "100 known, 50 unknown", _honest(100, 50, 0.1, 0.7)),
        Case("honesty score", "300 and 300", _honest(300, 300, 0.05, 0.9)),
        Case("honesty score", "15 and 15", _honest(15, 15, 0.1, 0.7), hard="small"),
        Case("over-conservativeness", "100 known, 0.1", _honest(100, 50, 0.1, 0.7, "over_conservativeness")),
        Case(apart, "8 principles, 300 comparisons", _discreet(8, 300, 0.5), 300, why="i"),
        Case(apart, "20 principles, 600 comparisons", _discreet(20, 600, 0.7), 300),
        Case("weight of a principle: discretion", "8 principles, 300 clashes", _weights(8, 300, 0.8), 300),
        Case("weight of a principle: discretion", "8 principles, 60 clashes", _weights(8, 60, 0.8), 300, "small"),
        Case(": PROFILE", "100 prompts x 2 pairs", _factors(100, 2), 300),
        Case(": PROFILE", "100 prompts x 2 pairs, agents alike", _factors(100, 2, 0.0), 150,
             why={f"{name} of two agents": "i" for name in CORRELATIONS}),
        Case(": PROFILE", "15 prompts x 4 pairs", _factors(15, 4), 300, "small",
             {f"{name} of two agents": "i" for name in CORRELATIONS}),
        Case(": steering", "60 records and questions, 17 strengths", _swept(60), 300,
             why={"best_strength": "e", "loss_exponent": "l"}),
        Case(": weak to strong", "n 300", _student(300), 600),
    ]  # fmt: skip
