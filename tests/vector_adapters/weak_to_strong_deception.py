"""weak-to-strong-deception.json: training with explicit conflict, and the audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.measures import classification
from truing.methods.training.losses import scores
from truing.methods.training.losses.pairs import Pairs, simpo

Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rewards(inputs: Values, given: Values) -> Values:
    differences, labels = tensor(inputs["reward_differences"]).requires_grad_(), torch.tensor(inputs["true_labels"])
    base = scores.pointwise_bce(differences, tensor(inputs["weak_soft_labels"])).mean()
    conflict = scores.conflict_rewards(differences, labels).mean()
    loss = base + given["alpha"] * conflict
    loss.backward()
    return {
        "base_loss": base.item(), "conflict_loss": conflict.item(), "loss": loss.item(),
        "conflict_mask": scores.conflict_mask(differences, labels).double().tolist(),
        "grad_logits": differences.grad.tolist(),
    }  # fmt: skip


def preferences(inputs: Values, given: Values) -> Values:
    chosen = tensor(inputs["average_logp_weak_chosen"]).requires_grad_()
    rejected = tensor(inputs["average_logp_weak_rejected"]).requires_grad_()
    how = {"beta": given.get("beta", 2.0), "gamma": given.get("gamma", 1.0)}
    ones = torch.ones_like(chosen)
    base = simpo(Pairs(chosen, rejected, chosen_lengths=ones, rejected_lengths=ones), **how).mean()
    right = torch.tensor(inputs["weak_label_is_right"])
    conflict = scores.conflict_preferences(chosen, rejected, right, **how).mean()
    loss = base + given["alpha"] * conflict
    loss.backward()
    return {
        "base_loss": base.item(), "conflict_loss": conflict.item(), "loss": loss.item(),
        "grad_weak_chosen": chosen.grad.tolist(), "grad_weak_rejected": rejected.grad.tolist(),
    }  # fmt: skip


def audit(inputs: Values, given: Values) -> Values:
    return classification.deception(
        inputs["true_labels"], inputs["weak_prob_of_label_1"], inputs["strong_ceiling_prob_of_label_1"],
        inputs["prediction_without_conflict"], inputs["prediction_with_conflict"],
        known_threshold=given.get("known_threshold", 0.75),
    )  # fmt: skip


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "reward modelling with explicit conflict": rewards,
    "SimPO with explicit conflict (reverse reward)": preferences,
    "knowledge regions, conflict tax and deception score": audit,
}
