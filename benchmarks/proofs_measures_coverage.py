"""Simulated coverage of every kind of interval that a measure reports, as one table in Markdown.

Each row asks the product's own functions for intervals of data that are drawn anew each time, from a truth that is
known. The seeds share the tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import proofs_measures_coverage_judges as judged
from benchmarks import proofs_measures_coverage_plain as plain
from benchmarks import proofs_measures_coverage_surveys as surveyed
from benchmarks.covering import rows
from benchmarks.proving import table
from truing.measures import statistics

DRAWS = 1000  # of a bootstrap: the same intervals, a little rougher, in a quarter of the time

NOTES = {
    "a": "Exact (Clopper-Pearson): counts take few values, and no interval of theirs may fall below 95 %.",
    "b": "A tie counts as half a win and half a defeat, which is more spread than ties have.",
    "c": "One discordant pair each way is added, so that pairs which all agree leave a width above 0.",
    "d": "Samples lean far to one side or are 0 nearly always: many hold nothing of what the mean owes to a few.",
    "e": "The truth is one of few values (ranks, strengths that were tried), and resamples carry noise twice.",
    "f": "Few values lie off a bound: room is left for what so few may hide, each as far off as can be.",
    "g": "The smallest of all distances is where two orders agree: the interval ends there.",
    "h": "Three numbers or four tell little of their own spread.",
    "i": "Speaks of boards, texts or countries of the same number, since more of them would show something else.",
}  # fmt: skip


def coverage(seeds: Sequence[int], out: Path) -> str:
    """How often every interval holds the truth."""
    usual, found = statistics.DRAWS, []
    statistics.DRAWS = DRAWS
    try:
        for number, case in enumerate([*plain.cases(), *judged.cases(), *surveyed.cases()]):
            found += rows(case, seeds, number)
    finally:
        statistics.DRAWS = usual
    head = ["interval", "simulated", "setting", "holds the truth, %", "mean width", "note"]
    used = [letter for letter in NOTES if any(letter in row[-1].split(", ") for row in found)]
    ordinary = [float(row[3].split(" ")[0]) for row in found if row[2] == "ordinary"]
    inside = sum(93 <= share <= 97 for share in ordinary)
    lead = (
        f"{len(found)} rows, {len(ordinary)} of them ordinary settings, of which {inside} lie between 93 and 97 %, "
        f"{sum(share > 97 for share in ordinary)} above and {sum(share < 93 for share in ordinary)} below. Behind ± "
        f"stands the error of the simulation (95 %). Bootstraps have {DRAWS:,} draws here, and 4,000 in use."
    )
    return "\n\n".join([lead, table(head, found), "\n".join(f"- {letter}: {NOTES[letter]}" for letter in used)])
