"""A reward brought to one scale, with bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from truing.contracts import Prompt, Reward, is_number, require
from truing.rewards import ConfiguredReward, checked
from truing.rewards.partial import observed, reach, score_partial
from truing.rewards.verifiable import bound

HOW = ("clip", "sigmoid")


class Squashed(ConfiguredReward):
    """``(reward - center) / scale``, clipped to -1 to 1, or squashed to between 0 and 1 by a logistic curve.

    Rewards of models have no bounds, drift with length, and lie on scales of their own, so that a weight that suits one
    says nothing for another. A bounded one can be weighed against others, and lets a look-ahead skip what cannot win.

    Args:
        reward: any reward, or its name with settings.
        center: what becomes the middle: the mean reward of plain answers, say.
        scale: one unit: their standard deviation, say. Over 0.
        how: "clip" keeps differences as they are inside of the bounds; "sigmoid" tells all apart.
    """

    reward: Reward | str | dict[str, Any]
    center: float = 0.0
    scale: float = 1.0
    how: str = "sigmoid"

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_number(self.center), f"center is a finite number, not {self.center!r}.")
        require(
            is_number(self.scale) and self.scale > 0, f"scale divides the reward and is over 0, not {self.scale!r}."
        )
        require(self.how in HOW, f"how is one of {', '.join(HOW)}, not {self.how!r}.")
        self._made(self.reward)

    @property
    def bounds(self) -> tuple[float, float]:
        """0 to 1, or -1 to 1 where it clips."""
        return (-1.0, 1.0) if self.how == "clip" else (0.0, 1.0)

    def observe(self, prompts: Sequence[Prompt]) -> Squashed:
        """The same around the reward as it observes these conversations."""
        return self.clone(reward=observed(self._made(self.reward), prompts))

    def bind(self, records: Any) -> Squashed:
        """The same around the reward bound to these records, if it reads any."""
        return self.clone(reward=bound(self._made(self.reward), records))

    def partial(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        """What the reward says of unfinished texts, squashed."""
        return self._squash(score_partial(self._made(self.reward), prompts, texts))

    def reach(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        """What the reward can still come to, squashed."""
        return self._squash(reach(self._made(self.reward), prompts, texts))

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return self._squash(checked(self._made(self.reward), prompts, responses))

    def _squash(self, values: np.ndarray) -> np.ndarray:
        from scipy.special import expit

        units = (values - self.center) / self.scale
        return np.asarray(np.clip(units, -1.0, 1.0) if self.how == "clip" else expit(units))
