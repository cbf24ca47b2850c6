"""What is wanted, as a number for each answer: functions, reward models, judges, and sums of them.

A reward is any function ``reward(prompts, responses) -> n floats``; the classes here are rewards with settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from truing.contracts import Prompt, Reward, Settings, require
from truing.errors import RewardError, SettingsError, TruingError


class ConfiguredReward(Settings):
    """Base of rewards with settings: checks its settings and what it is given, then scores.

    A subclass defines ``_score(prompts, responses)``.
    """

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """One float64 for each prompt and response, shape [n]; higher is better.

        Raises:
            SettingsError: a setting cannot work.
            RewardError: there is not one response for each prompt, or one cannot be scored.
        """
        self.validate()
        check_pairs(type(self).__name__, prompts, responses)
        if not responses:
            return np.zeros(0)
        return np.asarray(self._score(prompts, responses), dtype=np.float64)

    def _made(self, given: Any) -> Reward:
        """The reward that a setting holds; one given by name is made once, so that a model in it is loaded once."""
        held = self.__dict__.get("_held")
        if held is None or held[0] is not given:
            held = self.__dict__["_held"] = (given, reward_from(given))
        return cast(Reward, held[1])

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Any:
        raise RewardError(f"{type(self).__name__} defines no _score.")


def checked(reward: Reward, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
    """What a reward gives, checked: float64, shape [n], every value finite.

    Args:
        reward: any function of prompts and responses, called once, and not at all where there is nothing to score.
        prompts: n conversations, each a string or a list of messages.
        responses: n answers.

    Raises:
        RewardError: the reward raised, or gave something other than n finite numbers; the message names the reward and
            the first row at fault. Errors of truing itself, which say what is wrong, pass unchanged.
    """
    name = name_of(reward)
    check_pairs(name, prompts, responses)
    n = len(responses)
    if n == 0:
        return np.zeros(0)
    try:
        given = reward(prompts, responses)
    except TruingError:
        raise
    except Exception as error:
        raise RewardError(
            f"The reward {name} raised {type(error).__name__} over {n} answers: {error}. "
            "A reward must take any text as an answer, the empty one too."
        ) from error
    values = _numbers(given, name, n)
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        raise RewardError(
            f"The reward {name} gave {values[row]} for row {row}, whose answer is {_short(responses[row])}. "
            "Give a finite number for every answer."
        )
    return values


def check_pairs(name: str, prompts: Sequence[Prompt], responses: Sequence[str]) -> None:
    """Raise `RewardError` unless there is one response, a string, for each prompt."""
    if isinstance(prompts, str) or isinstance(responses, str):
        raise RewardError(f"The reward {name} takes a list of prompts and a list of responses, and was given a string.")
    if len(prompts) != len(responses):
        raise RewardError(
            f"The reward {name} needs one response for each prompt, got {len(prompts)} prompts and "
            f"{len(responses)} responses."
        )
    for row, response in enumerate(responses):
        if not isinstance(response, str):
            raise RewardError(f"The reward {name} scores text, and response {row} is {_short(response)}.")


def name_of(reward: Any) -> str:
    """What people call a reward: its class, or the function's name."""
    if isinstance(reward, Settings):
        return type(reward).__name__
    return str(getattr(reward, "__qualname__", type(reward).__name__))


def reward_from(value: Any) -> Reward:
    """A reward from itself, from its name, or from a name with settings, as recipes write them.

    Args:
        value: a reward, ``"sandbox_grade"``, or ``{"keyword": {"words": ["please"]}}``.

    Raises:
        SettingsError: there is no reward of that name, or its settings cannot work.
    """
    from truing.catalogue import find

    name: Any = value
    settings: Any = {}
    if isinstance(value, dict) and len(value) == 1:
        name, settings = next(iter(value.items()))
        settings = {} if settings is None else settings
    if isinstance(name, str) and isinstance(settings, dict):
        try:
            made = find(name, "reward").load()(**settings)
        except TypeError as error:  # a setting without a default is missing
            raise SettingsError(f"The reward `{name}` cannot be made from {settings!r}: {error}.") from None
        made.validate()
        return cast(Reward, made)
    require(
        callable(value),
        f"A reward is a function of prompts and responses, or a name as in `{{keyword: {{words: [please]}}}}`, "
        f"not {_short(value)}.",
    )
    if isinstance(value, Settings):
        value.validate()
    return cast(Reward, value)


def _numbers(given: Any, name: str, n: int) -> np.ndarray:
    if hasattr(given, "detach"):  # a torch tensor, perhaps in bfloat16 or on a GPU
        given = given.detach().double().cpu().numpy()
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        items = list(given) if isinstance(given, (list, tuple, np.ndarray)) and np.ndim(array) else None
        wrong = [row for row, item in enumerate(items or ()) if not isinstance(item, (int, float, np.number))]
        where = f"{_short(items[wrong[0]])} for row {wrong[0]}" if items and wrong else _short(given)
        raise RewardError(f"The reward {name} gave {where}. It must give {n} numbers, one for each answer.")
    if array.shape != (n,):
        raise RewardError(
            f"The reward {name} gave an array of shape {list(array.shape)} for {n} answers. "
            f"It must give {n} numbers, shape [{n}]."
        )
    return array.astype(np.float64)


def _short(value: Any) -> str:
    from truing.records.kinds import shorten

    return shorten(value)
