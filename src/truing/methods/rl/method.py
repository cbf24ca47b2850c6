"""`OnlineMethod`: what methods share that sample from the model in training and learn from a reward."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch

from truing import progress
from truing.contracts import Method, Prompt, Reward, is_number, require, require_whole
from truing.errors import UnsupportedError
from truing.methods.rl.rollouts import Rollouts, encode_prompts, prompt_order
from truing.methods.training.adapters import adapter_settings
from truing.methods.training.checkpoints import TrainingFolder, lasting_settings, load_trained
from truing.methods.training.method import check_optimisation, check_trainable, shared_arguments, tell
from truing.methods.training.policy import seeded, without_dropout, working_copy
from truing.models import Model
from truing.records import Records
from truing.rewards import reward_from
from truing.rewards.verifiable import bound


class OnlineMethod(Method):
    """Base of online reinforcement learning: sample groups of answers, score them, and make the better ones likelier.

    The optimiser, the objective and the checkpoints are TRL's (extra ``rl``); prompts, sampling and rewards are
    truing's. Answers are sampled by the engine that every model answers with, in the model's own chat format, and end
    at its end tokens. The model that comes in is also the reference, and keeps its weights. Modifiers that it carries
    do not act in training, and stay on the result; a PEFT adapter that it carries is merged into the copy that is
    trained. Any record with a prompt will do; ``answers`` of question records reach rewards that check them
    (`Verifiable`).

    Args:
        reward: what is wanted: a function ``reward(prompts, responses) -> floats``, a reward, its name, its name with
            settings, or weights by name: ``{"sandbox_grade": 1.0, "my_reward": 0.5}``.
        n: completions of each prompt, which are compared with one another; at least 2.
        beta: weight of the KL to the model that comes in; 0 needs no reference.
        learning_rate: the highest one, after the warm-up.
        prompts_per_step: prompts of an optimiser step, n completions each.
        epochs: passes over the prompts.
        max_steps: that many optimiser steps, whatever the epochs; None for what the epochs give.
        iterations: optimiser steps on the same completions; over 1 the clip range begins to act.
        batch_size: completions of one forward pass, a divisor of ``n * prompts_per_step``; None for all at once.
        max_new_tokens: most tokens of a completion.
        temperature: completions are sampled at, over 0; their log-probabilities are those at it.
        epsilon: how far the probability ratio may fall below 1 before it is clipped.
        epsilon_high: how far it may rise above 1; as ``epsilon`` unless given.
        mask_truncated: completions that reach ``max_new_tokens`` are not learned from.
        warmup_ratio: share of the steps in which the learning rate rises from 0.
        schedule: how it falls after them: "linear", "cosine" or "constant".
        weight_decay: of AdamW, for matrices only.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        adapter: None trains all weights; "lora", "dora", "ia3" and what else peft has, or a dict of an adapter's
            ``type`` ("lora" if it is left out) and settings, trains an adapter.
        dropout: keep the model's own dropout in training; sampling and the reference have none.
        gradient_checkpointing: compute activations again in the backward pass: less memory, more time.
        shuffle: ask the prompts in a new order in every pass; without it, in the order of the records.
        seed: of order, adapter, sampling and dropout.
        save_every: steps between checkpoints, where `align` is given a folder; None for a tenth of the training.
        log_every: steps between two lines of the log.
        report_to: a tracker that transformers knows ("tensorboard", "wandb", ...), or None.
    """

    reward: Reward | str | dict[str, Any]
    n: int = 8
    beta: float = 0.04
    learning_rate: float = 1e-6
    prompts_per_step: int = 8
    epochs: float = 1.0
    max_steps: int | None = None
    iterations: int = 1
    batch_size: int | None = None
    max_new_tokens: int = 256
    temperature: float = 1.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    mask_truncated: bool = False
    warmup_ratio: float = 0.0
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

    record_kinds: ClassVar[tuple[str, ...]] = ("question", "demonstration", "preference", "label")
    needs = frozenset({"gradients", "local_weights", "reward"})
    paper: ClassVar[int | None] = 20
    quick: ClassVar[dict[str, Any]] = {
        "n": 2, "max_steps": 2, "prompts_per_step": 1, "max_new_tokens": 6, "learning_rate": 1e-3,
    }  # fmt: skip
    trainer: ClassVar[str] = ""

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        whole = [
            "n", "prompts_per_step", "iterations", "max_new_tokens", "log_every", "max_steps", "batch_size",
            "save_every",
        ]  # fmt: skip
        require_whole(self, whole, optional=("max_steps", "batch_size", "save_every"))
        self._check_group()
        for name in ("learning_rate", "epochs", "temperature"):
            value = getattr(self, name)
            hint = ": at 0 all completions of a prompt would be the same" if name == "temperature" else ""
            require(is_number(value) and value > 0, f"{name} is a number over 0, not {value!r}{hint}.")
        require(is_number(self.beta) and self.beta >= 0, f"beta is 0 or more, not {self.beta!r}.")
        require(
            is_number(self.epsilon) and 0 < self.epsilon < 1,
            f"epsilon is over 0 and under 1, not {self.epsilon!r}.",
        )
        high = self.epsilon_high
        require(high is None or (is_number(high) and high > 0), f"epsilon_high is over 0, or None, not {high!r}.")
        every = self.n * self.prompts_per_step
        require(
            self.batch_size is None or every % self.batch_size == 0,
            f"batch_size divides the {every} completions of a step (n * prompts_per_step), which {self.batch_size!r} "
            "does not.",
        )
        check_optimisation(self)
        self._reward()

    def _check_group(self) -> None:
        require(self.n > 1, "n is 2 or more: a completion is compared with the others of its prompt, and got none.")

    def _reward(self) -> Reward:
        given: Any = self.reward
        if isinstance(given, dict) and given and all(is_number(weight) for weight in given.values()):
            from truing.rewards.combined import Combined

            given = Combined(rewards=list(given), weights=list(given.values()))
        return reward_from(given)

    def check_model(self, model: Any) -> None:
        """Also raise where weights cannot be trained as they are."""
        super().check_model(model)
        check_trainable(model, self.adapter)

    def trl_settings(self) -> dict[str, Any]:
        """Settings of TRL's configuration that are the method's own."""
        return {}

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Model:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UnsupportedError("Online training runs in one process so far. Start it without a launcher.")
        from truing.methods.rl import trainer as online  # it takes seconds to import

        classes = online.trl_classes(self.trainer)
        assert records is not None
        reward = self._scorer(records, out)
        plain = dataclasses.replace(model, modifiers=())
        prompts, too_long = encode_prompts(plain, records, self._request)
        notes = self._departures()
        if too_long:
            notes.append(f"{too_long:,} of {len(records):,} prompts leave no room for an answer and are left out.")
        if model.modifiers:
            names = ", ".join(type(modifier).__name__ for modifier in model.modifiers)
            notes.append(f"{names} does not act in training; the result carries it on.")
        for note in notes:
            tell(note)
        identity = {
            "method": type(self).__name__,
            "model": plain.fingerprint,
            "records": records.fingerprint,
            "settings": lasting_settings(self),
        }
        folder = TrainingFolder(out, identity) if out is not None else None
        rollouts = self._rollouts(
            plain, prompts, reward, n=self.n, max_new_tokens=self.max_new_tokens, temperature=self.temperature,
            seed=self.seed,
        )  # fmt: skip
        facts = {"prompts": len(prompts), "left_out": too_long, "notes": notes}
        with seeded(self.seed):
            return model.with_weights(self._train(plain, rollouts, classes, folder, facts).eval())

    def _scorer(self, records: Records, out: Path | None) -> Reward:
        """What scores completions: called with prompts as the records hold them."""
        return bound(self._reward(), records)

    def _request(self, prompt: Prompt) -> Prompt:
        """What the model is asked in place of a record's prompt."""
        return prompt

    def _departures(self) -> list[str]:
        """What is not as it should be, for the user and the log."""
        return []

    def _rollouts(self, *given: Any, **how: Any) -> Rollouts:
        return Rollouts(*given, **how)

    def _variant(self, base: Any, rollouts: Rollouts) -> Any:
        """TRL's trainer, or one made from it."""
        return base

    def _train(
        self, model: Model, rollouts: Rollouts, classes: tuple[Any, Any], folder: TrainingFolder | None,
        facts: dict[str, Any],
    ) -> Any:  # fmt: skip
        from truing.methods.rl import trainer as online

        start = model.weights.dtype
        weights = working_copy(model.weights, adapter_settings(self.adapter), self.seed)
        if folder is not None and folder.finished:
            load_trained(weights, folder.finished)
            return weights
        if self.adapter is None:
            # A small step is lost in 16-bit weights: full training keeps 32 bits, and gives them back as they came.
            weights.float()
        asked = math.ceil(self.epochs * len(rollouts.prompts) / self.prompts_per_step)
        steps = self.max_steps or max(1, asked) * self.iterations
        samplings = math.ceil(steps / self.iterations)
        order = prompt_order(len(rollouts.prompts), samplings * self.prompts_per_step, self.seed, self.shuffle)
        # TRL repeats each prompt n times by itself.
        reference = online.frozen_twin(model.weights) if self.beta > 0 else None
        touched = [weights] if reference is None else [weights, reference]
        with (
            tempfile.TemporaryDirectory(prefix="truing-") as scratch,
            progress.task(type(self).__name__, steps) as bar,
            without_dropout(weights if not self.dropout else torch.nn.Module()),
            online.quiet(),
            online.patched(*touched),
        ):
            place = str(folder.checkpoints) if folder else scratch
            args = self._arguments(
                classes[1], place, steps, saves=folder is not None, half=start == torch.bfloat16, on=model.device
            )
            trainer = online.make_trainer(
                self._variant(classes[0], rollouts), weights=weights, reference=reference, beta=self.beta, args=args,
                order=order, rollouts=rollouts, bar=bar, folder=folder,
            )  # fmt: skip
            newest = trainer.watch.begin(facts)
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
            if self.gradient_checkpointing:
                online.core_of(weights).gradient_checkpointing_disable()
        if self.adapter is None:
            weights.to(start)
        totals = rollouts.tally.totals()
        if folder is not None:
            folder.finish(weights)
        if totals["groups_without_signal"] * 2 > totals["groups"]:
            tell(
                f"In {totals['groups_without_signal']:,} of {totals['groups']:,} groups all answers had the same "
                "reward, and taught nothing. Unless the reward is high by now, raise n or the temperature, or choose "
                "prompts that the model gets right at times."
            )
        return weights

    def _arguments(self, config: Any, place: str, steps: int, *, saves: bool, half: bool, on: torch.device) -> Any:
        completions = self.n * self.prompts_per_step
        batch = self.batch_size or completions
        args = config(
            output_dir=place,
            num_generations=self.n if self.n > 1 else completions,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=completions // batch,
            num_iterations=self.iterations,
            max_completion_length=self.max_new_tokens,
            temperature=self.temperature,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            mask_truncated_completions=self.mask_truncated,
            beta=0.0,  # see `make_trainer`
            shuffle_dataset=False,  # the order is ours
            use_vllm=False,
            disable_dropout=False,
            log_completions=False,
            gradient_checkpointing=self.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if self.gradient_checkpointing else None,
            fp16=False,
            save_strategy="steps" if saves else "no",
            # A checkpoint between the updates on one sampling could not be gone on from.
            save_steps=math.ceil((self.save_every or max(1, steps // 10)) / self.iterations) * self.iterations,
            # TRL computes in bfloat16 unless told otherwise, as these do.
            **shared_arguments(self, steps, half=half, on=on),
            **self.trl_settings(),
        )
        # With more than one visible GPU transformers would split batches among threads.
        args._n_gpu = min(args.n_gpu, 1)
        # TRL's configuration asks for groups to compare within; a method with another baseline needs none.
        args.num_generations = self.n
        return args
