"""Figures as a table that fits the terminal: one line for each where there is room, else one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from truing.reports.rows import Line


def figures(lines: Sequence[Line], value: str = "value", against: str = "against", width: int | None = None) -> Table:
    """A table of figures with intervals, and of paired differences where there are any.

    Args:
        lines: from `truing.reports.rows.lines`.
        value: what the model's column is called.
        against: what that of the model it is compared with is called.
        width: characters that it may take; those of the terminal if not given.
    """
    from rich.console import Console

    from truing.cli.text import console

    if not any(line.difference is not None for line in lines):
        return _alone(lines, value)
    wide = _wide(lines, value, against)
    room = width or console().width
    # Measured on a console without limits: the terminal's own would cut the measure to what it has.
    needed = Console(width=1000).measure(wide).maximum
    return wide if needed <= room else _stacked(lines, value, against)


def plain(cells: Sequence[Sequence[str]]) -> Table:
    """A table of cells: a heading, then rows that begin with their label."""
    from truing.cli.text import columns, styled

    table = columns(*cells[0])
    for row in cells[1:]:
        table.add_row(styled(row[0], "bold"), *row[1:])
    return table


def _name(line: Line) -> str:
    from truing.reports.rows import unit_words

    unit = unit_words(line.after.unit)
    return f"{line.name} ({unit})" if unit and unit != line.name else line.name


def _sections(lines: Sequence[Line]) -> list[tuple[str, Line]]:
    """Each line with the heading that stands before it, if one does."""
    sides = [line.side_effect for line in lines]
    first = sides.index(True) if True in sides and not all(sides) else -1
    return [("side effects" if at == first else "", line) for at, line in enumerate(lines)]


def _alone(lines: Sequence[Line], value: str) -> Table:
    from truing.cli.text import columns, styled
    from truing.reports.rows import interval

    table = columns("figure", value)
    for heading, line in _sections(lines):
        if heading:
            table.add_row(styled(heading, "dim"), "")
        table.add_row(styled(_name(line), "bold"), interval(line.after))
    return table


def _wide(lines: Sequence[Line], value: str, against: str) -> Table:
    from truing.cli.text import columns, styled
    from truing.reports.rows import change, interval

    table = columns("figure", against, value, "difference", "")
    for heading, line in _sections(lines):
        if heading:
            table.add_row(styled(heading, "dim"), "", "", "", "")
        table.add_row(
            styled(_name(line), "bold"),
            interval(line.before) if line.before else "",
            interval(line.after),
            change(line.difference) if line.difference else "",
            _verdict(line),
        )
    return table


def _stacked(lines: Sequence[Line], value: str, against: str) -> Table:
    """Two lines a figure: both values, and below them the difference and what it says."""
    from truing.cli.text import columns, styled
    from truing.reports.rows import change, interval

    table = columns("figure", f"{against}; difference", value, wrap=0)
    for heading, line in _sections(lines):
        if heading:
            table.add_row(styled(heading, "dim"), "", "")
        table.add_row(styled(_name(line), "bold"), interval(line.before) if line.before else "", interval(line.after))
        if line.difference is not None:
            table.add_row("", change(line.difference), _verdict(line))
    return table


def _verdict(line: Line) -> Text:
    from truing.cli.text import styled
    from truing.reports.tables import COLOURS

    return styled(f"{line.sign} {line.words}".strip(), COLOURS[line.verdict])
