"""Which samples share a row of fixed length: best-fit decreasing, planned over lengths alone."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

OVERFLOWS = ("error", "truncate", "split")


class Piece(NamedTuple):
    """Tokens start to end of a sample, by its number."""

    sample: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.end - self.start


def pack_bfd(lengths: Sequence[int], capacity: int, *, overflow: str = "error") -> list[list[Piece]]:
    """Rows of pieces that hold at most ``capacity`` tokens each: the longest piece first, where it leaves least space.

    Of equal lengths the earlier sample goes first, of equal spaces the row that came to it first: TRL's order. Samples
    without tokens are in no row. Ding et al. 2024, arXiv 2404.10830.

    Args:
        lengths: tokens of each sample.
        capacity: tokens of a row, at least 1.
        overflow: what becomes of a sample longer than that: "error"; "truncate", its start stays; "split" into pieces
            that are packed as samples of their own.

    Raises:
        ValueError: the capacity or the overflow cannot work, or a sample is too long and the overflow is "error".
    """
    if capacity < 1:
        raise ValueError(f"A row holds at least one token, not {capacity!r}.")
    if overflow not in OVERFLOWS:
        raise ValueError(f"Unknown overflow {overflow!r}. Known: {', '.join(OVERFLOWS)}.")
    pieces = []
    for sample, length in enumerate(lengths):
        if length > capacity and overflow == "error":
            raise ValueError(
                f"Sample {sample} has {length} tokens and a row holds {capacity}. Take longer rows, or say what to do "
                'with it: overflow="truncate" or "split".'
            )
        end = length if overflow == "split" else min(length, capacity)
        pieces += [Piece(sample, at, min(at + capacity, end)) for at in range(0, end, capacity)]
    pieces.sort(key=lambda piece: -piece.length)
    rows: list[list[Piece]] = []
    waiting: dict[int, deque[int]] = {}  # rows by the space that they have left
    spaces: list[int] = []  # the keys of `waiting`, in order
    for piece in pieces:
        at = bisect.bisect_left(spaces, piece.length)
        if at < len(spaces):
            space = spaces[at]
            row = waiting[space].popleft()
            if not waiting[space]:
                del waiting[space], spaces[at]
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        left = space - piece.length
        if left:
            if left not in waiting:
                waiting[left] = deque()
                bisect.insort(spaces, left)
            waiting[left].append(row)
    return rows


def utilisation(rows: Sequence[Sequence[Piece]], capacity: int) -> float:
    """Share of the places in all rows that hold a token; 1 for no rows."""
    return sum(piece.length for row in rows for piece in row) / (len(rows) * capacity) if rows else 1.0


def block_ends(lengths: Sequence[int]) -> list[int]:
    """0, then where each block of a row ends (cu_seqlens)."""
    return [0, *accumulate(lengths)]


def block_positions(lengths: Sequence[int]) -> list[int]:
    """Position of each token of a row, from 0 in every block."""
    return [at for length in lengths for at in range(length)]
