"""What PROFILE finds: judges with a planted taste, models before and after alignment, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import table
from truing import DPO, load, measure
from truing.measures.profile import Profile
from truing.measures.profile_factors import factors_named
from truing.measures.profile_report import Agent, figures_of
from truing.measures.profile_scores import factor_score
from truing.measures.rank_correlation import kendall
from truing.measures.result import Figure
from truing.sandbox import records

FACTORS = ("length", "variety", "hedging", "echo", "intent", "facts", "misinformation", "declining", "politeness")


def _values(seed: int, n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = records("preferences", "test", n, 100 + seed)
    prompts = [row["prompt"] for row in rows]
    sides = [
        np.stack(
            [one.values(prompts, [row[side] for row in rows], [None] * n) for one in factors_named(FACTORS)], axis=1
        )
        for side in ("chosen", "rejected")
    ]
    numbers = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompts))}
    return sides[0], sides[1], np.array([numbers[prompt] for prompt in prompts])


def _taste(factor: str, strength: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """A judge that likes a factor: log-odds of ``strength`` for a standard deviation."""

    def choose(gaps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        gap = gaps[:, FACTORS.index(factor)]
        lean = strength * gap / np.sqrt((gap**2).mean())
        return np.where(rng.random(len(gap)) < 1 / (1 + np.exp(-lean)), 1.0, -1.0)

    return choose


JUDGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "likes length": _taste("length", 2.0),
    "likes facts": _taste("facts", 2.0),
    "likes manners": _taste("politeness", 2.0),
    "a coin": lambda gaps, rng: rng.choice([1.0, -1.0], len(gaps)),
}


def profile(seeds: Sequence[int], out: Path) -> str:
    """Planted judges, models in three roles, and the page's simulated annotator."""
    return "\n\n".join([_judges(seeds), _models(seeds), _annotator()])


def _judges(seeds: Sequence[int]) -> str:
    made: dict[str, list[dict[str, Figure]]] = {name: [] for name in JUDGES}
    for seed in seeds:
        first, second, prompts = _values(seed)
        rng = np.random.default_rng(seed)
        agents = [Agent(name, first, second, choose(first - second, rng), prompts) for name, choose in JUDGES.items()]
        figures = figures_of(agents, FACTORS, resamples=50, seed=seed).figures
        for name in JUDGES:
            made[name].append(figures)

    def rows(form: str) -> list[list[str]]:
        return [
            [factor, *(_seeds([each[form.format(factor=factor, name=name)] for each in found
                               if form.format(factor=factor, name=name) in each]) for name, found in made.items())]
            for factor in FACTORS
        ]  # fmt: skip

    head = ["factor", *JUDGES]
    return "\n\n".join(
        [
            f"Judges with a planted taste, 600 pairs of the sandbox a seed ({len(seeds)} seeds). Scores (tau14); those "
            "in bold have an interval without 0 in every seed:",
            table(head, rows("{factor} for {name}")),
            "The same factors beside each other (log-odds for a standard deviation):",
            table(head, rows("{factor} beside others for {name}")),
            "Over pairs of like length:",
            table(head, rows("{factor} for {name}, at like length")),
        ]
    )


def _seeds(found: Sequence[Figure], nothing: float = 0.0) -> str:
    if not found:
        return ""
    shown = " ".join(f"{one.value:+.2f}" for one in found)
    clear = all(one.low > nothing for one in found) or all(one.high < nothing for one in found)
    return f"**{shown}**" if clear else shown


def _models(seeds: Sequence[int]) -> str:
    """The base before and after preference training, in three roles."""
    roles = ("likelihood", "levels", "samples")
    made: dict[str, list[dict[str, Figure]]] = {"base": [], "after DPO": []}
    for seed in seeds:
        learn = DPO(learning_rate=3e-4, batch_size=16, seed=seed)
        aligned = learn.align(load("sandbox/base"), records("preferences", "train", 1200, seed))
        for name, model in (("base", load("sandbox/base")), ("after DPO", aligned)):
            how = Profile(
                agents=roles, factors=FACTORS, limit=400, prompts=60, samples=4, resamples=100, seed=100 + seed
            )
            made[name].append(measure(how, model).figures)
    columns = [(name, role) for name in made for role in roles]
    head = ["", "human", *(f"{name}: {role}" for name, role in columns)]

    def cells(form: str, nothing: float = 0.0) -> list[str]:
        return [_seeds([each[form.format(role)] for each in made[name] if form.format(role) in each], nothing)
                for name, role in columns]  # fmt: skip

    rows = [
        [factor, _seeds([each[f"{factor} for human"] for each in made["base"]]), *cells(factor + " for {}")]
        for factor in FACTORS
    ]
    rows += [[f"{one} with human", "", *cells(one + " of {}")] for one in ("kendall", "spearman", "pearson")]
    agreement = ["agreement on pairs", "", *cells("agreement of {}", 0.5)]
    return f"Models in three roles, by seed:\n\n{table(head, [*rows, agreement])}"


def _annotator(times: int = 100) -> str:
    """Two halves of one simulated annotator, and what an interval says of two agents that are alike."""
    found, tops, shuffled = [], 0, []
    for seed in range(times):
        rng = np.random.default_rng(seed)
        gaps = rng.normal(size=(400, 8))
        likes = np.where(rng.random(400) < 1 / (1 + np.exp(-gaps @ np.linspace(-1.2, 1.2, 8))), 1.0, -1.0)
        zero = np.zeros(200)
        halves = [
            [factor_score(np.stack([gaps[part, at], zero], axis=1), likes[part])["tau14"] for at in range(8)]
            for part in (slice(0, 200), slice(200, 400))
        ]
        found.append(kendall(*halves))
        agents = [
            Agent(name, gaps[part], np.zeros((200, 8)), likes[part], np.arange(200) + start)
            for name, part, start in (("one", slice(0, 200), 0), ("other", slice(200, 400), 200))
        ]
        figures = figures_of(agents, [f"f{at}" for at in range(8)], resamples=60, seed=seed).figures
        tops += figures["kendall of other"].high > 1 - 1e-9
        mixed = rng.permutation(likes)
        shuffled.append(
            max(abs(factor_score(np.stack([gaps[:, at], np.zeros(400)], axis=1), mixed)["tau14"]) for at in range(8))
        )
    rows: list[list[Any]] = [
        ["median Kendall of two halves (page: 0.79)", f"{np.median(found):.2f}"],
        ["5th percentile (page: 0.55)", f"{np.quantile(found, 0.05):.2f}"],
        ["intervals of it that reach 1, the truth", f"{100 * tops / times:.0f} %"],
        ["largest score of 8 factors with shuffled preferences, mean", f"{np.mean(shuffled):.3f}"],
    ]
    return f"A simulated annotator with 8 factors, 400 pairs, {times} times:\n\n{table(['', ''], rows)}"
