"""derived-prompt.json: ReMax's returns and loss, and win rates from verdicts in both orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.measures import win_rate as measure
from truing.methods.rl.losses import remax_loss as loss_of
from truing.methods.rl.losses import remax_returns

Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def remax_loss(inputs: Values, given: Values) -> Values:
    logps, reference = tensor(inputs["log_probs"]).requires_grad_(), tensor(inputs["reference_log_probs"])
    mask, reward = tensor(inputs["mask"]), tensor(inputs["reward"])
    beta = given["beta"]
    kl = ((logps - reference) * mask).sum(1).detach()
    returns = remax_returns(
        logps, reference, mask, reward - tensor(inputs["greedy_baseline_reward"]), beta=beta,
        gamma=given.get("gamma", 1.0),
    )  # fmt: skip
    loss = loss_of(logps, returns, mask)
    loss.backward()
    return {
        "sequence_kl_estimate": kl.tolist(), "returns": returns.tolist(),
        "objective_per_sample": (reward - beta * kl).tolist(), "loss": loss.item(),
        "gradient_wrt_log_probs": logps.grad.tolist(),
    }  # fmt: skip


def win_rate(inputs: Values, given: Values) -> Values:
    return dict(measure.win_rate(inputs["verdicts"]))


def two_order_verdict(inputs: Values, given: Values) -> Values:
    verdict, consistent = measure.two_order_verdict(inputs["first_order"], inputs["swapped_order"])
    return {"verdict": verdict, "consistent": consistent}


FUNCTIONS: dict[str, Callable[[Values, Values], Any]] = {
    "remax_loss": remax_loss,
    "win_rate": win_rate,
    "two_order_verdict": two_order_verdict,
}
