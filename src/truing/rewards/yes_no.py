"""A model that answers one question about an answer with yes or no."""

from __future__ import annotations

from collections.abc import Sequence

from truing.contracts import Prompt, require
from truing.errors import RewardError
from truing.rewards import check_pairs
from truing.rewards.judging import DATA, Judging, Verdict, quoted_conversation, yes_or_no
from truing.rewards.replies import Unreadable, said
from truing.safe_text import filled, quoted

UNCLEAR = 0.5


class YesNo(Judging):
    """Whether one thing is true of an answer, by a model that says yes or no.

    A reply must say yes or no (or unclear, where that may be said) behind one label; anything else is asked for again,
    and counts for nothing as long as it stays so. Nothing is read from how a reply begins: "No doubt it helps" is no
    "no".

    Args:
        question: what is asked about the answer.
        good: the reply that scores 1: "yes" or "no".
        unclear: whether the judge may say that it is unclear, which scores 0.5.
    """

    question: str
    good: str = "yes"
    unclear: bool = False

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(isinstance(self.question, str) and bool(self.question.strip()), "question is a text, not empty.")
        require(self.good in ("yes", "no"), f"good is yes or no, not {self.good!r}.")
        require(isinstance(self.unclear, bool), f"unclear is true or false, not {self.unclear!r}.")

    def ask(
        self, prompts: Sequence[Prompt], responses: Sequence[str], questions: Sequence[str] | None = None
    ) -> list[Verdict]:
        """The verdict on each answer, unreadable ones included: 1 for the good reply, 0 for the other, 0.5 unclear.

        Args:
            prompts: conversations.
            responses: one answer each.
            questions: one for each answer, instead of the settings' own.

        Raises:
            RewardError: there is not one question for each answer.
        """
        self.validate()
        check_pairs(type(self).__name__, prompts, responses)
        asked = [self.question] * len(prompts) if questions is None else list(questions)
        if len(asked) != len(prompts) or not all(isinstance(one, str) and one.strip() for one in asked):
            raise RewardError(f"YesNo needs one question for each of {len(prompts)} answers, none of them empty.")
        texts = [self._text(*each) for each in zip(prompts, responses, asked)]
        found = self.asked(texts, lambda row, reply, cut: self._read(reply, cut))
        return [Verdict(reply.value, reply.text, reply.tries, reply.problem) for reply in found]

    def _text(self, prompt: Prompt, response: str, question: str) -> str:
        words = "yes, no or unclear" if self.unclear else "yes or no"
        return filled(
            "Answer one question about the assistant's answer to the conversation below.\n\n"
            f"The question: {{question}}\n\n{DATA}\n\n{{conversation}}\n\nThe answer:\n{{answer}}\n\n"
            + self.closing(f"X being {words}", "Verdict: X", f'"verdict": "{words}"'),
            question=" ".join(question.split()),
            conversation=quoted_conversation(prompt),
            answer=quoted(response),
        )

    def _read(self, reply: str, cut: bool) -> float:
        value = said("Verdict", reply, cut=cut)
        if self.unclear and isinstance(value, str) and value.strip(" .").lower() == "unclear":
            return UNCLEAR
        verdict = yes_or_no(value)
        if verdict is None:
            raise Unreadable(f"its verdict is not {'yes, no or unclear' if self.unclear else 'yes or no'}")
        return float(verdict == (self.good == "yes"))
