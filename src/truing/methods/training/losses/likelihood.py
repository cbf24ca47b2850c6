"""PoFT: fine-tuning that asks the model to find an answer likelier than aligned models do. Pure functions, in nats."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from truing.methods.training.losses import sequence_logps


def mean_logps(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean log-probability of a token of each answer, [N], of token log-probabilities [N, T] under a bool mask.

    NaN for an answer without tokens, which has no mean: leave it out.
    """
    return sequence_logps(tokens, mask) / mask.sum(1)


def mean_aligned_score(scores: Tensor) -> Tensor:
    """Mean of the aligned models' scores, [B], from [B, M]; NaN where one is missing (NaN): leave that row out."""
    return scores.mean(1)


def poft_margin(score: Tensor, aligned: Tensor, *, beta: float = 1.0, gamma: float = 0.0) -> Tensor:
    """beta (score - aligned) + gamma, [B]; both are mean log-probabilities of a token over the same answer tokens."""
    return beta * (score - aligned) + gamma


def poft(score: Tensor, aligned: Tensor, *, beta: float = 1.0, gamma: float = 0.0) -> Tensor:
    """Loss per example, [B]: -log s(beta (score - aligned) + gamma). Fan et al. 2024, arXiv 2412.12865.

    log 2 where the model scores as the aligned ones do. Its gradient is that of token-mean cross-entropy times beta and
    `poft_weight`. The published code trains on all tokens against scores of answer tokens; here both are of the same.

    Args:
        score: mean log-probability of a token under the model, [B], see `mean_logps`.
        aligned: the same under aligned models, [B], see `mean_aligned_score`; no gradient.
        beta: scale of the margin.
        gamma: added to the margin; very negative values give plain fine-tuning.
    """
    return -F.logsigmoid(poft_margin(score, aligned, beta=beta, gamma=gamma))


def poft_weight(score: Tensor, aligned: Tensor, *, beta: float = 1.0, gamma: float = 0.0) -> Tensor:
    """tau, [B], no gradient: the share of the cross-entropy gradient that an example keeps; 1/2 at equal scores."""
    return torch.sigmoid(-poft_margin(score, aligned, beta=beta, gamma=gamma)).detach()
