"""Batches of rows: which rows together, in which order, and their tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from truing.methods.training.attention import Layout
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
        tokens: at most so many tokens in a batch, instead of ``batch_size`` rows; a longer row is a batch of its own.
            Which rows go together is then the same in every epoch, so that all epochs have as many batches.
        rank: of this process; it gets every ``world``-th batch.
        world: processes. The first batches come again at the end where they are needed for all to have as many.
    """

    def __init__(
        self, widths: Sequence[int], batch_size: int, seed: int, shuffle: bool, *, tokens: int | None = None,
        rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        self.widths, self.batch_size, self.seed, self.shuffle = np.asarray(widths), batch_size, seed, shuffle
        self.tokens, self.rank, self.world = tokens, rank, world
        self.epoch = 0
        self._fixed = self._compose(np.random.default_rng([seed, 0, 1])) if tokens else None

    @property
    def batch_sampler(self) -> BatchOrder:
        """Itself: where transformers looks for the ``set_epoch`` that it calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self._fixed) if self._fixed is not None else -(-len(self.widths) // self.batch_size)
        return -(-count // self.world)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        batches = self._fixed if self._fixed is not None else self._compose(random)
        order = random.permutation(len(batches)) if self.shuffle else np.arange(len(batches))
        for at in np.resize(order, len(self) * self.world)[self.rank :: self.world]:
            yield batches[at]

    def _compose(self, random: np.random.Generator) -> list[list[int]]:
        count = len(self.widths)
        if not self.shuffle:
            return self._cut(np.arange(count))
        order, batches = random.permutation(count), []
        size = self.batch_size
        if self.tokens:
            size = max(1, int(self.tokens / max(1.0, float(self.widths.mean()))))
        for at in range(0, count, size * _GROUP):
            group = order[at : at + size * _GROUP]
            batches += self._cut(group[np.argsort(-self.widths[group], kind="stable")])
        return batches

    def _cut(self, order: np.ndarray) -> list[list[int]]:
        if not self.tokens:
            return [order[at : at + self.batch_size].tolist() for at in range(0, len(order), self.batch_size)]
        out: list[list[int]] = []
        room = 0
        for row in order.tolist():
            width = int(self.widths[row])
            if not out or width > room:
                out.append([])
                room = self.tokens
            out[-1].append(row)
            room -= width
        return out


@dataclasses.dataclass
class Batch:
    """Tensors of B rows with N sequences in all, ordered [first answers..., second answers..., ...].

    Args:
        input_ids: all tokens in one row, [1, T], each tree's shared beginnings once; or one sequence a row, [N, W].
        position_ids: likewise.
        attention_mask: [N, W], 0 on padding; None for a packed row.
        layout: how a packed row attends; None otherwise.
        sources: where in the flattened ids the token before each answer token stands, [M].
        targets: the answer tokens, [M], sequence by sequence.
        lengths: answer tokens of each sequence, [N].
        last: where the last token of each sequence stands, [N].
        owner: the row in this batch that each sequence belongs to, [N].
        slot: the number of the answer in its row, [N].
        reference: reference log-probability of each sequence, [N], or None.
        values: see `Row.values`: [B], or [N] where a row has one value for every answer.
        rows: record numbers, for messages.
        tokens: tokens processed.
        units: what means divide by, by name.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    layout: Layout | None
    sources: Tensor
    targets: Tensor
    lengths: Tensor
    last: Tensor
    owner: Tensor
    slot: Tensor
    reference: Tensor | None
    values: dict[str, Tensor]
    rows: list[int]
    tokens: int
    units: dict[str, int]

    @property
    def answers(self) -> int:
        """The most answers that a row has."""
        return int(self.slot.max()) + 1

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        if self.input_ids.device == device:
            return self
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved, values={name: one.to(device) for name, one in self.values.items()})


def collate(rows: Sequence[Row], pad: int, reference: Tensor | None = None, *, packed: bool = True) -> Batch:
    """Tensors of a batch.

    Args:
        rows: encoded.
        pad: a token id to fill with; the mask says where.
        reference: reference log-probability of every answer, shape [B, most answers].
        packed: one row without padding and with each prompt once; else one padded row a sequence.
    """
    order = [(slot, at) for slot in range(max(len(row.answers) for row in rows)) for at, row in enumerate(rows)]
    order = [(slot, at) for slot, at in order if slot < len(rows[at].answers)]
    body = _pack(rows, order) if packed else _pad(rows, order, pad)
    prompts = [len(rows[at].answers[slot][0]) for slot, at in order]
    sources, targets, lengths = [], [], []
    for (slot, at), prompt, place in zip(order, prompts, body.pop("places")):
        # The first token of a sequence is predicted by nothing: a prompt without tokens costs its answer one.
        start = max(prompt, 1)
        sources.append(place[start - 1 : -1])
        ids = rows[at].answers[slot][1]
        targets += ids if prompt else ids[1:]
        lengths.append(len(sources[-1]))
    owner, slots = torch.tensor([at for _, at in order]), torch.tensor([slot for slot, _ in order])
    held = None if reference is None else reference[owner, slots]
    first = sum(length for length, (slot, _) in zip(lengths, order) if slot == 0)
    return Batch(
        **body, sources=torch.from_numpy(np.concatenate(sources)), targets=torch.tensor(targets, dtype=torch.long),
        lengths=torch.tensor(lengths), owner=owner, slot=slots, reference=held, values=_values(rows, order),
        rows=[row.index for row in rows], units={"row": len(rows), "token": first, "every_token": sum(lengths)},
    )  # fmt: skip


def _pack(rows: Sequence[Row], order: Sequence[tuple[int, int]]) -> dict[str, Any]:
    trees = [row.tree for row in rows]
    offsets = np.cumsum([0, *(len(tree.tokens) for tree in trees)])
    places = [trees[at].places[slot] + offsets[at] for slot, at in order]
    runs = tuple(run.shifted(int(by)) for tree, by in zip(trees, offsets) for run in tree.runs)
    return {
        "input_ids": torch.from_numpy(np.concatenate([tree.tokens for tree in trees]))[None],
        "position_ids": torch.from_numpy(np.concatenate([tree.positions for tree in trees]))[None],
        "attention_mask": None,
        "layout": Layout(runs, tuple(len(tree.tokens) for tree in trees)),
        "places": places,
        "last": torch.tensor([int(place[-1]) for place in places]),
        "tokens": int(offsets[-1]),
    }  # fmt: skip


def _pad(rows: Sequence[Row], order: Sequence[tuple[int, int]], pad: int) -> dict[str, Any]:
    pairs = [rows[at].answers[slot] for slot, at in order]
    sequences = [[*prompt, *answer] for prompt, answer in pairs]
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad)
    mask = torch.zeros_like(ids)
    for at, sequence in enumerate(sequences):
        ids[at, : len(sequence)] = torch.tensor(sequence)
        mask[at, : len(sequence)] = 1
    places = [np.arange(len(sequence)) + at * width for at, sequence in enumerate(sequences)]
    return {
        "input_ids": ids,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "attention_mask": mask,
        "layout": None,
        "places": places,
        "last": torch.tensor([int(place[-1]) for place in places]),
        "tokens": int(mask.sum()),
    }  # fmt: skip


def _values(rows: Sequence[Row], order: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    out = {}
    for name, sample in rows[0].values.items():
        if isinstance(sample, (int, float)):
            numbers: list[Any] = [row.values[name] for row in rows]
        else:
            numbers = [row.values[name][slot] for slot, at in order for row in (rows[at],)]  # type: ignore[index]
        out[name] = torch.tensor(numbers, dtype=torch.float32)
    return out
