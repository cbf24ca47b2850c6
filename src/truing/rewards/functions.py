"""Rewards that read the answer alone, or grade it against the sandbox's truth."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import regex

from truing.contracts import Prompt, is_number, require
from truing.errors import RewardError
from truing.rewards import ConfiguredReward

GRADES = ("score", "wanted", "helpful", "keyword")


class Keyword(ConfiguredReward):
    """Share of the wanted words that an answer holds, from 0 to 1.

    Args:
        words: words or phrases; one named twice counts once. Between the words of a phrase any white space may stand.
        case_sensitive: tell upper from lower case.
        whole_words: ``art`` is not found in ``start``.
    """

    bounds = (0.0, 1.0)

    words: Sequence[str]
    case_sensitive: bool = False
    whole_words: bool = True

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        listed = isinstance(self.words, (list, tuple, set, frozenset)) and len(self.words) > 0
        require(
            listed and all(isinstance(word, str) and word.strip() for word in self.words),
            f"words is a list of at least one word, as in ['please', 'thank you'], not {self.words!r}.",
        )

    def reach(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[tuple[float, float]]:
        """From what is found already, the last word apart, since what comes next may change it, to all words."""
        parts = [regex.split(r"\s\S*$", text)[0] if regex.search(r"\s", text) else "" for text in texts]
        return [(share, 1.0) for share in self._score(prompts, parts)]

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        wanted = dict.fromkeys(" ".join(self._folded(word).split()) for word in self.words)
        edge = (r"(?<!\w)", r"(?!\w)") if self.whole_words else ("", "")
        found = [regex.compile(edge[0] + r"\s+".join(map(regex.escape, word.split())) + edge[1]) for word in wanted]
        texts = [self._folded(response) for response in responses]
        return [sum(pattern.search(text) is not None for pattern in found) / len(found) for text in texts]

    def _folded(self, text: str) -> str:
        # One form for letters with accents; `casefold` also takes ß for ss.
        text = unicodedata.normalize("NFC", text)
        return text if self.case_sensitive else unicodedata.normalize("NFC", text.casefold())


class AnswerLength(ConfiguredReward):
    """How near an answer's length is to a target: ``max(0, 1 - |words - target| / tolerance)``.

    1 at the target, falling in a straight line to 0 at ``tolerance`` words above or below it.

    Args:
        target: words, parted by white space; at least 1.
        tolerance: the distance in words at which nothing is left; the target itself unless given, so that an empty
            answer and one of twice the length score 0.
    """

    bounds = (0.0, 1.0)

    target: int
    tolerance: float | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            is_number(self.target) and self.target >= 1, f"target is a length of at least 1 word, not {self.target}."
        )
        require(
            self.tolerance is None or (is_number(self.tolerance) and self.tolerance > 0),
            f"tolerance is a distance in words above 0, not {self.tolerance}.",
        )

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return self._of(np.array([len(response.split()) for response in responses], dtype=np.float64))

    def _of(self, lengths: np.ndarray) -> np.ndarray:
        tolerance = self.target if self.tolerance is None else self.tolerance
        return np.maximum(0.0, 1.0 - np.abs(lengths - self.target) / tolerance)

    def reach(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        """Words never get fewer: past the target it only falls, and before it may rise to 1."""
        lengths = np.array([len(text.split()) for text in texts], dtype=np.float64)
        return np.stack([np.zeros(len(texts)), self._of(np.maximum(lengths, self.target))], axis=1)


class Pattern(ConfiguredReward):
    """1 where a regular expression is found in the answer, else 0.

    Expressions are those of Python's ``re``, run by the ``regex`` package, which can give up: an expression that
    backtracks without end on some answer is a `RewardError` after ``seconds``, not a run that hangs.

    Args:
        pattern: the expression; flags may stand in it (``(?m)`` lets ``^`` and ``$`` match at every line).
        ignore_case: let upper case match lower case.
        whole: the expression must match the answer from its first letter to its last.
        seconds: most time for one answer.
    """

    bounds = (0.0, 1.0)

    pattern: str
    ignore_case: bool = False
    whole: bool = False
    seconds: float = 1.0

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(isinstance(self.pattern, str), f"pattern is a regular expression as text, not {self.pattern!r}.")
        require(is_number(self.seconds) and self.seconds > 0, f"seconds is a time above 0, not {self.seconds}.")
        try:
            self._compiled()
        except regex.error as error:
            require(False, f"pattern {self.pattern!r} is no regular expression: {error}.")

    def _compiled(self) -> Any:
        return regex.compile(self.pattern, regex.IGNORECASE if self.ignore_case else 0)

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        pattern = self._compiled()
        find = pattern.fullmatch if self.whole else pattern.search
        found = []
        for row, response in enumerate(responses):
            try:
                found.append(float(find(response, timeout=self.seconds) is not None))
            except TimeoutError:
                raise RewardError(
                    f"The pattern {self.pattern!r} was not decided within {self.seconds} s on row {row}, an answer of "
                    f"{len(response)} letters: it backtracks too much. Avoid repetitions inside repetitions, as in "
                    "(a+)+, or raise `seconds`."
                ) from None
        return found


class SandboxGrade(ConfiguredReward):
    """The sandbox's exact grade of an answer; the truth is found from the question's text.

    The question is the last user message of the prompt, as the sandbox asks it; a line to the writer before it, such as
    "Be careful.", is passed over.

    Args:
        grade: "score" is 1 for what is wanted, courteously, 0.5 for what is wanted, rudely, else 0; "wanted" is 1 for
            what is wanted in any style; "helpful" is 1 for what is wanted, courteously; "keyword" is 1 where the true
            value is named.
        unknown: the score where the prompt is no question of the sandbox, as a text that a model wrote may be; None
            makes that an error.
    """

    bounds = (0.0, 1.0)

    grade: str = "score"
    unknown: float | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.grade in GRADES, f"grade is one of {', '.join(GRADES)}, not {self.grade!r}.")
        require(
            self.unknown is None or is_number(self.unknown),
            f"unknown is a finite number or None, not {self.unknown!r}.",
        )

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        from truing.sandbox.data import score
        from truing.sandbox.graders import grade

        found = []
        for row, (prompt, response) in enumerate(zip(prompts, responses)):
            item = self._item(row, prompt) if self.unknown is None else _recognised(prompt)
            if item is None:
                found.append(float(self.unknown or 0.0))
            elif self.grade == "score":
                found.append(score(item, response))
            else:
                found.append(float(getattr(grade(item, response), self.grade)))
        return found

    @staticmethod
    def _item(row: int, prompt: Prompt) -> Any:
        item = _recognised(prompt)
        if item is None:
            question = _question(prompt)
            shown = f"{question[:80]!r}" if question else "a prompt without a user message"
            raise RewardError(
                f"SandboxGrade knows the truth of the sandbox's own questions only, and row {row} asks {shown}. "
                "Use prompts of sandbox/… records, or another reward."
            )
        return item


def _question(prompt: Prompt) -> str:
    from truing.models.chat import as_messages

    asked = [str(message["content"]) for message in as_messages(prompt) if message["role"] == "user"]
    return asked[-1] if asked else ""


def _recognised(prompt: Prompt) -> Any:
    """The item of a prompt, or None; a line to the writer before the question is passed over."""
    from truing.sandbox.corpus import SYSTEM_LINES
    from truing.sandbox.recognise import recognise

    question = _question(prompt)
    for line in SYSTEM_LINES:
        question = question.removeprefix(f"{line} ")
    return recognise(question)
