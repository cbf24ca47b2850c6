"""A row's sequences as a tree of tokens: what several of them begin with stands in it once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

Ids = Sequence[int]
Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Run:
    """Tokens that follow each other, and what they see before themselves.

    Args:
        start: of its tokens, in the tree.
        end: likewise.
        path: spans of earlier tokens that come before it, in order; the run continues their positions.
    """

    start: int
    end: int
    path: tuple[Span, ...] = ()

    @property
    def before(self) -> int:
        """Tokens on its path."""
        return sum(end - start for start, end in self.path)

    def shifted(self, by: int) -> Run:
        """The same run in a longer row of tokens."""
        return Run(self.start + by, self.end + by, tuple((start + by, end + by) for start, end in self.path))


@dataclasses.dataclass(frozen=True)
class Tree:
    """Sequences of one row without repetition.

    Args:
        tokens: int64, [T].
        positions: of each token in its own sequence, int64, [T].
        runs: cover all tokens, each once.
        places: for each sequence, where its tokens stand, int64.
    """

    tokens: np.ndarray
    positions: np.ndarray
    runs: tuple[Run, ...]
    places: tuple[np.ndarray, ...]


def plant(sequences: Sequence[Ids]) -> Tree:
    """The tree of some sequences of token ids, none of them empty.

    The longest comes first, so that a sequence which another one continues costs nothing.
    """
    arrays = [np.asarray(ids, dtype=np.int64) for ids in sequences]
    order = sorted(range(len(arrays)), key=lambda at: -len(arrays[at]))
    spans: dict[int, tuple[Span, ...]] = {}
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    runs: list[Run] = []
    size = 0
    for at in order:
        ids = arrays[at]
        shared, like = 0, -1
        for other in spans:
            found = _common(ids, arrays[other])
            if found > shared:
                shared, like = found, other
        path = _cut(spans[like], shared) if shared else ()
        fresh = len(ids) - shared
        if fresh:
            runs.append(Run(size, size + fresh, path))
            tokens.append(ids[shared:])
            positions.append(np.arange(shared, len(ids)))
            path = (*path, (size, size + fresh))
            size += fresh
        spans[at] = path
    places = tuple(_places(spans[at]) for at in range(len(arrays)))
    return Tree(np.concatenate(tokens), np.concatenate(positions), tuple(runs), places)


@functools.lru_cache(maxsize=4096)
def _range(start: int, end: int) -> np.ndarray:
    return np.arange(start, end)


def _places(spans: tuple[Span, ...]) -> np.ndarray:
    parts = [_range(*span) for span in spans]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _common(left: np.ndarray, right: np.ndarray) -> int:
    count = min(len(left), len(right))
    differ = left[:count] != right[:count]
    at = int(differ.argmax()) if count else 0
    return at if count and differ[at] else count


def _cut(spans: tuple[Span, ...], length: int) -> tuple[Span, ...]:
    out: list[Span] = []
    for start, end in spans:
        if length <= 0:
            break
        out.append((start, min(end, start + length)))
        length -= end - start
    return tuple(out)
