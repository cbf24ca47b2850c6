"""Whether the answer is right: the final answer, taken from the response, against the answers that the records hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import regex

from truing.contracts import Prompt, Reward, is_number, require
from truing.errors import RewardError, SettingsError
from truing.rewards import ConfiguredReward
from truing.rewards.right_answers import RightAnswers

if TYPE_CHECKING:
    from pathlib import Path

    from truing.records import Records

EXTRACT = ("auto", "boxed", "number", "text", "contains")
# Words of the answer that come before it, in the forms of common data sets.
_MARK = re.compile(r"(?:####|(?:final\s+)?answer\s*(?:is|:|=)(?:\s*:)?)\s*", re.IGNORECASE)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_EDGES = " \t\r\n.,;:!?'\"`*$()[]{}"


class Verifiable(RightAnswers, ConfiguredReward):
    """1 where the final answer of a response is one of the right answers of its prompt, else 0 (an outcome reward).

    The right answers come from records: a method that learns from records binds its reward to them (`bind`), and
    ``records`` names them where a method reads none. Numbers are compared as numbers ("1,000", "1000.0" and "$1000$"
    are equal, and so are 1/2, \\frac{1}{2} and 0.5); other text without regard to case, spaces, and punctuation at its
    ends.

    Args:
        extract: where the final answer of a response is. "boxed": in its last ``\\boxed{}``; "number": its last number;
            "text": all of it; "contains": anywhere in it, as whole words; "auto": in its last ``\\boxed{}``, else after
            its last "####" or "answer is", else its last number where a number is wanted, else all of it. Any other
            text is a regular expression, whose last match counts, or the last group 1 where it has a group.
        records: question records, or a file or name of them, for methods that give their reward no records.
        column: the column of the right answers, a text or several. Demonstrations without it are taken at their
            completion, whose final answer is found in the same way.
        right: the reward of a right answer.
        wrong: the reward of another one.
        seconds: most time for a regular expression on one answer.

    Example:
        >>> import truing as tr
        >>> from truing.rewards.verifiable import Verifiable
        >>> reward = Verifiable().bind([{"prompt": "What is 6 * 7?", "answers": ["42"]}])
        >>> reward(["What is 6 * 7?"] * 2, ["6 * 7 is 36 + 6, so the answer is 42.", "About 40."]).tolist()
        [1.0, 0.0]
    """

    extract: str = "auto"
    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    column: str = "answers"
    right: float = 1.0
    wrong: float = 0.0
    seconds: float = 1.0

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(isinstance(self.extract, str) and bool(self.extract), f"extract is text, not {self.extract!r}.")
        if self.extract not in EXTRACT:
            plain = re.fullmatch(r"\w+", self.extract)
            require(not plain, f"extract is {', '.join(EXTRACT)} or a regular expression, not {self.extract!r}.")
            try:
                regex.compile(self.extract)
            except regex.error as error:
                raise SettingsError(f"extract {self.extract!r} is no regular expression: {error}.") from None
        for name in ("right", "wrong", "seconds"):
            value = getattr(self, name)
            require(is_number(value), f"{name} is a finite number, not {value!r}.")
        require(self.right > self.wrong, f"right is over wrong, not {self.right} and {self.wrong}.")
        require(self.seconds > 0, f"seconds is a time above 0, not {self.seconds}.")

    def _given(self, row: dict[str, Any]) -> Any:
        given = super()._given(row)
        if given is None and isinstance(row.get("completion"), str):
            return self._final(row["completion"], ())
        return given

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [
            self.right if self._holds(response, answers) else self.wrong
            for response, answers in zip(responses, self._right_answers(prompts))
        ]

    def _holds(self, response: str, answers: Sequence[str]) -> bool:
        if self.extract == "contains":
            said = _words(response)
            return any(f" {_words(one)} " in f" {said} " for one in answers if _words(one))
        final = self._final(response, answers)
        return final is not None and any(same(final, one) for one in answers)

    def _final(self, text: str, answers: Sequence[str]) -> str | None:
        """The final answer in a text, or None where there is none."""
        if self.extract in ("text", "contains"):
            return text
        if self.extract == "boxed":
            return last_boxed(text)
        if self.extract == "number":
            return last_number(text)
        if self.extract != "auto":
            return last_match(self.extract, text, self.seconds)
        box = last_boxed(text)
        if box is not None:
            return box
        marks = list(_MARK.finditer(text))
        if marks:
            text = text[marks[-1].end() :].strip().split("\n")[0]
        if any(number(one) is not None for one in answers):
            # "3/4 of a mile" and "12 apples" are numbers with their unit.
            return (first_number(text) if marks else last_number(text)) or text
        return text


def bound(reward: Reward, records: Any) -> Reward:
    """A reward that reads records, or holds one that does (it has a ``bind``), bound to these; any other as it is.

    Args:
        reward: any reward.
        records: what a method learns from.
    """
    bind = getattr(reward, "bind", None)
    # A reward with records of its own keeps them.
    return reward if bind is None or getattr(reward, "records", None) is not None else bind(records)


def last_match(pattern: str, text: str, seconds: float) -> str | None:
    """The last match of a regular expression in a text, or the last group 1 where it has a group; None without a match.

    Raises:
        RewardError: it was not decided in that many seconds.
    """
    last = None
    try:
        for last in regex.finditer(pattern, text, timeout=seconds):  # noqa: B007
            pass
    except TimeoutError:
        raise RewardError(
            f"The expression {pattern!r} was not decided within {seconds} s on an answer of {len(text)} letters: it "
            "backtracks too much. Avoid repetitions inside repetitions, or raise `seconds`."
        ) from None
    return None if last is None else last.group(1 if last.re.groups else 0)


def same(one: str, other: str) -> bool:
    """Whether two final answers are equal: as numbers where both are, else as plain text."""
    first, second = number(one), number(other)
    if first is not None and second is not None:
        return first == second
    return _plain(one) == _plain(other) != ""


def number(text: str) -> Fraction | None:
    """The value of a text that is one number ("1,000", "-2.50", "3/4", "\\frac{1}{2}"), else None; "50%" is 50."""
    text = _FRACTION.sub(r"\1/\2", text).rstrip(_EDGES).lstrip(_EDGES.replace(".", "")).replace("−", "-")
    found = re.fullmatch(r"([-+]?)\s?((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)(?:\s*/\s*(\d+))?%?", text)
    # Python converts no longer ones.
    if found is None or not found[2] or len(found[2]) + len(found[3] or "") > 1000:
        return None
    value = Fraction(found[2].replace(",", ""))
    if found[3]:
        if int(found[3]) == 0:
            return None
        value /= int(found[3])
    return -value if found[1] == "-" else value


def last_number(text: str) -> str | None:
    """The last number written in a text, or None."""
    found = _numbers(text)
    return found[-1] if found else None


def first_number(text: str) -> str | None:
    """The first number written in a text, or None."""
    found = _numbers(text)
    return found[0] if found else None


def _numbers(text: str) -> list[str]:
    text = _FRACTION.sub(r"\1/\2", text)
    # A minus between two values subtracts; it is a sign at the start of a word only.
    pattern = r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:(?<=\d)(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?%?(?!\w)"
    return [one for one in re.findall(pattern, text) if any(letter.isdigit() for letter in one)]


def last_boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{}`` of a text, braces within it balanced, or None."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return None  # it was cut before the box closed


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", unicodedata.normalize("NFKC", text))
    return " ".join(text.casefold().split()).strip(_EDGES)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
