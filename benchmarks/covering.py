"""Simulated coverage: how often a product's 95 % interval holds a truth that is known, with the simulation's error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator
Held = tuple[float, float, float]
"""Ends of an interval, and the truth."""


Found = Iterable[Held] | dict[str, list[Held]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One setting in which intervals are tried.

    Args:
        interval: what it is of, and where it is used.
        setting: samples, truth and shape.
        make: draws data, asks the product, and gives every interval with its truth; by name, where one call of the
            product gives several kinds, each of which is a row.
        times: how often.
        hard: "" for an ordinary setting; "small" or "extreme" where less is to be expected, or more by construction.
        why: a letter of the notes beside the table, where coverage lies outside of 93 to 97 %; by name where there are
            several kinds.
    """

    interval: str
    setting: str
    make: Callable[[Rng], Found]
    times: int = 900
    hard: str = ""
    why: str | dict[str, str] = ""


def of(found: Any, truth: float) -> list[Held]:
    """The interval of an estimate or a figure; none where there is none."""
    return [] if found is None else [(found.low, found.high, truth)]


def rows(case: Case, seeds: Sequence[int], number: int) -> list[list[str]]:
    """What a case comes to: a row of the table for each kind of interval."""
    held: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        rng = np.random.default_rng([seed, number])
        for _ in range(round(case.times / len(seeds))):
            made = case.make(rng)
            for name, some in (made if isinstance(made, dict) else {"": list(made)}).items():
                kept = held.setdefault(name, [])
                if some:
                    low, high, truth = np.array(some, dtype=float).T
                    inside = (low - 1e-9 <= truth) & (truth <= high + 1e-9)
                    kept.append((float(inside.mean()), float((high - low).mean())))
    return [_row(case, name, np.array(some)) for name, some in held.items()]


def _row(case: Case, name: str, some: np.ndarray) -> list[str]:
    # Intervals of one data set are no independent tries: the error is over data sets.
    share, width = some.mean(0)
    error = 1.96 * some[:, 0].std() / np.sqrt(len(some))
    none = f" ({case.times - len(some)} of {case.times} without an interval)" if len(some) < case.times else ""
    why = case.why if isinstance(case.why, str) else case.why.get(name, "")
    return [
        f"{name}{case.interval}", case.setting + none, case.hard or "ordinary",
        f"{100 * share:.1f} ± {100 * error:.1f}", f"{width:.3g}", why,
    ]  # fmt: skip
