"""Searches over many prompts, run over as many at a time as the engine's budget holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from truing.models.engine import TOKENS, Engine
from truing.models.logprobs import batches
from truing.models.types import Completion, Row, Sampling


def in_parts(
    search: Callable[[Engine, Sequence[Row], Sampling], list[list[Completion]]], engine: Engine, rows: Sequence[Row],
    sampling: Sampling, branches: int,
) -> list[list[Completion]]:  # fmt: skip
    """What a search finds for each row, run over so many rows at a time that all their branches are within the engine's
    budget of cache slots, or within its batch size."""
    slots = [len(row.tokens) + engine.room(row, sampling) for row in rows]
    size = max(1, engine.batch_size // branches) if engine.batch_size else None
    found: dict[int, list[Completion]] = {}
    for part in batches(slots, TOKENS // branches, size):
        found.update(zip(part, search(engine, [rows[at] for at in part], sampling)))
    return [found[at] for at in range(len(rows))]
