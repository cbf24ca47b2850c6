"""Attention over packed rows: all tokens of a batch in one row, each seeing its own path through its tree only.

transformers hands every layer's attention to a function that is registered by name, with the keyword arguments that the
model was called with. Ours reads the `Layout` among them. On a GPU it calls the variable-length kernel; elsewhere it
calls scaled dot-product attention, for each run apart, or once on rows brought to one length where runs are short.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from truing.methods.training.tree import Run

NAME = "truing_packed"
# On a CPU a call costs about what this many attended pairs of tokens cost, all heads together.
_CALL = 30_000


@dataclasses.dataclass(eq=False)
class Layout:
    """How the tokens of a packed row see each other.

    Args:
        runs: cover the row, in order.
        trees: for each tree the number of its tokens, in order.
    """

    runs: tuple[Run, ...]
    trees: tuple[int, ...]

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Tokens of each run."""
        return [run.end - run.start for run in self.runs]

    @functools.cached_property
    def pieces(self) -> tuple[list[int], list[list[int]]]:
        """Sizes of the smallest parts that paths are made of, and for each run the parts on its path and its own."""
        edges = {0, self.runs[-1].end}
        for run in self.runs:
            edges.update((run.start, run.end))
            for span in run.path:
                edges.update(span)
        ordered = sorted(edges)
        number = {start: at for at, start in enumerate(ordered)}
        parts = [
            [
                at
                for start, end in (*run.path, (run.start, run.end))
                for at in range(number[start], number[end])
            ]
            for run in self.runs
        ]  # fmt: skip
        return [end - start for start, end in itertools.pairwise(ordered)], parts

    @functools.cached_property
    def dense(self) -> bool:
        """Whether one call on padded rows is cheaper than a call for each run."""
        widest = max(self.trees)
        apart = sum(size * (run.before + size) for run, size in zip(self.runs, self.sizes))
        return len(self.trees) * widest**2 < apart + _CALL * (len(self.runs) - 1)

    def dense_mask(self, window: int | None, device: torch.device) -> Tensor:
        """Which tokens see which, bool [trees, 1, W, W]; rows of padding see themselves."""
        held = self.__dict__.setdefault("_masks", {})
        if window not in held:
            held[window] = self._dense_mask(window).to(device)
        return held[window]

    def _dense_mask(self, window: int | None) -> Tensor:
        widest, starts = max(self.trees), [0]
        for size in self.trees:
            starts.append(starts[-1] + size)
        mask = torch.zeros(len(self.trees), 1, widest, widest, dtype=torch.bool)
        mask[:, 0] |= torch.eye(widest, dtype=torch.bool)
        tree = 0
        for run in self.runs:
            while run.start >= starts[tree + 1]:
                tree += 1
            from_here = starts[tree]
            keys = torch.cat([torch.arange(a, b) for a, b in (*run.path, (run.start, run.end))]) - from_here
            block = _lower_right(run.end - run.start, len(keys), window)
            rows = slice(run.start - from_here, run.end - from_here)
            mask[tree, 0, rows, keys] = block
        return mask

    def varlen(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """For the variable-length kernel: which keys, cumulative queries and keys, the longest of each."""
        held = self.__dict__.get("_varlen")
        if held is None:
            spans = [(*run.path, (run.start, run.end)) for run in self.runs]
            index = torch.cat([torch.arange(a, b) for spans_of in spans for a, b in spans_of])
            queries, keys = self.sizes, [sum(b - a for a, b in spans_of) for spans_of in spans]
            cumulative = [torch.tensor([0, *counts]).cumsum(0).int().to(device) for counts in (queries, keys)]
            held = self.__dict__["_varlen"] = (index.to(device), *cumulative, max(queries), max(keys))
        return held


@functools.lru_cache(maxsize=512)
def _lower_right(queries: int, keys: int, window: int | None) -> Tensor:
    """Causal, the last query on the last key; bool [queries, keys]."""
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)[None]
    seen = distance >= 0
    return seen & (distance < window) if window else seen


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, heads, T, d], key and value [1, key heads, T, d].

    Returns:
        The output, [1, T, heads, d], and no weights.

    Raises:
        RuntimeError: the model does not hand on the layout, or uses something that only its own attention knows.
    """
    if layout is None:
        raise RuntimeError("The layout of the packed row did not reach the attention.")
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise RuntimeError("Attention sinks and position biases are not packed.")
    how = _How(dropout, scaling, sliding_window, softcap)
    if query.is_cuda and softcap is None and dropout == 0.0:
        return _varlen(query, key, value, layout, how), None
    attend = _dense if layout.dense else _apart
    return attend(query, key, value, layout, how), None


@dataclasses.dataclass(frozen=True)
class _How:
    dropout: float
    scaling: float | None
    window: int | None
    softcap: float | None


def _apart(query: Tensor, key: Tensor, value: Tensor, layout: Layout, how: _How) -> Tensor:
    sizes, parts = layout.pieces
    # Splitting once and joining by path keeps the backward pass free of zero-filled copies of the whole row.
    queries, keys, values = query.split(layout.sizes, 2), key.split(sizes, 2), value.split(sizes, 2)
    out = []
    for one, which in zip(queries, parts):
        k = keys[which[0]] if len(which) == 1 else torch.cat([keys[at] for at in which], 2)
        v = values[which[0]] if len(which) == 1 else torch.cat([values[at] for at in which], 2)
        causal = one.shape[2] == k.shape[2] and not (how.window and how.window < k.shape[2])
        mask = None if causal else _lower_right(one.shape[2], k.shape[2], how.window).to(query.device)
        out.append(_attend(one, k, v, mask, causal, how).transpose(1, 2))
    return torch.cat(out, 1)


def _dense(query: Tensor, key: Tensor, value: Tensor, layout: Layout, how: _How) -> Tensor:
    q, k, v = (_padded(one, layout.trees) for one in (query, key, value))
    mask = layout.dense_mask(how.window, query.device)
    out = _attend(q, k, v, mask, False, how).transpose(1, 2)
    return torch.cat([row[:size] for row, size in zip(out.unbind(0), layout.trees)])[None]


def _padded(one: Tensor, sizes: Sequence[int]) -> Tensor:
    if len(sizes) == 1:
        return one
    rows = one[0].transpose(0, 1).split(list(sizes))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, how: _How) -> Tensor:
    if how.softcap is None:
        return F.scaled_dot_product_attention(
            q, k, v, mask, how.dropout, causal, scale=how.scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
    times = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    scores = q @ k.transpose(2, 3) * (how.scaling if how.scaling is not None else q.shape[-1] ** -0.5)
    scores = torch.tanh(scores / how.softcap) * how.softcap
    if mask is None:
        mask = _lower_right(q.shape[2], k.shape[2], how.window).to(q.device)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.float().softmax(-1), how.dropout).to(q.dtype)
    return weights @ v


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout, how: _How) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    index, cu_queries, cu_keys, most_queries, most_keys = layout.varlen(query.device)
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    out = varlen_attn(
        q.contiguous(), k[index], v[index], cu_queries, cu_keys, most_queries, most_keys, scale=how.scaling,
        window_size=(how.window - 1 if how.window else -1, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out[None]


@contextlib.contextmanager
def packing(weights: Any) -> Iterator[None]:
    """Let a transformers model attend by layout inside the block, and as it did before after it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    held = weights.config._attn_implementation
    weights.set_attn_implementation(NAME)
    try:
        yield
    finally:
        weights.set_attn_implementation(held)
