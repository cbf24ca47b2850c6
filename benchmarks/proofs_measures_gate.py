"""How often the gate is wrong, whether advised sizes have the power that they promise, and what a correction does.

Simulations draw items with known truths and put them through the product's own statistics, conditions and tests; the
sandbox shows the same on models. Each seed is another stream of draws. Intervals of simulated rates are exact.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import table
from truing import SystemMessage, load, measure
from truing.measures import power as sizes
from truing.measures import statistics
from truing.measures.comparison import compare_results
from truing.measures.contrasts import paired_test, unpaired_test
from truing.measures.result import Column, Figure, Outcome, Result
from truing.measures.run import compare
from truing.measures.show import chance, change
from truing.runs.gate import judge

TIMES = 300
"""Simulated releases, comparisons or tables for each seed."""
SHARE, MEAN = Column("right"), Column("words", "words", "neither", "mean")
STATUSES = ("passed", "failed", "not enough data")


def _rate(count: int, of: int) -> str:
    low, high = statistics.clopper_pearson(count, of)
    return f"{100 * count / of:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _figure(found: statistics.Estimate) -> Figure:
    return Figure(*found[:5])


def _measured_as(right: Any, against: Any = None) -> Result:
    """A result with the figures that a measure would give for these answers."""
    ours = np.asarray(right, dtype=float)
    differences = None
    if against is not None:
        differences = {"right": _figure(statistics.difference_of_shares(ours, np.asarray(against, dtype=float)))}
    return Result("exam", {}, {"right": _figure(statistics.share(ours))}, differences=differences)


def _result(right: Any) -> Result:
    """The same with a row for every answer."""
    rows = [{"id": at, "prompt": f"item {at}", "right": float(value)} for at, value in enumerate(right)]
    return compare("exam", Outcome(rows, {"right": SHARE}))


def _answers(seeds: Sequence[int], condition: str, draw: Callable[[np.random.Generator], Result]) -> list[str]:
    """How often each of the three answers is given."""
    found: Counter[str] = Counter()
    for seed in seeds:
        rng = np.random.default_rng(1000 + seed)
        for _ in range(TIMES):
            found[judge({"right": (condition,)}, {"exam": draw(rng)}).checks[0].status] += 1
    return [_rate(found[status], TIMES * len(seeds)) for status in STATUSES]


def gate(seeds: Sequence[int], out: Path) -> str:
    """What the gate answers when the truth is known."""
    rows = []
    for n in (50, 200, 1000):
        for truth in (0.80, 0.88, 0.90, 0.92, 0.97):
            found = _answers(seeds, ">= 0.9", lambda rng, n=n, truth=truth: _measured_as(rng.random(n) < truth))
            rows.append([f"{100 * truth:.0f} %", n, *found])
    values = table(["true share, `>= 0.9` asked", "items", *STATUSES], rows)
    rows = []
    for n in (100, 400, 1600):
        for truth in (-0.10, -0.05, -0.02, 0.0, 0.05):
            # A fifth of the items tell the models apart, and those by the true difference.
            up = (0.2 + truth) / 2

            def draw(rng: np.random.Generator, n: int = n, up: float = up) -> Result:
                u = rng.random(n)
                return _measured_as((u < up) | (u > 0.5), ((u >= up) & (u < 0.2)) | (u > 0.5))

            rows.append([f"{100 * truth:+.0f} pp", n, *_answers(seeds, "not worse than base by 0.05", draw)])
    losses = table(["true difference, `not worse than base by 0.05` asked", "items", *STATUSES], rows)
    return f"{values}\n\n{losses}\n\n{_many(seeds)}\n\n{_sandbox(seeds, out)}"


def _many(seeds: Sequence[int]) -> str:
    """Gates of several conditions, all on their limits, or all but one well within them."""
    rows = []
    for conditions in (1, 3, 10):
        for others in (0.9, 0.99):
            codes: Counter[int] = Counter()
            for seed in seeds:
                rng = np.random.default_rng(2000 + seed)
                for _ in range(TIMES):
                    truths = [0.9] + [others] * (conditions - 1)
                    results = {f"m{at}": _measured_as(rng.random(300) < truth) for at, truth in enumerate(truths)}
                    asked = {f"m{at}.right": (">= 0.9",) for at in range(conditions)}
                    codes[judge(asked, results).exit_code] += 1
            of = TIMES * len(seeds)
            if conditions > 1 or others == 0.9:
                rest = "none" if conditions == 1 else f"{100 * others:.0f} %"
                rows.append([conditions, rest, *(_rate(codes[code], of) for code in (0, 1, 2))])
    head = ["conditions `>= 0.9`, one on its limit", "true share of the others", "exit 0", "exit 1", "exit 2"]
    return table(head, rows)


@functools.cache
def _models() -> dict[str, Any]:
    base = load("sandbox/base")
    return {
        "base": base,
        "careful": SystemMessage(text="Be careful and polite.").align(base),
        "rude": SystemMessage(text="Be rude.").align(base),
        "guide": load("sandbox/guide"),
    }


@functools.cache
def _measured(seed: int, name: str, limit: int, out: Path) -> dict[str, Result]:
    models = _models()
    against = None if name == "base" else models["base"]
    return {
        what: measure(what, models[name], against, limit=limit, seed=seed) for what in ("hhh", "capability", "length")
    }


REQUIRE = {
    "harmless": (">= 0.9",),
    "honest": ("better than base",),
    "helpful": ("not worse than base by 0.05",),
    "capability": ("not worse than base by 0.05",),
}


def _sandbox(seeds: Sequence[int], out: Path) -> str:
    rows = []
    for limit in (60, 600):
        for name in ("careful", "rude", "guide"):
            for seed in seeds:
                found = judge(REQUIRE, _measured(seed, name, limit, out))
                rows.append([name, limit, seed, *(check.status for check in found.checks), found.exit_code])
    asked = [f"{figure} {condition}" for figure, conditions in REQUIRE.items() for condition in conditions]
    return table(["sandbox model", "items of a measure", "seed", *asked, "exit code"], rows)


def power(seeds: Sequence[int], out: Path) -> str:
    """Whether sizes that `truing measure --power` advises show what they promise, with the tests that are made."""
    rows = []

    def row(what: str, n: int, show: Callable[[np.random.Generator], bool], times: int = TIMES) -> None:
        seen = 0
        for seed in seeds:
            rng = np.random.default_rng(3000 + seed)
            seen += sum(show(rng) for _ in range(times))
        rows.append([what, f"{n:,}", _rate(seen, times * len(seeds))])

    def significant(column: Column, name: str, one: Any, two: Any, seed: int = 0) -> bool:
        first, second = ([{"id": at, name: float(v)} for at, v in enumerate(side)] for side in (one, two))
        found = paired_test(column, first, second, seed)
        return found is not None and found[0].p is not None and found[0].p <= 0.05

    for difference, apart in ((0.1, 0.1), (0.1, 0.3), (0.05, 0.2), (0.2, 0.6)):
        n, up = sizes.shares_paired(difference, apart), (apart + difference) / 2

        def pairs(rng: np.random.Generator, n: int = n, up: float = up, apart: float = apart) -> bool:
            u = rng.random(n)
            return significant(SHARE, "right", u < up, (u >= up) & (u < apart))

        row(f"shares, {100 * difference:.0f} pp apart, the same items, {100 * apart:.0f} % tell them apart", n, pairs)
    for difference, share in ((0.1, 0.5), (0.1, 0.85)):
        n = sizes.shares_unpaired(difference, share)
        other = share + difference if sizes.shares_unpaired(difference, share) and share <= 0.5 else share - difference

        def alone(rng: np.random.Generator, n: int = n, share: float = share, other: float = other) -> bool:
            ends = [Figure(*statistics.share((rng.random(n) < p).astype(float))[:5]) for p in (share, other)]
            return float(unpaired_test(*ends)[0].p or 0.0) <= 0.05

        row(f"shares, {100 * share:.0f} and {100 * other:.0f} %, different items", n, alone)
    draws: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        "normal": lambda rng, n: rng.normal(0, 1, n),
        "exponential": lambda rng, n: rng.exponential(1, n) - 1,
    }
    for kind, draw in draws.items():
        for difference in (0.5, 0.2):
            n = sizes.means_paired(difference, 1.0)

            def mean(rng: np.random.Generator, n: int = n, draw: Any = draw, difference: float = difference) -> bool:
                return significant(MEAN, "words", draw(rng, n) + difference, np.zeros(n), int(rng.integers(2**31)))

            row(f"means, {difference:g} standard deviations apart, the same items, {kind}", n, mean, TIMES // 2)
    return table(["truth", "items advised", "shown in simulations, 80 % promised"], rows)


def comparison(seeds: Sequence[int], out: Path) -> str:
    """What a correction over the whole table does to false findings and to true ones."""
    figures, models, n = 5, 5, 150
    counts: dict[tuple[str, str], list[int]] = {}
    for seed in seeds:
        rng = np.random.default_rng(4000 + seed)
        for _ in range(TIMES // 4):
            for world in ("all alike", "one model better in two figures"):
                results = _table(rng, figures, models, n, planted=world != "all alike")
                found = compare_results(results, correction="none", seed=int(rng.integers(2**31)))
                for correction in ("none", "benjamini-hochberg", "holm"):
                    tests = _corrected(found, correction)
                    true = {("m1.right", "one"), ("m2.right", "one")} if world != "all alike" else set()
                    hits = {(test.figure, test.model) for test in tests if test.verdict != "unclear"}
                    count = counts.setdefault((world, correction), [0, 0, 0])
                    count[0] += bool(hits - true)
                    count[1] += len(hits & true)
                    count[2] += 1
    rows = []
    for (world, correction), (wrong, right, of) in counts.items():
        shown = _rate(right, 2 * of) if world != "all alike" else "nothing to find"
        rows.append([world, correction, _rate(wrong, of), shown])
    head = [
        f"{models} models, {figures} figures, {n} items",
        "correction",
        "tables with a false finding",
        "of the true ones",
    ]
    return f"{table(head, rows)}\n\n{_sandbox_table(seeds, out)}"


def _corrected(found: Any, correction: str) -> list[Any]:
    import dataclasses

    from truing.measures.multiple_testing import CORRECTIONS

    adjusted = CORRECTIONS[correction]([float(test.difference.p) for test in found.tests])
    return [dataclasses.replace(test, p_adjusted=p) for test, p in zip(found.tests, adjusted)]


def _table(rng: np.random.Generator, figures: int, models: int, n: int, planted: bool) -> dict[str, dict[str, Result]]:
    """Models whose answers to an item are alike but for chance; with a plant the second is better in two figures."""
    names = ["base", "one", "two", "three", "four"][:models]
    results: dict[str, dict[str, Result]] = {name: {} for name in names}
    for at in range(figures):
        ease = rng.normal(0, 1, n)
        for name in names:
            skill = 0.5 if planted and name == "one" and at in (1, 2) else 0.0
            right = ease + rng.normal(0, 0.7, n) + skill > 0
            results[name][f"m{at}"] = _result(right)
    return results


def _sandbox_table(seeds: Sequence[int], out: Path) -> str:
    """Each seed draws its own questions; the verdicts are those after Holm's correction over the seed's 15 tests."""
    found: dict[tuple[str, str], list[Any]] = {}
    for seed in seeds:
        given = {name: _measured(seed, name, 300, out) for name in ("base", "careful", "rude", "guide")}
        for test in compare_results(given).tests:
            found.setdefault((test.model, test.figure), []).append(test)
    rows = [
        [model, figure, "; ".join(change(test.difference) for test in tests),
         "; ".join(f"{chance(test.p_adjusted)}" for test in tests), ", ".join(test.verdict for test in tests)]
        for (model, figure), tests in found.items()
    ]  # fmt: skip
    return table(["sandbox model", "figure", "difference to the base, by seed", "p (Holm)", "verdicts"], rows)
