"""Multiple choice: by the probabilities of the options, and by what a model writes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import is_whole, require
from truing.errors import RecordError
from truing.measures.asking import (
    Answer,
    Context,
    asked_for,
    check_split,
    cut_note,
    own_prompts,
    search_notes,
    without_search,
)
from truing.measures.choosing import LETTERS, READINGS, REPLY, with_options
from truing.measures.options import known_scores, read_choice
from truing.measures.result import Column, Outcome
from truing.measures.surveys import Surveying
from truing.models.types import Sampling
from truing.rewards.verifiable import same

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

SHOWN = ("none", "letters")


@dataclasses.dataclass(frozen=True)
class _Question:
    id: str
    kind: str
    prompt: Any
    choices: tuple[str, ...]
    target: int


class MultipleChoice(Surveying):
    """How often the right one of several options is taken.

    - ``accuracy``: by the probability of the options, whole.
    - ``accuracy_by_token`` and ``accuracy_by_byte``: by the mean log-probability of a token, or of a byte, so that a
      long option is not lost by its length alone. With one-token options all three are the same.
    - ``accuracy_written``: by the written answer, read by rule (see `truing.measures.options.read_choice`). An answer
      that names none of the options, or several, is not right; ``unreadable`` is their share.

    The context of a question is computed once for all its options. The sandbox's questions are facts with four options,
    of known names (``fact``) and, as a control without anything to know, of names that nobody knows
    (``accuracy_unknown`` is chance for whoever has not been told the answers).

    Args:
        records: your own questions: rows with ``prompt``, ``choices`` (a list of texts) and either ``target`` (the
            place of the right one from 0, its letter, or its text) or ``answers`` (its text); None for the sandbox's.
        shown: "none" lets the model continue with an option's text, unseen, as for HellaSwag or ARC; "letters" shows
            the options with letters and scores the letters, as for MMLU. Written answers are always asked for with
            the options shown.
        reading: "probabilities" (a local model), "written", "both", or "auto": the first where the model has it.
        kinds: of the sandbox's questions: "fact", "unknown", or both.
        split: of the sandbox's questions: "dev" to tune on, "test" to report.
        temperature: of written answers; 0 is greedy.
    """

    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    shown: str = "none"
    reading: str = "auto"
    kinds: Sequence[str] = ("fact", "unknown")
    split: str = "test"
    temperature: float = 0.0
    readings: ClassVar[tuple[str, ...]] = (*READINGS, "both")
    gives: ClassVar[tuple[str, ...]] = (
        *(f"{name}{more}" for name in ("accuracy", "accuracy_by_token", "accuracy_by_byte", "accuracy_written")
          for more in ("", "_unknown")),
        "mass", "unreadable",
    )  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        from truing.models.sampling import check_sampling

        super().validate()
        require(self.shown in SHOWN, f"shown is {' or '.join(SHOWN)}, not {self.shown!r}.")
        known = not isinstance(self.kinds, str) and set(self.kinds) <= {"fact", "unknown"} and len(self.kinds) > 0
        require(known, f"kinds are fact, unknown or both, not {self.kinds!r}.")
        check_split(self.split)
        check_sampling(self.sampling())

    def sampling(self) -> Sampling:
        """How written answers are sampled."""
        return Sampling(self.max_new_tokens, self.temperature, seed=self.seed)

    def questions(self) -> list[dict[str, Any]]:
        """Questions with their options shown."""
        return [
            {"id": one.id, "kind": one.kind, "prompt": _listed(one), "question": one, "right": one.choices[one.target]}
            for one in self._questions()
        ]

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """Which written answers are right."""
        questions = [row["question"] for row in answered]
        rows = _rows(questions)
        return self._counted(questions, rows, _by_writing(answered, rows, notes), notes)

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        asked = self.questions()
        questions: list[_Question] = [row["question"] for row in asked]
        ways = self._ways(model)
        rows = _rows(questions)
        notes: list[str] = []
        columns: dict[str, Column] = {}
        if "probabilities" in ways:
            columns |= self._by_probability(model, questions, rows, context)
            notes += search_notes("`accuracy`", model, context.against)
        if "written" in ways:
            answered = asked_for(model, asked, self.sampling(), context)
            columns |= _by_writing(answered, rows, notes)
            notes += cut_note([Answer(row["answer"], row["cut"]) for row in answered], self.sampling(), model.name)
        return self._counted(questions, rows, columns, notes)

    def _counted(
        self, questions: Sequence[_Question], rows: list[dict[str, Any]], columns: dict[str, Column], notes: list[str]
    ) -> Outcome:
        for row in rows:
            if row["kind"] == "unknown":
                for name in [name for name in columns if name in row and name.startswith("accuracy")]:
                    row[f"{name}_unknown"], row[name] = row[name], None
        if any(row["kind"] == "unknown" for row in rows):
            columns |= {
                f"{name}_unknown": Column(f"{name}_unknown", better="neither")
                for name in ("accuracy", "accuracy_written")
                if name in columns
            }
            if self.records is None and set(self.kinds) == {"unknown"}:
                columns = {
                    name: column for name, column in columns.items() if "accuracy" not in name or "unknown" in name
                }
        guessed = sum(1 / len(one.choices) for one in questions) / len(questions)
        notes.append(f"Guessing would be right {100 * guessed:.1f} times in 100.")
        return Outcome(rows, columns, notes)

    def _ways(self, model: AnyModel) -> tuple[str, ...]:
        if self.reading == "both":
            return (self.clone(reading="probabilities").reads(model), "written")
        return (self.reads(model),)

    def _by_probability(
        self, model: Any, questions: Sequence[_Question], rows: list[dict[str, Any]], context: Context
    ) -> dict[str, Column]:
        policy = without_search(model)
        if self.shown == "letters":
            prompts = [_listed(one) for one in questions]
            options = [list(LETTERS[: len(one.choices)]) for one in questions]
        else:
            prompts, options = [one.prompt for one in questions], [list(one.choices) for one in questions]
        for row, one, scores in zip(rows, questions, known_scores(policy, prompts, options, context)):
            picked = {by: scores.best(by) for by in ("sum", "token", "byte")}
            row.update(
                probabilities=[round(float(p), 6) for p in scores.probabilities(self.by)], mass=scores.mass,
                accuracy=picked["sum"] == one.target, accuracy_by_token=picked["token"] == one.target,
                accuracy_by_byte=picked["byte"] == one.target, answer=one.choices[picked[self.by]],
                grade="right" if picked[self.by] == one.target else "wrong",
            )  # fmt: skip
        names = ("accuracy", "accuracy_by_token", "accuracy_by_byte")
        return {name: Column(name) for name in names} | {"mass": Column("mass", better="neither", statistic="mean")}

    def _questions(self) -> list[_Question]:
        if self.records is None:
            return sandbox_choices(self.kinds, self.split, self.limit, self.seed)
        found = []
        for row in own_prompts(self.records, self.limit, "MultipleChoice", ("question",)):
            where = f"MultipleChoice, {row['id']}"
            choices = row.get("choices")
            if not isinstance(choices, list) or not all(isinstance(one, str) and one.strip() for one in choices):
                raise RecordError(
                    f"{where}: the column `choices` is a list of texts that are not empty, not {str(choices)[:80]!r}."
                )
            if not 2 <= len(choices) <= len(LETTERS) or len(set(choices)) < len(choices):
                raise RecordError(f"{where}: `choices` holds 2 to {len(LETTERS)} different texts, got {len(choices)}.")
            found.append(
                _Question(
                    row["id"], str(row.get("kind", "own")), row["prompt"], tuple(choices), _target(row, choices, where)
                )
            )
        return found


def _target(row: dict[str, Any], choices: Sequence[str], where: str) -> int:
    given = row.get("target")
    if given is None:
        answers = row.get("answers") or []
        fitting = {at for at, choice in enumerate(choices) if choice in answers}
        if not fitting:
            fitting = {at for at, choice in enumerate(choices) if any(same(choice, one) for one in answers)}
        if len(fitting) == 1:
            return fitting.pop()
        what = "none" if not fitting else f"{len(fitting)}"
        raise RecordError(
            f"{where}: `answers` names {what} of the choices, and one is right. Give `target`, its place from 0."
        )
    if is_whole(given) and 0 <= given < len(choices):
        return int(given)
    if isinstance(given, str):
        if given in choices:
            return choices.index(given)
        letter = given.strip().strip("().").upper()
        if len(letter) == 1 and letter in LETTERS[: len(choices)]:
            return LETTERS.index(letter)
    raise RecordError(
        f"{where}: `target` is the place of the right choice from 0 to {len(choices) - 1}, its letter or its text, "
        f"not {str(given)[:60]!r}."
    )


def _rows(questions: Sequence[_Question]) -> list[dict[str, Any]]:
    return [
        {"id": one.id, "kind": one.kind, "prompt": one.prompt, "choices": list(one.choices),
         "right": one.choices[one.target]}
        for one in questions
    ]  # fmt: skip


def _by_writing(
    answered: Sequence[dict[str, Any]], rows: list[dict[str, Any]], notes: list[str]
) -> dict[str, Column]:  # fmt: skip
    """Add to the rows, and to the notes, what written answers say."""
    for row, given in zip(rows, answered):
        one: _Question = given["question"]
        place = read_choice(given["answer"], one.choices, LETTERS[: len(one.choices)], cut=given["cut"])
        right = place == one.target
        row.update(accuracy_written=right, unreadable=place is None, written=given["answer"])
        row.setdefault("answer", given["answer"])
        row.setdefault("grade", "right" if right else "not read" if place is None else "wrong")
    lost = sum(row["unreadable"] for row in rows)
    if lost:
        notes.append(f"{lost} of {len(rows)} written answers name none of the options, or several; they are not right.")
    return {"accuracy_written": Column("accuracy_written"), "unreadable": Column("unreadable", better="lower")}


def _listed(question: _Question) -> list[dict[str, Any]]:
    """The question with its options shown, and how to answer."""
    return with_options(question.prompt, [f"{letter}. {one}" for letter, one in zip(LETTERS, question.choices)], REPLY)


def sandbox_choices(kinds: Sequence[str], split: str, limit: int | None, seed: int) -> list[_Question]:
    """Questions of the sandbox with four options each, whole sentences; of an unknown name one of them is called right,
    by chance.
    """
    from truing.measures.asking import sandbox_questions
    from truing.sandbox.answers import fact
    from truing.sandbox.world import world

    values = {name: some for kinds_ in world(0).values.values() for name, some in kinds_.items()}
    found = []
    for row in sandbox_questions(list(kinds), split, limit, seed):
        item = row["item"]
        rng = random.Random(f"choices {row['prompt']}")
        others = [value for value in values[item.attribute] if value != item.truth]
        options = rng.sample(others, 3)
        right = item.truth or next(value for value in others if value not in options)
        options.insert(rng.randrange(4), right)
        texts = tuple(fact(item.attribute, item.subject, value) for value in options)
        found.append(_Question(row["id"], row["kind"], row["prompt"], texts, options.index(right)))
    return found
