"""Training a judge of consistency: three heads on one model, each learning from the rows that are meant for it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from truing import progress
from truing.contracts import Method, is_number, require, require_seed, require_whole
from truing.errors import RecordError, TrainingError
from truing.files import write_atomic
from truing.methods.training.losses.alignment import IGNORED, alignment_loss
from truing.methods.training.method import tell
from truing.methods.training.policy import seeded
from truing.models.alignment import AlignmentModel, PairEncoder, fresh_encoder, with_heads
from truing.models.scored import ScoreModel
from truing.records import Records
from truing.rewards.align_score import text_of
from truing.rewards.alignment_rule import HEADS, VERDICTS

Target = tuple[str, float]
WORDS = {
    "aligned": 0, "entailment": 0, "entailed": 0, "supports": 0, "neutral": 1, "not enough info": 1, "-": 1,
    "contradicted": 2, "contradiction": 2, "refutes": 2,
}  # fmt: skip


class AlignScoreTraining(Method):
    """Train a model that scores how well a claim is supported by a context. It gives an `AlignmentModel`.

    It starts from a language model or an encoder, whose body is copied under three new heads; goes on with a model that
    has them; or, with ``encoder``, trains a small new encoder. A label record's ``prompt`` is the context and its
    ``completion`` the claim. Which head a row teaches is its column ``head``, or follows from what it holds: "reg" from
    a number ``support``, "nli" from a ``verdict`` (aligned, neutral, contradicted; or the words of SNLI and FEVER;
    -1 is neutral), "bin" from ``label``. So one file may mix tasks, as the paper's 17 data sets do. Each head's loss
    is the mean over its own rows in a batch; class losses are divided by the logarithm of their classes.

    Source: Zha, Yang, Li and Hu 2023 (arXiv 2305.16739). Settings are theirs; a small model learns with a higher
    learning rate.

    Args:
        learning_rate: the highest one, after the warm-up.
        epochs: passes over the records.
        batch_size: pairs of a batch.
        max_length: most tokens of a pair; more lose the end of the context.
        warmup_ratio: share of the steps in which the learning rate rises from 0; then it falls in a line.
        weight_decay: of AdamW, none on biases and norms.
        dropout: before the two class heads.
        same: probability that a three-way row is shown as its context against itself, aligned.
        swap: probability that a contradicted row that is not, changes its sides.
        encoder: settings of a small new encoder (``{}`` for the usual ones: `truing.models.alignment.fresh_encoder`),
            whose words are learned from the records, in place of the model's body; None for the model's own.
        seed: of heads, order, dropout and exchanges.

    Example:
        >>> import truing as tr
        >>> rows = [{"prompt": "The cat sat on the mat.", "completion": "The cat sat.", "label": True},
        ...         {"prompt": "The cat sat on the mat.", "completion": "The dog ran.", "label": False}] * 8
        >>> scorer = tr.AlignScoreTraining(learning_rate=1e-3, epochs=1).align(tr.load("sandbox/small"), rows)
        >>> scorer(["The cat sat on the mat."], ["The cat sat."]).shape
        (1,)
    """

    learning_rate: float = 1e-5
    epochs: int = 3
    batch_size: int = 32
    max_length: int = 512
    warmup_ratio: float = 0.06
    weight_decay: float = 0.1
    dropout: float = 0.1
    same: float = 0.05
    swap: float = 0.05
    encoder: dict | None = None
    seed: int = 0

    record_kinds: ClassVar[tuple[str, ...]] = ("label",)
    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "local_weights"})
    paper: ClassVar[int | None] = 34
    quick: ClassVar[dict[str, Any]] = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            is_number(self.learning_rate) and self.learning_rate > 0,
            f"learning_rate is a number over 0, not {self.learning_rate!r}.",
        )
        require_whole(self, ("epochs", "batch_size", "max_length"))
        require(self.max_length >= 16, f"max_length leaves no room for two texts: {self.max_length}. Give 16 or more.")
        for name in ("warmup_ratio", "dropout", "same", "swap"):
            value = getattr(self, name)
            require(is_number(value) and 0 <= value < 1, f"{name} is from 0 to under 1, not {value!r}.")
        require(
            is_number(self.weight_decay) and self.weight_decay >= 0,
            f"weight_decay is 0 or more: {self.weight_decay!r}.",
        )
        require(
            self.encoder is None or isinstance(self.encoder, dict),
            f"encoder holds settings of a new encoder, as in {{width: 128}}, not {self.encoder!r}.",
        )
        require_seed(self.seed)

    def check_model(self, model: Any) -> None:
        """Also take a model that scores."""
        if not isinstance(model, ScoreModel):
            super().check_model(model)

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Any:
        assert records is not None
        rows = [_read(at, row) for at, row in enumerate(records)]
        if model.modifiers:
            names = ", ".join(type(modifier).__name__ for modifier in model.modifiers)
            tell(f"{names} does not come along: a model of pairs reads them as they are.")
        made = self._start(model, rows)
        weights, encode = made.weights.float(), PairEncoder(made.weights, made.tokenizer, self.max_length)
        with seeded(self.seed):
            losses = self._train(weights, encode, rows)
        counts = Counter(head for _, _, (head, _) in rows)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in losses)
            write_atomic(out / "log.jsonl", text)
        tell(f"Rows for each head: {', '.join(f'{head} {counts[head]:,}' for head in HEADS if counts[head])}.")
        return AlignmentModel(weights.eval(), made.tokenizer, history=model.history, source=model.source)

    def _start(self, model: Any, rows: Sequence[tuple[str, str, Target]]) -> AlignmentModel:
        if self.encoder is None:
            return with_heads(model, self.seed)
        known = fresh_encoder.__kwdefaults__ or {}
        wrong = [name for name in self.encoder if name not in known or name == "seed"]
        require(not wrong, f"encoder has no setting {wrong[:1]}. Its settings: {', '.join(set(known) - {'seed'})}.")
        return fresh_encoder([text for one, two, _ in rows for text in (one, two)], seed=self.seed, **self.encoder)

    def _train(self, weights: Any, encode: PairEncoder, rows: Sequence[Any]) -> list[dict[str, float]]:
        rng = random.Random(f"align score {self.seed}")
        size = self.batch_size
        steps = self.epochs * -(-len(rows) // size)
        optimiser = torch.optim.AdamW(_groups(weights, self.weight_decay), lr=self.learning_rate, eps=1e-6)
        warm = int(self.warmup_ratio * steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda at: (at + 1) / (warm + 1) if at < warm else (steps - at) / max(1, steps - warm)
        )
        losses: list[dict[str, float]] = []
        handle = _class_dropout(weights, self.dropout)
        weights.train()
        try:
            with progress.task("align score", steps) as bar:
                for _ in range(self.epochs):
                    shown = [self._shown(row, rng) for row in rows]
                    ids, types = encode([(one, two) for one, two, _ in shown])
                    for chosen in _batches([len(row) for row in ids], size, rng):
                        logits = weights(**padded(weights, ids, types, chosen)).logits.float()
                        parts = alignment_loss(
                            *_split(logits), *_labels([shown[at][2] for at in chosen], logits.device)
                        )
                        loss = parts["total"]
                        if not bool(torch.isfinite(loss)):
                            raise TrainingError(
                                f"The loss is {loss.item()} at step {len(losses) + 1}. Lower learning_rate, or check "
                                "the model's weights."
                            )
                        optimiser.zero_grad()
                        loss.backward()
                        optimiser.step()
                        schedule.step()
                        losses.append(
                            {"step": len(losses) + 1, **{name: float(part.detach()) for name, part in parts.items()}}
                        )
                        bar.advance(1)
        finally:
            handle.remove()
            weights.eval()
        return losses

    def _shown(self, row: tuple[str, str, Target], rng: random.Random) -> tuple[str, str, Target]:
        one, two, (head, value) = row
        if head == "nli" and rng.random() < self.same:
            return one, one, (head, 0)
        if head == "nli" and value == 2 and rng.random() < self.swap:
            return two, one, (head, value)
        return row


def _read(at: int, row: dict[str, Any]) -> tuple[str, str, Target]:
    completion = row["completion"]
    claim = completion if isinstance(completion, str) else text_of(completion[-1:])
    return text_of(row["prompt"]), claim, target_of(row, f"row {at + 1}")


def target_of(row: dict[str, Any], place: str = "a row") -> Target:
    """The head that a record teaches, and the class or number.

    Raises:
        RecordError: its verdict or number is none, or it lacks what its ``head`` needs.
    """
    support, verdict = row.get("support"), row.get("verdict")
    head = row.get("head") or ("nli" if verdict is not None else "reg" if support is not None else "bin")
    if head == "reg":
        if not is_number(support):
            raise RecordError(f"{place}: the regression head learns a number `support`, not {support!r}.")
        return head, float(support)  # type: ignore[arg-type]
    if head == "nli":
        found = {-1: 1, 0: 0, 1: 1, 2: 2}.get(verdict) if isinstance(verdict, int) else WORDS.get(str(verdict).lower())
        if found is None or isinstance(verdict, bool):
            raise RecordError(f"{place}: a verdict is one of {', '.join(VERDICTS)}, not {verdict!r}.")
        return head, found
    if head == "bin":
        return head, int(row["label"])
    raise RecordError(f"{place}: `head` is one of {', '.join(HEADS)}, not {head!r}.")


def _groups(weights: Any, decay: float) -> list[dict[str, Any]]:
    """Biases and norms, which have one dimension, do not decay."""
    named = [parameter for parameter in weights.parameters() if parameter.requires_grad]
    return [
        {"params": [one for one in named if one.dim() > 1], "weight_decay": decay},
        {"params": [one for one in named if one.dim() <= 1], "weight_decay": 0.0},
    ]


def _class_dropout(weights: Any, share: float) -> Any:
    """Dropout before the two class heads and none before the regression head, in training: a hook on the last layer,
    whichever part of a model that is."""
    last = [one for one in weights.modules() if isinstance(one, torch.nn.Linear) and one.out_features == 6][-1]
    classes = HEADS["reg"].start

    def hook(layer: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not layer.training:
            return output
        bias = None if layer.bias is None else layer.bias[:classes]
        dropped = F.linear(F.dropout(given[0], share), layer.weight[:classes], bias)
        return torch.cat([dropped, output[..., classes:]], -1)

    return last.register_forward_hook(hook)


def _batches(lengths: Sequence[int], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Batches in random order, of pairs of similar length out of the same twenty batches."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    found = []
    for start in range(0, len(order), 20 * size):
        part = sorted(order[start : start + 20 * size], key=lambda at: lengths[at])
        found += [part[at : at + size] for at in range(0, len(part), size)]
    rng.shuffle(found)
    yield from found


def padded(
    weights: Any, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None, chosen: Sequence[int]
) -> dict[str, Tensor]:
    """What a model reads of some rows, padded on the right to the longest of them."""
    pad, width = weights.config.pad_token_id or 0, max(len(rows[at]) for at in chosen)

    def filled(values: Sequence[Sequence[int]], with_: int) -> Tensor:
        return torch.tensor([[*values[at], *[with_] * (width - len(values[at]))] for at in chosen])

    mask = torch.tensor([[1] * len(rows[at]) + [0] * (width - len(rows[at])) for at in chosen])
    out = {"input_ids": filled(rows, pad), "attention_mask": mask}
    if types is not None:
        out["token_type_ids"] = filled(types, 0)
    return {name: value.to(next(weights.parameters()).device) for name, value in out.items()}


def _split(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return logits[:, HEADS["bin"]], logits[:, HEADS["nli"]], logits[:, HEADS["reg"]][:, 0]


def _labels(targets: Sequence[Target], device: torch.device) -> tuple[Tensor, ...]:
    found = [[value if head == name else IGNORED for head, value in targets] for name in HEADS]
    return (
        torch.tensor(found[0], device=device).long(), torch.tensor(found[1], device=device).long(),
        torch.tensor(found[2], device=device, dtype=torch.float32),
    )  # fmt: skip
