"""CUT: learn from a written judgment which tokens of an answer to keep and which to make unlikely.

Pure functions of token log-probabilities in nats, [N, T]. For a criticised answer ``judged`` holds log a_t, its tokens
after a prompt with the judgment, and ``plain`` holds log b_t, the same tokens after the prompt alone. Xu et al. 2024,
arXiv 2312.14591.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from truing.methods.training.losses import sequence_logps

# Probabilities that are to fall are held this far below 1: log(1 - b) and its slope stay finite.
_ROOM = 1e-6
# Two forwards do not agree better than this, in nats; a ratio this close to the threshold counts as equal to it.
_TIE = 1e-6


class Contrast(NamedTuple):
    """The first contrast of CUT.

    Args:
        loss: summed over the tokens of each answer, [N].
        flagged: tokens that the judgment made likelier by more than the threshold, bool [N, T].
    """

    loss: Tensor
    flagged: Tensor


def flagged_tokens(judged: Tensor, plain: Tensor, mask: Tensor, threshold: float = 1.1) -> Tensor:
    """Where a_t > threshold * b_t, bool [N, T], without gradient; never outside the mask."""
    return (judged.detach() - plain.detach() > math.log(threshold) + _TIE) & mask


def cut_contrast(
    judged: Tensor, plain: Tensor, mask: Tensor, *,
    threshold: float = 1.1, alpha: float | Tensor = 1.0, gamma: float | None = None,
) -> Contrast:  # fmt: skip
    """The first contrast, for criticised answers: keep what the judgment does not touch, unlearn what it does.

    A token that is not flagged gives -log b_t, a flagged one -alpha w_t log(1 - b_t). Gradients flow through b alone.
    Divide the sums by token counts: of each answer (the paper), or of the batch (the published code, see `cut_mean`).

    Args:
        judged: log a_t, [N, T].
        plain: log b_t, [N, T].
        mask: answer tokens, bool [N, T].
        threshold: lambda, over 0; the paper uses 1.1 and 1.2.
        alpha: weight of flagged tokens, one number or one an answer, [N].
        gamma: w_t = a_t ** gamma, without gradient; None for w_t = 1, as in the published code.
    """
    flagged = flagged_tokens(judged, plain, mask, threshold)
    # Masked positions may hold anything; they get a harmless value first, so that no NaN enters the gradient.
    tokens = plain.masked_fill(~mask, -1.0)
    weight = torch.as_tensor(alpha, dtype=tokens.dtype, device=tokens.device).reshape(-1, 1)
    if gamma is not None:
        weight = weight * (gamma * judged.detach().masked_fill(~mask, 0)).exp()
    unlikely = weight * log1mexp(tokens)
    return Contrast(-sequence_logps(torch.where(flagged, unlikely, tokens), mask), flagged)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for log-probabilities x of any shape, with e^x held below 1 - 1e-6."""
    x = x.clamp(max=math.log1p(-_ROOM))
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def cut_mean(likelihood: Tensor, tokens: Tensor | int, contrast: Tensor, contrast_tokens: Tensor | int) -> Tensor:
    """The loss of a batch as in the published code, a scalar.

    Half the token mean of the likelihood plus half that of the contrast; the likelihood's alone where nothing was
    criticised. The paper's own sum is twice that.

    Args:
        likelihood: -log-probability of each answer, [N]: after the judged prompt where it was criticised, else plain.
        tokens: how many tokens these are, in all.
        contrast: `Contrast.loss` of the criticised answers, [M].
        contrast_tokens: how many tokens these are, in all.
    """
    mean = likelihood.sum() / tokens
    return (mean + contrast.sum() / contrast_tokens) / 2 if int(contrast_tokens) else mean
