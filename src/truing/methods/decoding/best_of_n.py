"""Sample n answers and keep the one that a reward likes best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import Method, Reward, is_number, is_whole, require
from truing.models.modifiers import SearchModifier
from truing.rewards import checked, reward_from

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.models.types import Completion, Row, Sampling
    from truing.records import Records


class BestOfNModifier(SearchModifier):
    """Samples n answers to every prompt and keeps the best.

    The trace of the answer that is kept holds ``rewards``, of all n in the order they were sampled, and ``chosen``, its
    place among them. Of equal rewards the first wins.

    Args:
        n: candidates for each answer asked for.
        reward: what is wanted.
        temperature: of the candidates where the caller asks for none, since n greedy answers would all be the same.
    """

    n: int
    reward: Reward
    temperature: float = 1.0

    def search(self, engine: Any, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row the best of ``sampling.n`` groups of n candidates; all of them are scored in one call."""
        several = dataclasses.replace(
            sampling, n=self.n * sampling.n, temperature=sampling.temperature or self.temperature
        )
        drawn = engine.generate(rows, several)
        prompts = [row.prompt for row, candidates in zip(rows, drawn) for _ in candidates]
        rewards = checked(self.reward, prompts, [each.text for answers in drawn for each in answers])
        groups = rewards.reshape(len(rows), sampling.n, self.n)
        best = []
        for candidates, values in zip(drawn, groups):
            chosen = np.argmax(values, axis=1)  # the first of equals
            best.append(
                [
                    dataclasses.replace(
                        candidates[at * self.n + int(k)],
                        trace={**candidates[at * self.n + int(k)].trace, "rewards": row.tolist(), "chosen": int(k)},
                    )
                    for at, (k, row) in enumerate(zip(chosen, values))
                ]
            )
        return best


class BestOfN(Method):
    """Sample n answers and keep the one that a reward likes best (best-of-n, rejection sampling).

    Nothing is trained: the model that comes out samples n candidates for each answer and scores them in one call, so an
    answer costs n times as many tokens. With n = 1 it is plain sampling. Greedy decoding is not possible, since all
    candidates would be the same: a call with temperature 0 samples at ``temperature``. How far the answers move from
    the model's own is bounded by `best_of_n_kl`. Sources: Stiennon et al. 2020, arXiv 2009.01325; Nakano et al. 2021,
    arXiv 2112.09332.

    Args:
        n: candidates for each answer.
        reward: what is wanted: any function ``reward(prompts, responses) -> n floats``, or a reward's name with
            settings. It reads the conversation as it stands after prompt modifiers. That a batch gives what single
            prompts give holds for rewards that score each answer by itself.
        temperature: of the candidates where the caller asks for none; over 0.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> careful = tr.BestOfN(n=8, reward=tr.SandboxGrade()).align(model)
    """

    n: int = 8
    reward: Reward | str | dict[str, Any]
    temperature: float = 1.0

    needs: ClassVar[frozenset[str]] = frozenset({"reward"})
    modifier: ClassVar[str | None] = "search"
    quick: ClassVar[dict[str, Any]] = {"n": 3}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_whole(self.n) and self.n >= 1, f"n is how many answers to sample, at least 1, not {self.n!r}.")
        require(
            is_number(self.temperature) and self.temperature > 0,
            f"temperature must be over 0, not {self.temperature!r}: at 0 all {self.n} candidates would be the same.",
        )

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        reward = reward_from(self.reward)  # one that cannot work is found here, before an answer is sampled
        return model.with_modifier(BestOfNModifier(n=self.n, reward=reward, temperature=self.temperature))


def best_of_n_kl(n: int) -> float:
    """Upper bound in nats of the KL divergence of best-of-n answers from the model's own: ``log n - (n - 1) / n``.

    Nearly reached where no single answer is likely and rewards are all different; loose where few answers carry most of
    the probability. Source: Beirami et al. 2024, arXiv 2401.01879.
    """
    require(is_whole(n) and n >= 1, f"n is a number of at least 1, not {n!r}.")
    return math.log(n) - (n - 1) / n
