"""alignscore.json: chunks, aggregation, heads and the training loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from truing.methods.training.losses.alignment import alignment_loss
from truing.rewards.alignment_rule import HEADS, aggregate, chunk_runs, head_values

Values = dict[str, Any]


def chunk_context(inputs: Values, given: Values) -> Values:
    words = inputs["words_per_sentence"]
    runs = chunk_runs(len(words), sum(words), given["target_words"])
    return {"sentence_indices_per_chunk": [list(run) for run in runs]}


def aggregated(inputs: Values, given: Values) -> Values:
    found = np.asarray(inputs["head_output_by_chunk_and_claim_sentence"], dtype=np.float64)
    if found.ndim == 3:  # probabilities of the three classes
        found = found[..., 0]
    return {"score": aggregate(found)}


def head_outputs(inputs: Values, given: Values) -> Values:
    logits = np.zeros((len(inputs["regression_output"]), 6))
    logits[:, HEADS["bin"]] = inputs["binary_logits"]
    logits[:, HEADS["nli"]] = inputs["three_way_logits"]
    logits[:, HEADS["reg"]] = np.reshape(inputs["regression_output"], (-1, 1))
    return {name: values.tolist() for name, values in head_values(logits).items()}


def training_loss(inputs: Values, given: Values) -> Values:
    def number(name: str) -> torch.Tensor:
        return torch.tensor(inputs[name], dtype=torch.float64)

    masked = inputs.get("masked_lm_logits") is not None
    found = alignment_loss(
        number("binary_logits"), number("three_way_logits"), number("regression_output").flatten(),
        torch.tensor(inputs["binary_labels"]), torch.tensor(inputs["three_way_labels"]), number("regression_labels"),
        masked_lm=number("masked_lm_logits") if masked else None,
        masked_lm_labels=torch.tensor(inputs["masked_lm_labels"]) if masked else None,
        masked_lm_weight=given["masked_lm_weight"], ignored=given["ignore_class"],
    )  # fmt: skip
    return {name: float(value) for name, value in found.items()}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "chunk_context": chunk_context,
    "aggregate": aggregated,
    "head_outputs": head_outputs,
    "training_loss": training_loss,
}
