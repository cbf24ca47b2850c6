"""Losses of single answers with a thumb up or down, as pure functions of answer log-probabilities in nats."""

from __future__ import annotations

import torch
from torch import Tensor


def kto(
    policy: Tensor, reference: Tensor, labels: Tensor, kl: Tensor | float, *,
    beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """Loss per example, [B]: w_u (1 - s(beta (r - z))) for a good answer, w_d (1 - s(beta (z - r))) for a bad one.

    ``labels`` is bool [B]; ``kl`` is z, see `kto_reference_point`. Ethayarajh et al. 2024, eq. 8.
    """
    ratio = policy - reference
    up = desirable_weight * (1 - torch.sigmoid(beta * (ratio - kl)))
    down = undesirable_weight * (1 - torch.sigmoid(beta * (kl - ratio)))
    return torch.where(labels, up, down)


def kto_reference_point(mismatched_policy: Tensor, mismatched_reference: Tensor) -> Tensor:
    """z = max(0, mean log-ratio of answers to other prompts), a scalar without gradient."""
    return (mismatched_policy - mismatched_reference).mean().clamp(min=0).detach()


def apo_zero_unpaired(
    policy: Tensor, reference: Tensor, labels: Tensor, *,
    beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """Loss per example, [B]: 1 - s(beta r) for a good answer, s(beta r) for a bad one."""
    share = torch.sigmoid(beta * (policy - reference))
    return torch.where(labels, desirable_weight * (1 - share), undesirable_weight * share)
