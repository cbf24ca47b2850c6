"""The model in training: log-probabilities of answer tokens, with the head on answer positions only."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from truing.models import provenance
from truing.models.logprobs import head_scores


@dataclasses.dataclass(frozen=True)
class Scores:
    """A batch as the policy sees it; N = answers * B sequences, [first answers..., second answers..., ...].

    Args:
        tokens: float32 log-probability of each answer token, [N, T], zero beyond the answer.
        mask: which of them are answer tokens, bool [N, T].
        answers: answers of each row.
        reference: reference log-probability of each answer, [N], or None.
        collisions: log sum_v p_v^2 at each answer token, [N, T], where the objective asked for it.
    """

    tokens: Tensor
    mask: Tensor
    answers: int
    reference: Tensor | None = None
    collisions: Tensor | None = None


class Policy(nn.Module):
    """Wraps a causal language model (transformers or PEFT), so that trainers and their wrappers see one forward.

    Args:
        weights: the model.
    """

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.weights = weights

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, wanted: Tensor, collisions: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities of the wanted tokens, their mask, and their collisions, each [N, T] (see `Scores`)."""
        core = self.weights.get_base_model() if hasattr(self.weights, "get_base_model") else self.weights
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        hidden = core.base_model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        # Scores of the whole vocabulary exist for answer positions only: the greatest saving in time and memory.
        scores = head_scores(core, hidden[:, :-1][wanted[:, 1:]])
        normaliser = scores.logsumexp(1)
        flat = scores.gather(1, input_ids[:, 1:][wanted[:, 1:]][:, None])[:, 0] - normaliser
        lengths = wanted[:, 1:].sum(1)
        mask = torch.arange(int(lengths.max()), device=lengths.device)[None] < lengths[:, None]
        square = (2 * scores.detach()).logsumexp(1) - 2 * normaliser.detach() if collisions else None
        return _spread(flat, mask), mask, None if square is None else _spread(square, mask)


def _spread(flat: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


def score(policy: nn.Module, batch: dict[str, Any], collisions: bool = False) -> Scores:
    """The scores of a collated batch."""
    tokens, mask, square = policy(batch["input_ids"], batch["attention_mask"], batch["wanted"], collisions)
    return Scores(tokens, mask, batch["answers"], batch.get("reference"), square)


def working_copy(weights: Any, adapter: dict[str, Any] | None, seed: int) -> Any:
    """Weights that may be trained without touching the ones given.

    Without an adapter a full copy; with one, a PEFT model around modules that share the given parameters' memory, which
    stay frozen. An adapter that the given weights carry already is merged first, into a copy.

    Args:
        weights: a transformers or PEFT model.
        adapter: settings of `peft.LoraConfig`, or None.
        seed: of the adapter's first weights.
    """
    if hasattr(weights, "merge_and_unload"):
        base = copy.deepcopy(weights).merge_and_unload()
    elif adapter is None:
        base = copy.deepcopy(weights)
    else:
        # New parameters over the same memory: freezing these leaves the given model's own flags alone.
        shared = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in weights.parameters()}
        base = copy.deepcopy(weights, memo=shared)
        provenance.inherit(base, weights)
    if adapter is None:
        return base.requires_grad_(True)
    import peft

    with seeded(seed):
        return peft.get_peft_model(base, peft.LoraConfig(**{"task_type": "CAUSAL_LM", **adapter}))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch inside the block, and put their states back after it."""
    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def without_dropout(weights: nn.Module) -> Iterator[None]:
    """Set every dropout rate in the model to 0 inside the block; some are plain attributes (OPT, attention).

    An adapter's own dropout was asked for with the adapter, and stays.
    """
    found: list[tuple[nn.Module, str, float]] = []
    for path, module in weights.named_modules():
        if "lora_dropout" in path:
            continue
        if isinstance(module, nn.Dropout):
            found.append((module, "p", module.p))
        found += [(module, k, v) for k, v in vars(module).items() if "dropout" in k and isinstance(v, float)]
    for module, name, _ in found:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in found:
            setattr(module, name, value)
