"""What weak-to-strong training gave: weak model, student and ceiling on held-out records, and the gap recovered."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from truing.contracts import Reward
from truing.errors import RecordError, SettingsError
from truing.measures import statistics
from truing.measures.classification import performance_gap_recovered
from truing.measures.result import Figure
from truing.measures.show import interval
from truing.methods.training.weak_to_strong import WeakToStrong, judged

MODELS = ("weak", "student", "ceiling")
Metrics = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class WeakToStrongReport:
    """How good weak model, student and ceiling are on held-out records, and what part of the gap was recovered.

    Args:
        kind: of the records.
        figures: of each model, by metric: ``figures["accuracy"]["student"]``.
        recovered: performance gap recovered, by metric, by a bootstrap over the test records, the same for all three.
        rows: a row for every test record, with what each model made of it.
        notes: what a reader must know.
    """

    kind: str
    figures: dict[str, dict[str, Figure]]
    recovered: dict[str, Figure]
    rows: list[dict[str, Any]]
    notes: list[str]

    def __str__(self) -> str:
        lines = ["| metric | weak | student | ceiling | gap recovered |", "| --- | --- | --- | --- | --- |"]
        for name, by_model in self.figures.items():
            cells = [*(interval(by_model[model]) for model in MODELS), interval(self.recovered[name])]
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def gap_recovered(report: WeakToStrongReport, metric: str = "") -> Figure:
    """(student - weak) / (ceiling - weak) with its interval; of the first metric unless one is named.

    Neither 0 nor 1 is a bound; not defined (NaN) where ceiling and weak model are equal.
    """
    return report.recovered[metric or next(iter(report.recovered))]


def weak_to_strong_report(
    method: WeakToStrong, model: Any, records: Any, test: Any, *, student: Any = None, score: Reward | None = None,
    out: str | Path | None = None, seed: int = 0,
) -> WeakToStrongReport:  # fmt: skip
    """Train what is missing, and compare weak model, student and ceiling on held-out records.

    Args:
        method: its settings.
        model: the strong one.
        records: what is learned from, with true labels.
        test: held-out records of the same kind, with true labels.
        student: what ``method.align(model, records)`` gave; None to train it here.
        score: for demonstrations, what an answer is worth (a reward; higher is better).
        out: a folder in which a killed call repeats nothing that is finished.
        seed: of the bootstrap.

    Raises:
        SettingsError: demonstrations and no score.
    """
    from truing.records import as_records

    method.validate()
    place = Path(out) if out is not None else None
    learned = method.check_records(records)
    held = list(as_records(test, kinds=(learned.kind,), what="The test"))
    if learned.kind == "demonstration" and score is None:
        raise SettingsError("Answers are compared by what they are worth: give `score`, a reward.")
    weak = method.supervisor(learned, place / "checkpoints" if place else None)
    if student is None:
        student = method._align(model, learned, place)
    best = method.ceiling(model, learned, out=place / "ceiling" if place else None)
    rows = [{"prompt": row["prompt"]} for row in held]
    notes: list[str] = []
    found: dict[str, np.ndarray] = {}
    for name, one in zip(MODELS, (weak, student, best)):
        if score is not None and learned.kind == "demonstration":
            asked: dict[str, Any] = {"max_new_tokens": method.max_new_tokens, "temperature": method.temperature}
            texts = one.generate([row["prompt"] for row in held], seed=method.seed, **asked).texts
            found[name] = np.asarray(score([row["prompt"] for row in held], texts), dtype=np.float64)
            for row, text, value in zip(rows, texts, found[name].tolist()):
                row |= {f"{name}_answer": text, f"{name}_score": value}
        else:
            found[name] = judged(one, held)
            for row, value in zip(rows, found[name].tolist()):
                row[f"{name}_probability"] = value
    # Scores from 0 to 1 have an interval that stays there.
    within = all(((values >= 0) & (values <= 1)).all() for values in found.values())
    unit = "share" if within else ""
    if learned.kind == "label":
        truth = np.array([row["label"] for row in held])
        sums = {name: _confusion(truth, values >= 0.5) for name, values in found.items()}
        each = {name: ((values >= 0.5) == truth).astype(float) for name, values in found.items()}
        for row, label in zip(rows, truth.tolist()):
            row["label"] = label
        metrics: Metrics = _label_metrics
    else:
        if learned.kind == "preference":
            found = {name: np.where(values == 0.5, 0.5, values > 0.5) for name, values in found.items()}
        each = found
        sums = {name: np.stack([values, np.ones_like(values)], 1) for name, values in found.items()}
        label = "accuracy" if learned.kind == "preference" else "score"

        def metrics(totals: np.ndarray) -> dict[str, np.ndarray]:
            return {label: totals[..., 0] / totals[..., 1]}

    exact = {name: _exact(values, unit, seed) for name, values in each.items()}
    figures, recovered = compare(sums, metrics, exact, seed, notes)
    return WeakToStrongReport(learned.kind, figures, recovered, rows, notes)


def _exact(values: np.ndarray, unit: str, seed: int) -> Figure:
    """The mean of one value an item, with the interval that suits it."""
    found = statistics.share(values.tolist()) if unit else statistics.mean(values, seed=seed)
    if found is None:
        raise RecordError("One test record tells nothing of its uncertainty. Give more.")
    return Figure(found.value, found.low, found.high, found.n, found.method, unit)


def _confusion(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """For each item which cell of the confusion table it falls in, [n, 4]: true and false positive, then negative."""
    return np.stack([truth & said, ~truth & said, truth & ~said, ~truth & ~said], 1).astype(np.float64)


def _label_metrics(totals: np.ndarray) -> dict[str, np.ndarray]:
    """What `truing.measures.classification.label_metrics` gives, of many confusion tables at once, [..., 4]."""
    hit, alarm, miss, quiet = np.moveaxis(totals, -1, 0)
    many, positive, negative = totals.sum(-1), hit + miss, alarm + quiet
    with np.errstate(divide="ignore", invalid="ignore"):
        recalls = np.stack([hit / positive, quiet / negative])
        f1 = np.stack([2 * hit / (positive + hit + alarm), 2 * quiet / (negative + quiet + miss)])
    share = np.stack([positive, negative]) / many
    return {
        "accuracy": (hit + quiet) / many,
        "balanced_accuracy": np.nanmean(recalls, 0),
        "weighted_f1": np.nansum(f1 * share, 0),
    }


def compare(
    sums: dict[str, np.ndarray], metrics: Metrics, exact: dict[str, Figure], seed: int, notes: list[str]
) -> tuple[dict[str, dict[str, Figure]], dict[str, Figure]]:
    """Figures of each model by metric, and the gap recovered, over the same resamples of the items.

    Args:
        sums: of each of `MODELS`, columns whose totals the metrics follow from, [n, columns].
        metrics: from totals, [..., columns], to values by name.
        exact: of each model the figure of the first metric.
        seed: of the resamples.
        notes: is added to.
    """
    n = len(sums["weak"])
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=statistics.DRAWS)
    drawn = {name: metrics(counts @ columns) for name, columns in sums.items()}
    whole = {name: metrics(columns.sum(0)) for name, columns in sums.items()}
    figures: dict[str, dict[str, Figure]] = {}
    recovered: dict[str, Figure] = {}
    for at, metric in enumerate(whole["weak"]):
        figures[metric] = {name: exact[name] for name in MODELS} if at == 0 else {}
        for name in MODELS if at else ():
            value = float(whole[name][metric])
            low, high = np.quantile(drawn[name][metric], [0.025, 0.975])
            # Items that are all alike show no spread: so many of them still leave room for this share of others.
            room = 0.0 if high > low else 1 - 0.025 ** (1 / n)
            low, high = max(0.0, float(low) - room), min(1.0, float(high) + room)
            figures[metric][name] = Figure(value, low, high, n, "bootstrap")
        weak, student, best = (drawn[name][metric] for name in MODELS)
        gap = best - weak
        parts = (student - weak)[gap != 0] / gap[gap != 0]
        low, high = np.quantile(parts, [0.025, 0.975]) if len(parts) else (math.nan, math.nan)
        value = performance_gap_recovered(*(float(whole[name][metric]) for name in MODELS))
        recovered[metric] = Figure(value, float(low), float(high), n, "paired bootstrap", "")
        none = float((gap <= 0).mean())
        if none > 0.025:
            notes.append(
                f"In {none:.0%} of the resamples the ceiling is no better than the weak model by {metric}: the part "
                "recovered of so uncertain a gap says little. More test records, or a weaker weak model, would help."
            )
    return figures, recovered
