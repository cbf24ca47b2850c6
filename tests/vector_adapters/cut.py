"""cut.json: batches as logits, as the published code sees them, and the first contrast as probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.training import losses
from truing.methods.training.losses import judged as judged_losses

Values = dict[str, Any]


def answers(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the labelled tokens of each row, moved to the left, and their mask."""
    labels = labels[:, 1:]
    found = logits[:, :-1].log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    wanted = labels != -100
    lengths = wanted.sum(1)
    mask = torch.arange(int(lengths.max()) if len(lengths) else 0)[None] < lengths[:, None]
    return torch.zeros(mask.shape, dtype=found.dtype).masked_scatter(mask, found[wanted]), mask


def batch(inputs: Values, given: Values) -> Values:
    logits = torch.tensor(inputs["logits"], dtype=torch.float64).requires_grad_()
    negative = torch.tensor(inputs["judgment_is_negative"], dtype=torch.bool)
    first, first_mask = answers(logits[: len(negative)], torch.tensor(inputs["labels"]))
    plain, plain_mask = answers(logits[len(negative) :][negative], torch.tensor(inputs["labels_plain"])[negative])
    width = plain.shape[1]
    found = judged_losses.cut_contrast(
        first[negative][:, :width], plain, plain_mask,
        threshold=given["threshold_lambda"], alpha=given["unlikelihood_weight"], gamma=given.get("gamma"),
    )  # fmt: skip
    likelihood = -losses.sequence_logps(first, first_mask)
    counts = int(first_mask.sum()), int(plain_mask.sum())
    loss = judged_losses.cut_mean(likelihood, counts[0], found.loss, counts[1])
    loss.backward()
    ratio = (first[negative][:, :width] - plain).exp()
    rows = iter(zip(ratio, found.flagged, plain_mask))
    shown = [next(rows) if one else (torch.zeros(0),) * 2 + (torch.zeros(0).bool(),) for one in negative]
    return {
        "loss": loss.item(),
        "likelihood_term": judged_losses.cut_mean(likelihood, counts[0], found.loss, 0).item(),
        "contrast_term": (found.loss.sum() / counts[1]).item() if counts[1] else None,
        "ratio_judged_over_plain": [values[keep].tolist() for values, _, keep in shown],
        "flagged_tokens": [flags[keep].tolist() for _, flags, keep in shown],
        "grad_logits": logits.grad.tolist(),
    }  # fmt: skip


def first_contrast(inputs: Values, given: Values) -> Values:
    plain = torch.tensor([inputs["prob_plain"]], dtype=torch.float64).log()
    judged = torch.tensor([inputs["prob_given_negative_judgment"]], dtype=torch.float64).log()
    mask = torch.ones_like(plain, dtype=torch.bool)
    found = judged_losses.cut_contrast(
        judged, plain, mask,
        threshold=given["threshold_lambda"], alpha=given["alpha"], gamma=given.get("gamma"),
    )  # fmt: skip
    return {"flagged": found.flagged[0].tolist(), "loss": found.loss.item() / plain.shape[1]}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "LlamaForCausalLM.forward with identity head: logits rows are [judged or plain prompt of every example..., plain "
    "prompt of every negative example...]": batch,
    "formula: first contrast with dynamic weight": first_contrast,
}
