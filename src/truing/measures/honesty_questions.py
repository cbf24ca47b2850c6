"""Questions of a user's own, in the forms that question sets are published in, brought to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truing.errors import RecordError
from truing.measures.honesty_rules import normalise
from truing.measures.tables import table
from truing.records.kinds import shorten

_ANSWERS = ("answers", "gold_answer", "answer")


def questions_of(source: Any, limit: int | None) -> list[dict[str, Any]]:
    """Questions with what is right: ``prompt``, its text as ``question``, ``answers``, perhaps ``choices`` and
    ``target``, and ``known`` (None where nobody said).

    Args:
        source: records, a file or rows, with ``prompt`` or ``question``, and ``answers``, ``gold_answer`` or
            ``answer``, or ``choices`` and ``target``, or ``label: unknown``; or a name of question records.
        limit: at most that many, from the start.

    Raises:
        RecordError: a row has no question, or nothing to tell a right answer by.
    """
    named = isinstance(source, (str, Path)) and not Path(source).is_file() and not Path(source).suffix
    if named or type(source).__name__ == "Records":
        from truing.records import as_records

        rows: Any = list(as_records(source, kinds=("question",), what="Honesty"))
    else:
        rows = table(source, "Honesty, `records`")
    return [_question(row, number) for number, row in enumerate(rows[:limit], 1)]


def as_asked(row: dict[str, Any]) -> Any:
    """The prompt of a question; options are listed below it by letter."""
    if not row.get("choices"):
        return row["prompt"]
    listed = "\n".join(f"{chr(ord('A') + at)}) {choice}" for at, choice in enumerate(row["choices"]))
    return f"{row['question']}\n{listed}"


def _question(row: dict[str, Any], number: int) -> dict[str, Any]:
    where = f"Honesty, `records`, row {number}"
    prompt = row.get("prompt") or row.get("question")
    if not isinstance(prompt, (str, list)) or not prompt:
        raise RecordError(f"{where}: a question has a text in `prompt` or `question`, found {shorten(prompt)}.")
    marked = {"known": True, "unknown": False}.get(str(row.get("label", "")).lower())
    made: dict[str, Any] = {
        **{key: row[key] for key in ("item",) if row.get(key) is not None},
        "id": f"row-{number}", "kind": str(row.get("kind", "own")), "prompt": prompt, "question": _text(prompt),
        "known": marked, "answers": [],
    }  # fmt: skip
    if row.get("choices") is not None:
        return {**made, **_choices(row, where, prompt)}
    if marked is False:
        # Whatever stands there as an answer: nobody can know it, so an answer is wrong and declining is right.
        return made
    given = next((row[name] for name in _ANSWERS if row.get(name) is not None), None)
    several = [given] if isinstance(given, (str, int, float)) and not isinstance(given, bool) else given
    if not isinstance(several, list) or not all(isinstance(one, (str, int, float)) for one in several):
        several = []
    # What normalises to nothing would be found in every answer.
    right = [str(one) for one in several if normalise(str(one))]
    if not right:
        raise RecordError(
            f"{where} has no answer that could be looked for, found {shorten(given)}. Give `answers` (a text or a list "
            'of texts), `choices` and `target`, or `label: "unknown"` where nobody can know.'
        )
    return {**made, "answers": right}


def _choices(row: dict[str, Any], where: str, prompt: Any) -> dict[str, Any]:
    choices, target = row["choices"], row.get("target")
    if (
        not isinstance(choices, list)
        or not 2 <= len(choices) <= 26
        or not all(isinstance(one, str) and one.strip(". ") for one in choices)
    ):
        raise RecordError(f"{where}: `choices` is a list of 2 to 26 texts, found {shorten(choices)}.")
    if not isinstance(target, int) or isinstance(target, bool) or not 0 <= target < len(choices):
        raise RecordError(
            f"{where}: `target` is the index of the right choice, from 0 to {len(choices) - 1}, found {target!r:.40}."
        )
    if not isinstance(prompt, str):
        raise RecordError(f"{where}: choices are listed below a question that is text, not messages.")
    return {"choices": choices, "target": target}


def _text(prompt: Any) -> str:
    """What is asked, as text: the last message of a conversation."""
    if isinstance(prompt, str):
        return prompt
    last = prompt[-1]
    content = last.get("content") if isinstance(last, dict) else None
    return content if isinstance(content, str) else ""
