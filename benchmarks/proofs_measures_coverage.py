"""Simulated coverage of every kind of interval that a measure reports, as one table in Markdown.

Each row asks the product's own functions for intervals of data that are drawn anew each time, from a truth that is
known. The seeds share the tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import proofs_measures_coverage_factors as factors
from benchmarks import proofs_measures_coverage_judges as judged
from benchmarks import proofs_measures_coverage_plain as plain
from benchmarks import proofs_measures_coverage_surveys as surveyed
from benchmarks.covering import rows
from benchmarks.proving import table
from truing.measures import statistics, value_orientation

DRAWS = 1000  # of a bootstrap: the same intervals, a little rougher, in a quarter of the time

NOTES = {
    "a": "Exact (Clopper-Pearson): counts take few values, and for none of them may coverage fall below 95 %.",
    "b": "A tie counts as half a win and half a defeat, which is more spread than ties have.",
    "c": "One discordant pair each way, or one win and one defeat, is added, so that results that agree leave room.",
    "d": "Six of 60 values are not 0, and samples with none of the large ones are common.",
    "e": "The figure moves in steps (ranks, clusters, sets, strengths tried), or resamples carry its noise twice.",
    "f": "Few values lie off a bound: room is left for what so few may hide, each as far off as can be.",
    "g": "Few verdicts go the other way: the curvature is taken where it is larger than the sandwich.",
    "h": "Two numbers tell little of their own spread.",
    "i": "Two orders are never nearer than equal: where that cannot be excluded, the interval ends there.",
    "j": "The nearest of eight countries in twelve items is partly the luckiest one.",
    "k": "With 12 answers a group, the better group of the sample is often the worse one.",
    "l": "The exponent follows from losses of 1 to 3 %, and samples of questions that show less spread are off more.",
}


def coverage(seeds: Sequence[int], out: Path) -> str:
    """How often every interval holds the truth."""
    usual, found = (statistics.DRAWS, value_orientation.DRAWS), []
    statistics.DRAWS = value_orientation.DRAWS = DRAWS
    try:
        for number, case in enumerate([*plain.cases(), *judged.cases(), *factors.cases(), *surveyed.cases()]):
            found += rows(case, seeds, number)
    finally:
        statistics.DRAWS, value_orientation.DRAWS = usual
    head = ["interval", "simulated", "setting", "holds the truth, %", "mean width", "note"]
    used = [letter for letter in NOTES if any(letter in row[-1].split(", ") for row in found)]
    ordinary = [tuple(map(float, row[3].split(" ± "))) for row in found if row[2] == "ordinary"]
    inside = sum(93 <= share <= 97 for share, _ in ordinary)
    above = sum(share - error > 97 for share, error in ordinary)
    below = sum(share + error < 93 for share, error in ordinary)
    lead = (
        f"{len(found)} rows, {len(ordinary)} of them ordinary settings. Of these {inside} lie between 93 and 97 %, "
        f"{len(ordinary) - inside - above - below} more are not told apart from that, {above} are above and {below} "
        f"below. Behind ± stands the error of the simulation (95 %). Bootstraps have {DRAWS:,} draws here, and 4,000 "
        "in use."
    )
    return "\n\n".join([lead, table(head, found), "\n".join(f"- {letter}: {NOTES[letter]}" for letter in used)])
