"""A judge with planted biases over the sandbox's exact grades, to try out what measures judges."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

from truing.contracts import Prompt, is_number, require, require_seed
from truing.rewards import ConfiguredReward, check_pairs
from truing.rewards.functions import SandboxGrade


class SandboxJudge(ConfiguredReward):
    """A made-up judge of the sandbox's answers whose biases are known, since they are set here.

    It prefers the first of two answers with log-odds ``skill`` times the difference of their exact grades (0 to 1),
    plus ``position``, plus ``length`` times the binary logarithm of the ratio of their lengths in letters. As a reward
    of one answer it gives the probability that it takes the answer for good, by the same rule against a grade of a
    half and a length of 40 letters, and draws nothing. Everything drawn follows from the seed and the texts, so that
    equal questions get equal verdicts.

    Args:
        skill: log-odds for a whole point of grade; about 4 gives 98 % right on clear pairs, infinity is not needed.
        position: log-odds for standing first.
        length: log-odds for twice the length.
        unreadable: the share of verdicts that cannot be read.
        seed: of what is drawn.
    """

    skill: float = 4.0
    position: float = 0.0
    length: float = 0.0
    unreadable: float = 0.0
    seed: int = 0

    bounds = (0.0, 1.0)

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        for name in ("skill", "position", "length", "unreadable"):
            value = getattr(self, name)
            require(is_number(value), f"{name} is a finite number, not {value!r}.")
        require(0 <= self.unreadable <= 1, f"unreadable is a share from 0 to 1, not {self.unreadable!r}.")
        require_seed(self.seed)

    def prefer(self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]) -> list[str | None]:
        """The verdict on each pair in the order given; None for one that "cannot be read"."""
        self.validate()
        check_pairs(type(self).__name__, prompts, first)
        check_pairs(type(self).__name__, prompts, second)
        grades = zip(self._grades(prompts, first), self._grades(prompts, second))
        found: list[str | None] = []
        for prompt, one, two, (good, other) in zip(prompts, first, second, grades):
            odds = self.skill * (good - other) + self.position + self.length * _doublings(len(one), len(two))
            if self._drawn("read", prompt, one, two) < self.unreadable:
                found.append(None)
            else:
                found.append("first" if self._drawn("verdict", prompt, one, two) < _sigmoid(odds) else "second")
        return found

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [
            _sigmoid(self.skill * (2 * grade - 1) + self.length * _doublings(len(text), 40))
            for grade, text in zip(self._grades(prompts, responses), responses)
        ]

    def _grades(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [float(value) for value in SandboxGrade()(prompts, responses)]

    def _drawn(self, what: str, *texts: object) -> float:
        told = json.dumps([self.seed, what, *texts], sort_keys=True, default=str)
        return int.from_bytes(hashlib.sha256(told.encode("utf-8", "replace")).digest()[:7], "big") / 2**56


def _doublings(one: int, other: int) -> float:
    return math.log2((one + 1) / (other + 1))


def _sigmoid(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))
