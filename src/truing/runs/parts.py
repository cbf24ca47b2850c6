"""Values of rows in Parquet files: written as they come, in any order and once each, and at the end in order."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from truing.errors import RunError
from truing.files import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa


class Parts:
    """A value for each row by its index, in a folder that a killed job goes on with.

    A part file appears whole or not at all. What is there already is not taken a second time, so a row that was worked
    on twice counts once. `finish` joins the parts to one file in the order of the rows.

    Args:
        folder: where the files lie; made when it is not there.
        name: of the file that `finish` writes, ``NAME.parquet``, and of the column of values.
        about: what the values are of (the work and its rows), as plain data.

    Raises:
        RunError: the folder holds values of something else.
    """

    def __init__(self, folder: Path, name: str, about: Any) -> None:
        self.folder, self.name = folder, name
        self.file = folder / f"{name}.parquet"
        self._seen = np.zeros(0, dtype=bool)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(about, default=str))
        stamp = folder / f"{name}.json"
        if stamp.is_file():
            if json.loads(stamp.read_text(encoding="utf-8")) != wanted:
                raise RunError(
                    f"{folder} holds work on something else: another file, model or settings. Choose another folder, "
                    "or delete this one."
                )
        else:
            write_atomic(stamp, json.dumps(wanted, indent=1))
        for path in self._files():
            self._mark(_table(path, ["index"])["index"].to_numpy())

    def __contains__(self, index: int) -> bool:
        return index < len(self._seen) and bool(self._seen[index])

    def __len__(self) -> int:
        """How many rows have a value."""
        return int(self._seen.sum())

    def add(self, indices: Sequence[int], values: Sequence[Any]) -> int:
        """Keep the values of rows that have none yet, on disk when this returns; how many they were."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        fresh: dict[int, Any] = {}
        for index, value in zip(indices, values, strict=True):
            if int(index) not in self:
                fresh.setdefault(int(index), value)
        if not fresh:
            return 0
        table = pa.table({"index": pa.array(list(fresh), pa.int64()), self.name: list(fresh.values())})
        made = self.folder / f"part-{min(fresh):010d}.parquet"
        hidden = made.with_suffix(".writing")
        pq.write_table(table, hidden)
        os.replace(hidden, made)
        self._mark(np.fromiter(fresh, dtype=np.int64))
        return len(fresh)

    def finish(self, rows: int) -> pa.Table:
        """All values in the order of the rows, as one file; the parts are deleted.

        Args:
            rows: how many there must be, with the indices from 0.

        Raises:
            RunError: a row has no value.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        lost = rows - int(self._seen[:rows].sum())
        if lost:
            raise RunError(f"{lost} of {rows} rows have no value in {self.folder}. Start the same command again.")
        files = self._files()
        table = pa.concat_tables([_table(path) for path in files]).sort_by("index")
        if files != [self.file]:
            hidden = self.file.with_suffix(".writing")
            pq.write_table(table, hidden)
            os.replace(hidden, self.file)
            for path in files:
                if path != self.file:
                    path.unlink()
        return table

    def _files(self) -> list[Path]:
        # A kill between writing the whole file and deleting the parts leaves both: the whole one says all.
        return [self.file] if self.file.is_file() else sorted(self.folder.glob("part-*.parquet"))

    def _mark(self, indices: np.ndarray) -> None:
        top = int(indices.max(initial=-1)) + 1
        if top > len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros(max(top, 2 * len(self._seen)) - len(self._seen), bool)])
        self._seen[indices] = True


def _table(path: Path, columns: list[str] | None = None) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read(columns)
