"""Carrying a measure out: both models measured, figures and paired differences computed, costs and versions noted."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.contracts import Measure, require_offers
from truing.errors import SettingsError
from truing.measures.asking import Context
from truing.measures.journal import Journal
from truing.measures.result import Column, Figure, Outcome, Result

if TYPE_CHECKING:
    from truing.measures.statistics import Estimate
    from truing.models import AnyModel

CHECKED = frozenset({"gradients", "local_weights", "logits", "activations"})
Row = dict[str, Any]


def measure(
    what: str | Measure, model: Any = None, against: Any = None, *, out: str | Path | None = None, **settings: Any
) -> Result:
    """Measure a model: figures with 95 % intervals, and paired differences where there is another to compare with.

    Args:
        what: a measure, or its name in the catalogue.
        model: a model, or a name to load (``sandbox/base``, a folder, a hub name); None for a measure of given data.
        against: a model or a name to compare with, asked the same items.
        out: a folder in which finished work is journaled, so that a killed call repeats none of it.
        settings: of the measure, where it is given by name.

    Raises:
        SettingsError: there is no such measure, or a setting cannot work.
        UnsupportedError: a model lacks what the measure needs.
    """
    if isinstance(what, Measure):
        chosen = what.clone(**settings) if settings else what
    else:
        from truing.catalogue import find

        chosen = find(what, "measure").load()(**settings)
    one, other = (None if given is None else _model(given) for given in (model, against))
    return chosen.measure(one, other, out=out)


def run_measure(measure: Measure, model: AnyModel | None, against: AnyModel | None, out: Path | None) -> Result:
    """Carry a checked measure out."""
    name = name_of(measure)
    check_subject(measure, model, against)
    models: list[Any] = [one for one in (model, against) if one is not None]
    for one in models:
        ranks = "scores" in one.offers and getattr(measure, "takes_scores", False)
        if not ranks:
            require_offers(one, measure.needs & CHECKED, f"`{name}`")
    began = time.monotonic()
    journal = Journal(out)
    context = Context(name, against, journal, alone=against is None)
    asked: Any = measure  # the base class leaves `_measure` to its subclasses
    outcome: Outcome = asked._measure(model, context)
    other: Outcome | None = None
    usage = context.usage
    if against is not None and any(column.null is None for column in outcome.columns.values()):
        context = Context(name, None, journal, alone=False)
        other = asked._measure(against, context)
        usage = usage + context.usage
    # Figures need the rows alone; what a million answers take in a journal in memory is free for them.
    del context, journal
    seed = int(getattr(measure, "seed", 0))
    result = compare(name, outcome, other, seed)
    result.model = {} if model is None else describe(model)
    result.against_model = None if against is None else describe(against)
    result.settings = {key: _setting(value) for key, value in measure.settings().items()}
    result.seeds = {"seed": seed}
    result.versions = {package: metadata.version(package) for package in ("truing", "torch", "transformers", "numpy")}
    result.usage = dataclasses.asdict(usage)
    result.seconds = round(time.monotonic() - began, 3)
    return result


def check_subject(measure: Measure, model: Any, against: Any) -> None:
    """Raise `SettingsError` where a model is missing, or one is given to a measure that asks none."""
    name = name_of(measure)
    if measure.needs_model and model is None:
        raise SettingsError(f"`{name}` measures a model. Give one, as in `sandbox/base`.")
    if not measure.needs_model and (model is not None or against is not None):
        raise SettingsError(
            f"`{name}` measures the data that its settings give, and asks no model. Leave the model out, or the data."
        )


def compare(name: str, outcome: Outcome, other: Outcome | None = None, seed: int = 0) -> Result:
    """Figures of one outcome, or of two and their paired differences. A figure without an interval is left out."""
    notes = list(outcome.notes)
    figures: dict[str, Figure] = dict(outcome.figures)
    against: dict[str, Figure] = {}
    differences: dict[str, Figure] = {}
    for label, column in outcome.columns.items():
        # A figure with an interval of its own keeps it; the column gives its difference.
        figure = outcome.figures.get(label) or _figure(column, estimate(column, outcome.rows, seed))
        if figure is None:
            notes.append(f"`{label}` is not shown: {_why(column, outcome.rows)}")
            continue
        figures[label] = figure
        if column.null is not None:
            null = column.null
            against[label] = dataclasses.replace(figure, value=null, low=null, high=null, method="by definition")
            differences[label] = dataclasses.replace(
                figure, value=figure.value - null, low=figure.low - null, high=figure.high - null
            )
        elif other is not None and label in other.columns:
            before = other.figures.get(label) or _figure(column, estimate(column, other.rows, seed))
            change = _figure(column, difference(column, outcome.rows, other.rows, seed))
            if before is not None and change is not None:
                against[label], differences[label] = before, change
            else:
                notes.append(f"`{label}` of the other model is not shown: {_why(column, other.rows)}")
    if other is not None:
        notes += [note for note in other.notes if note not in notes]
    compared = other is not None or bool(differences)
    return Result(
        name=name, model={}, figures=figures, against=against if compared else None,
        differences=differences if compared else None, samples=_joined(outcome, other), notes=notes,
        curves=list(outcome.curves), grids=list(outcome.grids), planes=list(outcome.planes),
        columns={label: column for label, column in outcome.columns.items() if label in figures},
    )  # fmt: skip


def estimate(column: Column, rows: Sequence[Row], seed: int = 0) -> Estimate | None:
    """One figure of one model; None where the rows allow no interval."""
    from truing.measures import statistics

    used = [row for row in rows if row.get(column.column) is not None]
    values = [float(row[column.column]) for row in used]
    weights = None if column.weight is None else [float(row[column.weight]) for row in used]
    if not used or not all(math.isfinite(value) for value in (*values, *(weights or ()))):
        return None
    clusters = clusters_of(used)
    if column.minus is not None:
        return difference(dataclasses.replace(column, minus=None), rows, _moved(rows, column), seed)
    if column.statistic == "pooled_share":
        return statistics.pooled_share(values, weights or [1.0] * len(values), clusters)
    if column.statistic == "share":
        return statistics.share(values, clusters)
    if column.statistic == "stratified_share":
        return statistics.stratified_share(values, _strata(column, used), clusters)
    if column.statistic == "ratio":
        return statistics.ratio(values, weights or [1.0] * len(values), clusters, seed=seed)
    # A mean of shares is a share; a difference of shares (-1 to 1) that has no other unit is none.
    shares = column.unit == "share" and all(0 <= value <= 1 for value in values)
    bounds = (0.0, 1.0) if column.bounds is None and shares else column.bounds
    return statistics.mean(values, weights, clusters, exp=_is_exp(column), seed=seed, bounds=bounds)


def difference(column: Column, rows: Sequence[Row], others: Sequence[Row], seed: int = 0) -> Estimate | None:
    """One paired difference, over the items for which both models have a value; None where there is no interval."""
    found = paired_values(column, rows, others)
    return None if found is None else paired_difference(*found, seed)


Side = tuple[list[float], "list[float] | None"]
"""Values of one model, and their weights where they have some."""


def paired_difference(
    column: Column, used: Sequence[Row], first: Side, second: Side, seed: int = 0, *, test: bool = False
) -> Estimate | None:
    """The difference of what `paired_values` gives; None where a mean is over one item.

    Args:
        column, used, first, second: the column, the first model's rows, and both models' values.
        seed: of the bootstrap.
        test: also give the p-value of a difference of means, which costs no more draws.
    """
    from truing.measures import statistics

    (values, weights), (before, other_weights) = first, second
    clusters = clusters_of(used)
    if column.statistic in ("share", "stratified_share"):
        strata = _strata(column, used) if column.statistic == "stratified_share" else None
        return statistics.difference_of_shares(values, before, strata, clusters)
    return statistics.difference_of_means(
        values, before, weights, other_weights, clusters, exp=_is_exp(column), seed=seed, test=test
    )


def paired_values(
    column: Column, rows: Sequence[Row], others: Sequence[Row]
) -> tuple[Column, list[Row], Side, Side] | None:
    """Both models' values of a figure over the items for which both have one; None where there are none, or one is
    not finite.

    Returns:
        The column (that of a mean, where the figure is a difference within the model), the first model's rows, and the
        values and weights of the first and of the second.
    """
    if column.minus is not None:
        rows, others = (_within(side, column) for side in (rows, others))
        column = dataclasses.replace(column, minus=None, statistic="mean")
    by_id = {row["id"]: row for row in others if row.get(column.column) is not None}
    pairs = [(row, by_id[row["id"]]) for row in rows if row.get(column.column) is not None and row["id"] in by_id]
    if not pairs:
        return None
    used = [first for first, _ in pairs]
    values, before = ([float(row[column.column]) for row in side] for side in zip(*pairs))
    weights = other_weights = None
    if column.weight is not None:
        weights, other_weights = ([float(row[column.weight]) for row in side] for side in zip(*pairs))
    if not all(math.isfinite(value) for value in (*values, *before, *(weights or ()), *(other_weights or ()))):
        return None
    if column.statistic in ("ratio", "pooled_share") and weights is not None and other_weights is not None:
        values = [value / weight for value, weight in zip(values, weights)]
        before = [value / weight for value, weight in zip(before, other_weights)]
    return column, used, (values, weights), (before, other_weights)


def _moved(rows: Sequence[Row], column: Column) -> list[Row]:
    """The rows with what a figure takes away in the place of its own column."""
    return [{**row, column.column: row.get(column.minus or "")} for row in rows]


def _within(rows: Sequence[Row], column: Column) -> list[Row]:
    """The rows with the difference of a figure's two columns in the place of its own."""
    pairs = [(row.get(column.column), row.get(column.minus or "")) for row in rows]
    return [
        {**row, column.column: None if one is None or two is None else float(one) - float(two)}
        for row, (one, two) in zip(rows, pairs)
    ]


def name_of(measure: Measure) -> str:
    """A measure's name in the catalogue, or that of its class."""
    from truing.catalogue import entries

    home = f"{type(measure).__module__}:{type(measure).__name__}"
    return next((entry.name for entry in entries("measure") if entry.home == home), type(measure).__name__.lower())


def describe(model: AnyModel) -> dict[str, Any]:
    """A model in a result: its name and history."""
    history = [step.to_json() for step in getattr(model, "history", ())]
    return {"name": model.name, "source": str(getattr(model, "source", "")), "history": history}


def _model(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        if not hasattr(value, "generate"):
            raise SettingsError(f"A model is measured, or a name that can be loaded; got {type(value).__name__}.")
        return value
    from truing.models import load

    return load(value)


def _setting(value: Any) -> Any:
    from truing.models.history import plain
    from truing.records import Records

    if isinstance(value, Records):
        return {"source": value.source, "rows": len(value), "fingerprint": value.fingerprint}
    if isinstance(value, (list, tuple)) and len(value) > 20:
        return f"{len(value)} rows in memory"
    return plain(value)


def _figure(column: Column, found: Estimate | None) -> Figure | None:
    if found is None:
        return None
    return Figure(found.value, found.low, found.high, found.n, found.method, column.unit, column.better, found.p)


def _why(column: Column, rows: Sequence[Row]) -> str:
    values = [row[column.column] for row in rows if row.get(column.column) is not None]
    if not values:
        return "no sample counts for it."
    odd = sum(not math.isfinite(float(value)) for value in values)
    if odd:
        return f"{odd} of {len(values)} samples have no finite value."
    return "one sample tells nothing of its uncertainty. Raise `limit`."


def clusters_of(rows: Sequence[Row]) -> list[Any] | None:
    """The cluster of each row; None where a row has none."""
    return [row["cluster"] for row in rows] if all(row.get("cluster") is not None for row in rows) else None


def _strata(column: Column, rows: Sequence[Row]) -> list[Any]:
    return [row[column.strata or "kind"] for row in rows]


def _is_exp(column: Column) -> bool:
    return column.statistic == "exp_mean"


def _joined(outcome: Outcome, other: Outcome | None) -> list[Row]:
    """Rows of the model, each with the other model's answer, grade and values beside it."""
    if other is None:
        return outcome.rows
    columns = {
        name for column in outcome.columns.values() for name in (column.column, column.weight, column.minus) if name
    }
    kept = [*sorted(columns), "answer", "grade"]
    by_id = {row["id"]: row for row in other.rows}
    return [
        {**row, **{f"against_{name}": by_id[row["id"]][name] for name in kept if name in by_id[row["id"]]}}
        if row["id"] in by_id
        else dict(row)
        for row in outcome.rows
    ]
