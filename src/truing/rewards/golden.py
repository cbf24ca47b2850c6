"""A model that says whether an answer says the same as the right one."""

from __future__ import annotations

from collections.abc import Sequence

from truing.contracts import Prompt
from truing.errors import RewardError
from truing.rewards import check_pairs
from truing.rewards.judging import DATA, Judging, Verdict, quoted_conversation, yes_or_no
from truing.rewards.replies import Unreadable, said
from truing.rewards.right_answers import RightAnswers
from truing.safe_text import filled, quoted

RUBRIC = (
    "An answer is right if it says the same as one of the right answers, in whatever words, and nothing that "
    "contradicts it."
)


class GoldenAnswer(RightAnswers, Judging):
    """1 where a model says that an answer means the same as a right answer, else 0.

    For free text, where `Verifiable` compares words and numbers. The right answers come from records: a method that
    learns from records binds its judge to them (`bind`), and ``records`` names them where a method reads none.

    Args:
        rubric: when an answer is right.
        records: question records, or a file or name of them.
        column: the column of the right answers, a text or several.
    """

    rubric: str = RUBRIC

    def ask(
        self, prompts: Sequence[Prompt], responses: Sequence[str], golden: Sequence[Sequence[str]] | None = None
    ) -> list[Verdict]:
        """The verdict on each answer, 1 or 0, unreadable ones included.

        Args:
            prompts: conversations.
            responses: one answer each.
            golden: the right answers to each, instead of those of the records.

        Raises:
            RewardError: a prompt has no right answer.
        """
        self.validate()
        check_pairs(type(self).__name__, prompts, responses)
        right = self._right_answers(prompts) if golden is None else [list(some) for some in golden]
        if len(right) != len(prompts) or not all(right):
            raise RewardError(f"Each of {len(prompts)} answers needs a list of at least one right answer.")
        form = self.closing("X being yes or no", "Right: X", '"right": "X"')
        task = (
            f"Say whether the assistant's answer to the conversation below is right.\n\n{{rubric}}\n\n{DATA}\n\n"
            f"{{conversation}}\n\n{{golden}}\n\nThe answer to judge:\n{{answer}}\n\n{form}"
        )
        texts = [
            filled(
                task, rubric=self.rubric.strip(), conversation=quoted_conversation(prompt), answer=quoted(response),
                golden="\n\n".join(f"A right answer:\n{quoted(one)}" for one in some),
            )
            for prompt, response, some in zip(prompts, responses, right)
        ]  # fmt: skip
        found = self.asked(texts, lambda row, reply, cut: _right(reply, cut))
        return [Verdict(reply.value, reply.text, reply.tries, reply.problem) for reply in found]


def _right(reply: str, cut: bool) -> float:
    found = yes_or_no(said("Right", reply, cut=cut))
    if found is None:
        raise Unreadable("it says neither yes nor no")
    return float(found)
