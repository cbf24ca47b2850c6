"""Questions that measures ask a judge about answers, journaled: a model, or a function of the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from truing.contracts import require
from truing.errors import RewardError
from truing.measures.asking import Context
from truing.measures.journal import identity
from truing.measures.judging import at_hand
from truing.rewards import name_of
from truing.rewards.yes_no import YesNo

Function = Callable[[Sequence[str], Sequence[Any], Sequence[str]], Sequence[Any]]
"""From questions, prompts and answers to True (yes), False (no), None (cannot say) or 0.5 (unclear) for each."""
_SAYS = (True, False, None, 0.5, "yes", "no", "unclear")


@dataclasses.dataclass(frozen=True)
class Said:
    """What a judge said: 1 for yes, 0 for no, 0.5 for unclear, None where it could not be read; and its words."""

    yes: float | None
    text: str = ""


def check_judge(judge: Any) -> None:
    """Raise `SettingsError` unless it is None, a model, the name of one, or a function."""
    require(
        judge is None or isinstance(judge, str) or hasattr(judge, "generate") or callable(judge),
        f"judge is a model, the name of one, or a function of questions, prompts and answers, not {judge!r}.",
    )


def said_of(
    judge: Any, questions: Sequence[str], prompts: Sequence[Any], answers: Sequence[str], context: Context, *,
    unclear: bool = False, seed: int = 0,
) -> list[Said]:  # fmt: skip
    """What a judge says to each question about an answer.

    Args:
        judge: a model, the name of one, or a `Function`.
        questions: one for each answer.
        prompts: what was asked.
        answers: what is judged.
        context: of the measure.
        unclear: whether "unclear" may be said.
        seed: of the first try.

    Raises:
        RewardError: a function gave something other than yes, no or None for each.
    """
    if not questions:
        return []
    if not (isinstance(judge, str) or hasattr(judge, "generate")):
        found = list(judge(list(questions), list(prompts), list(answers)))
        if len(found) != len(questions) or any(one not in _SAYS for one in found):
            raise RewardError(
                f"The judge {name_of(judge)} gave {found[:3]} for {len(questions)} answers. "
                "It must give True, False or None for each."
            )
        return [Said({"yes": 1.0, "no": 0.0, "unclear": 0.5}.get(one, one)) for one in map(_plain, found)]
    asker = at_hand(YesNo(model=judge, question="-", unclear=unclear, unparsable=0.0, seed=seed), context)

    def work(rows: list[int]) -> list[Any]:
        some = [[each[row] for row in rows] for each in (prompts, answers, questions)]
        return [[one.score, one.reply] for one in asker.ask(*some)]

    keys = [{"yes": [question, prompt, answer]} for question, prompt, answer in zip(questions, prompts, answers)]
    who = identity(asker) or f"YesNo {context.origin(asker.model)} {unclear} {seed}"
    return [Said(*one) for one in context.compute(f"judge {who}", keys, work, "judge")]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else float(value)
