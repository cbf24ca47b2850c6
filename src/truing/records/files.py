"""Raw rows out of files, one at a time. What cannot be read is an error that names the place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from truing.errors import RecordError
from truing.records.kinds import Odd, RowError, shorten

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")


@dataclass
class Raw:
    """A row as the file has it.

    Attributes:
        place: file and line (JSONL, CSV) or row, counted from 1.
        value: what was read, or the fault that kept it from being read.
        text: the line itself where the file has lines.
    """

    place: str
    value: Any
    text: str | None = None


def suffix_of(path: Path) -> str:
    """The suffix that says how to read a file, without ``.gz``.

    Raises:
        RecordError: nothing reads such files.
    """
    names = [part.lower() for part in path.suffixes]
    if names and names[-1] == ".gz":
        names.pop()
    if not names or names[-1] not in SUFFIXES:
        raise RecordError(
            f"{path}: records are read from {', '.join(SUFFIXES)} (also with .gz), not from `{path.name}`."
        )
    return ".jsonl" if names[-1] == ".ndjson" else names[-1]


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return Odd(f"{shorten(twice)} twice", "every key of an object once")
    return out


def _whole(text: str) -> Any:
    # int() refuses more than 4,300 digits, to bound its time.
    return int(text) if len(text) < 100 else Odd(f"one of {len(text)} digits", "a whole number of at most 64 bits")


def parse(text: str) -> Any:
    """JSON, where what no record can hold (doubled keys, NaN, endless numbers) is kept to be named with its column.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def raw_rows(path: Path) -> Iterator[Raw]:
    """Every row of a file, good or bad.

    Raises:
        RecordError: the file cannot be read as a whole: missing, truncated, of another format, or without a row.
    """
    suffix = suffix_of(path)
    reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}[suffix]
    empty = True
    try:
        for raw in reader(path):
            empty = False
            yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RecordError(
            f"{path}: the compressed file is damaged or cut off ({error}). Copy or download it again."
        ) from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}.") from None
    if empty:
        raise RecordError(f"{path} holds no row.")


def _text(path: Path, newline: str) -> IO[str]:
    with _open(path) as stream:
        start = stream.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RecordError(f"{path} is written in UTF-16. Save it as UTF-8.")
    # Bytes that are no UTF-8 come through as lone surrogates, which the row check reports with their line and column.
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _jsonl(path: Path) -> Iterator[Raw]:
    with _text(path, "\n") as lines:
        for number, line in enumerate(lines, 1):
            text = line.rstrip("\r\n")
            if not text.strip():
                continue
            place = f"{path}, line {number}"
            value: Any
            try:
                value = parse(text)
            except ValueError as error:
                value = RowError("", "one JSON object a line", f"{shorten(text)} ({error})", place)
            yield Raw(place, value, text)


def _json(path: Path) -> Iterator[Raw]:
    with _text(path, "") as stream:
        text = stream.read()
    if not text.strip():
        return
    try:
        value = parse(text)
    except ValueError as error:
        if "Extra data" in str(error) and text.lstrip().startswith("{"):
            yield from _jsonl(path)  # one object a line, under the name .json: common on the hub
            return
        raise RecordError(f"{path}: expected JSON (a list of objects), found something else: {error}.") from None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1 or "messages" in value or "conversations" in value:
            raise RecordError(
                f"{path}: an object of columns needs lists of one length, found {shorten(lengths)}. "
                "Or write a list of objects."
            )
        value = [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise RecordError(
            f'{path}: expected a list of objects, an object of lists, or {{"data": […]}}, found {shorten(value)}.'
        )
    for number, row in enumerate(value, 1):
        yield Raw(f"{path}, row {number}", row)


# A CSV cell is text. These columns are text whatever they look like; the next may be text or JSON; in any other
# column a cell that reads as JSON is that value, and any other cell is text.
_TEXT = frozenset({"instruction", "input", "output", "response", "judgment", "system"})
_TEXT_OR_JSON = frozenset({"prompt", "completion", "chosen", "rejected", "positive", "negative", "answers"})
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def cell_value(name: str, cell: str, columns: frozenset[str]) -> Any:
    """What a CSV cell stands for in a column of that name, in a file with these columns."""
    if name in _TEXT:
        return cell
    if name in _TEXT_OR_JSON:
        if cell[:1] == "[":
            try:
                value = parse(cell)
            except ValueError:
                return cell
            listed = isinstance(value, list) and value != []
            if listed and all(isinstance(item, dict) and "role" in item for item in value):
                return value
            if name == "answers" or (name == "rejected" and "chosen" not in columns):
                return value
        return cell
    if not cell:
        return None
    if name == "label":
        return _FLAGS.get(cell.lower(), cell)
    try:
        value = parse(cell)
    except ValueError:
        return cell
    if isinstance(value, Odd) or (isinstance(value, float) and not math.isfinite(value)):
        return cell
    return value if not isinstance(value, int) or isinstance(value, bool) or -(2**63) <= value < 2**63 else cell


def _csv(path: Path) -> Iterator[Raw]:
    csv.field_size_limit(2**31 - 1)  # the default, 131,072, is shorter than long dialogues
    with _text(path, "") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                return
            if len(set(header)) != len(header) or not all(header):
                raise RecordError(
                    f"{path}: the first line of a CSV file names the columns, each once; found {shorten(header)}."
                )
            columns = frozenset(header)
            while True:
                number = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                if not cells:
                    continue
                place = f"{path}, line {number}"
                value: Any
                if len(cells) == len(header):
                    value = {name: cell_value(name, cell, columns) for name, cell in zip(header, cells, strict=True)}
                else:
                    value = RowError("", f"{len(header)} cells, as in the first line", f"{len(cells)}", place)
                yield Raw(place, value, json.dumps(cells))
        except csv.Error as error:
            raise RecordError(f"{path}, line {reader.line_num}: expected CSV, found something else: {error}.") from None


def _parquet(path: Path) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source: Any = io.BytesIO(_open(path).read()) if path.suffix.lower() == ".gz" else path
        file = pq.ParquetFile(source)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            packed = [field.name for field in batch.schema if str(field.type).startswith("extension<arrow.json")]
            for row in batch.to_pylist():
                number += 1
                place = f"{path}, row {number}"
                for name in packed:
                    if row[name] is not None:
                        row[name] = parse(row[name])
                yield Raw(place, row)
    except (pa.ArrowException, UnicodeDecodeError, ValueError) as error:
        raise RecordError(
            f"{path}: expected a Parquet file, found something else: {' '.join(str(error).split())[:200]}."
        ) from None
