"""BiAlign's ranking loss: a student prefers the same subsets of demonstrations as its teacher.

Qin et al. 2025, arXiv 2312.17055. Scores are log-probabilities, in nats, of a target after each of N subsets, [B, N].
"""

from __future__ import annotations

import torch
from torch import Tensor

# Scores that spread less than this, in nats, have no order to teach: their sample is left out.
_FLAT = 1e-4


def teacher_ranks(teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Rank of each subset, int [B, N], 1 for the teacher's best; equal scores share the better rank."""
    present = torch.ones_like(teacher, dtype=torch.bool) if mask is None else mask
    better = (teacher[:, None, :] > teacher[:, :, None]) & present[:, None, :]
    return 1 + better.sum(2)


def preferred_pairs(teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Where the teacher scores i above j, bool [B, N, N], at [b, i, j]. Equal scores make no pair."""
    pairs = teacher[:, :, None] > teacher[:, None, :]
    return pairs if mask is None else pairs & mask[:, :, None] & mask[:, None, :]


def score_range(student: Tensor, mask: Tensor | None = None) -> Tensor:
    """Highest less lowest score of each sample, [B]; worth logging, since it grows where its gradient is cut."""
    if mask is None:
        return student.amax(1) - student.amin(1)
    return student.masked_fill(~mask, -torch.inf).amax(1) - student.masked_fill(~mask, torch.inf).amin(1)


def ranking_terms(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, through_range: bool = False
) -> Tensor:
    """The loss of each pair, [B, N, N], at [b, better, worse] by the teacher; 0 elsewhere.

    max(0, (q_worse - q_better) / (max q - min q) + (rank_worse - rank_better) / (N - 1)), rank 1 the best.

    Args:
        student: q, [B, N].
        teacher: [B, N]; no gradient.
        mask: which subsets exist, bool [B, N]; None for all. N is then counted row by row.
        through_range: let gradients through max q - min q, as the printed formula reads. It has dead points: where two
            subsets, or three equally spaced ones, are in reverse order, the gradient is exactly 0. Off, all orders are
            learned, and the range grows.

    A sample whose scores spread less than 1e-4 gives 0, so the division needs no epsilon and values are exact.
    """
    if mask is not None:
        student, teacher = student.masked_fill(~mask, 0), teacher.masked_fill(~mask, 0)
    pairs = preferred_pairs(teacher.detach(), mask)
    spread = score_range(student, mask)
    spread = spread if through_range else spread.detach()
    usable = ~(spread.detach() < _FLAT)  # NaN stays, so that a broken score is seen
    # Flat samples divide by 1 and are then set to 0, so that their gradient is 0 and not NaN.
    gaps = (student[:, None, :] - student[:, :, None]) / torch.where(usable, spread, 1.0)[:, None, None]
    ranks = teacher_ranks(teacher.detach(), mask).to(student.dtype)
    others = student.shape[1] - 1 if mask is None else (mask.sum(1)[:, None, None] - 1)
    steps = (ranks[:, None, :] - ranks[:, :, None]) / torch.as_tensor(others, device=student.device).clamp(min=1)
    return torch.where(pairs & usable[:, None, None], torch.relu(gaps + steps), 0.0)


def bialign_ranking(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, through_range: bool = False
) -> Tensor:
    """Ranking loss per sample, [B]: the sum of `ranking_terms`, whose arguments it takes.

    0 where the student's scores are in the teacher's order and equally spaced; not changed by any increasing map of the
    teacher's scores, nor by a scale and a constant on the student's. With two subsets 0 in agreement, else 2.
    """
    return ranking_terms(student, teacher, mask=mask, through_range=through_range).sum((1, 2))


def preference_agreement(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the best, and whether the worst, subset of each sample is the teacher's, bool [B] each."""
    return student.argmax(1) == teacher.argmax(1), student.argmin(1) == teacher.argmin(1)
