"""baichuan-alignment.json: merging, the reward model's loss, the truncated KL, and packing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.training import packing
from truing.methods.training.losses import distillation, scores

Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def filled(values: list[float | None]) -> torch.Tensor:
    return tensor([float("nan") if value is None else value for value in values])


def model_stock(inputs: Values, given: Values) -> Values:
    from truing.methods.merging import rules

    models = [tensor(values) for values in inputs["models"]]
    merged, found = rules.model_stock(tensor(inputs["base"]), models, filter_wise=given.get("filter_wise", False))
    return {**found, "merged": merged.tolist()}


def linear_merge(inputs: Values, given: Values) -> Values:
    from truing.methods.merging import rules

    models = [tensor(values) for values in inputs["models"]]
    weights = given.get("weights", [1.0] * len(models))
    return {"merged": rules.linear(models, weights, normalize=given.get("normalize", True)).tolist()}


def task_arithmetic(inputs: Values, given: Values) -> Values:
    from truing.methods.merging import rules

    models = [tensor(values) for values in inputs["models"]]
    merged = rules.task_arithmetic(
        tensor(inputs["base"]), models, given.get("weights", [1.0] * len(models)),
        lam=given.get("lambda_", 1.0), normalize=given.get("normalize", False),
    )  # fmt: skip
    return {"merged": merged.tolist()}


def reward_loss(inputs: Values, given: Values) -> Values:
    chosen = tensor(inputs["reward_chosen"]).requires_grad_()
    rejected = tensor(inputs["reward_rejected"]).requires_grad_()
    targets = filled(inputs["score_chosen"]), filled(inputs["score_rejected"])
    has_score = torch.tensor(inputs["has_absolute_score"]).bool()
    values = scores.mixed_reward(chosen, rejected, *targets, has_score, alpha=given["alpha"])
    values.mean().backward()
    return {
        "per_pair": values.tolist(), "loss": values.mean().item(),
        "bt": scores.bradley_terry(chosen, rejected).tolist(),
        "mse": scores.absolute_error(chosen, rejected, *targets).tolist(),
        "grad_chosen": chosen.grad.tolist(), "grad_rejected": rejected.grad.tolist(),
    }  # fmt: skip


def topk_kl(inputs: Values, given: Values) -> Values:
    policy, reference = tensor(inputs["policy_logits"]), tensor(inputs["reference_logits"])
    top = distillation.top_scores(reference, given["k"])
    found = distillation.topk_kl(policy, top)
    return {
        "topk_indices": top.indices.tolist(), "kl_per_position": found.kl.tolist(), "kl_mean": found.kl.mean().item(),
        "full_vocab_kl": distillation.reverse_kl(reference, policy).tolist(),
    }  # fmt: skip


def pack_bfd(inputs: Values, given: Values) -> Values:
    """Rows in TRL's order, which truncates what is longer than a row."""
    capacity = given["seq_length"]
    overflow = "split" if given.get("strategy") == "bfd_split" else "truncate"
    rows = packing.pack_bfd(inputs["sample_lengths"], capacity, overflow=overflow)
    shown = [
        {
            "input_ids": [100 * piece.sample + at for piece in row for at in range(piece.start, piece.end)],
            "seq_lengths": [piece.length for piece in row],
            "cu_seqlens": packing.block_ends([piece.length for piece in row]),
            "position_ids": packing.block_positions([piece.length for piece in row]),
        }
        for row in rows
    ]
    return {"rows": shown, "token_utilisation": packing.utilisation(rows, capacity)}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "model_stock": model_stock,
    "linear_merge": linear_merge,
    "task_arithmetic": task_arithmetic,
    "reward_loss": reward_loss,
    "topk_kl": topk_kl,
    "pack_bfd": pack_bfd,
}
