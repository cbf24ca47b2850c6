"""poft.json: losses from logits and from scores, and the score itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.training.losses import likelihood

Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def scores(logits: torch.Tensor, labels: Any) -> torch.Tensor:
    wanted = torch.tensor(labels)[:, 1:]
    tokens = logits[:, :-1].log_softmax(-1).gather(2, wanted.clamp(min=0)[..., None])[..., 0]
    return likelihood.mean_logps(tokens, wanted != -100)


def settings(given: Values) -> Values:
    return {key: given[key] for key in ("beta", "gamma") if key in given}


def found(score: torch.Tensor, aligned: torch.Tensor, given: Values) -> tuple[torch.Tensor, Values]:
    losses = likelihood.poft(score, aligned, **settings(given))
    return losses.mean(), {
        "per_example_loss": losses.tolist(),
        "gradient_coefficient_tau": likelihood.poft_weight(score, aligned, **settings(given)).tolist(),
    }


def from_logits(inputs: Values, given: Values) -> Values:
    logits = tensor(inputs["logits"]).requires_grad_()
    score = scores(logits, inputs["labels"])
    loss, out = found(score, tensor(inputs["mean_aligned_score"]), given)
    loss.backward()
    return {**out, "loss": loss.item(), "target_reward": score.tolist(), "grad_logits": logits.grad.tolist()}


def from_scores(inputs: Values, given: Values) -> Values:
    score = tensor(inputs["target_scores"]).requires_grad_()
    aligned = likelihood.mean_aligned_score(tensor(inputs["aligned_scores"]))
    loss, out = found(score, aligned, given)
    loss.backward()
    return {
        **out, "mean_loss": loss.item(), "mean_aligned_score": aligned.tolist(),
        "grad_target_scores_of_mean_loss": score.grad.tolist(),
    }  # fmt: skip


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "PoFTTrainer.compute_loss": from_logits,
    "generate_preference_scores.compute_loss (negated)": lambda inputs, given: {
        "preference_score": scores(tensor(inputs["logits"]), inputs["labels"]).tolist()
    },
    "formula on scores": from_scores,
}
