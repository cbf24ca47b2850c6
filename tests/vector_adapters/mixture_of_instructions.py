"""mixture-of-instructions.json: layouts, averages, and balanced groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.training.losses import instructions

Values = dict[str, Any]


def layout(inputs: Values, given: Values) -> Values:
    found = instructions.attention_layout(
        inputs["instruction_lengths"], given.get("instructions_per_chunk", 1), given["mode"]
    )
    return {
        "mask": found.dense_mask().int().tolist(), "position_ids": found.positions, "cu_seqlens": found.cu_seqlens,
        "attended_pairs": found.attended_pairs,
    }  # fmt: skip


def sums(inputs: Values) -> tuple[torch.Tensor, torch.Tensor]:
    rows = inputs["response_token_losses"]
    totals = torch.tensor([sum(row) for row in rows], dtype=torch.float64)
    return totals, torch.tensor([len(row) for row in rows], dtype=torch.float64)


def reductions(inputs: Values, given: Values) -> Values:
    totals, lengths = sums(inputs)
    return {
        "sequence_mean": instructions.reduced(totals, lengths, "sequence").item(),
        "packed_token_mean": instructions.reduced(totals, lengths, "token").item(),
        "implicit_weights": instructions.response_weights(lengths, "token").tolist(),
    }


def chunk_loss(inputs: Values, given: Values) -> Values:
    totals, lengths = sums(inputs)
    chunks = torch.arange(len(totals)) // given["instructions_per_chunk"]
    return {
        "per_chunk": instructions.chunk_means(totals, lengths, chunks).tolist(),
        "mean_of_chunks": instructions.reduced(totals, lengths, "chunk", chunks).item(),
        "token_mean": instructions.reduced(totals, lengths, "token").item(),
    }


def groups(inputs: Values, given: Values) -> Values:
    plan = instructions.balanced_chunks(
        inputs["counts"], inputs.get("domain_order"), chunks=given.get("num_chunks"), seed=given.get("seed")
    )
    chunks = [[list(member) for member in chunk] for chunk in plan.chunks]
    return {"chunks": chunks, "uses_per_domain": plan.uses, "repeats": plan.repeats}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "attention_layout": layout,
    "loss_reductions": reductions,
    "chunk_loss": chunk_loss,
    "balanced_chunks": groups,
}
