"""Keys and values of rows in flight: grown in place, branched, rolled back by realigning, and joined.

Every row ends at the last slot; what a shorter row lacks is padding on its left. So the mask follows from the lengths
alone, and windows, which count slots, stay exact. What rows have in common may lie in a part that they share
(`shared_cache`); the slots here are then what is each row's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from truing.errors import UnsupportedError
from truing.models.core import core_of
from truing.models.shared_cache import Share, Sharing

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
ROOM = 64  # slots made at least when a layer grows, so that most steps copy nothing

SMALL = 2**20  # numbers below which copying into a dense tensor each step is faster than writing into a buffer


class Layer(DynamicLayer):
    """All slots of one decoder layer, windowed layers too; once large, in a buffer with room at its end.

    Only an exclusive owner writes into its buffer; a layer that shares memory with another has no buffer and makes its
    own before it writes.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None
        self._start = self._end = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all slots, the new ones, [rows, heads, new, width], at the end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        new = key_states.shape[2]
        if self._buffers is None and self.keys.numel() < SMALL:
            self.keys = torch.cat([self.keys, key_states], dim=2)
            self.values = torch.cat([self.values, value_states], dim=2)
            return self.keys, self.values
        if self._buffers is None or self._end + new > self._buffers[0].shape[2]:
            self._own(new)
        assert self._buffers is not None
        for buffer, states in zip(self._buffers, (key_states, value_states)):
            buffer[:, :, self._end : self._end + new] = states
        self._end += new
        self._view()
        return self.keys, self.values

    def _view(self) -> None:
        assert self._buffers is not None
        self.keys, self.values = (buffer[:, :, self._start : self._end] for buffer in self._buffers)

    def _own(self, new: int, rows: torch.Tensor | None = None, trim: int = 0) -> None:
        """Move into a buffer of its own with room for ``new`` more slots; ``rows`` are picked on the way."""
        buffers = []
        for states in (self.keys, self.values):
            kept = states[:, :, trim:]
            count, heads, length, width = kept.shape
            room = new + max(ROOM, length // 4)
            buffer = kept.new_empty(count if rows is None else len(rows), heads, length + room, width)
            if rows is None:
                buffer[:, :, :length] = kept
            else:
                torch.index_select(kept, 0, rows, out=buffer[:, :, :length])
            buffers.append(buffer)
        self._buffers = (buffers[0], buffers[1])
        self._start, self._end = 0, buffers[0].shape[2] - room
        self._view()

    def get_seq_length(self) -> int:
        """Slots held."""
        return self.keys.shape[2] if self.is_initialized else 0

    def picked(self, rows: torch.Tensor | None, trim: int) -> Layer:
        """A layer of these rows without the first ``trim`` slots; None shares the memory of all rows."""
        other = Layer()
        if not self.is_initialized:
            return other
        other.is_initialized, other.device = True, self.device
        other.keys, other.values = self.keys, self.values
        if rows is None:
            self._buffers = None
            other.keys, other.values = self.keys[:, :, trim:], self.values[:, :, trim:]
        else:
            other._own(0, rows.to(self.keys.device), trim)
        return other

    @classmethod
    def of(cls, keys: torch.Tensor, values: torch.Tensor) -> Layer:
        """A layer of these slots."""
        made = cls()
        made.is_initialized, made.device = True, keys.device
        made.keys, made.values = keys, values
        return made

    def hollow(self, rows: int) -> Layer:
        """A layer of so many rows without slots."""
        return Layer.of(*(states.new_empty(rows, states.shape[1], 0, states.shape[3]) for states in self.held))

    def frozen(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All slots, not to be written to again."""
        self._buffers = None
        # One copy for this layer and for who asked, as attention reads the last dimensions together.
        self.keys, self.values = (
            states if states.stride(2) == states.shape[3] else states.contiguous() for states in self.held
        )
        return self.keys, self.values

    @property
    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values."""
        return self.keys, self.values

    def realign(self, drop: int, shifts: Sequence[tuple[int, int]], trim: int) -> None:
        """Drop ``drop`` last slots of all rows, shift some rows right by more, then cut ``trim`` first slots.

        Args:
            drop: what every row gives up.
            shifts: (row, how many slots further right), for rows that give up more.
            trim: slots that are padding in every row afterwards.
        """
        if not self.is_initialized:
            return
        length = self.keys.shape[2] - drop
        if self._buffers is None:
            self.keys, self.values = self.keys[:, :, :length], self.values[:, :, :length]
            if not shifts:
                self.keys, self.values = self.keys[:, :, trim:], self.values[:, :, trim:]
                return
            self._own(0)
        else:
            self._end -= drop
            self._view()
        for states in (self.keys, self.values):
            for row, shift in shifts:
                if shift < length:
                    states[row, :, shift:] = states[row, :, : length - shift].clone()
        self._start += trim
        self._view()

    def joined(self, other: Layer) -> Layer:
        """A layer of the rows of both, the shorter padded on its left."""
        both = Layer()
        if not self.is_initialized or not other.is_initialized:
            return both
        both.is_initialized, both.device = True, self.device
        length = max(self.get_seq_length(), other.get_seq_length())
        buffers = []
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            heads, width = mine.shape[1], mine.shape[3]
            buffer = mine.new_empty(len(mine) + len(theirs), heads, length + max(ROOM, length // 4), width)
            for part, place in ((mine, buffer[: len(mine)]), (theirs, buffer[len(mine) :])):
                start = length - part.shape[2]
                place[:, :, :start] = 0  # padding is masked, and must be finite
                place[:, :, start:length] = part
            buffers.append(buffer)
        both._buffers = (buffers[0], buffers[1])
        both._end = length
        both._view()
        return both


class Rows(DynamicCache):
    """Every slot of every layer, whatever the model's windows.

    Args:
        sharing: when rows share beginnings; never without it.

    ``share`` is what rows have in common, or None.
    """

    layers: list[Layer]  # type: ignore[assignment]

    def __init__(self, sharing: Sharing | None = None) -> None:
        super().__init__()
        self.layer_class_to_replicate = Layer
        self.sharing = sharing
        self.share: Share | None = None

    def own(self, lengths: Sequence[int]) -> list[int]:
        """Of rows that hold so many tokens, how many are each row's own."""
        return list(lengths) if self.share is None else [a - b for a, b in zip(lengths, self.share.seen)]

    @property
    def numbers(self) -> int:
        """Numbers in a slot of one row, all layers together."""
        return sum(
            states.shape[1] * states.shape[3]
            for layer in self.layers if layer.is_initialized for states in (layer.keys, layer.values)
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Slots that are the rows' own."""
        return self.get_seq_length()


def empty(sharing: Sharing | None = None) -> Rows:
    """A cache without rows."""
    return Rows(sharing)


def realign(cache: Rows, lengths: Sequence[int], keep: Sequence[int]) -> None:
    """Keep the first ``keep[i]`` entries of row i, which holds ``lengths[i]``, so that all rows end together again."""
    share = cache.share
    if share is not None:
        lengths, seen = cache.own(lengths), [min(a, b) for a, b in zip(share.seen, keep)]
        keep = [max(0, kept - size) for kept, size in zip(keep, share.seen)]
        if seen != share.seen:
            cache.share = Share(share.store, share.of, seen)
    gone = [length - kept for length, kept in zip(lengths, keep)]
    drop = min(gone)
    shifts = [(row, count - drop) for row, count in enumerate(gone) if count > drop]
    trim = max(lengths) - drop - max(keep)
    if drop or shifts or trim:
        for layer in cache.layers:
            layer.realign(drop, shifts, trim)


def argument(core: Any) -> str:
    """What a model calls the cache in its forward; renamed within transformers 5."""
    return "cache" if "cache" in inspect.signature(core.forward).parameters else "past_key_values"


def check(weights: Any, name: str) -> None:
    """Raise `UnsupportedError` for a model whose state cannot be rolled back exactly (linear attention, SSM)."""
    core = core_of(weights)
    config = core.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - ATTENTION
    if kinds or getattr(core, "_is_stateful", False) or getattr(core.config, "is_encoder_decoder", False):
        what = ", ".join(sorted(kinds)) or ("recurrent state" if core._is_stateful else "an encoder and a decoder")
        raise UnsupportedError(
            f"{name} ({core.config.model_type}) has {what}, which the stepping engine cannot branch and roll back "
            "exactly. Use a decoder whose layers are attention (Llama, Qwen3, Gemma, Mistral, GPT-NeoX, OPT, ...), "
            "or serve this one and load it as a remote model."
        )
