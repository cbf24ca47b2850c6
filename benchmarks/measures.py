"""Every race of measures, against peers and against what they cannot do without: writes ``docs/proofs/speed.md``.

    PYTHONPATH=.:src OMP_NUM_THREADS=1 python benchmarks/measures.py [--only statistics options ...]

Each race is a file of its own in ``benchmarks/measures_*.py``. Races against Inspect and lm-evaluation-harness need
those packages. A finished race stays under ``runs/proofs/speed``, so a killed page goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    measures_alignscore,
    measures_inspect,
    measures_local,
    measures_options,
    measures_statistics,
    measures_tournament,
)
from benchmarks.proving import Prove, prove


def _section(race: Callable[[], str]) -> Prove:
    def run(seeds: Sequence[int], out: Path) -> str:
        return race()

    return run


SECTIONS: dict[str, tuple[str, Prove]] = {
    "statistics": ("Bootstrap intervals", _section(measures_statistics.race)),
    "alignscore": ("AlignScore", _section(measures_alignscore.race)),
    "options": ("Options of questions", _section(measures_options.race)),
    "tournament": ("A tournament", _section(measures_tournament.race)),
    "local": ("A measure beyond bare generation", _section(measures_local.race)),
    "inspect": ("Inspect", _section(measures_inspect.race)),
}


def main() -> None:
    """Run the races that are asked for, one after the other, and write the page."""
    prove(
        __file__, "speed", "Speed of measures",
        "Written by `python benchmarks/measures.py`. Every race runs its ways in turns in one process on two shared "
        "cores, so ratios are what counts; equal results are checked first.",
        SECTIONS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
