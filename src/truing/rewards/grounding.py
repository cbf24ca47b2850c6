"""Grounding functions: how well text fits the world, as a number from 0 to 1, for whole and for unfinished text.

They are rewards like any other. What makes them fit for `truing.GroundedDecoding` is that they speak of unfinished text
(see `truing.rewards.partial`): a beginning is as good as its best ending.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from truing.contracts import Prompt, Reward, is_number, require
from truing.errors import RewardError
from truing.rewards import ConfiguredReward, checked, name_of
from truing.rewards.functions import Keyword
from truing.rewards.partial import bounds, half_letter, observed, score_partial
from truing.rewards.verifiable import bound

FLOOR = 1e-6
"""The smallest value that a grounding function has: 0 would be minus infinity once its logarithm is taken."""

_HALF = "\ufffd"  # how a decoder shows a token that ends within a letter


class Affordance(ConfiguredReward):
    """What can be done here and now: the value of a skill, and of a beginning that of the best skill that starts so.

    So a beginning stays good as long as any skill that starts so is feasible, and collapses to the floor at the letter
    that rules out all of them. Beginnings are compared letter by letter, whatever the tokens; one space before the
    first word is left out.

    The values are numbers by skill, which never change, or those of a reward, which is asked for
    ``value(prompts, skills)`` with the conversation as its prompt: once a generation for each different conversation,
    all skills in one call, so the world may change from one generation to the next. Such a reward may look at the
    world itself, or read a state that is written in the conversation: messages may carry keys of their own
    (``"state"``, say), which chat templates leave out.

    Args:
        skills: texts; or their values by text, from 0 to 1. Without values every skill is worth 1, so that grounded
            decoding becomes decoding constrained to these texts.
        value: a reward from 0 to 1, by itself or by name, for skills without values.
        floor: the value of what is no skill.

    Example:
        >>> import truing as tr
        >>> can = tr.Affordance(skills={"pick up the apple.": 0.9, "pick up the knife.": 0.2})
        >>> can.partial(["tidy up"] * 3, ["pick", "pick up the k", "throw"]).tolist()
        [0.9, 0.2, 1e-06]
    """

    reads_bytes = True

    skills: Sequence[str] | dict[str, float]
    value: Reward | str | dict[str, Any] | None = None
    floor: float = FLOOR

    @property
    def bounds(self) -> tuple[float, float]:
        """From ``floor`` to 1."""
        return self.floor, 1.0

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_skills(self.skills)
        check_floor("floor", self.floor)
        if isinstance(self.skills, dict):
            require(self.value is None, "skills has values already; give a list of skills to take them from `value`.")
        elif self.value is not None:
            self._made(self.value)

    def values(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """The value of every skill for each conversation, from ``floor`` to 1, shape [prompts, skills].

        Raises:
            RewardError: the reward behind it failed, or gave a value outside of 0 to 1.
        """
        skills = list(self.skills)
        if isinstance(self.skills, dict):
            found = np.tile(np.array(list(self.skills.values()), dtype=np.float64), (len(prompts), 1))
        elif self.value is None:
            found = np.ones((len(prompts), len(skills)))
        else:
            reward = self._made(self.value)
            keys = [_key(prompt) for prompt in prompts]
            first = dict(zip(reversed(keys), reversed(range(len(keys)))))
            asked = [prompts[at] for at in first.values() for _ in skills]
            given = checked(reward, asked, skills * len(first)).reshape(-1, len(skills))
            for row, skill in np.argwhere((given < 0) | (given > 1))[:1]:
                raise RewardError(
                    f"The reward {name_of(reward)} gave {given[row, skill]} for the skill {skills[skill]!r}, and a "
                    "value is from 0 to 1. Wrap it as in `{tempered: {reward: …, tau: 1.0}}`."
                )
            place = {key: at for at, key in enumerate(first)}
            found = given[[place[key] for key in keys]] if keys else np.ones((0, len(skills)))
        return np.maximum(found, self.floor)

    def observe(self, prompts: Sequence[Prompt]) -> Affordance:
        """The same with the values that hold now for these conversations."""
        self.validate()
        seen = self.clone()
        tables: dict[bytes, _Table] = {}
        held = seen.__dict__["_tables"] = {}
        for prompt, values in zip(prompts, self.values(prompts)):
            same = values.tobytes()
            if same not in tables:
                tables[same] = _table(list(self.skills), values, self.floor)
            held[id(prompt)] = (prompt, tables[same])  # the prompt is kept, so that its id stays its own
        return seen

    def partial(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        """For each unfinished text the value of the best skill that starts so, float64 [n]."""
        tables = self._seen(prompts)
        return np.array([tables[id(p)][1].best.get(_start(text), self.floor) for p, text in zip(prompts, texts)])

    def forced(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[str | None]:
        """What is left of the only skill above the floor that starts so; None where there are several, or none."""
        tables, skills = self._seen(prompts), list(self.skills)
        out: list[str | None] = []
        for prompt, text in zip(prompts, texts):
            at = -1 if half_letter(text) else tables[id(prompt)][1].only.get(_start(text), -1)
            out.append(None if at < 0 else skills[at].removeprefix(" ")[len(_start(text)) :])
        return out

    def follows(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[frozenset[str] | None]:
        """The letters with which each unfinished text can go on above the floor; None where they are not known."""
        tables = self._seen(prompts)
        out: list[frozenset[str] | None] = []
        for prompt, text in zip(prompts, texts):
            letters = tables[id(prompt)][1].next.get(_start(text), frozenset())
            out.append(None if half_letter(text) else letters if text else letters | {" "})
        return out

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        tables = self._seen(prompts)
        return [tables[id(p)][1].whole.get(_start(text), self.floor) for p, text in zip(prompts, responses)]

    def _seen(self, prompts: Sequence[Prompt]) -> dict[int, tuple[Prompt, _Table]]:
        held = self.__dict__.get("_tables")
        if held is None or any(id(prompt) not in held for prompt in prompts):
            held = self.observe(prompts).__dict__["_tables"]
        return held


@dataclasses.dataclass
class _Table:
    """A trie of letters, written out: every beginning with the best value, the only skill that starts so (-1 for
    several), and the letters with which it goes on above the floor."""

    best: dict[str, float]
    only: dict[str, int]
    next: dict[str, frozenset[str]]
    whole: dict[str, float]


def _table(skills: Sequence[str], values: np.ndarray, floor: float) -> _Table:
    table = _Table({}, {}, {}, {})
    letters: dict[str, set[str]] = {}
    for at, (given, value) in enumerate(zip(skills, values.tolist())):
        skill = given.removeprefix(" ")
        table.whole[skill] = value
        starts = [skill[:end] for end in range(len(skill) + 1)]
        # A letter outside of ASCII comes in several bytes, and tokens may part them.
        for end, letter in enumerate(skill):
            part = letter.encode()
            starts += [skill[:end] + part[:size].decode(errors="surrogateescape") for size in range(1, len(part))]
        for start in starts:
            table.best[start] = max(table.best.get(start, 0.0), value)
            if value > floor:
                table.only[start] = -1 if start in table.only else at
        for end, letter in enumerate(skill) if value > floor else ():
            letters.setdefault(skill[:end], set()).update((letter, _HALF) if ord(letter) > 127 else (letter,))
    table.next = {start: frozenset(found) for start, found in letters.items()}
    return table


def _start(text: str) -> str:
    return text.removeprefix(" ")


def _key(prompt: Prompt) -> str:
    return json.dumps(prompt, sort_keys=True, default=repr)


def check_skills(skills: Any) -> None:
    """Raise `SettingsError` unless these are skills: a list of texts, or their values by text."""
    require(
        isinstance(skills, (list, tuple, dict)) and len(skills) > 0,
        f"skills is a list of at least one text, or of values by text, not {skills!r}.",
    )
    for skill in skills:
        require(isinstance(skill, str) and bool(skill.strip()), f"A skill is a text that can be said, not {skill!r}.")
    seen: set[str] = set()
    for name in (skill.removeprefix(" ") for skill in skills):
        require(name not in seen, f"The skill {name!r} is named twice, so it has no one value. Keep one of them.")
        seen.add(name)
    for skill, value in skills.items() if isinstance(skills, dict) else ():
        require(is_number(value) and 0 <= value <= 1, f"The value of {skill!r} is from 0 to 1, not {value!r}.")


def check_floor(name: str, value: Any) -> None:
    """Raise `SettingsError` unless this can be the smallest value of a grounding function."""
    require(is_number(value) and 0 < value < 1, f"{name} is a small number over 0, as 1e-6 is, not {value!r}.")


class Avoid(ConfiguredReward):
    """Safety: ``epsilon`` where a hazard stands in the text, else 1.

    Words count as whole words ("red" is not in "scared"), and as soon as they stand there, also at the end of an
    unfinished text. With ``epsilon`` at the floor of `truing.GroundedDecoding` a hazard is never written while anything
    else is left; above it, it is written if the model wants it that much more.

    Args:
        words: hazards: words or phrases.
        epsilon: the value of a text that holds one.
        case_sensitive: tell upper from lower case.
        whole_words: ``art`` is not found in ``start``.
    """

    words: Sequence[str]
    epsilon: float = FLOOR
    case_sensitive: bool = False
    whole_words: bool = True

    @property
    def bounds(self) -> tuple[float, float]:
        """From ``epsilon`` to 1."""
        return self.epsilon, 1.0

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        _keyword(self).validate()
        check_floor("epsilon", self.epsilon)

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return np.where(_keyword(self)(prompts, responses) > 0, self.epsilon, 1.0)


class Prefer(ConfiguredReward):
    """Preference: ``present`` where a preferred word stands in the text, else ``absent``.

    Args:
        words: what is preferred: words or phrases.
        present: the value of a text that holds one of them, over 0 and at most 1.
        absent: the value of any other text; below ``present``.
        case_sensitive: tell upper from lower case.
        whole_words: ``art`` is not found in ``start``.
    """

    words: Sequence[str]
    present: float = 0.5
    absent: float = 0.1
    case_sensitive: bool = False
    whole_words: bool = True

    @property
    def bounds(self) -> tuple[float, float]:
        """From ``absent`` to ``present``."""
        return self.absent, self.present

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        _keyword(self).validate()
        require(
            is_number(self.present) and is_number(self.absent) and 0 < self.absent < self.present <= 1,
            f"0 < absent < present <= 1 must hold, got absent={self.absent!r} and present={self.present!r}. "
            "To keep words out, use `avoid`.",
        )

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return np.where(_keyword(self)(prompts, responses) > 0, self.present, self.absent)


def _keyword(of: Avoid | Prefer) -> Keyword:
    return Keyword(words=of.words, case_sensitive=of.case_sensitive, whole_words=of.whole_words)


class Tempered(ConfiguredReward):
    """Any reward as a grounding function: ``exp((reward - high) / tau)``, from 0 to 1.

    Grounded decoding takes the logarithm again, so what a token is worth is the reward over ``tau``, in nats, as in
    reward-guided decoding: a constant factor of a grounding function changes no choice.

    Args:
        reward: the reward, or its name with settings.
        tau: temperature: the difference in reward that outweighs one nat of the model's log-probability.
        high: the highest reward there is; the bound that the reward declares unless given.
    """

    reward: Reward | str | dict[str, Any]
    tau: float = 1.0
    high: float | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_number(self.tau) and self.tau > 0, f"tau is a temperature over 0, not {self.tau!r}.")
        require(
            self.high is None or is_number(self.high), f"high is a number, the highest reward there is: {self.high!r}."
        )
        require(
            self.high is not None or math.isfinite(bounds(self._part())[1]),
            f"The reward {name_of(self._part())} declares no highest value. Give it as `high`.",
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of the reward, tempered."""
        low, high = self._tempered(np.array(bounds(self._part())))
        return float(low), float(min(high, 1.0))

    def partial(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        """What the reward says of unfinished texts, tempered."""
        return self._tempered(score_partial(self._part(), prompts, texts), texts)

    def observe(self, prompts: Sequence[Prompt]) -> Tempered:
        """The same around the reward as it observes these conversations."""
        high = bounds(self._part())[1] if self.high is None else self.high
        return self.clone(reward=observed(self._part(), prompts), high=high)

    def bind(self, records: Any) -> Tempered:
        """The same around the reward bound to these records, if it reads any."""
        return self.clone(reward=bound(self._part(), records))

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return self._tempered(checked(self._part(), prompts, responses), responses)

    def _tempered(self, values: np.ndarray, texts: Sequence[str] = ()) -> np.ndarray:
        high = bounds(self._part())[1] if self.high is None else self.high
        for at in np.flatnonzero(values > high)[:1] if texts else ():
            raise RewardError(
                f"The reward {name_of(self._part())} gave {values[at]} for {texts[at][:80]!r}, above the highest of "
                f"{high} that Tempered was told. Raise `high`."
            )
        return np.exp((values - high) / self.tau)

    def _part(self) -> Reward:
        return self._made(self.reward)


class SandboxFeasible(ConfiguredReward):
    """1 where a skill can be carried out in the household of `truing.sandbox.skills`, else 0; exact.

    The household is read from the conversation: the last message that carries a ``state`` says how things stand, as
    `truing.sandbox.skills.Household.conversation` writes it. Chat templates leave the key out, so the model that is
    asked does not see it.
    """

    bounds = (0.0, 1.0)

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        from truing.sandbox.skills import Household

        out, households = [], {}
        for row, (prompt, skill) in enumerate(zip(prompts, responses)):
            if id(prompt) not in households:
                states = [m["state"] for m in prompt if isinstance(m, dict) and "state" in m]
                if not states:
                    raise RewardError(
                        f"SandboxFeasible reads the household's state from the conversation, and that of row {row} "
                        "carries none. Ask with `Household.conversation()` of truing.sandbox.skills."
                    )
                households[id(prompt)] = Household.of(states[-1])
            out.append(float(households[id(prompt)].feasible(skill.strip())))
        return out


def pixel_affordance(pick: Any, place: Any) -> float:
    """The highest sum of two maps of logits over one pixel, as the paper grounds text by CLIPort: max(pick + place).

    Args:
        pick: shape [height, width].
        place: likewise.

    Returns:
        A logit, perhaps negative: no probability. `squash` makes it one.
    """
    first, second = np.asarray(pick, dtype=np.float64), np.asarray(place, dtype=np.float64)
    if first.shape != second.shape or first.size == 0 or not np.isfinite(first + second).all():
        raise RewardError(
            f"The two maps are finite numbers over the same pixels, got shapes {list(first.shape)} and "
            f"{list(second.shape)}."
        )
    return float((first + second).max())


def squash(logits: Any, how: str = "sigmoid") -> np.ndarray:
    """Logits as values from 0 to 1: each by itself ("sigmoid"), or as shares of all candidates ("softmax")."""
    require(how in ("sigmoid", "softmax"), f"how is sigmoid or softmax, not {how!r}.")
    values = np.asarray(logits, dtype=np.float64)
    if how == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * values))  # the logistic function without overflow
    weights = np.exp(values - values.max())
    return weights / weights.sum()
