"""weak-to-strong-tasks.json: losses on soft labels, and the metrics.

The published code works in float32, which decides ties at its quantile; its cases are run in float32 here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from truing.measures import classification
from truing.methods.training.losses import weak_labels

Values = dict[str, Any]


def tensors(inputs: Values, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.tensor(inputs["logits"], dtype=dtype).requires_grad_()
    return logits, torch.tensor(inputs["weak_labels"], dtype=dtype)


def of_batch(losses: torch.Tensor, logits: torch.Tensor) -> Values:
    losses.mean().backward()
    return {"loss": losses.mean().item(), "grad_logits": logits.grad.tolist()}


def xent(inputs: Values, given: Values) -> Values:
    logits, labels = tensors(inputs, torch.float32)
    return of_batch(weak_labels.xent(logits, labels), logits)


def product(inputs: Values, given: Values) -> Values:
    logits, labels = tensors(inputs, torch.float32)
    how = {key: given[key] for key in ("alpha", "beta") if key in given}
    return of_batch(weak_labels.product(logits, labels, **how), logits)


def logconf(as_published: bool) -> Callable[[Values, Values], Values]:
    def run(inputs: Values, given: Values) -> Values:
        logits, labels = tensors(inputs, torch.float32 if as_published else torch.float64)
        how = {key: given[key] for key in ("aux_coef", "warmup_frac") if key in given}
        weight = weak_labels.confidence_weight(inputs["step_fraction"], **how, as_published=as_published)
        hard = weak_labels.hardened(logits, weak_labels.confidence_threshold(logits, labels))
        found = of_batch(weak_labels.logconf(logits, labels, weight), logits)
        return {**found, "hardened": hard.tolist(), "coefficient": weight}

    return run


def gap_recovered(inputs: Values, given: Values) -> Values:
    found = classification.performance_gap_recovered(inputs["weak"], inputs["weak_to_strong"], inputs["strong_ceiling"])
    return {"pgr": None if math.isnan(found) else found}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "xent_loss as published code": xent,
    "logconf_loss_fn as published code": logconf(True),
    "logconf loss with a linear warm-up": logconf(False),
    "product_loss_fn as published code": product,
    "performance gap recovered": gap_recovered,
    "toxicity metrics over sampled continuations": lambda inputs, given: classification.toxicity(
        inputs["toxicity"], given.get("threshold", 0.5)
    ),
    "classification metrics": lambda inputs, given: classification.label_metrics(
        inputs["labels"], inputs["predictions"]
    ),
}
