"""Pretraining on one CPU core: documents packed into rows, Muon for matrices and AdamW for the rest.

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon (momentum made orthogonal by Newton-Schulz
iterations).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truing import progress

IGNORE = -100


@dataclass(frozen=True)
class Row:
    """Documents one behind the other, all of shape [T]: tokens, targets (`IGNORE` where none), positions, document
    numbers."""

    ids: list[int]
    targets: list[int]
    positions: list[int]
    documents: list[int]


def pack(examples: Sequence[tuple[list[int], int]], length: int) -> list[Row]:
    """First-fit packing of whole documents into rows.

    Args:
        examples: token ids, and from which token on there is something to learn (0 for all of it).
        length: tokens a row; longer documents are cut.
    """
    rows: list[Row] = []
    open_rows: list[Row] = []
    for ids, first in examples:
        ids = ids[:length]
        row = next((row for row in open_rows if len(row.ids) + len(ids) <= length), None)
        if row is None:
            row = Row([], [], [], [])
            rows.append(row)
            open_rows = [*open_rows[-15:], row]
        number = row.documents[-1] + 1 if row.documents else 0
        row.ids.extend(ids)
        row.targets.extend([token if at + 1 >= first else IGNORE for at, token in enumerate(ids[1:])] + [IGNORE])
        row.positions.extend(range(len(ids)))
        row.documents.extend([number] * len(ids))
    return rows


def collate(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """A batch with a block-diagonal causal mask [B, 1, T, T], so that no document sees another."""
    longest = max(len(row.ids) for row in rows)

    def fill(values: Callable[[Row], list[int]], with_: int) -> Tensor:
        return torch.tensor([values(row) + [with_] * (longest - len(row.ids)) for row in rows])

    documents = fill(lambda row: row.documents, -1)
    same = documents[:, :, None] == documents[:, None, :]
    return {
        "input_ids": fill(lambda row: row.ids, pad),
        "targets": fill(lambda row: row.targets, IGNORE),
        "position_ids": fill(lambda row: row.positions, 0),
        "attention_mask": (same & torch.ones(longest, longest, dtype=torch.bool).tril())[:, None],
    }


def loss_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood of a target token, in nats."""
    inside = model.model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    ).last_hidden_state
    wanted = batch["targets"] != IGNORE
    return torch.nn.functional.cross_entropy(model.lm_head(inside[wanted]), batch["targets"][wanted])


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose matrices are made nearly orthogonal before the step; for 2-D weights inside the
    network."""

    def __init__(self, params: Any, lr: float = 0.02, momentum: float = 0.95, iterations: int = 5) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; matrices of one shape are treated together. A closure is not called."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes.setdefault(tuple(weight.shape), []).append(weight)
            for weights in shapes.values():
                updates = []
                for weight in weights:
                    gradient = weight.grad
                    assert gradient is not None  # only weights with one were collected
                    state = self.state[weight]
                    if not state:
                        state["momentum"] = torch.zeros_like(weight)
                    state["momentum"].lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, weights[0].shape[0] / weights[0].shape[1]) ** 0.5
                steps = orthogonal(torch.stack(updates), group["iterations"])
                for weight, update in zip(weights, steps):
                    weight.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Newton-Schulz iterations towards the nearest (half-)orthogonal matrices, [N, A, B]; singular values end near
    1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


def network(vocabulary: int, *, width: int, layers: int, inner: int, heads: int = 4, seed: int = 0) -> Any:
    """A small Llama with tied embeddings, in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    ).float()


def pretrain(
    model: Any,
    rows: Sequence[Row],
    *,
    first: Sequence[Row] = (),
    rows_per_step: int = 4,
    seed: int = 0,
    muon_rate: float = 0.02,
    adam_rate: float = 5e-3,
    warmup: int = 40,
    label: str = "pretraining",
    watch: Callable[[int, int, float], None] | None = None,
) -> None:
    """One pass over the rows, in place. The learning rate rises over ``warmup`` steps and falls linearly to 0.

    Args:
        model: from `network`.
        rows: from `pack`.
        first: rows to read before the others.
        rows_per_step: rows of an optimiser step.
        seed: of the order.
        muon_rate: of matrices.
        adam_rate: of embeddings and norms.
        warmup: in steps.
        label: beside the progress bar.
        watch: called after every step with its number, how many there are, and the loss in nats a token.
    """
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers = [
        (Muon(matrices, lr=muon_rate), muon_rate),
        (torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0), adam_rate),
    ]
    steps = [[part[at] for at in batch] for part in (first, rows) for batch in _batches(part, rows_per_step, seed)]
    model.train()
    with progress.task(label, len(steps)) as bar:
        for number, batch in enumerate(steps):
            share = min((number + 1) / warmup, (len(steps) - number) / max(1, len(steps) - warmup), 1.0)
            loss = loss_of(model, collate(batch, pad=0))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * share
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            bar.advance(1, f"loss {loss.item():.2f}")
            if watch is not None:
                watch(number + 1, len(steps), loss.item())
    model.eval()


def tune(
    model: Any,
    examples: Sequence[tuple[list[int], int]],
    *,
    epochs: int = 2,
    rate: float = 1e-3,
    batch: int = 16,
    seed: int = 0,
) -> None:
    """Supervised fine-tuning in place with AdamW, for the guide: learn each example from its first answer token on."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    rows = [pack([example], 1024)[0] for example in examples]
    steps = [batch_ for epoch in range(epochs) for batch_ in _batches(rows, batch, seed + epoch)]
    model.train()
    with progress.task("aligning the guide", len(steps)) as bar:
        for number, at in enumerate(steps):
            optimizer.param_groups[0]["lr"] = rate * min((number + 1) / 10, (len(steps) - number) / len(steps))
            loss = loss_of(model, collate([rows[index] for index in at], pad=0))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.advance(1, f"loss {loss.item():.2f}")
    model.eval()


def _batches(rows: Sequence[Row], size: int, seed: int) -> list[list[int]]:
    order = list(range(len(rows)))
    random.Random(f"order {seed}").shuffle(order)
    return [order[at : at + size] for at in range(0, len(order), size)]


def examples_of(encoded: Iterator[list[int]], tokens: int) -> list[tuple[list[int], int]]:
    """As many documents as make ``tokens`` tokens, to be learned whole."""
    made, count = [], 0
    for ids in encoded:
        made.append((ids, 0))
        count += len(ids)
        if count >= tokens:
            break
    return made
