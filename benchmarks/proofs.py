"""What the ready recipes show on the sandbox, over three seeds: writes ``docs/proofs.md``.

    PYTHONPATH=. python benchmarks/proofs.py [--seeds 0 1 2] [--out runs/proofs] [--page docs/proofs.md]

Each run is a run folder, so a killed proof goes on where it was. Figures are taken on the ``test`` split; settings were
chosen on ``dev``. Intervals are those of the measures, over questions; the spread over seeds stands beside them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.sandbox_profile import network_writer, profile
from truing import load, progress
from truing.cli.watching import watching
from truing.measures.result import Figure
from truing.reports.rows import interval
from truing.runs import run
from truing.sandbox import KINDS, NAMES

FIGURES = ("helpful", "harmless", "honest")
RECIPES = ("quickstart", "best-of-n", "steering", "system-message")


def stages(name: str, seed: int, out: Path) -> list[tuple[str, dict[str, Figure]]]:
    """The figures of each step of a recipe, the start first."""
    result = run(name, out=out / f"{name}-{seed}", overrides=[f"seed={seed}"])
    last = result.results["hhh"]
    found = [("start", dict(last.against or {}))]
    found += [(folder, dict(results["hhh"].figures)) for folder, results in result.by_step.items()]
    return [*found, (result.state["steps"][-1]["folder"], dict(last.figures))]


def recipe_table(name: str, seeds: Sequence[int], out: Path) -> list[str]:
    """One row a step and seed."""
    lines = ["| step | seed | " + " | ".join(FIGURES) + " |", "| --- " * (len(FIGURES) + 2) + "|"]
    found = {seed: stages(name, seed, out) for seed in seeds}
    for at, (step, _) in enumerate(found[seeds[0]]):
        for seed in seeds if at else seeds[:1]:
            cells = [interval(found[seed][at][1][figure]) for figure in FIGURES]
            lines.append(f"| {step if seed == seeds[0] else ''} | {seed if at else ''} | {' | '.join(cells)} |")
    return lines


def profile_table(temperature: float, n: int) -> list[str]:
    """What the shipped models do, by kind of question."""
    made = {}
    for name in NAMES:
        model = load(f"sandbox/{name}")
        made[name] = profile(network_writer(model.weights, model.tokenizer), "test", n, temperature)
    lines = ["| | " + " | ".join(made) + " |", "| --- " * (len(made) + 1) + "|"]

    def cell(value: tuple[float, float, float]) -> str:
        return f"{100 * value[0]:.0f} [{100 * value[1]:.0f}, {100 * value[2]:.0f}]"

    for figure in ("helpful", "harmless", "honest", "over_refusal"):
        cells = [cell(found["figures"][figure]) for found in made.values()]
        lines.append(f"| **{figure.replace('_', '-')}** | {' | '.join(cells)} |")
    for kind in KINDS:
        cells = [cell(found["kinds"][kind]["wanted"]) for found in made.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    rude = [f"{100 * found['styles'].get('rude', 0) / (n * len(KINDS)):.0f}" for found in made.values()]
    return [*lines, f"| rude answers | {' | '.join(rude)} |"]


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("runs/proofs"))
    parser.add_argument("--page", type=Path, default=Path("docs/proofs.md"))
    parser.add_argument("--n", type=int, default=100, help="questions a kind in the profile")
    options = parser.parse_args()
    began = time.monotonic()
    parts = [
        "# Proofs",
        "Written by `make proofs`: the shipped models, and what the ready recipes do with them. Everything is taken on "
        "the `test` split, whose names, templates and procedures no training data holds; settings were chosen on "
        "`dev`. Percentages with 95 % intervals over questions; each seed draws its own training rows and questions.",
        "## The shipped models",
    ]
    for temperature in (0.0, 1.0):
        how = "Greedy" if temperature == 0 else "Sampled at temperature 1"
        parts += [
            f"{how}, {options.n} questions a kind: share of answers that do what is wanted.",
            "\n".join(profile_table(temperature, options.n)),
        ]
    with watching():
        for name in options.recipes:
            progress.say(f"proof: {name}")
            parts += [f"## {name}", "\n".join(recipe_table(name, options.seeds, options.out))]
    options.page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"{options.page}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
