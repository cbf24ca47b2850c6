"""How an aligned model's choice of a token stands with its base: ranks, classes, and how alike their top lists are.

Pure functions. Source: Lin et al. 2024 (arXiv 2312.01552); the figures of top lists as in their AlignTDS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

CLASSES = ("unshifted", "marginal", "shifted")


def ranks(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Rank of each token among all, 1 for the likeliest: one more than the logits that are larger.

    Args:
        logits: of the base, shape [positions, vocabulary].
        tokens: what the aligned model chose, shape [positions].
    """
    return (logits > logits.gather(1, tokens[:, None])).sum(1) + 1


def shift_class(rank: int) -> str:
    """Unshifted at rank 1, marginal at 2 or 3, shifted beyond."""
    return CLASSES[0] if rank == 1 else CLASSES[1] if rank <= 3 else CLASSES[2]


def shift_ratios(found: Sequence[int]) -> dict[str, float]:
    """The share of each class among ranks; they add up to 1."""
    names = [shift_class(rank) for rank in found]
    return {name: names.count(name) / len(names) for name in CLASSES}


class Likeness(NamedTuple):
    """How alike two top lists of one position are.

    Args:
        jaccard: shared tokens over all tokens of both lists.
        weighted_sum: the sum over shared tokens of the product of their probabilities.
        kl: the sum over shared tokens of p log(p / q), base against aligned, in nats; neither normalised nor always
            above 0.
        top_rank: place of the aligned choice in the base's list, from 0; ``top_k`` where it is not there.
        top_prob: its probability in the base's list, 0 where it is not there.
        bi_top_prob: the mean of that and of what the aligned list gives the base's choice.
        ndcg: the base's order judged by the aligned one: a token at place i of it gains 1 / log2(i + 2).
    """

    jaccard: float
    weighted_sum: float
    kl: float
    top_rank: int
    top_prob: float
    bi_top_prob: float
    ndcg: float


def likeness(base: Sequence[tuple[Any, float]], aligned: Sequence[tuple[Any, float]], top_k: int) -> Likeness:
    """Compare two top lists of (token, logit), the largest first.

    Probabilities are normalised over the tokens given. Sets and sums take the first ``top_k``; nDCG takes all.
    """
    p, q = _probabilities(base), _probabilities(aligned)
    mine, theirs = [token for token, _ in base[:top_k]], [token for token, _ in aligned[:top_k]]
    shared = [token for token in mine if token in set(theirs)]
    choice, first = aligned[0][0], base[0][0]
    gains = {token: 1 / math.log2(at + 2) for at, (token, _) in enumerate(aligned)}
    got = sum(gains.get(token, 0.0) / math.log2(at + 2) for at, (token, _) in enumerate(base))
    return Likeness(
        jaccard=len(shared) / len({*mine, *theirs}),
        weighted_sum=sum(p[token] * q[token] for token in shared),
        kl=sum(p[token] * math.log(p[token] / q[token]) for token in shared if p[token] and q[token]),
        top_rank=mine.index(choice) if choice in mine else top_k,
        top_prob=p.get(choice, 0.0),
        bi_top_prob=(p.get(choice, 0.0) + q.get(first, 0.0)) / 2,
        ndcg=got / sum(gain**2 for gain in gains.values()),
    )


def _probabilities(found: Sequence[tuple[Any, float]]) -> dict[Any, float]:
    most = max(logit for _, logit in found)
    weights = {token: math.exp(logit - most) for token, logit in found}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}
