"""Records: rows of one kind, checked, in a `datasets.Dataset`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from truing.errors import RecordError
from truing.records.table import canonical, rows_of

if TYPE_CHECKING:
    import datasets

    from truing.records.kinds import RowError


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """Rows of one kind, each checked. Made by `truing.records.read`.

    Attributes:
        kind: one of the names in `KINDS`.
        dataset: the rows. Columns that are not plain (messages, mixed) are `datasets.Json` columns.
        source: where they came from, for people.
        set_aside: how many bad rows were left out and written to a file beside.
        notes: what a converter did that is worth knowing, with counts.
        problems: the first of the bad rows that were set aside.
    """

    kind: str
    dataset: datasets.Dataset
    source: str = "memory"
    set_aside: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[RowError, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return rows_of(self.dataset)

    def __getitem__(self, at: int) -> dict[str, Any]:
        """One row. A column that holds nothing in this row is absent."""
        if not isinstance(at, int):
            raise TypeError(f"Records are indexed by a whole number, got {at!r}. Use `select` for several rows.")
        if not -len(self) <= at < len(self):
            raise IndexError(f"there are {len(self)} records, and no number {at}")
        return next(rows_of(self.dataset, [at % len(self)]))

    def __repr__(self) -> str:
        aside = f", {self.set_aside} set aside" if self.set_aside else ""
        return f"Records({len(self):,} {self.kind} from {self.source}{aside})"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the kind and of every row as canonical JSON, whichever file format the rows came from."""
        digest = hashlib.sha256(self.kind.encode())
        for row in self:
            digest.update(b"\n")
            digest.update(canonical(row).encode())
        return digest.hexdigest()

    def _with(self, dataset: datasets.Dataset) -> Records:
        return Records(self.kind, dataset, self.source, self.set_aside, self.notes, self.problems)

    def select(self, indices: Iterable[int]) -> Records:
        """The rows at these indices, in this order.

        Raises:
            RecordError: an index is out of range.
        """
        wanted = [int(at) for at in indices]
        for at in wanted:
            if not 0 <= at < len(self):
                raise RecordError(f"There are {len(self)} records, numbered from 0; {at} is none of them.")
        return self._with(self.dataset.select(wanted))

    def split(self, test: int | float, seed: int = 0) -> tuple[Records, Records]:
        """Two parts without a row in common: what is left, and a test part.

        Args:
            test: how many rows to hold back (a whole number), or which share of them (between 0 and 1).
            seed: which rows.

        Raises:
            RecordError: one of the parts would be empty.
        """
        import numpy as np

        count = test if isinstance(test, int) else round(len(self) * test)
        if isinstance(test, bool) or not 0 < count < len(self):
            raise RecordError(f"Cannot hold back {test} of {len(self)} records: both parts need at least one row.")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.select(sorted(order[count:])), self.select(sorted(order[:count]))
