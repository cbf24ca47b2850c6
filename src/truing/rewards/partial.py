"""Rewards on partial text: what decoding asks of a reward while an answer is being written.

Any reward is one. What it may say about itself besides, by attributes, lets a search skip work, and never changes what
the search finds:

- ``bounds``: the lowest and the highest value that it can give, on whole or partial text.
- ``partial(prompts, texts)``: its value of unfinished texts, where that is not simply its value of them as answers.
  A scorer of skills, say, gives a beginning the value of the best skill that starts so.

Grounding functions, look-ahead heuristics and reward models are all asked in this way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from truing.contracts import Prompt, Reward
from truing.errors import RewardError
from truing.rewards import checked, name_of


def bounds(reward: Any) -> tuple[float, float]:
    """The lowest and the highest value of a reward; infinite where it declares none."""
    declared = getattr(reward, "bounds", None)
    if declared is None:
        return -math.inf, math.inf
    low, high = declared
    if not low <= high:
        raise RewardError(f"The reward {name_of(reward)} declares bounds from {low} to {high}, which hold nothing.")
    return float(low), float(high)


def score_partial(reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
    """What a reward says of unfinished texts, float64 [n], checked as `truing.rewards.checked` does.

    Raises:
        RewardError: as `checked`; or a value lies outside of the bounds that the reward declares, so that a search that
            relied on them would have been wrong.
    """
    partial = getattr(reward, "partial", None)
    values = checked(reward if partial is None else partial, prompts, texts)
    low, high = bounds(reward)
    outside = np.flatnonzero((values < low) | (values > high))
    if len(outside):
        at = int(outside[0])
        raise RewardError(
            f"The reward {name_of(reward)} declares values from {low} to {high} and gave {values[at]} for "
            f"{texts[at][:80]!r}. Mend its `bounds`."
        )
    return values
