"""dpo-family.json: every case as values and gradients of `truing.methods.training.losses.pairs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.training import losses
from truing.methods.training.losses import pairs as pair_losses
from truing.methods.training.losses import unpaired
from truing.methods.training.losses.pairs import LOSSES, Pairs

RENAMED = {"cdpo": "sigmoid", "dpo_reference_free": "sigmoid"}
SETTINGS = {"lambda": "lam"}
Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_of(name: str, pairs: Pairs, given: Values) -> torch.Tensor:
    loss = LOSSES[RENAMED.get(name, name)]
    named = {SETTINGS.get(key, key): value for key, value in given.items()}
    return loss.function(pairs, **{key: named[key] for key in loss.settings if key in named})


def pair_case(inputs: Values, given: Values) -> Values:
    averages = "average_policy_chosen_logps" in inputs
    prefix = "average_policy" if averages else "policy"
    chosen = tensor(inputs[f"{prefix}_chosen_logps"]).requires_grad_()
    rejected = tensor(inputs[f"{prefix}_rejected_logps"]).requires_grad_()
    ones = torch.ones_like(chosen) if averages else None
    optional = {
        name: tensor(inputs[key]) if key in inputs else default
        for name, key, default in (
            ("ref_chosen", "reference_chosen_logps", None), ("ref_rejected", "reference_rejected_logps", None),
            ("chosen_lengths", "chosen_lengths", ones), ("rejected_lengths", "rejected_lengths", ones),
        )
    }  # fmt: skip
    if given.get("reference_free"):
        optional.update(ref_chosen=None, ref_rejected=None)
    divergence = {key: given[key] for key in ("f_divergence", "f_alpha") if key in given}
    values = loss_of(given["loss_type"], Pairs(chosen, rejected, **optional, **divergence), given)
    values.mean().backward()
    return {
        "per_pair_loss": values.tolist(), "mean_loss": values.mean().item(),
        "grad_policy_chosen_logps": chosen.grad.tolist(), "grad_policy_rejected_logps": rejected.grad.tolist(),
    }  # fmt: skip


def logits_case(inputs: Values, given: Values) -> Values:
    logits = tensor(inputs["logits"]).requires_grad_()
    ids, mask = torch.tensor(inputs["input_ids"])[:, 1:], torch.tensor(inputs["completion_mask"])[:, 1:].bool()
    distribution = logits[:, :-1].log_softmax(-1)
    tokens = distribution.gather(2, ids[..., None])[..., 0]
    if "ld_alpha" in given:
        logps = pair_losses.desensitised_logps(tokens, mask, given["ld_alpha"])
    else:
        logps = losses.sequence_logps(tokens, mask)
    chosen, rejected = logps.chunk(2)
    reference = {
        name: tensor(inputs[key])
        for name, key in (("ref_chosen", "reference_chosen_logps"), ("ref_rejected", "reference_rejected_logps"))
        if key in inputs
    }
    lengths = mask.sum(1).chunk(2)
    pairs = Pairs(chosen, rejected, **reference, chosen_lengths=lengths[0], rejected_lengths=lengths[1])
    weight = torch.ones(())
    if given.get("wpo_weighting"):
        weight = pair_losses.wpo_weights(tokens, (2 * distribution).logsumexp(-1), mask)
    names = given["loss_type"] if isinstance(given["loss_type"], list) else [given["loss_type"]]
    weights = given.get("loss_weights", [1.0] * len(names))
    if "nll_weight" in given:
        names, weights = [*names, "sft"], [*weights, given["nll_weight"]]
    means = {}
    for name in names:
        unit = lengths[0].sum() if LOSSES[RENAMED.get(name, name)].unit == "token" else len(chosen)
        means[name] = (loss_of(name, pairs, given) * weight).sum() / unit
    loss = sum(means[name] * share for name, share in zip(names, weights, strict=True))
    loss.backward()
    out = {
        "loss": loss.item(), "token_logps": tokens.masked_fill(~mask, 0).tolist(),
        "sequence_logps": losses.sequence_logps(tokens, mask).tolist(),
        "preference_term": means[names[0]].item(), "grad_logits": logits.grad.tolist(),
    }  # fmt: skip
    return {**out, "nll_term": means["sft"].item()} if "sft" in means else out


def label_case(inputs: Values, given: Values) -> Values:
    policy = tensor(inputs["policy_logps"]).requires_grad_()
    reference, labels = tensor(inputs["reference_logps"]), torch.tensor(inputs["labels"])
    how = {key: given[key] for key in ("beta", "desirable_weight", "undesirable_weight")}
    out: Values = {}
    if given["loss_type"] == "kto":
        mismatched = tensor(inputs["mismatched_policy_logps"]), tensor(inputs["mismatched_reference_logps"])
        point = unpaired.kto_reference_point(*mismatched)
        out["kl_reference_point"] = point.item()
        values = unpaired.kto(policy, reference, labels, point, **how)
    else:
        values = unpaired.apo_zero_unpaired(policy, reference, labels, **how)
    values.mean().backward()
    found = {
        "per_example_loss": values.tolist(),
        "mean_loss": values.mean().item(),
        "grad_policy_logps": policy.grad.tolist(),
    }
    return {**out, **found}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "DPOTrainer._compute_loss": pair_case,
    "preference_loss": pair_case,
    "CPOTrainer.cpo_loss": pair_case,
    "ORPOTrainer.odds_ratio_loss (negated: loss to minimise, without the NLL term)": pair_case,
    "KTOTrainer._compute_loss": label_case,
    "formula": pair_case,
    "DPOTrainer._compute_loss on logits; rows are [chosen..., rejected...]; logits at position t score token t+1; "
    "completion_mask marks completion tokens, zeros elsewhere (prompt or padding)": logits_case,
    "CPOTrainer: preference term + nll_weight * token-mean NLL over the completion tokens of the chosen rows of the "
    "batch": logits_case,
}
