"""What a measure gives: figures with 95 % intervals, paired differences, and one row for every sample."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that is never shown without its uncertainty.

    Args:
        value: the estimate.
        low: lower end of the 95 % interval.
        high: upper end.
        n: number of samples behind it.
        method: how the interval was made ("Clopper-Pearson", "bootstrap", "clustered bootstrap", ...).
        unit: "share", "nats per token", "words", "perplexity", ...
        better: "higher", "lower", or "neither" where a change is neither good nor bad.
    """

    value: float
    low: float
    high: float
    n: int
    method: str
    unit: str = "share"
    better: str = "higher"


@dataclasses.dataclass
class Outcome:
    """What a measure found on one model, before intervals: one row for every sample.

    Args:
        rows: a dict a sample. ``id`` names the item, the same for every model measured, so that differences are paired;
            ``cluster`` (optional) groups samples that share a prompt; each figure reads its own column, a float, bool
            or None (None: the sample does not count for this figure). Other columns (prompt, answer, grade) are kept
            for the report.
        columns: figure name to how it is computed; see `Column`.
        notes: what a reader must know (counts of unparsable answers, what the figure does not include).
        usage: cost of the answers, as `truing.models.Usage` fields.
    """

    rows: list[dict[str, Any]]
    columns: dict[str, Column]
    notes: list[str] = dataclasses.field(default_factory=list)
    usage: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """How a figure follows from a column of the rows.

    Args:
        column: name of the column.
        unit: as in `Figure`.
        better: as in `Figure`.
        statistic: "share" (0/1, exact interval), "mean" (bootstrap), "exp_mean" (exponential of a weighted mean:
            perplexity), "ratio".
        weight: name of a column of weights (tokens, for perplexity), or None.
    """

    column: str
    unit: str = "share"
    better: str = "higher"
    statistic: str = "share"
    weight: str | None = None


@dataclasses.dataclass
class Result:
    """What a measure gives; printed, it is a table.

    Args:
        name: the measure's name in the catalogue.
        model: a description of the model: ``{"name", "history"}``.
        figures: by name.
        against: the other model's figures, or None.
        differences: paired differences model minus against, by figure name, or None.
        samples: one row for every sample of the model (``against_``-prefixed columns hold the other model's
            answer and grades).
        settings: the measure's hyperparameters.
        notes: what a reader must know.
        seeds, versions, usage, seconds: how to repeat it and what it cost.
    """

    name: str
    model: dict[str, Any]
    figures: dict[str, Figure]
    against: dict[str, Figure] | None = None
    against_model: dict[str, Any] | None = None
    differences: dict[str, Figure] | None = None
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    seeds: dict[str, int] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    usage: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
