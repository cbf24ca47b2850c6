"""Plain tables that a user gives to a measure: rows of a file or in memory, whatever their columns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from truing.errors import RecordError
from truing.records.files import raw_rows
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
        found = [(raw.place, raw.value) for raw in raw_rows(path)]
    else:
        if isinstance(source, dict) or not isinstance(source, Iterable):
            raise RecordError(f"{what} is a file or a list of rows, not {shorten(source)}.")
        found = [(f"row {number}", row) for number, row in enumerate(source, 1)]
    if not found:
        raise RecordError(f"{what} holds no row.")
    rows = []
    for place, row in found:
        if isinstance(row, RowError):
            raise row
        if not isinstance(row, dict):
            raise RecordError(f"{what}: {place} is an object with named columns in a table, not {shorten(row)}.")
        lacking = [name for name in columns if name not in row]
        if lacking:
            raise RecordError(
                f"{what}: {place} has no column `{lacking[0]}`. Its columns: "
                f"{', '.join(shorten(name)[1:-1] for name in list(row)[:12])}."
            )
        rows.append(row)
    return rows
