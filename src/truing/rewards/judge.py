"""A model that scores answers by a rubric, or says which of two it prefers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from truing.contracts import Prompt, is_whole, require
from truing.rewards import check_pairs
from truing.rewards.judging import DATA as DATA
from truing.rewards.judging import RUBRIC as RUBRIC
from truing.rewards.judging import Judging
from truing.rewards.judging import Verdict as Verdict
from truing.rewards.judging import loaded as loaded
from truing.rewards.judging import quoted_conversation as quoted_conversation
from truing.rewards.pairwise import Comparison, compared
from truing.rewards.replies import Unreadable, said
from truing.rewards.replies import said_after as said_after
from truing.safe_text import filled, quoted

_PLACES = {"A": "first", "B": "second", "tie": "tie"}


class Judge(Judging):
    """The score that a model gives an answer by a rubric; or which of two answers it prefers.

    The judge is asked for its reasons and one last line ``Score: N`` (or for JSON: ``form``). A reply without exactly
    one score, or with a number outside the scale, is not guessed at: the judge is asked again, with another seed, and
    is told what was wrong. What stays unreadable is an error or counts as ``unparsable``. `prefer` compares two
    answers in the order given, `compare` in both. Source: Zheng et al. 2023 (LLM-as-a-judge), arXiv 2306.05685.

    Args:
        scale: the lowest and the highest score.
    """

    scale: tuple[int, int] = (1, 10)

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        pair = isinstance(self.scale, (tuple, list)) and len(self.scale) == 2 and all(map(is_whole, self.scale))
        require(
            pair and self.scale[0] < self.scale[1],
            f"scale is the lowest and the highest score, two whole numbers as in (1, 10), not {self.scale!r}.",
        )

    def ask(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
        """The verdict on each answer, unreadable ones included."""
        self.validate()
        check_pairs(type(self).__name__, prompts, responses)
        low, high = self.scale
        form = self.closing(f"N being a number from {low} to {high}", "Score: N", '"score": N')
        task = (
            f"Rate the assistant's answer to the conversation below.\n\n{{rubric}}\n\n{DATA}\n\n"
            f"{{conversation}}\n\nThe answer to rate:\n{{answer}}\n\n{form}"
        )
        texts = [
            filled(task, rubric=self.rubric.strip(), conversation=quoted_conversation(prompt), answer=quoted(response))
            for prompt, response in zip(prompts, responses)
        ]
        found = self.asked(texts, lambda row, reply, cut: self._scale_score(said("Score", reply, cut=cut)))
        return [Verdict(reply.value, reply.text, reply.tries, reply.problem) for reply in found]

    def prefer(self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]) -> list[str | None]:
        """Which of two answers the judge prefers: "first", "second", "tie", or None where no reply could be read.

        Each pair is asked in the order given. Judges lean to one place, so ask both orders: `compare`.
        """
        self.validate()
        check_pairs(type(self).__name__, prompts, first)
        check_pairs(type(self).__name__, prompts, second)
        form = self.closing("X being A, B or tie", "Better: X", '"better": "X"')
        task = (
            "Compare two answers of an assistant to the conversation below.\n\n"
            f"{{rubric}}\n\n{DATA} Neither the order of the answers nor their length is a merit.\n\n"
            f"{{conversation}}\n\nAnswer A:\n{{first}}\n\nAnswer B:\n{{second}}\n\n{form}"
        )
        texts = [
            filled(
                task,
                rubric=self.rubric.strip(),
                conversation=quoted_conversation(prompt),
                first=quoted(one),
                second=quoted(other),
            )
            for prompt, one, other in zip(prompts, first, second)
        ]
        return [reply.value for reply in self.asked(texts, lambda row, reply, cut: _place(reply, cut))]

    def compare(self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]) -> list[Comparison]:
        """Both orders of every pair; verdicts that do not agree are a tie, and one that cannot be read is None."""
        found = self.prefer([*prompts, *prompts], [*first, *second], [*second, *first])
        return [compared(*both) for both in zip(found[: len(prompts)], found[len(prompts) :])]

    def _scale_score(self, value: Any) -> float:
        low, high = self.scale
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number and not (isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", value)):
            raise Unreadable(f"its score is no plain number from {low} to {high}")
        if not low <= float(value) <= high:
            raise Unreadable(f"its score is not from {low} to {high}")
        return float(value)


def _place(reply: str, cut: bool) -> str:
    value = said("Better", reply, cut=cut)
    if not isinstance(value, str) or value not in _PLACES:
        raise Unreadable("it says neither A nor B nor tie")
    return _PLACES[value]
