"""A weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from truing.contracts import Prompt, Reward, is_number, require
from truing.rewards import ConfiguredReward, checked, reward_from
from truing.rewards.partial import bounds, observed, reach, score_partial
from truing.rewards.verifiable import bound


class Combined(ConfiguredReward):
    """A weighted sum of rewards: ``sum_i weights[i] * rewards[i]``. A negative weight is a penalty.

    Args:
        rewards: rewards, or their names with settings as recipes write them (``{"keyword": {"words": ["please"]}}``);
            one of them may be a sum itself.
        weights: one number for each reward; all 1 unless given. Rewards are not brought to one scale: a judge's 1 to 10
            outweighs a share unless its weight says otherwise.

    Example:
        >>> import truing as tr
        >>> reward = tr.Combined(rewards=[tr.Keyword(words=["please"]), tr.AnswerLength(target=20)], weights=[1.0, 0.5])
        >>> reward(["ask me"], ["please " * 20]).tolist()
        [1.5]
    """

    rewards: Sequence[Reward | str | dict[str, Any]]
    weights: Sequence[float] | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            isinstance(self.rewards, (list, tuple)) and len(self.rewards) > 0,
            f"rewards is a list of at least one reward, not {self.rewards!r}.",
        )
        if self.weights is not None:
            numbers = isinstance(self.weights, (list, tuple)) and all(map(is_number, self.weights))
            require(
                numbers and len(self.weights) == len(self.rewards),
                f"weights needs one number for each of {len(self.rewards)} rewards, got {self.weights!r}.",
            )
        self._parts()

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of its parts, weighed; infinite where a part declares none."""
        ends = [
            sorted(0.0 if weight == 0 else weight * end for end in bounds(part)) for weight, part in self._weighed()
        ]
        return sum(low for low, _ in ends), sum(high for _, high in ends)

    def observe(self, prompts: Sequence[Prompt]) -> Combined:
        """The sum of its parts as they observe these conversations."""
        return self.clone(rewards=[observed(part, prompts) for part in self._parts()])

    def bind(self, records: Any) -> Combined:
        """The sum of its parts, those that read records bound to these."""
        return self.clone(rewards=[bound(part, records) for part in self._parts()])

    def partial(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        """The weighted sum of what its parts say of unfinished texts."""
        total = np.zeros(len(texts))
        for weight, part in self._weighed():
            total += weight * score_partial(part, prompts, texts)
        return total

    def reach(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        """What its parts can still come to, weighed."""
        total = np.zeros((len(texts), 2))
        for weight, part in self._weighed():
            if weight:
                total += np.sort(weight * reach(part, prompts, texts), axis=1)
        return total

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        total = np.zeros(len(responses))
        for weight, part in self._weighed():
            total += weight * checked(part, prompts, responses)
        return total

    def _weighed(self) -> Iterator[tuple[float, Reward]]:
        return zip(self.weights or [1.0] * len(self.rewards), self._parts())

    def _parts(self) -> list[Reward]:
        """The rewards themselves; those given by name are made once, so that a model among them is loaded once."""
        held = self.__dict__.get("_held")
        if held is None or held[0] != list(self.rewards):
            held = self.__dict__["_held"] = (list(self.rewards), [reward_from(each) for each in self.rewards])
        else:
            for part in held[1]:
                reward_from(part)
        return held[1]
