"""Beginnings that rows have in common, read once: constant examples, a system prompt, the conversation so far.

They are held for as long as their engine lives, within a budget of cache slots, and each row branches from the one it
begins with. Keys and values of a beginning do not depend on what follows it, so this is exact.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from truing.models import cache as caches
from truing.models.branching import joined, picked

SHORTEST = 64  # tokens; what is shorter is read again with each row
SAVES = 256  # positions that must be saved, since beginnings take a forward pass of their own
HELD = 8192  # cache slots that beginnings may fill; a single longer one is held all the same
EXPECTED = 64  # beginnings that are remembered before any row with them came

Tokens = tuple[int, ...]


class Prefixes:
    """Beginnings of rows and their cache.

    Args:
        read: from sequences of token ids to their cache, by one forward pass over left-padded rows.
    """

    def __init__(self, read: Callable[[Sequence[Tokens]], caches.Rows]) -> None:
        self._read = read
        self._expected: list[Tokens] = []
        self._tokens: list[Tokens] = []
        self._cache: Any = None

    def expect(self, sequences: Sequence[Sequence[int]]) -> None:
        """Rows that will come; what they share is read when the first of them does."""
        known = [*self._expected, *self._tokens]
        new = [row for row in sequences if not any(_begins(row, beginning) for beginning in known)]
        self._expected = [*self._expected, *shared(new)][-EXPECTED:]

    def serve(self, rows: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """For each row the held beginning to branch from and how many of its tokens serve; (-1, 0) where none does."""
        found = [self._nearest(row) for row in rows]
        wanted = [beginning for beginning in self._expected if any(_begins(row, beginning) for row in rows)]
        wanted += shared([row for row, (_, size) in zip(rows, found) if not size])
        fresh = [one for one in dict.fromkeys(wanted) if one not in self._tokens]
        if fresh:
            self._hold(fresh, keep=sorted({at for at, _ in found if at >= 0}))
            found = [self._nearest(row) for row in rows]
        return found

    def branched(self, places: Sequence[int], keep: Sequence[int]) -> caches.Rows:
        """A cache with the first ``keep[i]`` tokens of the held beginning ``places[i]`` in each row."""
        lengths = [len(self._tokens[at]) for at in places]
        cache = picked(self._cache, places, list(map(len, self._tokens)))
        caches.realign(cache, lengths, keep)
        return cache

    def _nearest(self, row: Sequence[int]) -> tuple[int, int]:
        # The last token of a row is read in any case, for the scores after it.
        sizes = [min(common(beginning, row), len(row) - 1) for beginning in self._tokens]
        best = max(range(len(sizes)), key=sizes.__getitem__, default=-1)
        return (best, sizes[best]) if best >= 0 and sizes[best] >= SHORTEST else (-1, 0)

    def _hold(self, fresh: list[Tokens], keep: list[int]) -> None:
        """Read new beginnings; older ones leave when there is no room, those in use last."""
        slots = max(map(len, [*self._tokens, *fresh])) * (len(self._tokens) + len(fresh))
        if slots <= HELD:
            keep = list(range(len(self._tokens)))
        cache = self._read(fresh)
        if keep:
            sizes = list(map(len, self._tokens))
            old = picked(self._cache, keep, sizes)
            cache = joined(old, cache, [sizes[at] for at in keep], list(map(len, fresh)))
        self._tokens, self._cache = [*(self._tokens[at] for at in keep), *fresh], cache


def shared(sequences: Sequence[Sequence[int]]) -> list[Tokens]:
    """The beginnings of at least `SHORTEST` tokens whose reading apart saves most positions; none below `SAVES`.

    Rows fall into groups that agree in more than some number of tokens; the number that saves most is taken.
    """
    rows = sorted(tuple(sequence) for sequence in sequences)
    # A beginning ends before the last token of its rows, which is read with each of them.
    agree = [min(common(a, b), len(a) - 1, len(b) - 1) for a, b in itertools.pairwise(rows)]
    levels = sorted({size for size in agree if size >= SHORTEST}, reverse=True)
    best: list[tuple[int, Tokens]] = []
    for level in levels[:: max(1, len(levels) // 16)] + levels[-1:]:
        found, at = [], 0
        for _, run in itertools.groupby(agree, functools.partial(operator.le, level)):
            sizes = list(run)
            if min(sizes) >= level:
                found.append((len(sizes) * min(sizes), rows[at][: min(sizes)]))
            at += len(sizes)
        if sum(saved for saved, _ in found) > sum(saved for saved, _ in best):
            best = found
    if sum(saved for saved, _ in best) < SAVES:
        return []
    best.sort(key=lambda each: -each[0])
    fitting: list[Tokens] = []
    widest = 0
    for _, beginning in best:
        widest = max(widest, len(beginning))
        if fitting and widest * (len(fitting) + 1) > HELD:
            break
        fitting.append(beginning)
    return fitting


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    size = min(len(first), len(second))
    low, high = 0, size
    # By halves, since slices compare faster than a loop runs.
    while low < high:
        middle = (low + high + 1) // 2
        if tuple(first[low:middle]) == tuple(second[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low


def _begins(row: Sequence[int], beginning: Tokens) -> bool:
    return len(row) > len(beginning) and tuple(row[: len(beginning)]) == beginning
