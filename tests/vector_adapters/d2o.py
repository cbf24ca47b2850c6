"""d2o.json: values and gradients of `truing.methods.training.losses.negatives`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.training.losses import negatives

Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def padded(rows: list[list[float]]) -> torch.Tensor:
    width = max(map(len, rows), default=0)
    return tensor([row + [0.0] * (width - len(row)) for row in rows])


def d2o_loss(inputs: Values, given: Values) -> Values:
    rows = inputs["policy_self_logps"]
    own, reference = padded(rows).requires_grad_(), padded(inputs["reference_minus_self_logps"])
    mask = torch.arange(own.shape[1])[None] < torch.tensor([len(row) for row in rows])[:, None]
    negative = tensor(inputs["policy_negative_logps"]).requires_grad_()
    parts = own, reference, negative, tensor(inputs["reference_plus_negative_logps"])
    how = {key: given[key] for key in ("alpha", "beta") if key in given}
    losses = negatives.d2o(*parts, **how, mask=mask)
    losses.mean().backward()
    return {
        "per_example_loss": losses.tolist(), "mean_loss": losses.mean().item(),
        "weight": torch.sigmoid(-negatives.d2o_margin(*parts, **how, mask=mask)).tolist(),
        "grad_policy_self_logps": [row[keep].tolist() for row, keep in zip(own.grad, mask)],
        "grad_policy_negative_logps": negative.grad.tolist(),
    }  # fmt: skip


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {"d2o_loss": d2o_loss}
