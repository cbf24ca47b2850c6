"""A model that answers yes or no to each point of a list; the score is the share of points that an answer meets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from truing.contracts import Prompt, require
from truing.errors import RewardError
from truing.rewards import check_pairs
from truing.rewards.judging import DATA, Judging, Verdict, quoted_conversation, yes_or_no
from truing.rewards.replies import Unreadable, said
from truing.safe_text import filled, quoted


@dataclasses.dataclass(frozen=True)
class Checked(Verdict):
    """A verdict with what was said of each criterion; empty where the reply could not be read."""

    met: dict[str, bool] = dataclasses.field(default_factory=dict)


class Checklist(Judging):
    """The share of criteria that an answer meets, by a model that says yes or no to each.

    All criteria of an answer are asked in one question. A reply must say yes or no to every one of them; one that
    leaves a point out is asked for again, and counts for nothing as long as it does. Decomposed judging agrees better
    with people than one overall score where the criteria are concrete: Saha et al. 2024, arXiv 2310.15123; Cook et al.
    2024 (TICK), arXiv 2410.03608.

    Args:
        criteria: what a good answer does, each a statement that is true or false of it.
    """

    criteria: Sequence[str]

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            not isinstance(self.criteria, str) and len(self.criteria) > 0,
            f"criteria is a list of at least one statement, not {self.criteria!r}.",
        )
        self._check(self.criteria)

    @staticmethod
    def _check(criteria: Sequence[str]) -> None:
        require(
            all(isinstance(one, str) and one.strip() for one in criteria),
            f"Each of the criteria is a text that is not empty, not {list(criteria)!r}.",
        )
        require(len(set(criteria)) == len(criteria), "Two of the criteria are the same. Keep one of them.")

    def ask(
        self, prompts: Sequence[Prompt], responses: Sequence[str], criteria: Sequence[Sequence[str]] | None = None
    ) -> list[Checked]:
        """What is met by each answer, unreadable ones included.

        Args:
            prompts: conversations.
            responses: one answer each.
            criteria: a list for each answer, instead of the settings' own.

        Raises:
            RewardError: there is not one list of at least one criterion for each answer.
        """
        self.validate()
        check_pairs(type(self).__name__, prompts, responses)
        lists = [list(self.criteria)] * len(prompts) if criteria is None else [list(one) for one in criteria]
        if len(lists) != len(prompts) or not all(lists):
            raise RewardError(
                f"A checklist needs one list of criteria for each of {len(prompts)} answers, none of them empty."
            )
        for one in lists:
            self._check(one)
        texts = [self._question(*each) for each in zip(prompts, responses, lists)]
        found = self.asked(texts, lambda row, reply, cut: _read(reply, cut, len(lists[row])))
        return [
            Checked(
                None if reply.value is None else sum(reply.value) / len(reply.value), reply.text, reply.tries,
                reply.problem, dict(zip(points, reply.value or ())),
            )
            for reply, points in zip(found, lists)
        ]  # fmt: skip

    def _question(self, prompt: Prompt, response: str, criteria: Sequence[str]) -> str:
        lines = "\n".join(f"{at}: yes or no" for at in range(1, len(criteria) + 1))
        inside = ", ".join(f'"{at}": "yes or no"' for at in range(1, len(criteria) + 1))
        form = self.closing("with yes or no for each number", lines, inside)
        return filled(
            "Say of each numbered statement whether it is true of the assistant's answer to the conversation below.\n\n"
            f"{{rubric}}\n\n{DATA}\n\n{{conversation}}\n\nThe answer:\n{{answer}}\n\n"
            f"The statements:\n{{points}}\n\n{form}",
            rubric=self.rubric.strip(),
            conversation=quoted_conversation(prompt),
            answer=quoted(response),
            points="\n".join(f"{at}. {' '.join(one.split())}" for at, one in enumerate(criteria, 1)),
        )


def _read(reply: str, cut: bool, many: int) -> list[bool]:
    """Yes or no to each point, or `Unreadable` naming those that lack one."""
    met: list[bool] = []
    lacking = []
    for at in range(1, many + 1):
        found = yes_or_no(_point(str(at), reply, cut))
        if found is None:
            lacking.append(str(at))
        else:
            met.append(found)
    if lacking:
        shown = ", ".join(lacking[:8]) + (", …" if len(lacking) > 8 else "")
        raise Unreadable(f"it does not say once whether it is yes or no to {shown}")
    return met


def _point(label: str, reply: str, cut: bool) -> Any:
    try:
        return said(label, reply, cut=cut)
    except Unreadable:
        return None
