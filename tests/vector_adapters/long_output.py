"""long-output.json: lengths, quality, and token losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.measures import long_text
from truing.methods.training.losses.long_ce import LongCE, longwriter_pack

Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def lengths(inputs: Values, given: Values) -> Values:
    scores = [long_text.length_score(*pair) for pair in inputs["pairs"]]
    return {
        "scores": scores, "mean": sum(scores) / len(scores),
        "keep_at_80": [long_text.kept(*pair) for pair in inputs["pairs"]],
    }  # fmt: skip


def quality(inputs: Values, given: Values) -> Values:
    return long_text.quality_scores([dict(zip(long_text.QUALITY, row)) for row in inputs["rows"]])


def long_ce(inputs: Values, given: Values) -> Values:
    loss = LongCE(given.get("length_smooth", 0.9))
    total = inputs.get("num_items_in_batch")
    return {"losses": [loss(tensor(batch), total).item() for batch in inputs["token_losses_per_batch"]]}


def pack(inputs: Values, given: Values) -> Values:
    sequences = [tensor(one) for one in inputs["token_losses_per_sequence"]]
    return {
        "loss": longwriter_pack(sequences, given.get("constant", 30)).item(),
        "token_mean": torch.cat(sequences).mean().item(),
        "sequence_mean": torch.stack([one.mean() for one in sequences]).mean().item(),
    }


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "length_score": lengths,
    "count_words": lambda inputs, given: {"counts": [long_text.count_words(text) for text in inputs["texts"]]},
    "required_length": lambda inputs, given: {
        "lengths": [long_text.required_length(prompt) for prompt in inputs["prompts"]]
    },
    "quality_score": quality,
    "long_ce_loss": long_ce,
    "longwriter_pack_loss": pack,
}
