"""What the probes of trustworthiness and the suites find where faults are planted, and in models before and after
alignment, as tables in Markdown.

Each seed draws its own items, typos and training rows. Intervals are 95 %, over the items of all seeds together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import table
from truing import DPO, SFT, Suite, Trustworthiness, load, measure, sandbox
from truing.measures import statistics
from truing.measures.calibration import calibration_error
from truing.measures.journal import key_of
from truing.measures.result import Result
from truing.measures.statistics import Estimate
from truing.measures.suite import parallel
from truing.measures.suite_files import read_suite, ready
from truing.measures.trust_probes import equality_values
from truing.measures.trust_taxonomy import CONTROL, SUBCATEGORIES
from truing.sandbox.trust_respondent import REFUSING, TrustRespondent, faults

EACH = 24
MEANS = (
    "miscalibration",
    "disparate_performance",
    "leaking_copyrighted_content",
    "leaking_copyrighted_content_control",
)
NAMES = [*(one.name for one in SUBCATEGORIES), CONTROL]
Pairs = dict[str, tuple[list[float], list[float], list[str]]]


def _values(results: Sequence[Result], name: str, prefix: str = "") -> tuple[dict[str, float], dict[str, str]]:
    """The values of a figure by item, over seeds, and each item's cluster."""
    found: dict[str, float] = {}
    clusters: dict[str, str] = {}
    for seed, result in enumerate(results):
        asked = {row["id"]: row["prompt"] for row in result.samples}
        for row in result.samples:
            if row.get(prefix + name) is not None:
                key = f"{seed} {row['id']}"
                found[key] = float(row[prefix + name])
                # Seeds that draw the same question are no independent samples of it.
                clusters[key] = key_of(asked.get(row["cluster"], row["prompt"]))
    return found, clusters


def _estimate(results: Sequence[Result], name: str, prefix: str = "") -> Estimate | None:
    found, clusters = _values(results, name, prefix)
    if not found:
        return None
    sure = [row for result in results for row in result.samples if row.get(prefix + "sure") is not None]
    if name == "miscalibration" and sure:
        error = calibration_error([row[prefix + "sure"] for row in sure], [row[prefix + "right"] for row in sure])
        return error._replace(value=1 - error.value, low=1 - error.high, high=1 - error.low)
    values, keys = list(found.values()), list(clusters.values())
    if name not in MEANS:
        return statistics.share(values, keys)
    mean = statistics.mean(values, clusters=keys)
    return None if mean is None else statistics.bounded(mean, (0.0, 1.0), len(set(keys)))


def _change(results: Sequence[Result], others: Sequence[Result], name: str, prefix: str = "") -> Estimate | None:
    """First minus others, over the items for which both have a value."""
    (one, clusters), (two, _) = _values(results, name), _values(others, name, prefix)
    shared = [key for key in one if key in two]
    if len(shared) < 2:
        return None
    first, second = [one[key] for key in shared], [two[key] for key in shared]
    keys = [clusters[key] for key in shared]
    if name in MEANS:
        return statistics.difference_of_means(first, second, clusters=keys)
    return statistics.difference_of_shares(first, second, clusters=keys)


def _shown(found: Estimate | None, sign: str = "") -> str:
    if found is None:
        return "not defined"
    low, high = (max(-100.0 if sign else 0.0, min(100.0, 100 * end)) for end in (found.low, found.high))
    return f"{100 * found.value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


# --- planted faults ---------------------------------------------------------------------------------------------------


def trust_planted(seeds: Sequence[int], out: Path) -> str:
    """Respondents with one planted fault each: what their probe says, and which other figures move."""

    def asked(fault: str) -> list[Result]:
        return [
            measure(Trustworthiness(seed=seed, repeats=5), TrustRespondent(fault, n=EACH, seed=seed)) for seed in seeds
        ]

    clean = asked("")
    rows = []
    for fault in faults():
        if fault == REFUSING:
            continue
        found = asked(fault)
        moved = []
        for name in NAMES:
            change = _change(found, clean, name)
            if name != fault and change is not None and not change.low <= 0 <= change.high:
                moved.append(f"{name} {_shown(change, '+')}")
        rows.append(
            [fault, _shown(_estimate(clean, fault)), _shown(_estimate(found, fault)), "; ".join(moved) or "none"]
        )
    refused = asked(REFUSING)
    blanket = [[name, _shown(_estimate(clean, name)), _shown(_estimate(refused, name))] for name in NAMES]
    return "\n\n".join(
        [
            "Shares of good answers in percent (of `over_refusal`, of refusals).",
            table(["planted", "without the fault", "with it", "other figures that differ from those without it"], rows),
            "Whoever refuses everything:",
            table(["figure", "no fault", "refuses everything"], [row for row in blanket if row[1] != row[2]]),
        ]
    )


# --- base against aligned ---------------------------------------------------------------------------------------------


@functools.cache
def _aligned(seed: int) -> tuple[Any, Any, Any]:
    """The base, the same after demonstrations, and after preferences too, as in the quickstart."""
    base = load("sandbox/base")
    started = SFT(learning_rate=5e-4, epochs=2, batch_size=16, seed=seed).align(
        base, sandbox.records("demonstrations", n=120, seed=seed)
    )
    learn = DPO(learning_rate=3e-4, batch_size=16, beta=2.0, loss={"sigmoid": 1.0, "sft": 1.0}, seed=seed)
    return base, started, learn.align(started, sandbox.records("preferences", n=1600, seed=seed))


def trust_alignment(seeds: Sequence[int], out: Path) -> str:
    """All 29 figures of the base and of aligned models, on the same items."""
    found: list[list[Result]] = [[], [], []]
    for seed in seeds:
        for some, model in zip(found, _aligned(seed)):
            some.append(measure(Trustworthiness(seed=seed), model))
    base, started, aligned = found
    extra = (
        "sycophancy_control",
        "prompt_attacks_typos",
        "prompt_attacks_pressed",
        "leaking_copyrighted_content_control",
    )
    rows = [
        [
            name,
            *(_shown(_estimate(some, name)) for some in (base, started, aligned)),
            _shown(_change(aligned, base, name), "+"),
        ]
        for name in (*NAMES, *extra)
    ]
    head = ["good answers, percent", "base", "SFT on 120", "then DPO", "DPO minus base"]
    return f"{table(head, rows)}\n\n`over_refusal` is the share of harmless requests refused."


# --- suites -----------------------------------------------------------------------------------------------------------


def suites(seeds: Sequence[int], out: Path) -> str:
    """The sandbox's suite on models before and after alignment, and the same respondent in two languages."""
    names = ("safety", "fairness", "knowledge", "over_refusal", "total")
    rows = []
    for label, at in (("base", 0), ("SFT on 120", 1), ("then DPO", 2)):
        results = [
            measure(Suite(path="sandbox", seed=seed), _aligned(seed)[at]) for seed in (seeds if at else seeds[:1])
        ]
        for seed, result in zip(seeds, results):
            cells = [result.figures[name] for name in names]
            rows.append(
                [label, seed if at else "any", *(_shown(Estimate(c.value, c.low, c.high, c.n, "")) for c in cells)]
            )
    parts = [
        table(["", "seed", *names], rows),
        "Respondents in Persian and English, on the items that both suites have:",
    ]
    compared = []
    for label, flaw in (("declines, and takes the right option, in both", ""), ("complies in Persian only", "fa")):
        persian, english = (measure(Suite(path=path), _Reader(flaw)) for path in ("persian", "english"))
        apart = parallel(persian, english)
        shown = _shown(Estimate(apart.value, apart.low, apart.high, apart.n, ""), "+")
        compared.append([label, shown, f"{apart.p:.3f}", apart.n])
    parts.append(table(["", "Persian minus English", "McNemar's p", "items"], compared))
    base = measure(Suite(path="persian"), load("sandbox/base"))
    parts.append(
        "The sandbox's base, which has never read a word of Persian: answers in Persian "
        f"{100 * base.figures['language_kept'].value:.0f} %; safety is "
        f"{'not shown' if 'safety' not in base.figures else base.figures['safety'].value}."
    )
    return "\n\n".join(parts)


class _Reader:
    """Takes the right option, and declines what is to be refused, but for a flaw in one language."""

    offers: frozenset[str] = frozenset()
    modifiers: tuple[Any, ...] = ()
    history: tuple[Any, ...] = ()
    name = "reader"

    def __init__(self, flaw: str) -> None:
        self.flaw = flaw
        self.items = [item for name in ready() for item in read_suite(name).items if name != "sandbox"]

    def generate(self, prompts: Any, **settings: Any) -> Any:
        from truing.models.types import Completion, Completions, Usage, as_prompts

        found = [
            Completion(self._answer(one), finish_reason="stop", prompt_index=at)
            for at, one in enumerate(as_prompts(prompts))
        ]
        return Completions(found, Usage())

    def _answer(self, prompt: Any) -> str:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        persian = any("\u0600" <= letter <= "\u06ff" for letter in text)
        right = next((i.choices[i.target or 0] for i in self.items if i.choices and i.prompt in text), None)
        if right is not None:
            return next(line.split(")")[0] for line in text.splitlines() if line.endswith(f") {right}"))
        if self.flaw and persian:
            return "باشد، این راهش است."
        return "کمک نمی‌کنم." if persian else "I won't help with that."


# --- intervals --------------------------------------------------------------------------------------------------------


def trust_intervals(seeds: Sequence[int], out: Path) -> str:
    """How often intervals of the figures that are no plain shares hold the truth, in simulations."""
    runs = 200
    rows = []
    for n in (24, 100):
        for off in (0.0, 0.05, 0.1, 0.25):
            held = 0
            for run in range(runs):
                rng = np.random.default_rng([*seeds, run, n, int(100 * off)])
                sure = rng.uniform(0.55, 0.95, n)
                found = calibration_error(sure, (rng.random(n) < sure - off).astype(float), seed=run)
                held += found.low <= off <= found.high + 1e-9
            rows.append(["calibration error", n, f"{off:.2f}", f"{100 * held / runs:.1f}"])
    for n in (24, 100):
        for gap in (0.0, 0.2, 0.5):
            held = 0
            for run in range(runs):
                rng = np.random.default_rng([*seeds, run, n, int(100 * gap), 1])
                groups = ["a", "b"] * (n // 2)
                hits = rng.random(n) < np.where(np.array(groups) == "a", 0.75, 0.75 - gap)
                values = equality_values(list(hits.astype(float)), groups)
                mean = statistics.mean(values, seed=run) if values else None
                held += mean is not None and mean.low <= 1 - gap <= min(1.0, mean.high) + 1e-12
            rows.append(["distance of two groups", n, f"{gap:.2f}", f"{100 * held / runs:.1f}"])
    return table(["figure", "items", "truth", "intervals that hold it, percent"], rows)
