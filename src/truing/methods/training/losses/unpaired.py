"""Losses of single answers with a thumb up or down, as pure functions of answer log-probabilities in nats."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFTS = ("balanced", "pooled")


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


def bco(
    policy: Tensor, reference: Tensor, labels: Tensor, shift: Tensor | float, *,
    beta: float = 0.1, weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Loss per example, [B]: -log s(r - d) for a good answer, -u log s(d - r) for a bad one, r = `implicit_rewards`.

    log 2 where policy equals reference and d = 0. Jung et al. 2024, arXiv 2404.04656.

    Args:
        policy: summed log-probability of each answer under the policy, [B].
        reference: the same under the reference, [B].
        labels: bool [B], True for a good answer.
        shift: d, without gradient: the value of a `RunningShift`.
        beta: scale of the reward.
        weights: u, [B], see `density_weights`; read for bad answers only.
    """
    above = implicit_rewards(policy, reference, beta) - shift
    down = -F.logsigmoid(-above)
    return torch.where(labels, -F.logsigmoid(above), down if weights is None else weights * down)


def implicit_rewards(policy: Tensor, reference: Tensor, beta: float = 0.1) -> Tensor:
    """beta times the log-ratio of policy to reference, [B]."""
    return beta * (policy - reference)


def density_weights(p: Tensor, low: float = 0.5, high: float = 10.0) -> Tensor:
    """How much likelier a prompt is among good answers than among bad ones: p / (1 - p), held in [low, high].

    ``p``, of any shape, is the probability by a balanced classifier that the prompt comes from the good answers.
    Jung et al. 2024 (underlying distribution matching); the 1e-8 and the bounds are those of TRL's trainer.
    """
    return (p / (1 - p + 1e-8)).clamp(low, high)


class RunningShift:
    """The reward shift d of `bco`: a running average of rewards, 0 before the first update.

    Call `update` on training batches only, before the loss reads `value`; evaluation reads `value` and updates nothing.
    A batch may hold one class alone, or be empty.

    Args:
        kind: "balanced": (mean reward of good answers + mean reward of bad ones) / 2, as in the paper; a class not seen
            yet counts 0, the reward of every answer while policy and reference are the same. "pooled": the mean over
            all answers, as in TRL's trainer; where bad answers are many it lies closer to theirs.
        decay: None for the average over everything seen; a number in (0, 1) multiplies what was seen before by it at
            each update, so that the shift follows a policy that moves.

    Raises:
        ValueError: a kind or a decay that cannot work.
    """

    def __init__(self, kind: str = "balanced", decay: float | None = None) -> None:
        if kind not in SHIFTS:
            raise ValueError(f"Unknown shift {kind!r}. Known: {', '.join(SHIFTS)}.")
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"decay lies between 0 and 1, or is None for the average over everything, not {decay!r}.")
        self.kind, self.decay = kind, decay
        self._sums, self._counts = [0.0, 0.0], [0.0, 0.0]  # good answers, bad ones

    @property
    def value(self) -> float:
        """The shift as it stands."""
        if self.kind == "pooled":
            return sum(self._sums) / max(sum(self._counts), 1e-24)
        return sum(total / count for total, count in zip(self._sums, self._counts) if count) / 2

    def update(self, rewards: Tensor, labels: Tensor, reduce: Callable[[Tensor], Tensor] | None = None) -> float:
        """Take in a batch, and give the new value.

        Args:
            rewards: of each answer, [B]; no gradient is kept.
            labels: bool [B].
            reduce: sums a tensor over all ranks; every rank must call it, also with an empty batch.

        Raises:
            ValueError: a reward is not finite.
        """
        values = rewards.detach()
        values = values if values.dtype == torch.float64 else values.float()
        classes = torch.stack([labels, ~labels]).to(values.dtype)
        # Masked sums, so that a class without answers gives 0 and not the mean of nothing.
        totals = torch.where(classes.bool(), values, 0).sum(1)
        found = torch.cat([totals, classes.sum(1)])
        sums, counts = (reduce(found) if reduce else found).reshape(2, 2).tolist()
        if not all(map(math.isfinite, sums)):
            raise ValueError("A reward is not finite: the shift would never recover. Look at the log-probabilities.")
        for at in range(2):
            # A class keeps its weight while others come: after a long absence its mean must not become 0 / 0.
            seen = counts[at] if self.kind == "balanced" else sum(counts)
            keep = self.decay if self.decay is not None and seen else 1.0
            self._sums[at] = keep * self._sums[at] + sums[at]
            self._counts[at] = keep * self._counts[at] + counts[at]
        return self.value

    def state(self) -> dict[str, list[float]]:
        """What `load` needs, as plain numbers."""
        return {"sums": list(self._sums), "counts": list(self._counts)}

    def load(self, state: dict[str, list[float]]) -> None:
        """Go on from a saved `state`."""
        self._sums, self._counts = list(state["sums"]), list(state["counts"])
