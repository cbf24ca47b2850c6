"""Samples with their rewards: scoring, the figures of a round, and ranking records of all of them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from truing.contracts import Prompt, Reward
from truing.errors import TrainingError
from truing.rewards import checked, name_of


@dataclasses.dataclass(frozen=True)
class Sample:
    """One response.

    Args:
        text: as it is ranked and learned.
        ended: whether it ended by itself.
        reward: NaN where the reward gave no number.
        why: why it is discarded, or "".
    """

    text: str
    ended: bool
    reward: float
    why: str = ""


def scored(reward: Reward, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
    """What a reward gives, checked as `truing.rewards.checked` does, except that NaN may stand, shape [n]."""
    missing: list[np.ndarray] = []

    def filled(prompts: Sequence[Prompt], responses: Sequence[str]) -> Any:
        given = reward(prompts, responses)
        if hasattr(given, "detach"):
            given = given.detach().double().cpu().numpy()
        try:
            array = np.asarray(given)
        except ValueError:  # rows of different lengths, which the check names
            return given
        if array.dtype.kind != "f" or array.shape != (len(responses),):
            return given
        missing.append(np.isnan(array))
        return np.where(missing[-1], 0.0, array)

    filled.__qualname__ = name_of(reward)
    values = checked(filled, prompts, responses)
    return np.where(missing[-1], np.nan, values) if missing else values


def figures_of(
    groups: Sequence[Sequence[Sample]], own: Sequence[Sequence[Sample]], picked: Sequence[int | None]
) -> dict[str, Any]:
    """The figures of a round.

    Args:
        groups: the samples of each prompt.
        own: one sample of the model in training for each prompt.
        picked: the number of the sample that is learned from, or None.
    """
    firsts = [group[0] for group in own]
    selected = [group[at] for group, at in zip(groups, picked) if at is not None]
    every = [one for group in groups for one in group]
    rewards = np.array([one.reward for one in firsts if not math.isnan(one.reward)])
    found: dict[str, Any] = {
        "prompts": len(groups),
        "samples": len(every),
        "reward": float(rewards.mean()) if len(rewards) else math.nan,
        "reward_error": float(rewards.std(ddof=1) / math.sqrt(len(rewards))) if len(rewards) > 1 else 0.0,
        "selected": len(selected),
        "selected_reward": float(np.mean([one.reward for one in selected])) if selected else 0.0,
        "length": _words(firsts),
        "selected_length": _words(selected),
        "repeated": 1 - sum(len({one.text for one in group}) for group in groups) / len(every),
        "discarded": dict(sorted(Counter(one.why for one in every if one.why).items())),
    }
    for size in (1, 2):
        found[f"distinct_{size}"] = distinct([one.text for one in firsts], size)
        found[f"selected_distinct_{size}"] = distinct([one.text for one in selected], size)
    if not len(rewards):
        raise TrainingError("The reward gave no number for any first sample of a round, so nothing can be ranked.")
    return found


def distinct(texts: Sequence[str], size: int) -> float:
    """Distinct n-grams of words as a share of all, over all texts; 0 where there are none (Li et al. 2016)."""
    grams = [tuple(words[at : at + size]) for text in texts for words in (text.split(),)
             for at in range(len(words) - size + 1)]  # fmt: skip
    return len(set(grams)) / len(grams) if grams else 0.0


def ranking_rows(
    prompts: Sequence[Prompt], groups: Sequence[Sequence[Sample]], picked: Sequence[int | None]
) -> list[dict[str, Any]]:
    """All samples that have a reward, as ranking records.

    Beside ``completions`` and ``scores`` a row has why each one was discarded ("" where it was not), which ones ended,
    and the number of the one that was learned from.
    """
    rows = []
    for prompt, group, one in zip(prompts, groups, picked):
        there = [sample for sample in group if not math.isnan(sample.reward)]
        if there:
            rows.append({
                "prompt": prompt, "completions": [s.text for s in there], "scores": [s.reward for s in there],
                "discarded": [s.why for s in there], "ended": [s.ended for s in there],
                "chosen_index": None if one is None else there.index(group[one]),
            })  # fmt: skip
    return rows


def _words(samples: Sequence[Sample]) -> float:
    return float(np.mean([len(one.text.split()) for one in samples])) if samples else 0.0
