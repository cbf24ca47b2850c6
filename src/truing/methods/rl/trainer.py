"""TRL's online trainers with truing's prompts, engine, rewards and folder in them.

TRL is given the numbers of prompts in place of their text, and asks back for what they stand for.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from truing.errors import MissingExtraError, TrainingError, UnsupportedError
from truing.methods.rl.rollouts import Rollouts
from truing.methods.training.checkpoints import MARK, TrainingFolder, load_trained, save_trained
from truing.methods.training.method import tell
from truing.methods.training.policy import around
from truing.models.core import core_of
from truing.progress import Task

# What of TRL's trainers is replaced; a version that calls them otherwise must not run as if nothing had changed.
HOOKS = ("_tokenize_prompts", "_generate_single_turn", "_get_per_token_logps_and_entropies", "_calculate_rewards")
# TRL's name of a metric, and ours.
METRICS = {"kl": "kl", "clip_ratio/region_mean": "clip_fraction", "entropy": "entropy"}


def trl_classes(name: str) -> tuple[Any, Any]:
    """TRL's trainer and its configuration, of "GRPO" or "RLOO".

    Raises:
        MissingExtraError: TRL is not installed.
        UnsupportedError: this version of TRL has no such trainer, or one that works otherwise.
    """
    try:
        import trl
    except ImportError:
        raise MissingExtraError("trl", "rl") from None
    trainer, config = getattr(trl, f"{name}Trainer", None), getattr(trl, f"{name}Config", None)
    lacking = [hook for hook in HOOKS if not hasattr(trainer, hook)]
    if config is None or lacking:
        raise UnsupportedError(
            f"TRL {trl.__version__} has no {name} trainer that truing knows "
            f"(it lacks {', '.join(lacking) or 'its configuration'}). Install trl 1.16."
        )
    return trainer, config


def make_trainer(
    base: Any, *, weights: Any, reference: Any, beta: float, args: Any, order: list[int], rollouts: Rollouts,
    bar: Task, folder: TrainingFolder | None,
) -> Any:  # fmt: skip
    """A trainer of TRL that trains the weights in place.

    Args:
        base: TRL's class.
        weights: a transformers or PEFT model.
        reference: what the KL is taken from; None where ``beta`` is 0, or for the weights without their adapter.
        beta: weight of the KL.
        args: TRL's configuration, whose own beta is 0: TRL would load a reference by the name of the weights.
        order: numbers of the prompts, of all samplings.
        rollouts: samples and scores.
        bar: is advanced a step at a time.
        folder: where checkpoints and the log go, or None.
    """
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    def reward(prompts: list[str], **_: Any) -> list[float]:
        return rollouts.score([int(prompt) for prompt in prompts], trainer.state.global_step + 1)

    # TRL gives the tokenizer a padding token where it has none, and must not do so to the one of the user.
    tokenizer = copy.deepcopy(rollouts.model.tokenizer)
    watch = Watch(rollouts, bar, folder)
    trainer: Any = _online(base, rollouts, folder)(
        model=weights,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [str(row) for row in order]}),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.watch = watch
    trainer.remove_callback(PrinterCallback)
    # Without a model of its own TRL takes the reference from the trained one, its adapter switched off.
    trainer.ref_model, trainer.beta = reference, beta
    if reference is not None:
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(core_of(reference), temperature=args.temperature)
    return trainer


def _online(base: Any, rollouts: Rollouts, folder: TrainingFolder | None) -> Any:
    # GRPO's also asks for the log-probabilities that a server sampled with; RLOO's does not.
    gives_logprobs = "num_generations" in inspect.signature(base._generate_single_turn).parameters

    class Online(base):
        """TRL's trainer, asking truing for token ids, completions and rewards."""

        def _send_telemetry(self) -> None:
            """Nothing is reported to anybody about a training."""

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """A saved model has truing's own card."""

        def _tokenize_prompts(self, prompts: list[str]) -> tuple[Any, ...]:
            self._asked = [int(prompt) for prompt in prompts]
            return rollouts.ids(self._asked), None, {}

        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            number = self.state.global_step // self.num_iterations
            with self.accelerator.autocast():
                ids = rollouts.sample(self.accelerator.unwrap_model(self.model), self._asked, number)
            # TRL tells training from evaluation by the mode of the model, and the engine left it in eval mode.
            self.model.train()
            return (ids, None) if gives_logprobs else ids

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            if not torch.isfinite(loss):
                raise TrainingError(self._not_finite("loss"))
            return loss

        def _clip_grad_norm(self, model: nn.Module) -> Any:
            norm = super()._clip_grad_norm(model)
            if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
                raise TrainingError(self._not_finite("gradient"))
            return norm

        def _not_finite(self, what: str) -> str:
            newest = folder.newest() if folder is not None else None
            kept = f" The newest good checkpoint is kept: {newest}." if newest else ""
            return (
                f"The {what} is not finite at step {self.state.global_step + 1} of {self.state.max_steps}.{kept} "
                "Lower the learning rate, or raise beta."
            )

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            place = Path(output_dir or self.args.output_dir)
            place.mkdir(parents=True, exist_ok=True)
            save_trained(self.accelerator.unwrap_model(self.model), place)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
            load_trained(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint))

    return Online


class Watch(TrainerCallback):
    """Writes the log, advances the bar, and marks checkpoints that are whole."""

    def __init__(self, rollouts: Rollouts, bar: Task, folder: TrainingFolder | None) -> None:
        self.tally, self.bar, self.folder = rollouts.tally, bar, folder
        self.seconds, self._since, self._shown, self._warned = 0.0, time.perf_counter(), 0, False

    def begin(self, facts: dict[str, Any]) -> Path | None:
        """Start the log, or go on in it; gives the checkpoint to go on from."""
        newest = self.folder.newest() if self.folder else None
        step = int(newest.name.rpartition("-")[2]) if newest else 0
        if self.folder is not None:
            self.seconds = self.folder.start_log(facts, step)
        if step and self.folder is not None:
            lines = self.folder.log_path.read_text(encoding="utf-8").splitlines()
            self.tally.resume(json.loads(lines[-1]) if lines else {})
            self.bar.advance(step, "resumed")
            self._shown = step
        self._since = time.perf_counter()
        return newest

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write one line."""
        if not logs or "loss" not in logs:
            return
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        found = self.tally.flush()
        row = {
            "step": state.global_step,
            "steps": state.max_steps,
            "loss": logs["loss"],
            **{name: logs[name] for name in ("grad_norm", "learning_rate") if name in logs},
            **found,
            **{ours: logs[theirs] for theirs, ours in METRICS.items() if logs.get(theirs) is not None},
            **self.tally.totals(),
            "seconds": round(self.seconds, 4),
        }
        if self.folder is not None:
            self.folder.log(row)
        if found and self.tally.groups_without_signal == self.tally.groups and not self._warned:
            self._warned = True
            tell(
                f"Step {state.global_step}: all answers to a prompt have the same reward, for every prompt so far, and "
                "teach nothing. Check the reward, raise n or the temperature, or choose prompts that the model gets "
                "right at times."
            )
        notes = [f"{name} {found[name]:.2f}" for name in ("reward", "length") if name in found]
        self.bar.advance(state.global_step - self._shown, ", ".join(notes))
        self._shown = state.global_step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint is written file by file: only one that has this mark is whole."""
        if self.folder is not None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARK).touch()
            self.folder.prune(keep=2)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the steps that no line of the log was written for."""
        if state.global_step > self._shown:
            self.bar.advance(state.global_step - self._shown)
            self._shown = state.global_step


def frozen_twin(weights: Any) -> Any:
    """New modules around the same memory, without gradient: changes of the modules do not reach the given ones.

    None for quantised weights, whose parameters are more than memory: the adapter on them is switched off instead.
    """
    if getattr(weights, "is_quantized", False):
        return None
    return around(weights).requires_grad_(False).eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that TRL and transformers raise about each other, which nobody here can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl)(\.|$)")
        yield


@contextlib.contextmanager
def patched(*models: Any) -> Iterator[None]:
    """Undo at the end what TRL does to models: a forward of its own, and changed configurations.

    A forward that stayed would be carried into every copy of the model, and compute with the weights of the first.
    Inside, positions count real tokens, whatever the padding: TRL pads prompts on the left, and models with learned
    positions would take padding for tokens.
    """
    whole = [part for model in models for part in {id(m): m for m in (model, core_of(model))}.values()]
    names = ("forward", "_original_forward", "model_tags")
    before = [{name: part.__dict__[name] for name in names if name in part.__dict__} for part in whole]
    configs = [one for part in map(core_of, models) for one in (part.config, part.config.get_text_config())]
    configs += [part.generation_config for part in map(core_of, models)]
    settings = [dict(vars(config)) for config in configs]
    parts = {part: set(part._forward_hooks) for model in models for part in model.modules()}
    hooks = [core_of(model).base_model.register_forward_pre_hook(_position, with_kwargs=True) for model in models]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        # Each time that gradient checkpointing is switched on again it leaves a hook on the embeddings.
        for module, known in parts.items():
            for key in set(module._forward_hooks) - known:
                del module._forward_hooks[key]
        for part, kept in zip(whole, before):
            for name in names:
                part.__dict__.pop(name, None)
            part.__dict__.update(kept)
        for config, values in zip(configs, settings):
            vars(config).clear()
            vars(config).update(values)


def _position(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask = kwargs.get("attention_mask")
    if kwargs.get("position_ids") is None and isinstance(mask, torch.Tensor) and mask.dim() == 2:
        return args, {**kwargs, "position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
    return None
