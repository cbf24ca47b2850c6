"""Next-token scores after any prefixes, for a second model that follows what another one writes."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from truing.models.batch import Batch

if TYPE_CHECKING:
    from truing.models.engine import Engine

FRESH = 64  # tokens beyond the common beginning from which on a row is read anew, scoring its last token only


class Follower:
    """Keeps the rows of the last call, and reads only what is new in those of the next one.

    Rows may grow, roll back, branch, join and leave between calls. Prefixes of one another (the positions of a block)
    are read together, as one row.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._batch: Batch | None = None

    def scores(self, prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
        """Scores [prefixes, vocabulary]; see `Engine.scores`."""
        asked = [tuple(prefix) for prefix in prefixes]
        found: dict[tuple[int, ...], torch.Tensor] = {}
        old: list[tuple[int, int, list[tuple[int, ...]]]] = []
        fresh = []
        known = _Known(self._batch.tokens if self._batch is not None else [])
        for chain in _chains(asked):
            row, common = known.nearest(chain[0])
            keep = min(common, len(chain[-1]) - 1)
            if keep >= 1 and len(chain[-1]) - keep <= FRESH:
                old.append((row, keep, chain))
            else:
                # Read anew, a row keeps the prompt of the one that it continues.
                start = self._batch.prompts[row] if self._batch is not None and row >= 0 else 0
                fresh.append((chain, start if 0 < start <= min(common, len(chain[-1])) else len(chain[-1])))
        parts = []
        if old:
            assert self._batch is not None
            rows = [row for row, _, _ in old]
            # The batch of the last call is not asked for again, so it is copied only where its rows change.
            batch = self._batch if rows == list(range(len(self._batch))) else self._batch.select(rows)
            blocks = batch.extend([chain[0][keep:] for _, keep, chain in old], keep=[keep for _, keep, _ in old])
            for (_, keep, chain), scores in zip(old, blocks):
                found.update((prefix, scores[len(prefix) - keep - 1]) for prefix in chain)
            parts.append(batch)
        if fresh:
            batch = self._engine.prefill([chain[-1] for chain, _ in fresh], [start for _, start in fresh])
            found.update((chain[-1], scores) for (chain, _), scores in zip(fresh, batch.logits))
            blocks = batch.extend([chain[0][len(chain[-1]) :] for chain, _ in fresh])
            for (chain, _), scores in zip(fresh, blocks):
                found.update((prefix, scores[len(prefix) - len(chain[-1]) - 1]) for prefix in chain[:-1])
            parts.append(batch)
        self._batch = parts[0] if len(parts) == 1 else parts[0].join(parts[1])
        return torch.stack([found[prefix] for prefix in asked])


def _chains(asked: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Prefixes of one another together, the longest first. Sorted, a prefix stands right before what continues it."""
    chains: list[list[tuple[int, ...]]] = []
    for prefix in sorted(set(asked), reverse=True):
        if chains and chains[-1][-1][: len(prefix)] == prefix:
            chains[-1].append(prefix)
        else:
            chains.append([prefix])
    return chains


class _Known:
    """Rows in sorted order, where a row's nearest relative is a neighbour."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self._rows = sorted((tuple(row), at) for at, row in enumerate(rows))

    def nearest(self, prefix: tuple[int, ...]) -> tuple[int, int]:
        """The row that shares the longest beginning with a prefix, and how long that is; (-1, 0) without rows."""
        at = bisect.bisect(self._rows, (prefix, -1))
        return max(
            ((row, _common(tokens, prefix)) for tokens, row in self._rows[max(0, at - 1) : at + 1]),
            key=lambda found: found[1],
            default=(-1, 0),
        )


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    size = min(len(first), len(second))
    if first[:size] == second[:size]:
        return size
    return next(at for at in range(size) if first[at] != second[at])
