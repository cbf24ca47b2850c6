"""Losses that train a strong classifier on a weak one's soft labels, as pure functions of scores (logits).

Each takes scores [B, C] and weak labels, probabilities [B, C], and gives one value an example, [B]. Burns et al. 2023,
arXiv 2312.09390, whose code openai/weak-to-strong is the source; used on safety, toxicity and law by Ye et al. 2024,
arXiv 2410.12621.
"""

from __future__ import annotations

import torch
from torch import Tensor


def xent(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to the weak labels, [B]."""
    return -(labels * _wide(logits).log_softmax(-1)).sum(-1)


def confidence_weight(
    step_fraction: float, *, aux_coef: float = 0.5, warmup_frac: float = 0.1, as_published: bool = False
) -> float:
    """Share of the hardened labels in `logconf` after a fraction of all steps.

    It rises in a line to aux_coef at warmup_frac. ``as_published`` is what the code does: step_fraction * aux_coef up
    to warmup_frac, then a jump to aux_coef.
    """
    if step_fraction > warmup_frac or warmup_frac <= 0:
        return aux_coef
    return aux_coef * (step_fraction if as_published else step_fraction / warmup_frac)


def confidence_threshold(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability of class 0 from which an example is hardened to it, a scalar without gradient; two classes.

    The quantile of p(class 0) at the level of the weak labels' mean p(class 1), so that hardened labels keep the weak
    labels' balance. Give it a whole optimiser step, 8 examples at the least: of one example it is that example's own
    score.
    """
    p = _wide(logits.detach()).softmax(-1)[:, 0]
    return torch.quantile(p, labels[:, 1].to(p.dtype).mean())


def hardened(logits: Tensor, threshold: Tensor | float) -> Tensor:
    """The strong model's own labels, one-hot [B, 2], without gradient: class 0 where p(class 0) >= threshold."""
    first = _wide(logits.detach()).softmax(-1)[:, 0] >= threshold
    return torch.stack([first, ~first], 1).to(_wide(logits).dtype)


def logconf(logits: Tensor, labels: Tensor, weight: float, threshold: Tensor | float | None = None) -> Tensor:
    """Cross-entropy to (1 - weight) weak + weight hardened labels, [B]; `xent` at weight 0. Two classes.

    Args:
        logits: [B, 2].
        labels: weak labels, [B, 2].
        weight: see `confidence_weight`.
        threshold: see `confidence_threshold`; None to take it from these examples.
    """
    threshold = confidence_threshold(logits, labels) if threshold is None else threshold
    return xent(logits, (1 - weight) * labels + weight * hardened(logits, threshold))


def product(logits: Tensor, labels: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """Cross-entropy to p^beta * weak^alpha, renormalised and without gradient, [B]; `xent` at alpha 1, beta 0."""
    # In logarithms, where small probabilities of many classes do not vanish before they are renormalised.
    opinion = beta * _wide(logits.detach()).log_softmax(-1) if beta else torch.zeros_like(_wide(logits))
    target = (opinion + (alpha * labels.log() if alpha else 0)).softmax(-1)
    return xent(logits, target)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
