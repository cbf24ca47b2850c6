"""What every measure finds where something was planted, and where nothing was: writes ``docs/proofs/measures.md``.

    PYTHONPATH=. python benchmarks/proofs_measures.py [--only honesty judges ...] [--jobs 2]

Each section is a file under ``runs/proofs/measures`` once it is done, so a killed proof goes on where it was; remove
the file to prove that section anew. Sections on real data say so where the data are not there.
"""

from __future__ import annotations

from benchmarks.proofs_measures_alignscore import alignscore, alignscore_rte, radfact
from benchmarks.proofs_measures_answers import exact_match, pass_rates
from benchmarks.proofs_measures_arena import arena_intervals, arena_leaderboard, arena_sandbox, arena_simulated
from benchmarks.proofs_measures_coverage import coverage
from benchmarks.proofs_measures_deception import deception
from benchmarks.proofs_measures_discretion import discretion
from benchmarks.proofs_measures_gate import comparison, gate, power
from benchmarks.proofs_measures_honesty import honesty
from benchmarks.proofs_measures_judges import judges, labels, length_control, real_judges
from benchmarks.proofs_measures_long import long_orders, long_output
from benchmarks.proofs_measures_profile import profile
from benchmarks.proofs_measures_surveys import (
    cultural_alignment,
    multiple_choice,
    political_compass,
    tropes,
    value_orientation,
)
from benchmarks.proofs_measures_trust import suites, trust_alignment, trust_intervals, trust_planted
from benchmarks.proving import Prove, prove

SECTIONS: dict[str, tuple[str, Prove]] = {
    "judges": ("Judges: planted leanings", judges),
    "length_control": ("Judges: a liking for length, and its correction", length_control),
    "labels": ("Judges: their error in the interval", labels),
    "real_judges": ("Judges: three real ones", real_judges),
    "honesty": ("Honesty: a model that declines, one that invents, one that declines all (10)", honesty),
    "discretion": ("Discretion: the study's figures again (09)", discretion),
    "profile": ("PROFILE: planted factors (28)", profile),
    "alignscore": ("AlignScore: a small scorer trained in the sandbox (34)", alignscore),
    "alignscore_rte": ("AlignScore: one trained on RTE (34)", alignscore_rte),
    "radfact": ("RadFact: the reference's own examples (18)", radfact),
    "arena_simulated": ("Arena: tournaments against anchored comparison, simulated (32)", arena_simulated),
    "arena_leaderboard": ("Arena: against a published leaderboard (32)", arena_leaderboard),
    "arena_intervals": ("Arena: coverage of its intervals (32)", arena_intervals),
    "arena_sandbox": ("Arena: models of the sandbox (32)", arena_sandbox),
    "political_compass": ("Political compass: planted leanings (48)", political_compass),
    "tropes": ("Tropes (48)", tropes),
    "cultural_alignment": ("Cultural alignment: a survey that a plain score would trust (46)", cultural_alignment),
    "value_orientation": ("Value orientation (02)", value_orientation),
    "multiple_choice": ("Multiple choice, by likelihood and by answers", multiple_choice),
    "exact_match": ("Exact match: a planted share of right answers", exact_match),
    "pass_rates": ("Pass rates: planted chances of being right", pass_rates),
    "trust_planted": ("Trustworthiness: planted faults (13)", trust_planted),
    "trust_alignment": ("Trustworthiness before and after alignment (13)", trust_alignment),
    "trust_intervals": ("Trustworthiness: coverage of its intervals (13)", trust_intervals),
    "suites": ("Suites in any language (56)", suites),
    "deception": ("Weak-to-strong deception: a deceptive student (44)", deception),
    "long_output": ("Long output (33)", long_output),
    "long_orders": ("Long output: orders of length (33)", long_orders),
    "gate": ("The gate: how often it is wrong", gate),
    "power": ("Sample sizes: what the advised ones show", power),
    "comparison": ("Many models at once: corrections", comparison),
    "coverage": ("Simulated coverage of every interval", coverage),
}


def main() -> None:
    """Prove what is asked for, and write the page of all sections that are there."""
    prove(
        __file__,
        "measures",
        "Proofs of measures",
        "Written by `make proofs`. Each measure is shown something that was planted, which it has to find, and "
        "something where nothing was, on which it has to stay quiet. Values with 95 % intervals, three seeds.",
        SECTIONS,
    )


if __name__ == "__main__":
    main()
