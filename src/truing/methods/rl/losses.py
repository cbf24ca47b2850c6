"""Advantages and objectives of group-based policy gradients, as pure functions over tensors.

The trainers are TRL's; these functions say what they compute, and tests hold the two together. A group is the n
completions of one prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from truing.contracts import require

SCALES = ("group", "batch", "none")
AVERAGES = ("grpo", "bnpo", "dr_grpo", "dapo")


def group_advantages(rewards: Tensor, scale: str = "group", eps: float = 0.0, unbiased: bool = False) -> Tensor:
    """How much better a completion is than the mean of its group: ``(r_i - mean r) / (std r + eps)``.

    A group whose rewards are all equal has advantages of exactly 0 (0/0 is defined so). With ``eps=0`` nothing changes
    where a constant is added to a group's rewards, or where all are multiplied by one positive number. Shao et al. 2024
    (arXiv 2402.03300), section 4.1.2. TRL takes ``unbiased=True`` and ``eps=1e-4``.

    Args:
        rewards: float, shape [groups, n], or [n] for one group.
        scale: "group" divides by the deviation within the group, which favours prompts with little spread; "batch" by
            that of all rewards; "none" by nothing (Liu et al. 2025, arXiv 2503.20783).
        eps: added to the deviation, in units of the reward.
        unbiased: the deviation of a sample (over n - 1), not of a population (over n).

    Returns:
        Advantages, in the shape of ``rewards``.
    """
    require(scale in SCALES, f"scale is one of {', '.join(SCALES)}, not {scale!r}.")
    equal = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)
    advantages = rewards - rewards.mean(-1, keepdim=True)
    if scale != "none":
        correction = int(unbiased and rewards.shape[-1] > 1)
        along = (-1,) if scale == "group" else tuple(range(rewards.dim()))
        deviation = rewards.std(along, correction=correction, keepdim=True)
        advantages = advantages / torch.where(deviation > 0, deviation + eps, torch.ones_like(deviation))
    # The mean of equal rewards may differ from them in the last bit, which a division would blow up.
    return torch.where(equal, torch.zeros_like(advantages), advantages)


def leave_one_out(rewards: Tensor) -> Tensor:
    """A completion's reward less the mean of the others of its group: ``r_i - sum_{j != i} r_j / (n - 1)``.

    Ahmadian et al. 2024 (arXiv 2402.14740), equation 8.

    Args:
        rewards: float, shape [groups, n] or [n], n at least 2.
    """
    n = rewards.shape[-1]
    require(n > 1, f"Leaving one out needs groups of 2 or more, got {n}.")
    return rewards - (rewards.sum(-1, keepdim=True) - rewards) / (n - 1)


def kl_estimate(logps: Tensor, reference: Tensor) -> Tensor:
    """The estimate ``ref/pi - log(ref/pi) - 1`` of KL(pi || ref) at each token (k3), in nats.

    0 where the two agree, never negative, and unbiased for tokens drawn from pi. Schulman 2020; Shao et al. 2024,
    equation 4.

    Args:
        logps: log-probability of each token under the policy, any shape.
        reference: the same under the reference.
    """
    gap = reference - logps
    # expm1 keeps small gaps from being rounded below 0.
    return torch.expm1(gap) - gap


def clipped_loss(
    logps: Tensor, old: Tensor, advantages: Tensor, epsilon: float = 0.2, epsilon_high: float | None = None
) -> Tensor:
    """The negative clipped objective ``-min(rho A, clip(rho, 1 - eps, 1 + eps_high) A)`` with ``rho = pi / pi_old``.

    At ``rho = 1`` its gradient is that of the plain policy gradient, ``-A grad log pi``. Schulman et al. 2017 (arXiv
    1707.06347), equation 7.

    Args:
        logps: log-probabilities under the policy, [N, T] for tokens (GRPO), [N] for whole completions (RLOO).
        old: the same under the policy that sampled, without gradient.
        advantages: one for each completion, [N].
        epsilon: how far the ratio may fall below 1.
        epsilon_high: how far it may rise above 1; as ``epsilon`` unless given.
    """
    ratio = torch.exp(logps - old)
    gain = advantages.reshape(advantages.shape + (1,) * (logps.dim() - advantages.dim()))
    high = epsilon if epsilon_high is None else epsilon_high
    return -torch.minimum(ratio * gain, ratio.clamp(1 - epsilon, 1 + high) * gain)


def average(losses: Tensor, mask: Tensor, how: str = "grpo", longest: int | None = None) -> Tensor:
    """One number from token losses.

    Args:
        losses: [N, T].
        mask: which of them are tokens of a completion, [N, T].
        how: "grpo": the mean over completions of each one's mean, so that tokens of short ones count more; "bnpo" and
            "dapo": the mean over all tokens (of a batch, and of all batches of an optimiser step); "dr_grpo": the sum
            over all tokens by N times ``longest``.
        longest: tokens that a completion may have; for "dr_grpo".
    """
    require(how in AVERAGES, f"how is one of {', '.join(AVERAGES)}, not {how!r}.")
    mask = mask.to(losses.dtype)
    total = (losses * mask).sum(-1)
    if how == "grpo":
        return (total / mask.sum(-1).clamp(min=1)).mean()
    if how == "dr_grpo":
        require(longest is not None and longest > 0, "dr_grpo divides by `longest`, the most tokens of a completion.")
        return total.sum() / (len(losses) * float(longest or 1))
    return total.sum() / mask.sum().clamp(min=1)


def grpo_loss(
    logps: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    reference: Tensor | None = None,
    *,
    beta: float = 0.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    how: str = "grpo",
    longest: int | None = None,
    unbiased_kl: bool = True,
) -> Tensor:
    """The loss of a batch of completions: the clipped objective, plus ``beta`` times the KL estimate, averaged.

    Args:
        logps: log-probability of each token, [N, T].
        old: the same under the policy that sampled, [N, T].
        mask: which tokens count, [N, T].
        advantages: [N].
        reference: the same under the reference, [N, T]; needed where ``beta`` is not 0.
        beta: weight of the KL estimate.
        epsilon: see `clipped_loss`.
        epsilon_high: see `clipped_loss`.
        how: see `average`.
        longest: see `average`.
        unbiased_kl: multiply the KL estimate by the ratio, so that its gradient is that of the KL (DeepSeek-AI 2025,
            arXiv 2512.02556), as TRL does; Shao et al. 2024 do not.
    """
    losses = clipped_loss(logps, old, advantages, epsilon, epsilon_high)
    if beta != 0:
        require(reference is not None, "A beta other than 0 needs the reference's log-probabilities.")
        assert reference is not None
        divergence = kl_estimate(logps, reference)
        losses = losses + beta * (divergence * torch.exp(logps - old) if unbiased_kl else divergence)
    return average(losses, mask, how, longest)


def rloo_loss(
    logps: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> Tensor:
    """The mean clipped objective of whole completions; arguments as in `grpo_loss`.

    The KL penalty of RLOO is part of the rewards: ``r - beta * sum_t (log pi_old - log ref)``.
    """
    whole = (logps * mask).sum(-1)
    return clipped_loss(whole, (old * mask).sum(-1), advantages, epsilon, epsilon_high).mean()


def remax_returns(
    logps: Tensor, reference: Tensor, mask: Tensor, advantages: Tensor, *, beta: float = 0.05, gamma: float = 1.0
) -> Tensor:
    """What each token of a completion is worth: ``G_t = A - beta * sum over s >= t of (log pi_s - log ref_s)``.

    ``A`` is earned at the last token, so with a ``gamma`` under 1 both it and the penalties of later tokens count less
    the further off they are. 0 on padding, and without gradient. Li et al. 2024 (ReMax, arXiv 2310.10505); the return
    of each token is as Li et al. 2025 (arXiv 2409.01552) take it.

    Args:
        logps: log-probability of each token under the policy that sampled it, [N, T].
        reference: the same under the reference, [N, T].
        mask: which tokens are of a completion, [N, T]; padding stands on the right.
        advantages: reward of a completion less the reward of the greedy one, [N].
        beta: weight of the KL.
        gamma: discount per token.
    """
    mask = mask.to(logps.dtype)
    gain = -beta * (logps - reference).detach() * mask
    places = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    last = places == (mask * places).amax(-1, keepdim=True)
    gain = gain + last * advantages.to(gain)[:, None]
    returns, later = torch.zeros_like(gain), torch.zeros_like(gain[:, 0])
    for at in range(gain.shape[-1] - 1, -1, -1):
        later = gain[:, at] + gamma * later
        returns[:, at] = later
    return returns * mask


def remax_loss(logps: Tensor, returns: Tensor, mask: Tensor, tokens: Tensor | float | None = None) -> Tensor:
    """REINFORCE over tokens: ``- sum of G_t log pi_t / tokens``, with the returns held constant.

    Args:
        logps: log-probability of each token, [N, T].
        returns: of `remax_returns`, [N, T].
        mask: which tokens count, [N, T].
        tokens: what to divide by; those of the mask unless given (a step of several batches counts all of them).
    """
    mask = mask.to(logps.dtype)
    total = mask.sum().clamp(min=1) if tokens is None else tokens
    return -(logps * returns.detach() * mask).sum() / total
