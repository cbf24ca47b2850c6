"""bialign.json: the ranking loss with both gradients, and the KL of every position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.training.losses import distillation, ranking

Values = dict[str, Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ranking_loss(inputs: Values, given: Values) -> Values:
    teacher = tensor([inputs["teacher_log_scores"]])
    out: Values = {"teacher_rank": ranking.teacher_ranks(teacher)[0].tolist()}
    for name, through in (("grad_student_scores", True), ("grad_student_scores_range_detached", False)):
        student = tensor([inputs["student_log_scores"]]).requires_grad_()
        loss = ranking.bialign_ranking(student, teacher, through_range=through).sum()
        (grad,) = torch.autograd.grad(loss, student)
        terms = ranking.ranking_terms(student, teacher)[0]
        pairs = ranking.preferred_pairs(teacher)[0].nonzero().tolist()
        out |= {
            name: grad[0].tolist(), "loss": loss.item(),
            "pair_terms_positive_negative_value": [[i, j, terms[i, j].item()] for i, j in pairs],
        }  # fmt: skip
    return out


def token_kl(inputs: Values, given: Values) -> Values:
    student = tensor(inputs["student_logits"]).requires_grad_()
    values = distillation.forward_kl(tensor(inputs["teacher_logits"]), student, **given)
    mask = torch.tensor(inputs["token_mask"]).bool()
    kept = values.masked_fill(~mask, 0)
    kept.sum().backward()
    return {"token_kl": kept.tolist(), "summed_kl": kept.sum().item(), "grad_student_logits": student.grad.tolist()}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "ranking loss for one training sample": ranking_loss,
    "token-level KL(teacher||student)": token_kl,
}
