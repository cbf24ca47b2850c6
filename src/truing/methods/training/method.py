"""`TrainingMethod`: what every method that trains weights shares; a method adds its objective and its own settings."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from truing import progress
from truing.contracts import Method, is_number, require, require_seed, require_whole
from truing.errors import ModelError, UnsupportedError
from truing.methods.training import planning, processes
from truing.methods.training.adapters import adapter_settings
from truing.methods.training.batches import BatchOrder
from truing.methods.training.checkpoints import TrainingFolder, lasting_settings, load_trained, restore
from truing.methods.training.encoding import TRUNCATE, Counts, Row, digest, encode
from truing.methods.training.live_reference import LiveReference
from truing.methods.training.objective import Objective
from truing.methods.training.planning import Plan
from truing.methods.training.policy import (
    Policy,
    Teacher,
    all_prepared,
    seeded,
    without_dropout,
    working_copy,
)
from truing.models import Model
from truing.models.core import core_of
from truing.models.local import same_vocabulary
from truing.records import Records

_OPTIONAL = ("max_steps", "save_every", "tokens_per_batch")
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def tell(text: str) -> None:
    """A line for whoever watches; where nobody does, a warning in the log. One process of several speaks."""
    if processes.rank() == 0:
        progress.tell(text)


def check_optimisation(method: Any) -> None:
    """Raise `SettingsError` for settings of optimiser, schedule, seed or adapter that cannot work."""
    share, schedule = method.warmup_ratio, method.schedule
    require(is_number(share) and 0 <= share < 1, f"warmup_ratio is a share from 0 to under 1, not {share!r}.")
    for name in ("weight_decay", "max_grad_norm"):
        value = getattr(method, name)
        require(is_number(value) and value >= 0, f"{name} is 0 or more, not {value!r}.")
    require(schedule in SCHEDULES, f"schedule is one of {', '.join(SCHEDULES)}, not {schedule!r}.")
    require_seed(method.seed)
    adapter_settings(method.adapter)


def check_trainable(model: Any, adapter: Any) -> None:
    """Raise `UnsupportedError` where a model's weights cannot be trained as they are."""
    if adapter is None and getattr(getattr(model, "weights", None), "is_quantized", False):
        raise UnsupportedError(
            f"{model.name} is quantised, and quantised weights cannot be trained. Train an adapter on them "
            "(adapter='lora'), or load it without 4bit or 8bit."
        )


def check_reference(reference: Any, model: Any, setting: str | None = None) -> None:
    """Raise `ModelError` where log-probabilities of another model cannot be compared with this one's.

    Args:
        setting: that gives the other model, where there are several.
    """
    if "local_weights" not in getattr(reference, "offers", ()):
        raise ModelError(
            f"{setting or 'The reference'} has no local weights to take log-probabilities from. "
            "Load a folder or a hub name."
        )
    if not same_vocabulary(reference, model):
        called = f"{setting}, {reference.name}," if setting else reference.name
        raise ModelError(
            f"{called} and {model.name} have different vocabularies, so their log-probabilities "
            "cannot be compared. Choose a reference with the same tokenizer."
        )


def shared_arguments(method: Any, steps: int, *, half: bool, on: torch.device) -> dict[str, Any]:
    """Arguments of transformers' trainers that follow from settings all trained methods have.

    Args:
        method: with the settings of optimiser and log.
        steps: of the optimiser.
        half: the weights came in bfloat16.
        on: where they are.
    """
    return {
        "learning_rate": method.learning_rate, "max_steps": steps, "warmup_steps": int(method.warmup_ratio * steps),
        "lr_scheduler_type": SCHEDULES[method.schedule], "weight_decay": method.weight_decay,
        "max_grad_norm": method.max_grad_norm, "bf16": half and on.type == "cuda", "use_cpu": on.type == "cpu",
        "seed": method.seed, "data_seed": method.seed, "disable_tqdm": True, "logging_strategy": "steps",
        "logging_steps": method.log_every, "logging_first_step": True, "logging_nan_inf_filter": False,
        "report_to": method.report_to or "none", "dataloader_pin_memory": False,
    }  # fmt: skip


class TrainingMethod(Method):
    """Base of methods that train weights with the one trainer.

    The model that comes in keeps its weights. Training sees the plain chat template: modifiers that the model carries
    do not act in it, and stay on the result. A PEFT adapter that it carries is merged into the copy that is trained.

    Args:
        learning_rate: the highest one, after the warm-up.
        epochs: passes over the records.
        max_steps: stop after this many optimiser steps, whatever the epochs; None for no limit.
        batch_size: records of a batch, in each process.
        tokens_per_batch: instead, as many records of a batch as have so many tokens together; None for ``batch_size``.
            A prompt counts once for all its answers.
        gradient_accumulation: batches of an optimiser step.
        max_length: most tokens of a prompt and an answer together; the model's own limit holds too.
        truncate: what a longer row loses: "end" of the answer, "start" of the prompt, or "drop" for the whole row.
        warmup_ratio: share of the steps in which the learning rate rises from 0.
        schedule: how it falls after them: "linear", "cosine" or "constant".
        weight_decay: of AdamW, for matrices only.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        adapter: None trains all weights; "lora", "dora", "ia3" and what else peft has, or a dict of an adapter's
            ``type`` ("lora" if it is left out) and settings, trains an adapter.
        dropout: keep the model's own dropout in training (a LoRA adapter's is set with it). The reference has none.
        gradient_checkpointing: compute activations again in the backward pass: less memory, more time.
        shuffle: new order in every epoch, with rows of similar length together; without it, the order of the records.
        seed: of order, adapter and dropout.
        save_every: steps between checkpoints, where `align` is given a folder; None for a tenth of the training.
        log_every: steps between two lines of the log.
        report_to: a tracker that transformers knows ("tensorboard", "wandb", ...), or None.
    """

    learning_rate: float = 2e-5
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    tokens_per_batch: int | None = None
    gradient_accumulation: int = 1
    max_length: int = 1024
    truncate: str = "end"
    warmup_ratio: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    adapter: str | dict | None = None
    dropout: bool = False
    gradient_checkpointing: bool = False
    shuffle: bool = True
    seed: int = 0
    save_every: int | None = None
    log_every: int = 1
    report_to: str | None = None

    head: ClassVar[bool] = False
    needs = frozenset({"gradients", "local_weights"})
    quick: ClassVar[dict[str, Any]] = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-3}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        for name in ("learning_rate", "epochs"):
            value = getattr(self, name)
            require(is_number(value) and value > 0, f"{name} is a number over 0, not {value!r}.")
        require_whole(
            self, ("batch_size", "gradient_accumulation", "max_length", "log_every", *_OPTIONAL), optional=_OPTIONAL
        )
        require(self.max_length > 1, "max_length leaves no room for a prompt and an answer; give 2 or more.")
        require(self.truncate in TRUNCATE, f"truncate is one of {', '.join(TRUNCATE)}, not {self.truncate!r}.")
        check_optimisation(self)

    def _adapter(self) -> dict[str, Any] | None:
        return adapter_settings(self.adapter)

    def objective(self) -> Objective:
        """What this method minimises."""
        raise UnsupportedError(f"{type(self).__name__} defines no objective().")

    def reference_model(self, model: Model) -> Model:
        """The model that reference log-probabilities come from: the one that training starts from."""
        return model

    def reference_values(self, model: Model, rows: Sequence[Row], compute: Callable[[Model], Tensor]) -> Tensor:
        """Reference log-probability of every answer, [rows, most answers]; ``compute`` gives that of any model."""
        return compute(self.reference_model(model))

    @property
    def reference_follows(self) -> bool:
        """Whether the reference is `live_reference`, and not what `reference_values` gives."""
        return False

    def live_reference(self, weights: Any) -> LiveReference:
        """A reference that follows the policy in training."""
        raise UnsupportedError(f"{type(self).__name__} defines no live_reference().")

    def taught(self, model: Model) -> Teacher | None:
        """A frozen model whose distributions the objective compares with, or None."""
        return None

    def prepare(self, model: Model, records: Records, out: Path | None) -> Records:
        """The records that are learned from; may sample or score first, and keep what that gave in ``out``."""
        return records

    def trainable(self, model: Model) -> Any:
        """Weights to train, which share nothing that changes with the model's own."""
        return working_copy(model.weights, self._adapter(), self.seed)

    def finished(self, model: Model, weights: Any) -> Model:
        """The model that comes out, from the trained weights."""
        return model.with_weights(weights)

    def check_model(self, model: Any) -> None:
        """Also raise where weights cannot be trained as they are."""
        super().check_model(model)
        check_trainable(model, self.adapter)

    def plan(self, model: Model, records: Records | Sequence[dict[str, Any]] | str | Path) -> Plan:
        """Check all rows, and say what `align` would take; nothing is trained.

        Args:
            model: as for `align`.
            records: likewise.

        Raises:
            SettingsError, RecordError, ModelError, TrainingError: as `align` would.
            UnsupportedError: this method samples or scores before it trains, so its rows are not there yet.
        """
        self.validate()
        self.check_model(model)
        rows = self.check_records(records)
        assert rows is not None
        if type(self).prepare is not TrainingMethod.prepare:
            raise UnsupportedError(f"{type(self).__name__} makes rows of its own before it trains: it has no plan.")
        encoded, counts, limit = self._encoded(model, rows, self.objective())
        weights = self.trainable(model)
        order = BatchOrder(
            [len(row.tree.tokens) for row in encoded], self.batch_size, self.seed, self.shuffle,
            tokens=self.tokens_per_batch,
        )  # fmt: skip
        steps, (once, repeated, longest, answers) = self._optimiser_steps(order), planning.totals(encoded)
        share = steps * self.gradient_accumulation / len(order)
        return Plan(
            rows=len(encoded), notes=tuple(counts.notes(limit, self.truncate)), tokens=once, repeated=repeated,
            longest=longest, steps=steps,
            memory=planning.memory_of(weights, encoded, list(order), checkpointing=self.gradient_checkpointing),
            seconds=planning.seconds_of(weights, once * share, answers * share),
        )  # fmt: skip

    def _encoded(self, model: Model, records: Records, objective: Objective) -> tuple[list[Row], Counts, int]:
        rows, counts, limit = encode(model, records, objective, max_length=self.max_length, truncate=self.truncate)
        return objective.arrange(rows), counts, limit

    def _optimiser_steps(self, order: BatchOrder) -> int:
        batches = math.ceil(len(order) / self.gradient_accumulation)
        return self.max_steps or max(1, math.ceil(self.epochs * batches))

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Model:
        assert records is not None
        with processes.joined(model.device):
            return self._aligned(model, records, out)

    def _aligned(self, model: Model, records: Records, out: Path | None) -> Model:
        records = self.prepare(model, records, out)
        objective = self.objective()
        rows, counts, limit = self._encoded(model, records, objective)
        notes = counts.notes(limit, self.truncate)
        if model.modifiers:
            names = ", ".join(type(modifier).__name__ for modifier in model.modifiers)
            notes.append(
                f"{names} does not act in training, which sees the plain chat template; the result carries it on."
            )
        for note in notes:
            tell(note)
        plain = dataclasses.replace(model, modifiers=())
        identity: dict[str, Any] = {
            "method": type(self).__name__,
            "model": plain.fingerprint,
            "rows": digest(rows),
            "settings": lasting_settings(self),
        }
        compared = self.reference_model(model)
        if compared is not model:
            identity["reference"] = dataclasses.replace(compared, modifiers=()).fingerprint
        with processes.first_alone():
            folder = TrainingFolder(out, identity) if out is not None else None
        facts = {"rows": len(rows), "left_out": counts.left_out, "notes": notes}
        with seeded(self.seed):
            return self.finished(model, self._train(model, rows, objective, folder, facts).eval())

    def _train(
        self,
        model: Model,
        rows: list[Row],
        objective: Objective,
        folder: TrainingFolder | None,
        facts: dict[str, Any],
    ) -> Any:
        from truing.methods.training.reference import reference_of
        from truing.methods.training.trainer import ObjectiveTrainer

        pad = model.tokenizer.pad_token_id or 0
        start = model.weights.dtype
        weights = self.trainable(model)
        finished = folder.finished if folder is not None else None
        if all(processes.gathered(finished is not None)) and finished is not None:
            load_trained(weights, finished)
            return weights
        reference, follows = None, self.reference_follows
        if objective.needs_reference and not follows:
            compute = functools.partial(reference_of, rows=rows, objective=objective, pad=pad)
            reference = self.reference_values(model, rows, compute)
        if self.adapter is None:
            # A small step is lost in 16-bit weights: full training keeps 32 bits, and gives them back as they came.
            weights.float()
        if self.gradient_checkpointing:
            core_of(weights).gradient_checkpointing_enable({"use_reentrant": False})
        frozen = weights if not self.dropout else torch.nn.Module()
        teacher = self.taught(model)
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="truing-"))
            stack.enter_context(without_dropout(frozen))
            packed = stack.enter_context(all_prepared([weights, *([teacher.weights] if teacher else [])], pad))
            # Copied here, so that it reads packed rows as the policy does.
            live = self.live_reference(weights) if objective.needs_reference and follows else None
            widths = [len(row.tree.tokens) if packed else row.width * len(row.answers) for row in rows]
            order = BatchOrder(
                widths, self.batch_size, self.seed, self.shuffle, tokens=self.tokens_per_batch,
                rank=processes.rank(), world=processes.world(),
            )  # fmt: skip
            steps = self._optimiser_steps(order)
            bar = stack.enter_context(progress.task(type(self).__name__, steps))
            args = self._arguments(
                str(folder.checkpoints) if folder else scratch,
                steps,
                saves=folder is not None,
                half=start == torch.bfloat16,
                on=model.device,
            )
            trainer = ObjectiveTrainer(
                Policy(weights, head=self.head, teacher=teacher), args, objective, rows, order, reference=reference,
                pad=pad, packed=packed, bar=bar, folder=folder, live=live,
            )  # fmt: skip
            trainer.fit(facts)
            sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        if sharded:
            # What a wrapper took apart is put together in a fresh copy, which knows nothing of it.
            state = trainer.trained_state()
            weights = self.trainable(model)
            restore(weights, state)
        if trainer.idle_steps:
            tell(
                f"In {trainer.idle_steps:,} of {steps:,} steps there was nothing to learn: no gradient was left. "
                "Answers that are compared may be the same, or the loss is at its floor."
            )
        for warning in objective.verdict(trainer.logged[-max(1, len(trainer.logged) // 4) :]):
            tell(warning)
        if self.gradient_checkpointing:
            core_of(weights).gradient_checkpointing_disable()
        if self.adapter is None:
            weights.to(start)
        if folder is not None:
            with processes.first_alone():
                if processes.rank() == 0:
                    folder.finish(weights)
        return weights

    def _arguments(self, place: str, steps: int, *, saves: bool, half: bool, on: torch.device) -> Any:
        from transformers import TrainingArguments

        args = TrainingArguments(
            output_dir=place,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation,
            num_train_epochs=self.epochs,
            save_strategy="steps" if saves else "no",
            save_steps=self.save_every or max(1, steps // 10),
            remove_unused_columns=False,
            **shared_arguments(self, steps, half=half, on=on),
        )
        # With more than one visible GPU transformers would split batches among threads, which ours are not made for.
        args._n_gpu = min(args.n_gpu, 1)
        return args
