"""Right answers that rewards compare with, found by the prompt that they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from truing.contracts import Prompt, Settings, require
from truing.errors import RecordError, RewardError

if TYPE_CHECKING:
    from truing.records import Records


class RightAnswers(Settings):
    """Base of rewards that know the right answers to prompts, from records.

    A method that learns from records binds its reward to them (`bind`), and ``records`` names them where a method reads
    none.

    Args:
        records: question records, or a file or name of them.
        column: the column of the right answers, a text or several.
    """

    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    column: str = "answers"

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            isinstance(self.column, str) and bool(self.column), f"column is the name of a column, not {self.column!r}."
        )

    def bind(self, records: Records | Sequence[dict[str, Any]] | str | Path) -> Self:
        """The same reward with the right answers of these records, by their prompts; ``records`` is not read then.

        Equal prompts pool their answers.

        Raises:
            RecordError: a record has no right answer.
        """
        self.validate()
        bound = self.clone()
        bound.__dict__["_answers"] = self._read(records)
        return bound

    def _right_answers(self, prompts: Sequence[Prompt]) -> list[list[str]]:
        """Those of each prompt.

        Raises:
            RecordError: a record has no right answer.
            RewardError: there are none for a prompt.
        """
        who = type(self).__name__
        known = self.__dict__.get("_answers")
        if known is None:
            if self.records is None:
                raise RewardError(
                    f"{who} knows no right answers here. Use it in a method that learns from question records, "
                    f"name records in it (`records`), or bind it: {who}(…).bind(records)."
                )
            known = self.__dict__["_answers"] = self._read(self.records)
        found = []
        for row, prompt in enumerate(prompts):
            # A method may have put a system message before the prompt of the record.
            answers = known.get(prompt_key(prompt)) or known.get(prompt_key(prompt, system=False))
            if answers is None:
                raise RewardError(
                    f"{who} knows no right answer to the prompt of row {row}: {str(prompt)[:80]!r}. "
                    "Give it records that hold this prompt."
                )
            found.append(answers)
        return found

    def _read(self, records: Any) -> dict[str, list[str]]:
        from truing.records import as_records

        who = type(self).__name__
        found: dict[str, list[str]] = {}
        for number, row in enumerate(as_records(records, what=who), 1):
            given = self._given(row)
            several = [given] if isinstance(given, (str, int, float)) and not isinstance(given, bool) else given
            if not isinstance(several, list) or not several or "prompt" not in row:
                raise RecordError(
                    f"{who} compares with right answers, and record {number} has none in the column "
                    f"`{self.column}`. Give question records, or name another column."
                )
            found.setdefault(prompt_key(row["prompt"]), []).extend(str(one) for one in several)
        return found

    def _given(self, row: dict[str, Any]) -> Any:
        return row.get(self.column)


def prompt_key(prompt: Prompt, *, system: bool = True) -> str:
    """A prompt as text that is equal for equal conversations, a string being one user turn."""
    from truing.models.chat import as_messages

    messages = as_messages(prompt)
    return json.dumps(
        [[m["role"], m["content"]] for m in messages if system or m["role"] not in ("system", "developer")]
    )
