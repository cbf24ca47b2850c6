"""Token losses of long answers, each token with the same weight whatever the answer it stands in.

Source: Chen et al. 2024, "Minimum Tuning to Unlock Long Output" (arXiv 2410.10210); Bai et al. 2024, LongWriter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LongCE:
    """The sum of token losses over a smoothed number of tokens a batch: long batches weigh more than short ones.

    ``s <- smooth s + n; z <- smooth z + 1; loss = sum / (s / z)``, n being the tokens of a batch. It depends on the
    order of batches; where the number of tokens of the whole accumulated batch is known, that is the better divisor.

    Args:
        smooth: how much of the past stays, from 0 (the mean of each batch) to below 1.
    """

    def __init__(self, smooth: float = 0.9) -> None:
        self.smooth, self.tokens, self.weight = smooth, 0.0, 0.0

    def __call__(self, token_losses: Tensor, total: int | None = None) -> Tensor:
        """The loss of one batch.

        Args:
            token_losses: of its target tokens, any shape; no padding.
            total: target tokens of the whole accumulated batch, if known; then nothing is smoothed.
        """
        if total is not None:
            return token_losses.sum() / total
        self.tokens = self.smooth * self.tokens + token_losses.numel()
        self.weight = self.smooth * self.weight + 1
        return token_losses.sum() / (self.tokens / self.weight)


def longwriter_pack(token_losses: Sequence[Tensor], constant: float = 30.0) -> Tensor:
    """LongWriter's loss of one pack: the mean over its tokens, times its sequences over a constant.

    Neither a mean over tokens nor one over sequences; for comparison only.

    Args:
        token_losses: of each sequence's target tokens.
        constant: sequences that a pack is thought to hold.
    """
    return torch.cat(list(token_losses)).mean() * len(token_losses) / constant
