"""What a measure gives: figures with 95 % intervals, paired differences, and one row for every sample."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.errors import RunError
from truing.files import write_atomic
from truing.safe_text import inert

if TYPE_CHECKING:
    from truing.contracts import Measure
    from truing.models import AnyModel


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
        p: for a paired difference of shares over independent samples, McNemar's exact two-sided p-value.
    """

    value: float
    low: float
    high: float
    n: int
    method: str
    unit: str = "share"
    better: str = "higher"
    p: float | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """A figure that follows a number, such as the strength of an edit.

    Args:
        name: what is shown.
        x: what it follows.
        points: (x, figure), in order of x.
        fit: (x, y) of a curve fitted to them; empty without one.
        formula: of the fit, in words.
    """

    name: str
    x: str
    points: list[tuple[float, Figure]]
    fit: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    formula: str = ""


@dataclasses.dataclass(frozen=True)
class Plane:
    """Points on two axes of one scale, around their means.

    Args:
        title: what it shows.
        x: the words at the two ends of the axis from left to right.
        y: those from bottom to top.
        groups: for each name its points.
        means: for each name the figures of its mean on either axis.
        reach: both axes go from minus this to this.
    """

    title: str
    x: tuple[str, str]
    y: tuple[str, str]
    groups: dict[str, list[tuple[float, float]]]
    means: dict[str, tuple[Figure, Figure]]
    reach: float = 10.0


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
        grids: figures that are shown in rows and columns; see `Grid`.
        figures: those that are no mean of a column, with intervals of their own; they come first, and are compared
            only where a column of the same name gives the difference.
        curves: see `Curve`.
        planes: see `Plane`.
    """

    rows: list[dict[str, Any]]
    columns: dict[str, Column]
    notes: list[str] = dataclasses.field(default_factory=list)
    usage: dict[str, Any] = dataclasses.field(default_factory=dict)
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)
    curves: list[Curve] = dataclasses.field(default_factory=list)
    grids: list[Grid] = dataclasses.field(default_factory=list)
    planes: list[Plane] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Figures that belong together, shown in rows and columns instead of one below the other.

    Args:
        title: what it shows.
        columns: headings, the one of the rows' labels first.
        rows: a label, and the name of a figure for each further column; an empty name leaves a cell empty. A row
            without names is a heading.
        radar: reports also draw the figures of the first column as a radar plot; cells say how many samples count.
        missing: what a cell says instead of a figure that is not there, by the figure's name.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    radar: bool = False
    missing: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """How a figure follows from a column of the rows.

    Args:
        column: name of the column.
        unit: as in `Figure`.
        better: as in `Figure`.
        statistic: "share" (0/1, exact interval), "stratified_share" (the mean of the shares of several kinds), "mean"
            (bootstrap), "exp_mean" (exponential of a weighted mean: perplexity), "ratio" (sum of the column over the
            sum of the weights), "pooled_share" (the column counts successes among as many trials as the weight says;
            exact at the effective size, the trials of a row being a cluster).
        weight: name of a column of weights (tokens, for perplexity), or None.
        strata: name of the column of kinds, for "stratified_share".
        null: for a figure that compares the model with ``against`` itself, what it is when the two are alike (0 for
            KL, 0.5 for a win rate): the other model has this value by definition, and is not measured for it.
        minus: name of a column that is taken away, sample by sample: the figure is a paired difference within the
            model, for "share", "stratified_share" and "mean".
        bounds: lowest and highest value that the figure can have, at which the interval of a mean ends.
    """

    column: str
    unit: str = "share"
    better: str = "higher"
    statistic: str = "share"
    weight: str | None = None
    strata: str | None = None
    null: float | None = None
    minus: str | None = None
    bounds: tuple[float, float] | None = None


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
        grids: figures that are shown in rows and columns.
        curves: figures that follow a number, drawn in reports.
        columns: how each figure follows from the samples, so that results can be compared later.
        planes: points on two axes, drawn in reports.
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
    curves: list[Curve] = dataclasses.field(default_factory=list)
    grids: list[Grid] = dataclasses.field(default_factory=list)
    columns: dict[str, Column] = dataclasses.field(default_factory=dict)
    planes: list[Plane] = dataclasses.field(default_factory=list)

    @property
    def listed(self) -> dict[str, Figure]:
        """The figures that stand in no grid."""
        inside = {name for grid in self.grids for _, names in grid.rows for name in names}
        return {name: figure for name, figure in self.figures.items() if name not in inside}

    def grid_cells(self, grid: Grid) -> list[list[str]]:
        """A grid as cells of a table: its headings, then its rows. A figure that is not there is an empty cell, or says
        what is missing. With another model a radar grid has a column of the differences of its first figures.
        """
        from truing.measures.show import change

        width = len(grid.columns) - 1
        rows = [
            [label, *(self.grid_cell(grid, at, name) for at, name in enumerate(names)), *[""] * (width - len(names))]
            for label, names in grid.rows
        ]
        if not (grid.radar and self.differences):
            return [list(grid.columns), *rows]
        moved = [
            change(self.differences[names[0]]) if names and names[0] in self.differences else ""
            for _, names in grid.rows
        ]
        return [[*grid.columns, "difference"], *([*row, cell] for row, cell in zip(rows, moved))]

    def grid_cell(self, grid: Grid, column: int, name: str) -> str:
        """One cell of a grid, counted from the first figure of its row."""
        from truing.measures.show import interval

        if name not in self.figures:
            return grid.missing.get(name, "")
        figure = self.figures[name]
        return interval(figure) + (f" (n {figure.n:,})" if grid.radar and column == 0 else "")

    def further_tables(self) -> list[tuple[str, list[list[str]]]]:
        """What stands below the table of figures, as titles and cells: grids, then the curves, which need no title."""
        curves = self.curve_table()
        grids = [(grid.title, self.grid_cells(grid)) for grid in self.grids]
        return [*grids, *([("", curves)] if curves else [])]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; numbers that are not finite become null."""
        return dict(plain_values(self))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        """The inverse of `to_json`; unknown keys are ignored, so that newer files can be read.

        Raises:
            ValueError: a value is none that a result has.
        """
        from truing.measures.stored import fields_of

        return cls(**fields_of(value, {field.name for field in dataclasses.fields(cls)}))

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_atomic(Path(path), self.pieces())

    def pieces(self) -> Iterator[str]:
        """The text of its JSON file, a sample a line, in pieces: many samples and their text fit no memory together."""

        def text(value: Any, indent: int | None = None) -> str:
            return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)

        whole = dataclasses.replace(self, samples=[]).to_json()
        del whole["samples"]
        yield text(whole, 2).removesuffix("\n}") + ',\n  "samples": ['
        for at, row in enumerate(self.samples):
            yield ("," if at else "") + "\n    " + text(plain_values(row))
        yield "\n  ]\n}\n"

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read what `save` wrote.

        Raises:
            RunError: the file is absent, or holds no result.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} holds no result of a measure: {error}. Measure again to write it anew.") from None

    def table(self) -> list[list[str]]:
        """Cells of a table: a heading, then one row for each figure."""
        from truing.measures.show import chance, change, interval, unit_words

        compared = bool(self.differences)
        tested = any(figure.p is not None for figure in (self.differences or {}).values())
        heading = ["figure", "value", *(["against", "difference"] if compared else []), *(["p"] if tested else [])]
        rows = [heading]
        for name, figure in self.listed.items():
            unit = unit_words(figure.unit)
            shown = name.replace("_", " ") + (f" ({unit})" if unit and unit != name else "")
            row = [shown, interval(figure)]
            if compared:
                before, difference = (self.against or {}).get(name), (self.differences or {}).get(name)
                row += [
                    interval(before) if before else "",
                    change(difference) if difference else "",
                    *([chance(difference.p) if difference else ""] if tested else []),
                ]
            rows.append(row)
        return rows

    def curve_table(self) -> list[list[str]]:
        """Cells of a table of the curves: a heading, then a row for each x; empty without curves."""
        from truing.measures.show import interval

        if not self.curves:
            return []
        columns = [{x: interval(figure) for x, figure in curve.points} for curve in self.curves]
        rows = [[f"{x:g}", *(column.get(x, "") for column in columns)] for x in sorted({x for c in columns for x in c})]
        return [[self.curves[0].x, *(curve.name.replace("_", " ") for curve in self.curves)], *rows]

    def __str__(self) -> str:
        from truing.measures.show import aligned

        lines = aligned(self.table())
        for name, cells in self.further_tables():
            lines += [*(["", name] if name else []), *aligned(cells)]
        against = f" against {self.against_model['name']}" if self.against_model else ""
        title = f"{self.name}: {self.model['name']}{against}" if self.model else self.name
        foot = f"95 % intervals{'; differences are paired' if self.differences else ''}; {self._counted()}."
        # Names and notes may hold text of models and files.
        return inert("\n".join([title, *lines, foot, *(f"Note: {note}" for note in self.notes)]))

    def _repr_html_(self) -> str:
        from html import escape

        from truing.measures.show import html_table

        tables = [(f"{self.name}, 95 % intervals; {self._counted()}", self.table()), *self.further_tables()]
        notes = "".join(f"<p>Note: {escape(note)}</p>" for note in self.notes)
        return "".join(html_table(cells, title) for title, cells in tables) + notes

    def _counted(self) -> str:
        counts = sorted({figure.n for figure in self.figures.values()})
        shown = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
        return f"{shown} samples a figure"


def run_measure(measure: Measure, model: AnyModel | None, against: AnyModel | None, out: Path | None) -> Result:
    """Carry a measure out; what `truing.contracts.Measure.measure` calls."""
    from truing.measures.run import run_measure as run

    return run(measure, model, against, out)


def plain_values(value: Any) -> Any:
    """Values that JSON knows; numbers that are not finite become None."""
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        # Halves of surrogate pairs, which a text in JSON may hold, cannot be written as UTF-8.
        return value.encode("utf-8", errors="replace").decode("utf-8")
    if isinstance(value, dict):
        return {plain_values(str(key)): plain_values(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_values(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_values(item) for item in value]
    if hasattr(value, "item") and not getattr(value, "shape", (1,)):
        return plain_values(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return plain_values(str(value))
