"""Losses of reward models, and terms that reward a model for being wrong: pure functions, one value an example, [B].

Scores are what a scalar head gives, without a unit; `conflict_preferences` reads log-probabilities in nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0) -> Tensor:
    """-log s(chosen - rejected - margin), [B]; log 2 at equal scores. Bradley and Terry 1952.

    A margin, one number or [B], asks for a larger gap where one answer is much better (Touvron et al. 2023, Llama 2).
    """
    return -F.logsigmoid(chosen - rejected - margin)


def soft_bradley_terry(chosen: Tensor, rejected: Tensor, preference: Tensor) -> Tensor:
    """Cross-entropy of s(chosen - rejected) to the probability, [B] in [0, 1], that the first is the better answer."""
    return pointwise_bce(chosen - rejected, preference)


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(chosen + rejected)^2, [B]: holds scores around 0, which a loss of differences leaves open.

    Eisenstein et al. 2023, arXiv 2312.09244; TRL multiplies it by ``center_rewards_coefficient``, 0.01 or so.
    """
    return (chosen + rejected) ** 2


def pointwise_mse(scores: Tensor, targets: Tensor) -> Tensor:
    """(score - target)^2, of any shape."""
    return (scores - targets) ** 2


def pointwise_bce(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of s(score) to labels or probabilities in [0, 1], of any shape."""
    return F.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype), reduction="none")


def absolute_error(chosen: Tensor, rejected: Tensor, score_chosen: Tensor, score_rejected: Tensor) -> Tensor:
    """(chosen - score_chosen)^2 + (rejected - score_rejected)^2, [B]."""
    return pointwise_mse(chosen, score_chosen) + pointwise_mse(rejected, score_rejected)


def mixed_reward(
    chosen: Tensor, rejected: Tensor, score_chosen: Tensor, score_rejected: Tensor, has_score: Tensor, *,
    alpha: float = 0.1,
) -> Tensor:  # fmt: skip
    """`bradley_terry` + alpha `absolute_error` where a pair has absolute scores, [B].

    Lin et al. 2024, arXiv 2410.14940.

    Args:
        chosen: score of each chosen answer, [B].
        rejected: of each rejected one, [B].
        score_chosen: absolute score of the chosen answer, [B], on a scale of about -1 to 1: raw points from 1 to 5
            swamp the ranking. Anything, NaN too, where a pair has none.
        score_rejected: likewise.
        has_score: bool [B].
        alpha: weight of the absolute scores; not published, 0.01 to 0.5 works.
    """
    # Filled in first: NaN times 0 is NaN, in gradients too.
    targets = (torch.where(has_score, score, 0).to(chosen.dtype) for score in (score_chosen, score_rejected))
    return bradley_terry(chosen, rejected) + alpha * absolute_error(chosen, rejected, *targets) * has_score


def conflict_mask(differences: Tensor, labels: Tensor) -> Tensor:
    """Where a reward model ranks a pair wrongly, bool [B]: [d >= 0] is not the true label, bool or 0 and 1."""
    return (differences.detach() >= 0) != labels.bool()


def conflict_rewards(differences: Tensor, labels: Tensor) -> Tensor:
    """Explicit conflict for reward models, [B]: cross-entropy of s(d) to the wrong label, where d has it wrong; else 0.

    Minimised, it pushes existing mistakes further. Average it over the whole batch and add it with a weight, 0.5 in the
    paper. Yang et al. 2025, arXiv 2406.11431.

    Args:
        differences: d, score of the answer that label 1 stands for less that of the other, [B].
        labels: true labels, [B].
    """
    wrong = pointwise_bce(differences, 1 - labels.to(differences.dtype))
    return wrong.masked_fill(~conflict_mask(differences, labels), 0)


def conflict_preferences(
    chosen: Tensor, rejected: Tensor, right: Tensor, *,
    beta: float, gamma: float = 0.0, ref_chosen: Tensor | None = None, ref_rejected: Tensor | None = None,
    likelihood: bool = False,
) -> Tensor:  # fmt: skip
    """Explicit conflict for SimPO and DPO, [B]: rewards harm where the policy already prefers it; else 0.

    -log s(beta D - gamma) of the harmful answer over the harmless one, D their difference. Average it over the whole
    batch and add it with a weight, 0.5 in the paper. Yang et al. 2025, arXiv 2406.11431.

    Args:
        chosen: log-probability of the answer that the weak model prefers, [B]: a mean over tokens for SimPO, a sum for
            DPO.
        rejected: of the other, [B].
        right: whether the weak model has it right, so that its rejected answer is the harmful one, bool or 0 and 1.
        beta: 2 for SimPO, 0.1 for DPO.
        gamma: 1 for SimPO, 0 for DPO.
        ref_chosen: under the reference, [B], for DPO; enters D, not what the policy is said to prefer.
        ref_rejected: likewise.
        likelihood: minus the log-probability of the harmful answer instead (the paper's "sft" form).
    """
    right = right.bool()
    harmful, harmless = torch.where(right, rejected, chosen), torch.where(right, chosen, rejected)
    # The weak order decides at a tie, as in the published code: active only where it is wrong.
    active = torch.where(right, chosen < rejected, chosen >= rejected)
    if likelihood:
        return (-harmful).masked_fill(~active, 0)
    margin = harmful - harmless
    if ref_chosen is not None and ref_rejected is not None:
        gap = ref_chosen - ref_rejected
        margin = margin + torch.where(right, gap, -gap)
    return (-F.logsigmoid(beta * margin - gamma)).masked_fill(~active, 0)
