"""The discretion study's figures on its own tables (the half that is here), and what is planted in the sandbox."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import SHARED, table
from truing import DPO, load, measure
from truing.measures import principle_tables as tables
from truing.measures.discretion import Discretion
from truing.measures.discretion_report import figures_of
from truing.measures.principle_oracles import SANDBOX, sandbox_principles
from truing.measures.result import Figure
from truing.measures.tables import table as read_table
from truing.sandbox import records

DATA = SHARED / "data/discretion"
# Arbitrariness and discrepancy to people, in percent, by the published code on the whole study.
PUBLISHED = {"human": (28.9, 0.0), "gpt-4o": (1.6, 26.2), "deepseek-v3": (18.5, 48.1), "sonnet-3.5": (12.8, 32.9)}
FILES = {"gpt-4o": "4ob", "deepseek-v3": "deepseekv3", "sonnet-3.5": "sonnet3.5"}
KINDS = {"consensus": 50.7, "conflict": 16.3, "indifference": 33.0}


def discretion(seeds: Sequence[int], out: Path) -> str:
    """The study beside its published figures, planted annotators and models, and coverage."""
    parts = [_study()] if DATA.is_dir() else []
    return "\n\n".join([*parts, _planted(seeds), _coverage()])


def _study() -> str:
    annotators: dict[str, Any] = {"human": "first"}
    for name, file in FILES.items():
        annotators[name] = DATA / f"hh_test_generic_{file}.csv"
        # What the study did with the second order of a model's choices is not said for each of them.
        rows = read_table(annotators[name], "proof")
        annotators[f"{name}, first order alone"] = [row for row in rows if row["order"] == 0]
    result = Discretion(
        table=DATA / "hh_principle_preferences.csv", principles=DATA / "principles_ccai_seed.txt",
        annotators=annotators, resamples=1000,
    ).measure()  # fmt: skip
    figures = result.figures
    kinds = [
        [name, _percent(figures[name]), published, _inside(figures[name], published)]
        for name, published in KINDS.items()
    ]
    rows = []
    for name in annotators:
        arbitrary, discrepant = PUBLISHED[name.split(",")[0]]
        one, two = figures[f"arbitrariness of {name}"], figures.get(f"discrepancy of {name}")
        apart = ["0, by definition", 0.0, ""] if two is None else [_percent(two), discrepant, _inside(two, discrepant)]
        silent = _percent(figures[f"no opinion of {name}"])
        rows.append([name, _percent(one), arbitrary, _inside(one, arbitrary), *apart, silent])
    weights = {at: figures[f"weight of {at} for human"] for at in range(21) if f"weight of {at} for human" in figures}
    order = sorted(weights, key=lambda at: -weights[at].value)
    grid = {label.split(".")[0]: label for label, _ in result.grids[1].rows}
    ends = [[grid[str(at)], f"{weights[at].value:+.2f} [{weights[at].low:+.2f}, {weights[at].high:+.2f}]"]
            for at in (*order[:3], *order[-3:])]  # fmt: skip
    return "\n\n".join(
        [
            f"HH-RLHF harmless test, {figures['consensus'].n} of the study's 2,312 comparisons. All in percent.",
            table(["comparisons", "here", "published", "published within the interval"], kinds),
            table(["annotator", "arbitrariness", "published", "within", "discrepancy to people", "published", "within",
                   "no opinion"], rows),
            "Weights of people, in nats, the three highest and lowest (published: conspiracy theories first, free "
            "speech last):",
            table(["principle", "weight"], ends),
        ]
    )  # fmt: skip


def _inside(figure: Figure, published: float) -> str:
    return "yes" if 100 * figure.low <= published <= 100 * figure.high else "no"


def _percent(figure: Any) -> str:
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


# --- the sandbox ------------------------------------------------------------------------------------------------------


def _follows(order: Sequence[int]) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def choose(principles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        out = np.full(len(principles), np.nan)
        for at in reversed(order):
            has = ~np.isnan(principles[:, at])
            out[has] = principles[has, at]
        return out

    return choose


PLANTED: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "who goes by harm, truth, answering, manners, brevity": _follows((0, 1, 2, 3, 4)),
    "the same, but every fifth choice is a coin": lambda principles, rng: np.where(
        rng.random(len(principles)) < 0.2, rng.choice([1.0, -1.0], len(principles)),
        _follows((0, 1, 2, 3, 4))(principles, rng),
    ),
    "who goes by brevity, manners, answering, truth, harm": _follows((4, 3, 2, 1, 0)),
    "a coin": lambda principles, rng: rng.choice([1.0, -1.0], len(principles)),
}  # fmt: skip


def _planted(seeds: Sequence[int]) -> str:
    """Annotators with a known order of principles, and models before and after preference training."""
    rows: list[list[str]] = []
    first = next(iter(PLANTED))
    found: dict[str, list[dict[str, Figure]]] = {name: [] for name in PLANTED}
    models: dict[str, list[dict[str, Figure]]] = {"sandbox/base": [], "after DPO": [], "sandbox/guide": []}
    for seed in seeds:
        pairs = [{"id": str(at), **row} for at, row in enumerate(records("preferences", "test", 600, 100 + seed))]
        principles, rng = sandbox_principles(pairs), np.random.default_rng(seed)
        people = {name: choose(principles, rng) for name, choose in PLANTED.items()}
        made = figures_of(principles, people, first, SANDBOX, 300, seed)
        for name in PLANTED:
            found[name].append(
                {"arbitrariness": made.figures[f"arbitrariness of {name}"],
                 **({"discrepancy": made.figures[f"discrepancy of {name}"]} if name != first else {})}
            )  # fmt: skip
        learn = DPO(learning_rate=3e-4, batch_size=16, seed=seed)
        aligned = learn.align(load("sandbox/base"), records("preferences", "train", 1200, seed))
        for name, model in (("sandbox/base", load("sandbox/base")), ("after DPO", aligned),
                            ("sandbox/guide", load("sandbox/guide"))):  # fmt: skip
            models[name].append(measure(Discretion(limit=400, seed=100 + seed), model).figures)
    for name, each in found.items():
        rows.append([name, _by_seed(each, "arbitrariness"), _by_seed(each, "discrepancy")])
    lead = f"Planted annotators of 600 pairs of the sandbox a seed; discrepancy is to the first ({len(seeds)} seeds):"
    head = ["annotator", "arbitrariness, %", "discrepancy, %"]
    more = [[name, _by_seed(each, "arbitrariness"), _by_seed(each, "discrepancy")] for name, each in models.items()]
    return "\n\n".join(
        [lead, table(head, rows), "Models by log-probability, 400 pairs a seed; discrepancy is to what was chosen:",
         table(head, more)]
    )  # fmt: skip


def _by_seed(each: Sequence[dict[str, Figure]], name: str) -> str:
    return ", ".join(_percent(one[name]) for one in each if name in one)


def _coverage(times: int = 150) -> str:
    """How often intervals of the discrepancy hold the truth, in simulations with known weights."""
    rows = []
    for m, n, spread, gap in (
        (8, 300, 1.0, 0.0),
        (8, 300, 1.0, 0.5),
        (8, 1500, 1.0, 0.5),
        (20, 600, 0.7, 0.7),
        (20, 600, 0.7, 0.0),
        (8, 300, 1.0, 3.0),
        (21, 1156, 0.8, 0.3),
    ):
        rng, hits, shifts, widths = np.random.default_rng(m * n), 0, [], []
        for _ in range(times):
            one = rng.normal(0, spread, m)
            two = one + rng.normal(0, gap, m)
            principles = rng.choice([1, -1, np.nan], p=[0.15, 0.15, 0.7], size=(n, m))
            views = np.where(np.isnan(principles), 0, principles)
            people = {
                name: np.where(rng.random(n) < 1 / (1 + np.exp(-views @ weights)), 1.0, -1.0)
                for name, weights in (("human", one), ("other", two))
            }
            truth = tables.discrepancy(one, two)
            figure = figures_of(principles, people, "human", [""] * m, 100, 0).figures["discrepancy of other"]
            hits += figure.low - 1e-9 <= truth <= figure.high + 1e-9
            shifts.append(figure.value - truth)
            widths.append(figure.high - figure.low)
        rows.append([m, n, gap, f"{np.mean(shifts):+.3f}", f"{np.mean(widths):.2f}", f"{100 * hits / times:.0f} %"])
    head = [
        "principles",
        "comparisons",
        "spread of the difference in weights, nats",
        "mean error of the discrepancy",
        "mean width",
        "intervals that hold the truth",
    ]
    return f"Simulated coverage of the discrepancy, {times} times each:\n\n{table(head, rows)}"
