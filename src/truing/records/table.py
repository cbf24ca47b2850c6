"""From checked rows to an Arrow-backed dataset, chunk by chunk, so that no file stands in memory as Python objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

CHUNK = 4096
_SCALARS = {str: "string", bool: "bool", int: "int64", float: "float64"}


def canonical(value: Any) -> str:
    """JSON in one form: sorted keys, no spaces, text as it is."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _packed(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _column(values: list[Any]) -> tuple[str, pa.Array]:
    import pyarrow as pa

    types = {type(value) for value in values} - {type(None)}
    if not types:
        return "null", pa.nulls(len(values))
    if len(types) == 1 and (name := _SCALARS.get(next(iter(types)))):
        # large_string: a chunked column may pass the two gigabytes that 32-bit offsets can address.
        return name, pa.array(values, type=pa.large_string() if name == "string" else pa.type_for_alias(name))
    return "json", pa.array([_packed(value) for value in values], type=pa.large_string())


def build(rows: Iterable[dict[str, Any]], columns: Iterable[str] = ()) -> datasets.Dataset:
    """A dataset of rows.

    A column whose values are all text, all flags, all whole numbers or all floats has that type; any other (messages,
    text in some rows and messages in others, free metadata) is a `datasets.Json` column.

    Args:
        rows: checked rows; read once, `CHUNK` at a time.
        columns: columns to have even if no row is left to show them.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Features, Json, Value

    chunks: list[dict[str, tuple[str, pa.Array]]] = []
    sizes: list[int] = []
    names: dict[str, None] = dict.fromkeys(columns)
    buffer: list[dict[str, Any]] = []
    digest = hashlib.sha256()

    def flush() -> None:
        here = dict.fromkeys(name for row in buffer for name in row)
        names.update(here)
        chunk = {name: _column([row.get(name) for row in buffer]) for name in here}
        chunks.append(chunk)
        for name, (kind, array) in chunk.items():
            digest.update(f"{name}\0{kind}\0{len(array)}\0".encode())
            for part in array.buffers():
                if part is not None:
                    digest.update(part)
        sizes.append(len(buffer))
        buffer.clear()

    for row in rows:
        buffer.append(row)
        if len(buffer) == CHUNK:
            flush()
    if buffer:
        flush()
    features: dict[str, Any] = {}
    arrays: dict[str, pa.ChunkedArray] = {}
    for name in names:
        kinds = {chunk[name][0] for chunk in chunks if name in chunk} - {"null"}
        kind = next(iter(kinds)) if len(kinds) == 1 else "json" if kinds else "string"
        features[name] = Json() if kind == "json" else Value("large_string" if kind == "string" else kind)
        storage = pa.large_string() if kind in ("json", "string") else pa.type_for_alias(kind)
        parts = []
        for chunk, size in zip(chunks, sizes, strict=True):
            have, array = chunk.pop(name, ("null", None))
            if have == "null":
                array = pa.nulls(size, storage)
            elif have != kind:
                array = pa.array([_packed(value) for value in array.to_pylist()], type=storage)
            parts.append(array)
        arrays[name] = pa.chunked_array(parts, type=storage)
    schema = Features(features)
    wanted = schema.arrow_schema
    cast = {}
    for field in wanted:
        column = arrays[field.name]
        if isinstance(field.type, pa.BaseExtensionType):
            inner = field.type.storage_type
            column = pa.chunked_array(
                [field.type.wrap_array(part.cast(inner)) for part in column.chunks], type=field.type
            )
        cast[field.name] = column
    # Left to itself, `datasets` pickles the whole table to name it: three times the memory.
    name = digest.hexdigest()[:16]
    return Dataset(pa.table(cast, schema=wanted), info=DatasetInfo(features=schema), fingerprint=name)


def rows_of(dataset: datasets.Dataset, indices: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, or those at some indices, without the columns that hold nothing in that row.

    JSON columns are decoded here: the decoder of `datasets` rounds floats in the last digit.
    """
    from datasets import Json

    packed = {name for name, feature in dataset.features.items() if isinstance(feature, Json)}
    arrow = dataset.with_format("arrow")
    parts: Iterable[pa.Table]
    if indices is None:
        parts = (arrow[start : start + CHUNK] for start in range(0, len(dataset), CHUNK))
    else:
        parts = (arrow[at : at + 1] for at in indices)
    for part in parts:
        columns = {name: part.column(name).to_pylist() for name in part.column_names}
        for cells in zip(*columns.values(), strict=True):
            row = {name: cell for name, cell in zip(columns, cells, strict=True) if cell is not None}
            yield {name: json.loads(cell) if name in packed else cell for name, cell in row.items()}
