"""Reference log-probabilities: computed once, before training, so that no second model stays in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from truing import progress
from truing.methods.training.batches import collate
from truing.methods.training.encoding import Row
from truing.methods.training.objective import Objective
from truing.methods.training.policy import Policy, prepared
from truing.models.logprobs import batches


def reference_logps(
    weights: Any,
    rows: Sequence[Row],
    objective: Objective,
    *,
    pad: int,
    identity: str,
    folder: Path | None,
    budget: int = 8192,
) -> torch.Tensor:
    """Log-probability in nats of every answer under the reference, float32 [rows, most answers], in eval mode.

    Args:
        weights: of the reference; used as they are.
        rows: encoded.
        objective: says how token log-probabilities become one value.
        pad: token id to fill batches with.
        identity: of weights and rows together; names the cached file.
        folder: where to keep the values; None keeps nothing.
        budget: tokens of a batch.
    """
    from safetensors.torch import load_file, save_file

    name = hashlib.sha256(f"{identity}/{objective.key}".encode()).hexdigest()[:32]
    path = folder / f"{name}.safetensors" if folder else None
    if path is not None and path.is_file():
        return load_file(path)["logps"]
    policy, was_training = Policy(weights), weights.training
    device = next(weights.parameters()).device
    out = torch.zeros(len(rows), max(len(row.answers) for row in rows))
    weights.eval()
    try:
        with (
            progress.task("reference log-probabilities", len(rows)) as bar,
            torch.no_grad(),
            prepared(weights, pad) as packed,
        ):
            widths = [len(row.tree.tokens) if packed else row.width * len(row.answers) for row in rows]
            for chosen in batches(widths, budget, None):
                batch = collate([rows[at] for at in chosen], pad, packed=packed).to(device)
                scores = policy(batch)
                logps = objective.sequence_logps(scores.tokens, scores.mask)
                out[torch.tensor(chosen)[batch.owner.cpu()], batch.slot.cpu()] = logps.cpu()
                bar.advance(len(chosen))
    finally:
        weights.train(was_training)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({"logps": out}, partial)
        partial.replace(path)
    return out
