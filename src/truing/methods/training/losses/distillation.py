"""Distances between the next-token distributions of two models, as pure functions of their scores (logits).

Each takes scores over one vocabulary, [..., V], and gives nats per position, [...], without reduction. A temperature T
divides the scores and its square multiplies the result, which keeps the size of gradients over T (Hinton et al. 2015,
arXiv 1503.02531). Scores are read in float32 or better.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_FLOOR = -1e30


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide if temperature == 1 else wide / temperature).log_softmax(-1)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities; a token that p rules out adds 0, whatever q says."""
    return (p.exp() * (p - q).masked_fill(p == -math.inf, 0)).sum(-1)


def forward_kl(teacher: Tensor, student: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student), [...]: the student covers what the teacher finds likely.

    At T = 1 the gradient at the student's scores is softmax(student) - softmax(teacher).
    """
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    return temperature**2 * _divergence(p, q)


def reverse_kl(teacher: Tensor, student: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(student || teacher), [...]: the student keeps to what the teacher finds likely."""
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    return temperature**2 * _divergence(q, p)


def generalised_jsd(teacher: Tensor, student: Tensor, *, mix: float = 0.5, temperature: float = 1.0) -> Tensor:
    """T^2 (mix KL(teacher || m) + (1 - mix) KL(student || m)), m = mix teacher + (1 - mix) student, [...].

    Agarwal et al. 2024 (GKD), arXiv 2306.13649. At a mix of 1/2 it is the Jensen-Shannon divergence, at most log
    2. At 0 and 1, where the formula is 0 for any two models, it is `forward_kl` and `reverse_kl`, its limits after a
    division by mix (1 - mix); so does TRL.

    Raises:
        ValueError: the mix is not in [0, 1].
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is a share from 0 to 1, not {mix!r}.")
    if mix in (0, 1):
        return (reverse_kl if mix else forward_kl)(teacher, student, temperature=temperature)
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    # Tokens that both rule out would give this sum a gradient of NaN; _FLOOR is e^x = 0 all the same.
    middle = torch.logaddexp(p.clamp(min=_FLOOR) + math.log(mix), q.clamp(min=_FLOOR) + math.log1p(-mix))
    return temperature**2 * (mix * _divergence(p, middle) + (1 - mix) * _divergence(q, middle))


class Top(NamedTuple):
    """The k best scores of a reference at each position: what `topk_kl` needs, and all that a cache has to keep.

    Args:
        scores: best first, [..., k].
        indices: their token ids, [..., k].
    """

    scores: Tensor
    indices: Tensor


def top_scores(logits: Tensor, k: int) -> Top:
    """The k best scores, [..., k], best first; all where the vocabulary is smaller. Of equals the lower id wins.

    Half-precision scores tie often at the k-th place, and ``torch.topk`` leaves open which of them it takes.
    """
    k = min(k, logits.shape[-1])
    flat = logits.detach().reshape(-1, logits.shape[-1])
    found = flat.topk(k, -1)
    indices = found.indices
    last = found.values[:, -1:]
    level, room = flat == last, (found.values == last).sum(-1)
    tied = (level.sum(-1) > room).nonzero()[:, 0]
    if len(tied):
        # The last `room` places of a row go to the lowest ids of those at its k-th score.
        row, token = level[tied].nonzero().T
        counts = row.bincount(minlength=len(tied))
        rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        kept = rank < room[tied][row]
        row, token, rank = row[kept], token[kept], rank[kept]
        indices[tied[row], k - room[tied][row] + rank] = token
    indices = indices.sort(-1).values
    scores, order = flat.gather(-1, indices).sort(dim=-1, descending=True, stable=True)
    shape = (*logits.shape[:-1], k)
    return Top(scores.reshape(shape), indices.gather(-1, order).reshape(shape))


class TopKL(NamedTuple):
    """Result of `topk_kl`.

    Args:
        kl: nats per position, [...].
        outside: the policy's probability of all tokens that the reference's top leaves out, [...], without gradient.
            The divergence does not see it: log it.
    """

    kl: Tensor
    outside: Tensor


def topk_kl(policy: Tensor, top: Top) -> TopKL:
    """KL(policy || reference) over the reference's best tokens, both renormalised on them.

    Never negative; the full divergence where k is the vocabulary. Lin et al. 2024, arXiv 2410.14940, who keep 500.

    Args:
        policy: scores, [..., V].
        top: `top_scores` of the reference.
    """
    full = policy if policy.dtype == torch.float64 else policy.float()
    kept = full.gather(-1, top.indices)
    with torch.no_grad():
        inside = (kept.logsumexp(-1) - full.logsumexp(-1)).exp()
    return TopKL(_divergence(_log_softmax(kept), _log_softmax(top.scores)), (1 - inside).clamp(min=0))
