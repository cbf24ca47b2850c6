"""A model that says whether an answer says the same as the right one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.contracts import Prompt, require
from truing.errors import RecordError, RewardError
from truing.rewards import check_pairs
from truing.rewards.judging import DATA, Judging, Verdict, quoted_conversation, yes_or_no
from truing.rewards.replies import Unreadable, said
from truing.rewards.verifiable import prompt_key
from truing.safe_text import filled, quoted

if TYPE_CHECKING:
    from truing.records import Records

RUBRIC = (
    "An answer is right if it says the same as one of the right answers, in whatever words, and nothing that "
    "contradicts it."
)


class GoldenAnswer(Judging):
    """1 where a model says that an answer means the same as a right answer, else 0.

    For free text, where `Verifiable` compares words and numbers. The right answers come from records: a method that
    learns from records binds its judge to them (`bind`), and ``records`` names them where a method reads none.

    Args:
        rubric: when an answer is right.
        records: question records, or a file or name of them.
        column: the column of the right answers, a text or several.
    """

    rubric: str = RUBRIC
    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    column: str = "answers"

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            isinstance(self.column, str) and bool(self.column), f"column is the name of a column, not {self.column!r}."
        )

    def bind(self, records: Any) -> GoldenAnswer:
        """The same judge with the right answers of these records, by their prompts; equal prompts pool theirs.

        Raises:
            RecordError: a record has no right answer.
        """
        self.validate()
        bound = self.clone()
        bound.__dict__["_answers"] = self._read(records)
        return bound

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
        right = self._right(prompts) if golden is None else [list(some) for some in golden]
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

    def _right(self, prompts: Sequence[Prompt]) -> list[list[str]]:
        known = self.__dict__.get("_answers")
        if known is None:
            if self.records is None:
                raise RewardError(
                    "GoldenAnswer knows no right answers here. Use it in a method that learns from question records, "
                    "name records in it (`records`), or bind it: GoldenAnswer(model=…).bind(records)."
                )
            known = self.__dict__["_answers"] = self._read(self.records)
        found = []
        for row, prompt in enumerate(prompts):
            # A method may have put a system message before the prompt of the record.
            some = known.get(prompt_key(prompt)) or known.get(prompt_key(prompt, system=False))
            if some is None:
                raise RewardError(
                    f"GoldenAnswer knows no right answer to the prompt of row {row}: {str(prompt)[:80]!r}. "
                    "Give it records that hold this prompt."
                )
            found.append(some)
        return found

    def _read(self, records: Any) -> dict[str, list[str]]:
        from truing.records import as_records

        found: dict[str, list[str]] = {}
        for number, row in enumerate(as_records(records, what=type(self).__name__), 1):
            given = row.get(self.column)
            several = [given] if isinstance(given, (str, int, float)) and not isinstance(given, bool) else given
            if not isinstance(several, list) or not several or "prompt" not in row:
                raise RecordError(
                    f"GoldenAnswer compares with right answers, and record {number} has none in the column "
                    f"`{self.column}`. Give question records, or name another column."
                )
            found.setdefault(prompt_key(row["prompt"]), []).extend(str(one) for one in several)
        return found


def _right(reply: str, cut: bool) -> float:
    found = yes_or_no(said("Right", reply, cut=cut))
    if found is None:
        raise Unreadable("it says neither yes nor no")
    return float(found)
