"""A reference that follows the policy (trust-region alignment, Gorbatovski et al. 2024, arXiv 2404.09656)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from truing.methods.training.batches import Batch
from truing.methods.training.checkpoints import restore, trained_state
from truing.methods.training.objective import Objective
from truing.methods.training.policy import Policy

FILE = "reference.safetensors"


class LiveReference:
    """A copy of the policy whose trained parameters become ``mix * policy + (1 - mix) * reference`` at intervals.

    Args:
        weights: the policy's, as training starts; parameters that are frozen are shared.
        every: optimiser steps between two updates.
        mix: the policy's share, 0 to 1.
    """

    def __init__(self, weights: Any, every: int, mix: float) -> None:
        frozen = {id(p): p for p in weights.parameters() if not p.requires_grad}
        self.weights = copy.deepcopy(weights, memo=frozen).eval()
        self.every, self.mix, self._moved = every, mix, 0

    @torch.no_grad()
    def logps(self, batch: Batch, objective: Objective) -> torch.Tensor:
        """Log-probability of each sequence of a batch, [N]."""
        scores = Policy(self.weights)(batch)
        return objective.sequence_logps(scores.tokens, scores.mask)

    @torch.no_grad()
    def follow(self, weights: Any, step: int) -> None:
        """Move towards the policy, once, if this step is one of those on which the reference moves."""
        if step % self.every or step == self._moved:
            return
        self._moved = step
        newer = dict(weights.named_parameters())
        for name, parameter in self.weights.named_parameters():
            if parameter.requires_grad:
                parameter.lerp_(newer[name].to(parameter.dtype), self.mix)

    def save(self, place: Path) -> None:
        """Write the parameters that move."""
        from safetensors.torch import save_file

        save_file(trained_state(self.weights), place / FILE)

    def load(self, place: Path) -> None:
        """Read them again."""
        from safetensors.torch import load_file

        restore(self.weights, load_file(place / FILE))
