"""A model that scores answers instead of writing them: what training a reward model or a classifier gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from typing_extensions import Self

from truing.contracts import Prompt
from truing.errors import ModelError, RewardError, UnsupportedError
from truing.models.core import context_length
from truing.models.modifiers import Modifier
from truing.models.stack import Stacked
from truing.models.types import Step

CENTER = "reward_center"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ScoreModel(Stacked):
    """A sequence-classification model of transformers with its tokenizer and history. It is a reward itself.

    ``model(prompts, responses)`` gives one score for each answer. A saved folder is a plain one of transformers, with
    ``truing.json`` beside it: `truing.load`, `truing.rewards.RewardModel` and transformers all read it. What a head
    gives around 0 is kept as ``reward_center`` in its config; this class subtracts it, the others do not.

    Args:
        weights: a sequence-classification model of transformers.
        tokenizer: its tokenizer.
        modifiers: none; it reads the plain chat template.
        history: the steps that made it.
        source: what it was loaded or made from.
    """

    weights: Any
    tokenizer: Any
    modifiers: tuple[Modifier, ...] = ()
    history: tuple[Step, ...] = ()
    source: str = ""

    @classmethod
    def load(cls, name: str | Path, **how: Any) -> ScoreModel:
        """Read one from a folder or the hub; ``how`` is that of `truing.load`.

        Raises:
            ModelError: nothing can be read there, or it is a model that writes.
        """
        from truing.models.loading import load

        found: Any = load(name, **how)
        if not isinstance(found, ScoreModel):
            raise ModelError(f"{name} is a language model and has no score. Train one with RewardModelling.")
        return found

    @property
    def offers(self) -> frozenset[str]:
        """What may be asked of it: scores only."""
        return frozenset({"scores"})

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.weights.parameters()).device

    @property
    def labels(self) -> int:
        """Values that its head gives."""
        return int(self.weights.config.num_labels)

    @property
    def center(self) -> float:
        """What is subtracted from the head's value, so that scores lie around 0."""
        return float(getattr(self.weights.config, CENTER, 0.0))

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """One score for each prompt and answer, float64 [n]; higher is better.

        Raises:
            RewardError: there is not one response for each prompt, or a conversation is longer than the model reads.
            UnsupportedError: it has several labels.
        """
        return self.logits(prompts, responses)[:, self._only()] - self.center

    def logits(
        self, prompts: Sequence[Prompt], responses: Sequence[str], *, batch_size: int | None = None
    ) -> np.ndarray:
        """What the head gives at the end of each conversation, float64 [n, labels].

        Args:
            prompts: n conversations.
            responses: an answer for each.
            batch_size: answers at a time; by default a budget of 8192 tokens.

        Raises:
            RewardError: see `__call__`.
        """
        from truing.rewards import check_pairs
        from truing.rewards.model import encode_answered, logits

        check_pairs(self.name, prompts, responses)
        rows = [encode_answered(self.tokenizer, prompt, response) for prompt, response in zip(prompts, responses)]
        limit = context_length(self.weights)
        for at, row in enumerate(rows):
            if limit and len(row) > limit:
                raise RewardError(
                    f"Row {at} has {len(row)} tokens with its prompt, and {self.name} reads {limit} at most. "
                    "Shorten it, or train on a model that reads more."
                )
        return logits(self.weights, rows, batch_size) if rows else np.zeros((0, self.labels))

    def probabilities(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """The probability of the label true, s(logit), float64 [n]; for models trained on labels."""
        return _sigmoid(self.logits(prompts, responses)[:, self._only()])

    def preferences(self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """The probability that the first answer is the better one, s(difference), float64 [n]."""
        return _sigmoid(self(prompts, first) - self(prompts, second))

    def generate(self, *args: Any, **settings: Any) -> NoReturn:
        """Refused: it scores answers and writes none.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{self.name} scores answers and cannot write any. Ask the model whose answers it scores, or use it as a "
            "reward: `BestOfN(reward=scorer)`."
        )

    def logprobs(self, *args: Any, **settings: Any) -> NoReturn:
        """Refused: it has no next-token probabilities.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{self.name} scores whole answers and has no probabilities of tokens. Call it: `scorer(prompts, answers)`."
        )

    text_logprobs = logprobs

    def with_weights(self, weights: Any) -> Self:
        """The same model with other weights."""
        return dataclasses.replace(self, weights=weights)

    def _only(self) -> int:
        if self.labels != 1:
            names = ", ".join(str(name) for name in self.weights.config.id2label.values())
            raise UnsupportedError(
                f"{self.name} has {self.labels} labels ({names}). Say which is the score: "
                "`RewardModel(model=folder, index=…)`; `logits` gives all."
            )
        return 0


def _sigmoid(values: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(values))
