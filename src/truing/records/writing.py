"""Writing records as JSONL, JSON, CSV or Parquet, by the suffix of the file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.errors import RecordError
from truing.records.files import cell_value, suffix_of
from truing.records.kinds import shorten

if TYPE_CHECKING:
    from truing.records.records import Records


def write(records: Records, path: str | Path) -> Path:
    """Write records; `read` gives the same rows back, whichever the format.

    The file appears whole or not at all: it is written under another name and then renamed.

    Args:
        records: what to write.
        path: .jsonl, .json, .csv or .parquet, each also with .gz.

    Raises:
        RecordError: another suffix, or text that CSV cannot tell from JSON.
    """
    return write_rows(records, path, columns=list(records.dataset.column_names))


def write_rows(rows: Iterable[dict[str, Any]], path: str | Path, columns: list[str] | None = None) -> Path:
    """Write checked rows, one at a time (Parquet: through Arrow). CSV needs to know the columns beforehand."""
    path = Path(path)
    suffix = suffix_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if suffix == ".parquet":
            _parquet(rows, part, path.suffix.lower() == ".gz")
        else:
            with _create(part, path) as binary, io.TextIOWrapper(binary, encoding="utf-8", newline="") as stream:
                {".jsonl": _jsonl, ".json": _json, ".csv": _csv}[suffix](rows, stream, columns, path)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _create(part: Path, path: Path) -> Any:
    return gzip.open(part, "wb") if path.suffix.lower() == ".gz" else part.open("wb")


def _dumps(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _jsonl(rows: Iterable[dict[str, Any]], stream: Any, columns: list[str] | None, path: Path) -> None:
    for row in rows:
        stream.write(_dumps(row) + "\n")


def _json(rows: Iterable[dict[str, Any]], stream: Any, columns: list[str] | None, path: Path) -> None:
    stream.write("[")
    for number, row in enumerate(rows):
        stream.write(("\n" if number == 0 else ",\n") + _dumps(row))
    stream.write("\n]\n")


def _csv(rows: Iterable[dict[str, Any]], stream: Any, columns: list[str] | None, path: Path) -> None:
    if columns is None:
        rows = list(rows)
        columns = list(dict.fromkeys(name for row in rows for name in row))
    known = frozenset(columns)
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    for number, row in enumerate(rows, 1):
        writer.writerow([_cell(name, row.get(name), known, f"{path}, row {number}") for name in columns])


def _cell(name: str, value: Any, columns: frozenset[str], place: str) -> str:
    """The cell that reads back as this value."""
    plain = value if isinstance(value, str) else "" if value is None else _dumps(value)
    for cell in (plain, _dumps(value)):
        back = cell_value(name, cell, columns)
        if back == value and type(back) is type(value):
            return cell
    raise RecordError(
        f"{place}, column `{name}`: a CSV cell cannot hold {shorten(value)} so that it reads back "
        "the same. Write .jsonl or .parquet."
    )


def _parquet(rows: Iterable[dict[str, Any]], part: Path, compressed: bool) -> None:
    import pyarrow.parquet as pq

    from truing.records.records import Records
    from truing.records.table import build

    dataset = rows.dataset if isinstance(rows, Records) else build(rows)
    table = dataset.with_format("arrow")[:]
    if compressed:
        with gzip.open(part, "wb") as stream:
            pq.write_table(table, stream)
    else:
        pq.write_table(table, part)
