"""Losses as pure functions over tensors, one value an example, with no model in sight; one file a family."""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_logps(tokens: Tensor, mask: Tensor) -> Tensor:
    """Summed log-probabilities in float32 or better, shape [N], of token log-probabilities [N, T] under a bool mask."""
    return (tokens if tokens.dtype == torch.float64 else tokens.float()).masked_fill(~mask, 0).sum(1)
