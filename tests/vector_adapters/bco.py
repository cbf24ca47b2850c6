"""bco.json: steps of training in a row, which share the running shift of all examples, as in TRL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.training.losses import unpaired

Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def step(batch: Values, given: Values, running: unpaired.RunningShift) -> Values:
    up, down = tensor(batch.get("up_policy_logps", [])), tensor(batch.get("down_policy_logps", []))
    policy = torch.cat([up, down]).requires_grad_()
    reference = tensor(batch.get("up_reference_logps", []) + batch.get("down_reference_logps", []))
    labels = torch.arange(len(policy)) < len(up)
    beta = given.get("beta", 0.1)
    rewards = unpaired.implicit_rewards(policy, reference, beta).detach()
    shift = running.update(rewards, labels)
    weights, more = None, {}
    if "down_prob_of_up_prompt" in batch:
        bounds = given.get("min_density_ratio", 0.5), given.get("max_density_ratio", 10.0)
        found = unpaired.density_weights(tensor(batch["down_prob_of_up_prompt"]), *bounds)
        weights, more = torch.cat([torch.ones(len(up)), found]), {"down_weights": found.tolist()}
    losses = unpaired.bco(policy, reference, labels, shift, beta=beta, weights=weights)
    losses.mean().backward()
    return {
        "delta": shift, "up_rewards": rewards[labels].tolist(), "down_rewards": rewards[~labels].tolist(),
        "losses": losses.tolist(), "mean_loss": losses.mean().item(),
        "grad_up_policy_logps": policy.grad[labels].tolist(), "grad_down_policy_logps": policy.grad[~labels].tolist(),
        **more,
    }  # fmt: skip


def bco_loss(inputs: Values, given: Values) -> Values:
    running = unpaired.RunningShift("pooled")
    return {"steps": [step(batch, given, running) for batch in inputs["batches"]]}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {"bco_loss": bco_loss}
