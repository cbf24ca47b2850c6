"""What a training will take, before it is started: rows, tokens, steps, memory and time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from truing.methods.training.encoding import Row
from truing.methods.training.head import KEEP
from truing.models.core import core_of

# What one layer keeps of each token for the backward pass, in hidden and in intermediate widths. Counted for a gated
# layer with rotary positions; measured peaks lie within a third of what comes out.
_HIDDEN, _INTERMEDIATE = 14, 5
# Attention, norms, the optimiser and Python take about as long again as half of the matrix products.
_OVERHEAD = 1.5


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `align` would do with some records.

    Args:
        rows: examples that are learned from.
        notes: what is cut, left out, or odd about them.
        tokens: of a pass over all of them, each prompt once for all its answers, no padding.
        repeated: the same with each prompt counted with every answer.
        longest: tokens of the longest sequence.
        steps: optimiser steps.
        memory: bytes that the training adds to those of the model, estimated.
        seconds: of training on this machine alone, estimated from how fast it multiplies; None where it cannot tell.
    """

    rows: int
    notes: tuple[str, ...]
    tokens: int
    repeated: int
    longest: int
    steps: int
    memory: int
    seconds: float | None

    def __str__(self) -> str:
        saved = f", {self.repeated:,} with prompts repeated" if self.repeated > self.tokens else ""
        lines = [
            f"{self.rows:,} rows, {self.tokens:,} tokens{saved}; the longest sequence has {self.longest:,}",
            f"{self.steps:,} steps, about {size(self.memory)} of memory beside the model's own"
            + (f", about {duration(self.seconds)} on this machine" if self.seconds is not None else ""),
        ]
        return "\n".join([*lines, *self.notes])


def size(count: float) -> str:
    """A number of bytes for people."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.1f} {units[0]}" if count < 10 and units[0] != "bytes" else f"{count:.0f} {units[0]}"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def memory_of(weights: Any, rows: Sequence[Row], batches: Sequence[Sequence[int]], *, checkpointing: bool) -> int:
    """Bytes that a training needs beside the weights: gradients, AdamW's two moments, activations, the head's chunk.

    Args:
        weights: in training, with its adapter.
        rows: encoded.
        batches: row numbers of each batch; the largest one decides.
        checkpointing: activations are computed again in the backward pass.
    """
    config = core_of(weights).config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", 4 * hidden)
    trained = sum(p.numel() for p in weights.parameters() if p.requires_grad)
    most = max((sum(len(rows[at].tree.tokens) for at in batch), batch) for batch in batches)
    layer = most[0] * (_HIDDEN * hidden + _INTERMEDIATE * inner)
    kept = most[0] * hidden * layers + layer if checkpointing else layer * layers
    answers = sum(len(answer) for at in most[1] for _, answer in rows[at].answers)
    head = 2 * min(KEEP, answers * config.vocab_size)
    return 4 * (3 * trained + kept + head)


def seconds_of(weights: Any, tokens: float, answers: float) -> float | None:
    """Seconds of forward and backward over some tokens, from a short trial of how fast this machine multiplies."""
    core = core_of(weights)
    device = next(core.parameters()).device
    if device.type != "cpu":
        return None  # a trial so short says little where launching costs more than multiplying
    config = core.config.get_text_config()
    rate = _multiplications_per_second(config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size))
    embeddings = core.get_input_embeddings().weight.numel()
    body = sum(p.numel() for p in core.parameters()) - 2 * embeddings
    if core.config.get_text_config().tie_word_embeddings:
        body += embeddings
    head = config.vocab_size * config.hidden_size
    return _OVERHEAD * 3 * (max(body, 0) * tokens + head * answers) / rate


def _multiplications_per_second(inner: int, outer: int) -> float:
    left, right = torch.randn(512, inner), torch.randn(inner, outer)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < 0.05:
        left @ right
        done += 1
    return done * 512 * inner * outer / (time.perf_counter() - began)


def totals(rows: Sequence[Row]) -> tuple[int, int, int, int]:
    """Tokens once, tokens repeated, the longest sequence, and answer tokens, of all rows."""
    once = int(np.sum([len(row.tree.tokens) for row in rows]))
    answers = sum(len(answer) for row in rows for _, answer in row.answers)
    return once, sum(row.tokens for row in rows), max(row.width for row in rows), answers
