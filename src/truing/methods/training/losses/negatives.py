"""Losses that learn from bad answers alone, as pure functions of answer log-probabilities in nats."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def d2o_margin(
    policy: Tensor, reference: Tensor, negative: Tensor, reference_negative: Tensor, *,
    alpha: float = 0.1, beta: float = 0.1, mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """m = beta mean_k s_k - alpha l, [B]; s_k and l are the log-ratios of the own samples and of the negative.

    Args:
        policy: summed log-probability of each prompt's own samples under the policy, [B, K].
        reference: the same under the more harmful reference (minus in the paper), [B, K].
        negative: of the bad answer under the policy, [B].
        reference_negative: under the more helpful reference (plus in the paper), [B]. Both references are most often
            the model that training starts from.
        alpha: weight of the negative.
        beta: weight of the own samples.
        mask: which samples exist, bool [B, K]; None for all. The mean is over those that do. A row without any keeps
            the negative's term alone, as beta = 0 does for all: NPO (Zhang et al. 2024) up to its factor 2 / alpha.
    """
    own = policy - reference
    if mask is None:
        mean = own.mean(1)
    else:
        mean = own.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)
    return beta * mean - alpha * (negative - reference_negative)


def d2o(
    policy: Tensor, reference: Tensor, negative: Tensor, reference_negative: Tensor, *,
    alpha: float = 0.1, beta: float = 0.1, mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Loss per prompt, [B]: -log s(m), m the `d2o_margin`; arguments as there. Duan et al. 2024, arXiv 2403.03419.

    The samples are averaged inside the sigmoid: own answers as a distribution against the bad one. log 2 where policy
    equals both references. With one sample, alpha = beta and one reference it is DPO with the sample as chosen. The
    factor s(-m) of its gradient fades as m grows, unlike that of gradient ascent on the negative.
    """
    margin = d2o_margin(policy, reference, negative, reference_negative, alpha=alpha, beta=beta, mask=mask)
    return -F.logsigmoid(margin)


def d2o_instance(
    policy: Tensor, reference: Tensor, negative: Tensor, reference_negative: Tensor, *,
    alpha: float = 0.1, beta: float = 0.1, mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The instance-level variant, [B]: the mean over samples of -log s(beta s_k - alpha l), never below `d2o`.

    Arguments as in `d2o_margin`. A row without samples gives 0.
    """
    own = policy - reference if mask is None else (policy - reference).masked_fill(~mask, 0)
    losses = -F.logsigmoid(beta * own - alpha * (negative - reference_negative)[:, None])
    if mask is None:
        return losses.mean(1)
    return losses.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)
