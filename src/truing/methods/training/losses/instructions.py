"""Mixture of instructions: groups of one instruction a domain, what sees what in a row, and how losses are averaged.

Xu et al. 2024, arXiv 2404.18410. A *chunk* is such a group: its members see the earlier ones of their own chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from truing.methods.training.packing import block_ends, block_positions

MODES = ("chunk", "none", "isolated")
REDUCTIONS = ("token", "chunk", "sequence")


# --- averages ---------------------------------------------------------------------------------------------------------


def response_weights(lengths: Tensor, reduction: str = "token", chunks: Tensor | None = None) -> Tensor:
    """Weight of each response's mean token loss in the loss, [n], which sum to 1.

    Responses without tokens have weight 0 and are not counted. All three agree where lengths and chunks are equal.

    Args:
        lengths: tokens of each response, [n].
        reduction: "token", one weight for every token; "sequence", one for every response; "chunk", one for every
            chunk, and inside it one for every token.
        chunks: number of the chunk of each response, from 0, [n]; for "chunk" alone.

    Raises:
        ValueError: an unknown reduction, or no chunks where they are needed.
    """
    counts = lengths if lengths.dtype == torch.float64 else lengths.float()
    if reduction == "token":
        return counts / counts.sum().clamp(min=1)
    if reduction == "sequence":
        there = (counts > 0).to(counts.dtype)
        return there / there.sum().clamp(min=1)
    if reduction != "chunk":
        raise ValueError(f"Unknown reduction {reduction!r}. Known: {', '.join(REDUCTIONS)}.")
    if chunks is None:
        raise ValueError('The reduction "chunk" needs the chunk of each response.')
    totals = _by_chunk(counts, chunks)
    return counts / totals[chunks].clamp(min=1) / (totals > 0).sum().clamp(min=1)


def reduced(sums: Tensor, lengths: Tensor, reduction: str = "token", chunks: Tensor | None = None) -> Tensor:
    """The loss, a scalar, from summed token losses of each response, [n]; the rest as in `response_weights`."""
    weights = response_weights(lengths, reduction, chunks).to(sums.dtype)
    return (weights * sums / lengths.clamp(min=1)).sum()


def chunk_means(sums: Tensor, lengths: Tensor, chunks: Tensor) -> Tensor:
    """Mean token loss of each chunk, [chunks], from sums of each response, [n]; NaN where a chunk has no token."""
    return _by_chunk(sums, chunks) / _by_chunk(lengths.to(sums.dtype), chunks)


def _by_chunk(values: Tensor, chunks: Tensor) -> Tensor:
    size = int(chunks.max()) + 1 if len(chunks) else 0
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, chunks, values)


# --- attention --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ChunkLayout:
    """What sees what in a row: each token sees itself and all before it in its block.

    Args:
        blocks: tokens of each block, in order.
    """

    blocks: tuple[int, ...]

    @property
    def positions(self) -> list[int]:
        """Position of each token, from 0 in every block."""
        return block_positions(self.blocks)

    @property
    def cu_seqlens(self) -> list[int]:
        """0 and the ends of blocks, for variable-length attention."""
        return block_ends(self.blocks)

    @property
    def attended_pairs(self) -> int:
        """Pairs of a token and one that it sees: what attention costs."""
        return sum(size * (size + 1) // 2 for size in self.blocks)

    def dense_mask(self) -> Tensor:
        """Bool [T, T], True where the row's token sees the column's: for tests and short rows, T squared in size."""
        block = torch.repeat_interleave(torch.arange(len(self.blocks)), torch.tensor(self.blocks, dtype=torch.long))
        return (block[:, None] == block[None, :]).tril()


def attention_layout(lengths: Sequence[int], per_chunk: int, mode: str = "chunk") -> ChunkLayout:
    """The layout of instructions in a row.

    Positions restart with each block, so that a chunk equals a row of its own.

    Args:
        lengths: tokens of each instruction: its system prompt, question and answer.
        per_chunk: instructions of a chunk; the last one may have fewer.
        mode: "chunk", a block for each chunk; "none", one block; "isolated", a block for each instruction.

    Raises:
        ValueError: an unknown mode, or chunks of nothing.
    """
    if mode not in MODES:
        raise ValueError(f"Unknown mode {mode!r}. Known: {', '.join(MODES)}.")
    if per_chunk < 1:
        raise ValueError(f"A chunk has at least one instruction, not {per_chunk!r}.")
    size = {"chunk": per_chunk, "none": max(len(lengths), 1), "isolated": 1}[mode]
    return ChunkLayout(tuple(sum(lengths[at : at + size]) for at in range(0, len(lengths), size)))


# --- groups -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ChunkPlan:
    """Chunks with one item of each domain.

    Args:
        chunks: domain and item number of each member.
        uses: how often each domain is drawn from.
        repeats: how often the most used item of each domain is used; a small domain used many times is memorised.
    """

    chunks: list[list[tuple[str, int]]]
    uses: dict[str, int]
    repeats: dict[str, int]


def balanced_chunks(
    counts: Mapping[str, int], order: Sequence[str] | None = None, *,
    chunks: int | None = None, seed: int | None = None, shuffle_members: bool = False,
) -> ChunkPlan:  # fmt: skip
    """Plan chunks with exactly one item of each domain, however large the domains are.

    Small domains start over until the plan is full, so that no item is used more often than another one by more than
    once.

    Args:
        counts: items of each domain.
        order: of domains in a chunk; None for that of ``counts``.
        chunks: how many; None for as many as use the largest domain once.
        seed: of a new order of items in every pass through a domain; None for the order given.
        shuffle_members: a random order of domains in each chunk, which spreads who comes first; needs a seed.

    Raises:
        ValueError: a domain has no items, the order is not of the domains, or members are shuffled without a seed.
    """
    domains = list(counts) if order is None else list(order)
    if sorted(domains) != sorted(counts) or not domains:
        raise ValueError(f"The order names each domain once: {', '.join(counts) or 'there is none'}; got {domains}.")
    empty = [name for name in domains if counts[name] < 1]
    if empty:
        raise ValueError(f"No items in {', '.join(empty)}. Leave the domain out.")
    if shuffle_members and seed is None:
        raise ValueError("Members are shuffled by a seed: give one.")
    total = max(counts.values()) if chunks is None else chunks
    drawn = {name: _items(counts[name], total, None if seed is None else [seed, at]) for at, name in enumerate(domains)}
    plan = [[(name, drawn[name][at]) for name in domains] for at in range(total)]
    if shuffle_members and seed is not None:
        random = np.random.default_rng([seed, len(domains)])
        plan = [[chunk[at] for at in random.permutation(len(chunk))] for chunk in plan]
    return ChunkPlan(plan, dict.fromkeys(domains, total), {name: -(-total // counts[name]) for name in domains})


def _items(count: int, total: int, seed: list[int] | None) -> list[int]:
    items: list[int] = []
    while len(items) < total:
        again = len(items) // count
        items += range(count) if seed is None else np.random.default_rng([*seed, again]).permutation(count).tolist()
    return items[:total]


def fit_chunks(lengths: Sequence[Sequence[int]], capacity: int) -> list[list[tuple[int, int]]]:
    """Groups of (chunk, member) that fit a row: a chunk that is too long loses its longest members to groups of one.

    A chunk is never cut otherwise. Groups keep the order of chunks; those of one come after the chunk that they left. A
    member longer than a row stays alone, for the caller to truncate or refuse.

    Args:
        lengths: tokens of the members of each chunk.
        capacity: tokens of a row.
    """
    groups = []
    for chunk, members in enumerate(lengths):
        staying, leaving = list(range(len(members))), []
        while len(staying) > 1 and sum(members[at] for at in staying) > capacity:
            longest = max(staying, key=lambda at: members[at])
            staying.remove(longest)
            leaving.append(longest)
        groups += [[(chunk, at) for at in staying]] if staying else []
        groups += [[(chunk, at)] for at in sorted(leaving)]
    return groups
