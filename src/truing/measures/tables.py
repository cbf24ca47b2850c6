"""Plain tables that a user gives to a measure: rows of a file or in memory, whatever their columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from truing.errors import RecordError
from truing.records.files import Raw, raw_rows
from truing.records.kinds import RowError, shorten

Rows = list[dict[str, Any]]


def table(source: Any, what: str, columns: Iterable[str] = ()) -> Rows:
    """The rows of a table, in order.

    Args:
        source: a file (.jsonl, .json, .csv, .parquet, also with .gz), or rows in memory.
        what: who asks and for what, for errors ("Discretion, `table`").
        columns: names that every row must have; an empty cell counts as had.

    Raises:
        RecordError: it cannot be read, holds no row, or lacks a column; the message names the row.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise RecordError(f"{what}: there is no file {path}.")
    elif isinstance(source, dict) or not isinstance(source, Iterable):
        raise RecordError(f"{what} is a file or a list of rows, not {shorten(source)}.")
    rows = []
    for place, row in placed(source, f"a row of {what} is an object with named columns", f"{what} holds no row."):
        lacking = [name for name in columns if name not in row]
        if lacking:
            raise RecordError(
                f"{what}: {place} has no column `{lacking[0]}`. Its columns: "
                f"{', '.join(shorten(name)[1:-1] for name in list(row)[:12])}."
            )
        rows.append(row)
    return rows


def placed(source: Any, expected: str, none: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with their places, which errors name: of a file its name and the line, else "row 1"; one at a time.

    Args:
        source: a file that `raw_rows` reads, or rows, which may know their places (`Raw`).
        expected: what a row is ("an order is an object with a `prompt`").
        none: what to say where there is no row.

    Raises:
        RecordError: there is no row, or one that cannot be read or is no object.
    """
    rows = raw_rows(Path(source)) if isinstance(source, (str, Path)) else source
    empty = True
    for number, row in enumerate(rows, 1):
        place, value = (row.place, row.value) if isinstance(row, Raw) else (f"row {number}", row)
        if isinstance(value, RowError):
            raise value
        if not isinstance(value, Mapping):
            raise RecordError(f"{place}: {expected}, not {shorten(value)}.")
        empty = False
        yield place, dict(value)
    if empty:
        raise RecordError(none)
