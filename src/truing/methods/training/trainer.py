"""The one trainer: `transformers.Trainer` with our batches, exact means over accumulation, and whole checkpoints."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from truing.errors import TrainingError
from truing.methods.training import processes
from truing.methods.training.batches import Batch, BatchOrder, collate
from truing.methods.training.checkpoints import MARK, STATE, WEIGHTS, TrainingFolder, load_trained, trained_state
from truing.methods.training.encoding import Row
from truing.methods.training.live_reference import LiveReference
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Policy, Scores
from truing.progress import Task

# Gradients that cancel leave rounding, which is smaller than any that teaches.
_NOTHING = 1e-6


class ObjectiveTrainer(Trainer):
    """Minimises an objective.

    Args:
        policy: the model in training.
        args: transformers' arguments.
        objective: what to minimise.
        rows: encoded.
        order: which rows a batch holds.
        reference: log-probability of every answer under the reference, [rows, answers], or None.
        pad: token id to fill batches with.
        packed: whether the policy reads packed rows.
        bar: is advanced a step at a time.
        folder: where checkpoints and the log go, or None.
        live: a reference that follows the policy, in place of ``reference``.
    """

    # Our loss is normalised over the whole optimiser step already; by default a mean would be accumulated undivided.
    loss_is_scaled_for_ga = True

    def __init__(
        self, policy: Policy, args: TrainingArguments, objective: Objective, rows: Sequence[Row], order: BatchOrder, *,
        reference: torch.Tensor | None, pad: int, packed: bool, bar: Task, folder: TrainingFolder | None,
        live: LiveReference | None = None,
    ) -> None:  # fmt: skip
        self.objective: Objective = objective
        self.rows, self.order, self.reference, self.live = rows, order, reference, live
        self.pad, self.packed, self.bar, self.folder = pad, packed, bar, folder
        self.logged: list[dict[str, float]] = []
        self._sums: dict[str, tuple[torch.Tensor, int]] = {}
        self._tokens, self._since, self._seconds, self._shown = 0, time.perf_counter(), 0.0, 0
        self._step_rows: list[int] = []
        self.idle_steps = 0
        objective.total = processes.total
        super().__init__(model=policy, args=args, train_dataset=range(len(rows)), data_collator=self._collate)
        self.remove_callback(PrinterCallback)

    def _collate(self, numbers: list[int]) -> dict[str, Any]:
        reference = None if self.reference is None else self.reference[numbers]
        return {"batch": collate([self.rows[at] for at in numbers], self.pad, reference, packed=self.packed)}

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"batch": inputs["batch"].to(self.args.device)}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """A plain loader over our order: resuming skips its first batches and finds the same ones after them."""
        return DataLoader(self.train_dataset, batch_sampler=self.order, collate_fn=self._collate)  # type: ignore[arg-type]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The batches of one optimiser step, and what means over all of them divide by."""
        found = [inputs for _, inputs in zip(range(num_batches), epoch_iterator)]
        batches: list[Batch] = [inputs["batch"] for inputs in found]
        self._step_rows = [row for batch in batches for row in batch.rows]
        counts = [self.objective.units(batch) for batch in batches]
        names = sorted({name for one in counts for name in one})
        sums = torch.tensor([float(sum(one.get(name, 0) for one in counts)) for name in names])
        return found, {name: max(1.0, value) for name, value in zip(names, processes.total(sums).tolist())}

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The batch's part of the loss of the optimiser step.

        Raises:
            TrainingError: it is not finite; the message names the records.
        """
        batch: Batch = inputs["batch"]
        self.objective.progress = self.state.global_step / max(1, self.state.max_steps)
        if self.live is not None:
            batch = dataclasses.replace(batch, reference=self.live.logps(batch, self.objective))
        scores = model(batch, self.objective.needs_collisions)
        units = num_items_in_batch or self.objective.units(batch)
        terms = self.objective.terms(scores)
        # Wrappers for several processes give the mean of their gradients, and the units are those of all of them.
        loss = self.args.world_size * sum(term.weight * term.values.sum() / units[term.unit] for term in terms)
        assert isinstance(loss, torch.Tensor)
        if not torch.isfinite(loss):
            raise TrainingError(self._not_finite("loss", _bad_rows(batch, terms)))
        self._watch(scores, batch.tokens)
        return (loss, scores) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise TrainingError(self._not_finite("gradient", self._step_rows))
        self.idle_steps += norm is not None and bool(norm < _NOTHING)
        return norm

    def _not_finite(self, what: str, rows: Sequence[int]) -> str:
        named = ", ".join(str(row + 1) for row in sorted(set(rows))[:8]) + (", …" if len(set(rows)) > 8 else "")
        kept = ""
        if self.folder is not None:
            newest = self.folder.newest()
            kept = f" The newest good checkpoint is kept: {newest}." if newest else " There was no checkpoint yet."
        return (
            f"The {what} is not finite at step {self.state.global_step + 1} of {self.state.max_steps}, with record "
            f"{named}.{kept} Lower the learning rate, or look at these records."
        )

    def _watch(self, scores: Scores, tokens: int) -> None:
        self._tokens += tokens
        with torch.no_grad():
            for name, values in self.objective.metrics(scores).items():
                total, count = self._sums.get(name, (torch.zeros((), device=values.device), 0))
                self._sums[name] = total + values.detach().sum(), count + len(values)

    def _means(self) -> tuple[dict[str, float], int]:
        """Means of the metrics since the last log, and tokens, over all processes."""
        mine = {name: (float(total), count) for name, (total, count) in self._sums.items()}
        parts = processes.gathered((mine, self._tokens))
        names = dict.fromkeys(name for part, _ in parts for name in part)
        means = {}
        for name in names:
            found = [part[name] for part, _ in parts if name in part]
            means[name] = sum(total for total, _ in found) / max(1, sum(count for _, count in found))
        return means, sum(tokens for _, tokens in parts)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our metrics to a logged step, and write it to the folder's log."""
        if "loss" in logs:
            now = time.perf_counter()
            spent, self._since = now - self._since, now
            self._seconds += spent
            means, tokens = self._means()
            speed = {"seconds": round(self._seconds, 4), "tokens_per_second": round(tokens / spent, 1)}
            logs.update(means, **speed)
            self._sums, self._tokens = {}, 0
            step, steps = self.state.global_step, self.state.max_steps
            row = {"step": step, "steps": steps, "epoch": round(self.state.epoch or 0.0, 4), **logs}
            self.logged.append(row)
            if self.folder is not None and self.args.should_save:
                self.folder.log(row)
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.live is not None:
            self.live.follow(self._policy(self.model).weights, self.state.global_step)
        super()._maybe_log_save_evaluate(*args, **kwargs)
        done = self.state.global_step - self._shown
        if done > 0:
            last = self.logged[-1] if self.logged else {}
            notes = [f"loss {last['loss']:.3f}"] if last else []
            if "rewards/accuracies" in last:
                notes.append(f"accuracy {last['rewards/accuracies']:.2f}")
            if "rewards/margins" in last:
                notes.append(f"margin {last['rewards/margins']:.2f}")
            notes += [f"{last['tokens_per_second']:,.0f} tokens/s"] if last else []
            self.bar.advance(done, ", ".join(notes))
            self._shown = self.state.global_step

    def fit(self, facts: dict[str, Any]) -> None:
        """Train, from the folder's newest whole checkpoint on if it has one."""
        newest = self.folder.newest() if self.folder else None
        step = int(newest.name.rpartition("-")[2]) if newest else 0
        if self.folder is not None and self.args.should_save:
            self._seconds = self.folder.start_log(facts, step)
        if step:
            self.bar.advance(step, "resumed")
            self._shown = step
        self._since = time.perf_counter()
        self.train(resume_from_checkpoint=str(newest) if newest else None)

    def _policy(self, model: Any) -> Policy:
        return self.accelerator.unwrap_model(model)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # All processes come here, since a sharded parameter is put together by all; the first one writes.
        place = Path(output_dir or self.args.output_dir or ".")
        state = self.trained_state()
        if self.args.should_save:
            from safetensors.torch import save_file

            place.mkdir(parents=True, exist_ok=True)
            save_file(state, place / WEIGHTS)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """The trained parameters, whole; all processes must ask for them."""
        return trained_state(self._policy(self.model).weights)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained parameters; a wrapper that shards writes its own checkpoint for resuming beside them."""
        if self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
        else:
            self._save(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(self._policy(model or self.model).weights, Path(resume_from_checkpoint))
        if self.live is not None:
            self.live.load(Path(resume_from_checkpoint))
        held = Path(resume_from_checkpoint) / STATE
        self.objective.load_state(json.loads(held.read_text(encoding="utf-8")) if held.is_file() else {})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        place = Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}"
        processes.wait()
        if self.args.should_save:
            if self.live is not None:
                self.live.save(place)
            (place / STATE).write_text(json.dumps(self.objective.state()), encoding="utf-8")
            # A checkpoint is written file by file: only one that has this mark is whole.
            (place / MARK).touch()
            if self.folder is not None:
                self.folder.prune(keep=2)


def _bad_rows(batch: Batch, terms: Sequence[Term]) -> list[int]:
    """Records of the terms that are not finite; all of the batch where no single one is to blame."""
    found: set[int] = set()
    for term in terms:
        bad = (~torch.isfinite(term.values.detach())).nonzero()[:, 0].tolist()
        if len(term.values) == len(batch.owner):
            bad = [int(batch.owner[at]) for at in bad]
        if len(term.values) in (len(batch.rows), len(batch.owner)):
            found.update(batch.rows[at] for at in bad)
    return sorted(found or batch.rows)
