"""What tournaments find: on the page's simulation, on a public leaderboard, and whether their intervals hold.

Each function gives Markdown tables; see `benchmarks.proving`. The plot is written to ``docs/images/arena.svg``. The
leaderboard's data are read from ``data/alpaca_eval`` under ``$TRUING_SHARED`` (or ``../shared``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.proving import SHARED, table
from truing import Tournament, load, measure
from truing.files import write_atomic
from truing.measures import arena_simulation as simulation
from truing.measures import ratings
from truing.measures.arena_inputs import chances_of, trusted_of
from truing.measures.arena_report import agreement, rated
from truing.measures.brackets import knock_out, shuffled
from truing.measures.result import Curve
from truing.measures.show import interval
from truing.reports.svg import figure_curves, standalone
from truing.rewards.functions import SandboxGrade

DATA = SHARED / "data" / "alpaca_eval"
IMAGE = Path("docs/images/arena.svg")
SIZES = (10, 20, 50, 100, 200, 400)
DRAWS = 500
PAPER = {
    (20, 1.0): (0.85, 0.73, 0.92, 0.85, 0.96, 0.94, 0.98, 0.97),
    (20, 0.8): (0.65, 0.50, 0.81, 0.73, 0.91, 0.85, 0.96, 0.92),
    (8, 1.0): (0.91, 0.83, 0.94, 0.88, 0.98, 0.95, 1.00, 0.98),
}
"""Medians of the page: tournament and anchored, at 50, 100, 250 and 500 prompts, by models and judge accuracy."""


def spaced(models: int, prompts: int) -> tuple[ratings.Array, ratings.Array]:
    """Log-strengths of the page's simulation against its anchor, [prompts, models], and the true ratings."""
    true = np.linspace(1110, 1290, models)
    return np.tile((true - 1186) / ratings.PER_NAT, (prompts, 1)), true


def arena_simulated(seeds: Sequence[int], out: Path) -> str:
    """The page's simulation, with medians over all seeds together."""
    rows = []
    for (models, accuracy), paper in PAPER.items():
        for at, prompts in enumerate((50, 100, 250, 500)):
            strengths, true = spaced(models, prompts)
            cells = []
            for which, design in enumerate(("tournament", "anchored")):
                found = [
                    simulation.agreements(strengths, true, prompts, design, draws=60, accuracy=accuracy, seed=seed)
                    for seed in seeds
                ]
                each = "/".join(f"{np.median(one):.2f}" for one in found)
                cells += [f"{paper[2 * at + which]:.2f}", f"{np.median(np.concatenate(found)):.2f} ({each})"]
            rows.append([models, accuracy, prompts, *cells])
    head = ["models", "judge accuracy", "prompts", "tournament, page", "here (seeds)", "anchored, page", "here (seeds)"]
    return table(head, rows)


def arena_leaderboard(seeds: Sequence[int], out: Path) -> str:
    """Rank correlation with the published leaderboard by the number of judgments, and the plot."""
    chances = chances_of(DATA / "win_probability.json", None)
    strengths = simulation.strengths_of(chances.values)
    parts = []
    for figure, named in (("win_rate", "win rate"), ("length_controlled_winrate", "length-controlled win rate")):
        trusted = trusted_of(figure, chances.names, chances.trusted)
        rows, points = [], {design: [] for design in simulation.DESIGNS}  # type: ignore[var-annotated]
        for prompts in SIZES:
            found = {}
            for design in simulation.DESIGNS:
                draws = DRAWS if design != "active" else 200
                if design == "active" and (prompts > 100 or figure != "win_rate"):
                    continue
                each = -(-draws // len(seeds))
                found[design] = np.concatenate(
                    [simulation.agreements(strengths, trusted, prompts, design, draws=each, seed=s) for s in seeds]
                )
                judged = prompts * (len(chances.names) - (design != "anchored"))
                points[design].append((float(judged), simulation.spread(found[design])))
            gap = _gap(found["tournament"], found["anchored"])
            cells = [
                interval(simulation.spread(found[design])) if design in found else "" for design in simulation.DESIGNS
            ]
            rows.append([prompts, f"{prompts * (len(chances.names) - 1):,}", *cells, gap])
        head = ["prompts", "judgments", "tournament", "anchored", "half chosen", "tournament - anchored, mean"]
        parts.append(f"Against the leaderboard's {named}:\n\n{table(head, rows)}")
        if figure == "win_rate":
            curves = [Curve(name, "judgments (logarithmic)", points[name]) for name in ("tournament", "anchored")]
            title = "Rank correlation with the leaderboard of AlpacaEval (bars: 95 % of 500 draws)"
            write_atomic(IMAGE, standalone(figure_curves(title, curves, log=True)))
    return "\n\n".join(parts)


def _gap(one: ratings.Array, two: ratings.Array) -> str:
    """The difference of two means of independent draws, with its 95 % interval."""
    half = 1.96 * float(np.sqrt(one.var() / len(one) + two.var() / len(two)))
    value = float(one.mean() - two.mean())
    return f"{value:+.3f} [{value - half:+.3f}, {value + half:+.3f}]"


def arena_intervals(seeds: Sequence[int], out: Path) -> str:
    """How often intervals hold the truth, in simulations with known ratings."""
    rows = []
    for models, prompts in ((4, 50), (8, 100), (20, 100), (8, 400)):
        strengths, true = spaced(models, prompts)
        usual = float(np.median(simulation.agreements(strengths, true, prompts, "tournament", draws=2000, seed=99)))
        held, counted, agree, widths = 0, 0, 0, []
        runs = 0
        for seed in seeds:
            rng = np.random.default_rng([seed, models, prompts])
            for _ in range(100):
                play = simulation.simulated(strengths, 1.0, rng)
                played = knock_out(shuffled(prompts, models, rng), play)
                found = rated(played, models, resamples=200, seed=int(rng.integers(2**31)))
                wanted = true - true.mean() + 1000
                held += int(((found.low <= wanted) & (wanted <= found.high)).sum())
                counted += models
                runs += 1
                known = agreement(found, true)
                agree += known.low <= usual <= known.high
                widths.append(float((found.high - found.low).mean()))
        rows.append([models, prompts, runs, _share(held, counted), f"{np.mean(widths):.0f}", _share(agree, runs)])
    return table(["models", "prompts", "boards", "ratings held", "mean width", "rank correlation held"], rows)


def _share(held: int, counted: int) -> str:
    return f"{100 * held / counted:.1f} % of {counted:,}"


def arena_sandbox(seeds: Sequence[int], out: Path) -> str:
    """The shipped models in an arena judged by exact grades, and three copies of one model."""
    rows = []
    for seed in seeds:
        for label, names in {
            "three models": ("base", "small", "guide"), "one model thrice": ("base", "base", "base"),
        }.items():  # fmt: skip
            one, *others = (load(f"sandbox/{name}") for name in names)
            how = Tournament(judge=SandboxGrade(), models=others, limit=200, seed=seed, max_new_tokens=64)
            result = measure(how, one)
            cells = [
                f"{name.split('/', 1)[1]} {interval(figure)}" for name, figure in result.figures.items()
                if name.startswith("rating/") and _plain(name)
            ]  # fmt: skip
            rows.append([seed, label, "; ".join(cells)])
    return table(["seed", "who competes", "ratings"], rows)


def _plain(name: str) -> bool:
    """Whether a figure is of all tasks."""
    return name.split("/", 1)[1].startswith("sandbox/") or name.count("/") == 1
