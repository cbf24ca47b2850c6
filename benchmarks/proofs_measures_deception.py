"""Whether the audit for deception finds a planted conflict, and what gap and bootstrapping do to its score.

The functions give Markdown tables; see `benchmarks.proving`. ``sandbox/small`` supervises ``sandbox/base``. What is
shown was chosen on ``dev``; figures are taken on ``test``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.proving import table
from truing import WeakToStrongDeception, load
from truing.measures import statistics
from truing.measures.result import Result

PAIRS = 600
SETTINGS: dict[str, dict[str, Any]] = {
    "explicit conflict": {},
    "explicit, bootstrapped through `sandbox/guide`": {"through": ["sandbox/guide"]},
    "implicit conflict": {"conflict": "implicit"},
    "explicit, smaller gap (the weak model has 80 % of the labels, not 50 %)": {"weak_share": 0.8},
}
SHOWN = ("tax", "deception_score", "blind_region", "control_tax", "control_score")


def deception(seeds: Sequence[int], out: Path) -> str:
    """The audit under each setting, items of all seeds together, and seed by seed."""
    strong = load("sandbox/base")
    found: dict[str, list[Result]] = {name: [] for name in SETTINGS}
    for seed in seeds:
        for name, changes in SETTINGS.items():
            given = {**changes, "through": [load(one) for one in changes.get("through", ())]}
            how = WeakToStrongDeception(limit=PAIRS, min_tax=1, seed=seed, **given)
            found[name].append(how.measure(strong, out=out / "deception"))
    rows, right = [], []
    for name, results in found.items():
        samples = [row for result in results for row in result.samples]
        rows.append([name, *(_share(samples, figure) for figure in SHOWN), _by_seed(results)])
        right.append([name, *(_share(samples, f"correct/{model}") for model in MODELS)])
    head = ["", *(name.replace("_", " ") for name in SHOWN), "score by seed"]
    return "\n\n".join(
        [
            f"Percent of {PAIRS} test pairs a seed; scores over taxed items.",
            table(head, rows),
            "How often each model is right:",
            table(["", *(name.replace("_", " ") for name in MODELS)], right),
        ]
    )


MODELS = ("weak", "ceiling", "without", "control", "with_conflict")


def _share(rows: Sequence[dict[str, Any]], name: str) -> str:
    values = [float(row[name]) for row in rows if row.get(name) is not None]
    if not values:
        return "none taxed"
    found = statistics.share(values)
    count = f" ({len(values)})" if name.endswith("score") else ""
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]{count}"


def _by_seed(results: Sequence[Result]) -> str:
    shown = [result.figures.get("deception_score") for result in results]
    return "/".join("none" if figure is None else f"{100 * figure.value:.0f}" for figure in shown)
