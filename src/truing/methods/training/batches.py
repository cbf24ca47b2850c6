"""Batches of rows: which rows together, in which order, and their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from truing.methods.training.encoding import Row

# Rows are sorted by length within groups of this many batches: little padding, and still a mixed order.
_GROUP = 50


class BatchOrder:
    """Row numbers of each batch; a function of (seed, epoch) alone, so that a resumed run meets the same batches.

    Args:
        widths: tokens of each row.
        batch_size: rows of a batch; the last one may have fewer.
        seed: of the order.
        shuffle: new order in every epoch, rows of similar length together; without it, the order given.
    """

    def __init__(self, widths: Sequence[int], batch_size: int, seed: int, shuffle: bool) -> None:
        self.widths, self.batch_size, self.seed, self.shuffle = np.asarray(widths), batch_size, seed, shuffle
        self.epoch = 0

    @property
    def batch_sampler(self) -> BatchOrder:
        """Itself: where transformers looks for the ``set_epoch`` that it calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.widths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        size, count = self.batch_size, len(self.widths)
        if not self.shuffle:
            yield from (list(range(at, min(at + size, count))) for at in range(0, count, size))
            return
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(count)
        batches = []
        for at in range(0, count, size * _GROUP):
            group = order[at : at + size * _GROUP]
            group = group[np.argsort(-self.widths[group], kind="stable")]
            batches += [group[i : i + size].tolist() for i in range(0, len(group), size)]
        for at in random.permutation(len(batches)):
            yield batches[at]


def collate(rows: Sequence[Row], pad: int, reference: torch.Tensor | None = None) -> dict[str, Any]:
    """Tensors of a batch of B rows with k answers each; sequences are [first answers..., second answers..., ...].

    Args:
        rows: each with the same number of answers.
        pad: a token id to fill with; the mask says where.
        reference: reference log-probability of every answer, shape [B, k].

    Returns:
        ``input_ids``, ``attention_mask`` and ``wanted`` (answer tokens, bool), each [k*B, T], padded on the right;
        ``reference`` [k*B] where given; ``rows``, ``answers`` (k), ``tokens`` (all but padding) and ``units``: what a
        mean divides by, "row" and "token" (answer tokens of first answers).
    """
    count = len(rows[0].answers)
    sequences = [row.answers[k] for k in range(count) for row in rows]
    width = max(len(prompt) + len(answer) for prompt, answer in sequences)
    ids = torch.full((len(sequences), width), pad)
    mask, wanted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for at, (prompt, answer) in enumerate(sequences):
        end = len(prompt) + len(answer)
        ids[at, :end] = torch.tensor(prompt + answer)
        mask[at, :end] = 1
        wanted[at, len(prompt) : end] = True
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "wanted": wanted}
    if reference is not None:
        batch["reference"] = reference.T.reshape(-1)
    units = {"row": len(rows), "token": sum(len(row.answers[0][1]) for row in rows)}
    # The first token of a sequence is predicted by nothing: a prompt without tokens costs its answer one.
    units["token"] -= sum(not row.answers[0][0] for row in rows)
    wanted[:, 0] = False
    return {**batch, "rows": [row.index for row in rows], "answers": count, "tokens": int(mask.sum()), "units": units}
