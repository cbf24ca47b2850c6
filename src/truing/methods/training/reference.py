"""Reference log-probabilities: computed once, before training, so that no second model stays in memory.

They are kept on disk, named by a hash of the weights, of all token ids and of how tokens become one value, so that
other runs and other objectives on the same rows find them. ``TRUING_CACHE`` says where; by default that is the folder
``truing`` in the user's cache folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from truing import progress
from truing.methods.training import processes
from truing.methods.training.batches import collate
from truing.methods.training.encoding import Row, digest
from truing.methods.training.objective import Objective
from truing.methods.training.policy import Policy, prepared
from truing.models import Model
from truing.models.logprobs import batches


def cache_folder() -> Path:
    """Where reference log-probabilities are kept."""
    given = os.environ.get("TRUING_CACHE")
    return (Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "truing") / "reference"


def reference_of(model: Model, *, rows: Sequence[Row], objective: Objective, pad: int) -> torch.Tensor:
    """`reference_logps` of a model, from the cache where they are there."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    plain = dataclasses.replace(model, modifiers=())
    name = hashlib.sha256(f"{plain.fingerprint}/{digest(rows, answers_only=True)}/{objective.key}".encode())
    path = cache_folder().expanduser() / f"{name.hexdigest()[:32]}.safetensors"
    held = None
    try:
        if path.is_file():
            held = load_file(path)["logps"]
    except (OSError, KeyError, SafetensorError) as error:
        logging.getLogger("truing").warning("%s cannot be read and is made again: %s", path, error)
    # What one process lacks all of them compute.
    if all(processes.gathered(held is not None)) and held is not None:
        return held
    out = reference_logps(model.weights, rows, objective, pad=pad)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file({"logps": out}, partial)
        partial.replace(path)
    except OSError as error:
        logging.getLogger("truing").info("Reference log-probabilities are not kept: %s", error)
    return out


def reference_logps(
    weights: Any,
    rows: Sequence[Row],
    objective: Objective,
    *,
    pad: int,
    budget: int = 8192,
) -> torch.Tensor:
    """Log-probability in nats of every answer under the reference, float32 [rows, most answers], in eval mode.

    Args:
        weights: of the reference; used as they are.
        rows: encoded.
        objective: says how token log-probabilities become one value.
        pad: token id to fill batches with.
        budget: tokens of a batch.
    """
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
            # Each process takes its share, and all of them get the whole table.
            for chosen in batches(widths, budget, None)[processes.rank() :: processes.world()]:
                batch = collate([rows[at] for at in chosen], pad, packed=packed).to(device)
                scores = policy(batch)
                logps = objective.sequence_logps(scores.tokens, scores.mask)
                out[torch.tensor(chosen)[batch.owner.cpu()], batch.slot.cpu()] = logps.cpu()
                bar.advance(len(chosen))
    finally:
        weights.train(was_training)
    return processes.total(out)
