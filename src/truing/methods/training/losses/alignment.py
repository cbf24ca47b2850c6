"""The loss of a model that judges pairs by three heads. Zha et al. 2023 (arXiv 2305.16739)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def alignment_loss(
    binary: Tensor, three_way: Tensor, regression: Tensor, binary_labels: Tensor, three_way_labels: Tensor,
    regression_labels: Tensor, *, masked_lm: Tensor | None = None, masked_lm_labels: Tensor | None = None,
    masked_lm_weight: float = 0.5, ignored: float = IGNORED,
) -> dict[str, Tensor]:  # fmt: skip
    """``total`` and its parts ``binary``, ``three_way``, ``regression`` and ``masked_lm``, in units where a head that
    knows nothing has 1.

    Each part is the mean over the rows that have a label for it, and 0 where none has: cross-entropy over ln 2 and over
    ln 3, squared error, and cross-entropy of masked tokens.

    Args:
        binary: [B, 2], not aligned and aligned.
        three_way: [B, 3], aligned, neutral and contradicted.
        regression: [B].
        binary_labels: [B], whole numbers.
        three_way_labels: [B], likewise.
        regression_labels: [B].
        masked_lm: [B, T, vocabulary], or None.
        masked_lm_labels: [B, T].
        masked_lm_weight: of that part in the total.
        ignored: the label of rows without one.
    """

    def entropy(logits: Tensor, labels: Tensor) -> Tensor:
        kept = labels != int(ignored)
        return F.cross_entropy(logits[kept], labels[kept]) if bool(kept.any()) else logits.sum() * 0

    kept = regression_labels != ignored
    off = F.mse_loss(regression[kept], regression_labels[kept]) if bool(kept.any()) else regression.sum() * 0
    parts = {
        "binary": entropy(binary, binary_labels) / math.log(2),
        "three_way": entropy(three_way, three_way_labels) / math.log(3),
        "regression": off,
        "masked_lm": torch.zeros((), dtype=binary.dtype, device=binary.device),
    }
    if masked_lm is not None and masked_lm_labels is not None:
        parts["masked_lm"] = entropy(masked_lm.flatten(0, -2), masked_lm_labels.flatten())
    total = parts["binary"] + parts["three_way"] + parts["regression"] + masked_lm_weight * parts["masked_lm"]
    return {"total": total, **parts}
