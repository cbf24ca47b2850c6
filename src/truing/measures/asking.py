"""Asking models: in batches, with progress, each finished batch journaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing import progress
from truing.contracts import Measure, Prompt, require
from truing.errors import RecordError
from truing.measures.journal import Journal, fingerprint, key_of
from truing.models.types import Sampling, Usage

if TYPE_CHECKING:
    from truing.measures.result import Outcome
    from truing.models import AnyModel
    from truing.records import Records

BATCH = 64


class Context:
    """What a measure works with: the journal, the model it is compared with, and what the work costs.

    Args:
        name: of the measure, shown beside progress.
        against: the model that the measured one is compared with; None while that one is measured itself.
        journal: where finished work is kept; in memory only unless given.
        alone: nothing is compared with this model, nor this model with another.
    """

    def __init__(
        self, name: str, against: AnyModel | None = None, journal: Journal | None = None, alone: bool = True
    ) -> None:
        self.name = name
        self.against = against
        self.alone = alone
        self.journal = journal or Journal(None)
        self.usage = Usage()

    @property
    def main(self) -> bool:
        """Whether this is the model that was asked about, not the one it is compared with."""
        return self.alone or self.against is not None

    def origin(self, model: AnyModel) -> str:
        """What the journal calls a model."""
        return fingerprint(model) if self.journal.folder is not None else f"object {id(model)}"

    def compute(
        self, origin: str, keys: Iterable[Any], work: Callable[[list[int]], Sequence[Any]], label: str = "",
        batch: int = BATCH,
    ) -> list[Any]:  # fmt: skip
        """A plain value for each key, from the journal where it is known, else from ``work`` and then journaled.

        Args:
            origin: what the values come from (`origin` of a model).
            keys: plain data that tells one value from another; equal keys are computed once.
            work: gives the values for the keys at some indices, in their order; called with a batch at a time.
            label: shown beside progress.
            batch: most keys a call.
        """
        hashed = [key_of(key) for key in keys]
        known = self.journal.known(origin)
        missing = list({key: index for index, key in reversed(list(enumerate(hashed))) if key not in known}.values())
        missing.sort()
        if missing:
            with progress.task(f"{self.name}: {label}" if label else self.name, len(missing)) as bar:
                for start in range(0, len(missing), batch):
                    rows = missing[start : start + batch]
                    self.journal.add(origin, dict(zip([hashed[row] for row in rows], work(rows), strict=True)))
                    bar.advance(len(rows))
        return [known[key] for key in hashed]


def without_search(model: Any) -> Any:
    """The model that defines probabilities: without its search modifier, and the model itself where it has none."""
    return model.policy if any(modifier.kind == "search" for modifier in model.modifiers) else model


def search_notes(what: str, *models: Any) -> list[str]:
    """Notes that name the search modifiers which a figure leaves out."""
    return [
        f"{what} is that of {model.name} without {type(modifier).__name__}, which searches and defines no probability."
        for model in models
        if model is not None
        for modifier in model.modifiers
        if modifier.kind == "search"
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its text, and whether it was cut by the length limit."""

    text: str
    cut: bool


def ask(
    model: AnyModel, prompts: Sequence[Prompt], sampling: Sampling, context: Context, *, edit: Any = None,
    label: str = "", batch: int = BATCH,
) -> list[Answer]:  # fmt: skip
    """One answer to each prompt.

    Args:
        model: what answers.
        prompts: what is asked.
        sampling: how.
        context: of the measure.
        edit: one more modifier that acts. Answers then stand in the journal of the model without it.
        label: shown behind the model's name beside progress.
        batch: most prompts a call.
    """
    from truing.models.fingerprint import canonical

    acting: Any = context.journal.kept(model if edit is None else model.with_modifier(edit))
    settings = {name: value for name, value in dataclasses.asdict(sampling).items() if name not in ("n", "seed")}

    def work(rows: list[int]) -> list[Any]:
        answers = acting.generate([prompts[row] for row in rows], seed=sampling.seed, **settings)
        context.usage += answers.usage
        return [[answer.text, answer.finish_reason == "length"] for answer in answers]

    seed = {"seed": sampling.seed} if sampling.temperature > 0 else {}
    about = {} if edit is None else {"edit": canonical(edit)}
    keys = ({"ask": prompt, **about, **settings, **seed} for prompt in prompts)
    most = getattr(model, "at_once", batch)
    found = context.compute(context.origin(model), keys, work, f"{model.name}{label}", most)
    return [Answer(*one) for one in found]


def cut_note(answers: Sequence[Answer], sampling: Sampling, who: str) -> list[str]:
    """A note of how many answers the length limit has cut; empty where none."""
    count = sum(answer.cut for answer in answers)
    limit = sampling.max_new_tokens
    one = "answer" if count == 1 else "answers"
    return [f"{count} {one} of {who} reached the limit of {limit} tokens (`max_new_tokens`)."] if count else []


class Asking(Measure):
    """Base of measures that ask questions.

    Args:
        limit: at most that many questions, spread over the kinds by turns; None for 60 of each kind (sandbox) or all
            records.
        split: of the sandbox's questions: "dev" to tune on, "test" to report.
        records: your own questions instead: records, rows, a file or a name.
        temperature: 0 is greedy; sampled answers are slower, since each has noise of its own.
        max_new_tokens: most tokens an answer may have; a note says how many answers were cut.
        seed: of the questions, of sampling, and of bootstrap intervals.
    """

    limit: int | None = None
    split: str = "test"
    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    temperature: float = 0.0
    max_new_tokens: int = 64
    seed: int = 0

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        from truing.models.sampling import check_sampling

        super().validate()
        check_limit(self.limit)
        check_split(self.split)
        check_sampling(self.sampling())

    def sampling(self) -> Sampling:
        """How answers are sampled."""
        return Sampling(self.max_new_tokens, self.temperature, seed=self.seed)

    def rows(self, kinds: Sequence[str]) -> list[dict[str, Any]]:
        """The questions, a dict each with ``id``, ``kind`` and ``prompt``, and ``item`` for those of the sandbox."""
        if self.records is None:
            return sandbox_questions(kinds, self.split, self.limit, self.seed)
        return own_prompts(self.records, self.limit, type(self).__name__)

    def answered(
        self, model: AnyModel, questions: Sequence[dict[str, Any]], context: Context
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Each question with its ``answer`` and number of ``words``, and notes."""
        sampling = self.sampling()
        answers = ask(model, [row["prompt"] for row in questions], sampling, context)
        rows = [
            {**row, "answer": answer.text, "words": len(answer.text.split())} for row, answer in zip(questions, answers)
        ]
        return rows, cut_note(answers, sampling, model.name)


class AskAndGrade(Measure):
    """Base of measures whose questions are known before any is asked, and whose figures follow from the answers alone.

    Such a measure can be carried out by another framework that does the asking: see `truing.frameworks`. Its entry in
    the catalogue has the nature "asking".
    """

    def sampling(self) -> Sampling:
        """How questions are asked that say nothing of it."""
        raise TypeError(f"{type(self).__name__} defines no sampling().")

    def questions(self) -> list[dict[str, Any]]:
        """What is asked: a dict each with ``id``, ``kind`` and ``prompt``, and where they apply

        - ``sampling``: how, if not as `sampling` has it;
        - ``right``: what is right, as people may read it; ``answers`` are, where there are some;
        - ``sample``: what it belongs to, as all of its wordings do. Answers of one sample are graded together.

        Raises:
            RecordError: the records are not of a kind that can be graded.
        """
        raise TypeError(f"{type(self).__name__} defines no questions().")

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """What follows from answers.

        Args:
            answered: questions with their ``answer``, its number of ``words``, whether it was ``cut``, and ``tries``,
                a list of `Answer` of which it is the first. Those of all samples or of some, in the order of
                `questions`. The list and its dicts are the measure's to change.
            notes: on the answers, to go on.
            context: of the measure; a judge's verdicts are kept in it, so that none is asked for twice.
        """
        raise TypeError(f"{type(self).__name__} defines no outcome().")

    def graded(self, answered: list[dict[str, Any]], context: Context) -> Outcome:
        """Grades of one sample's answers; unlike `outcome` without figures that several samples make."""
        return self.outcome(answered, [], context)


class Questionnaire(Asking, AskAndGrade):
    """Base of measures that ask each question once, in one way: see `AskAndGrade`."""

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        rows, notes = self.answered(model, self.questions(), context)
        return self.outcome(rows, notes, context)


def asked_for(
    model: AnyModel, questions: Sequence[dict[str, Any]], usual: Sampling, context: Context, *, label: str = ""
) -> list[dict[str, Any]]:  # fmt: skip
    """Questions of an `AskAndGrade` with their ``answer``, number of ``words``, and whether it was ``cut``.

    Args:
        model: what answers.
        questions: each may have a ``sampling``.
        usual: how the others are asked.
        context: of the measure.
        label: shown behind the model's name beside progress.
    """
    groups: dict[Sampling, list[int]] = {}
    for at, row in enumerate(questions):
        groups.setdefault(row.get("sampling", usual), []).append(at)
    found: dict[int, Answer] = {}
    for sampling, some in groups.items():
        found |= zip(some, ask(model, [questions[at]["prompt"] for at in some], sampling, context, label=label))
    return [with_answer(row, [found[at]]) for at, row in enumerate(questions)]


def with_answer(question: dict[str, Any], tries: Sequence[Answer]) -> dict[str, Any]:
    """A question of an `AskAndGrade` with its answers, as `AskAndGrade.outcome` takes it."""
    first = tries[0]
    words = len(first.text.split())
    return {**question, "answer": first.text, "words": words, "cut": first.cut, "tries": list(tries)}


def check_limit(limit: int | None) -> None:
    """Raise `SettingsError` unless a limit is None or at least 1."""
    whole = isinstance(limit, int) and not isinstance(limit, bool)
    require(limit is None or (whole and limit >= 1), f"`limit` is a number of items, at least 1, got {limit!r}.")


def check_split(split: str) -> None:
    """Raise `SettingsError` for a split that the sandbox does not have."""
    require(
        split in ("train", "dev", "test"), f"`split` is train, dev or test, got {split!r}. Tune on dev, report test."
    )


EACH = 60
"""Questions of each kind unless a limit is given."""


def sandbox_questions(kinds: Sequence[str], split: str, limit: int | None, seed: int) -> list[dict[str, Any]]:
    """Questions of the sandbox, each kind by turns, so that any number from the start is balanced.

    The first n of a kind are the same whichever measure asks, so measures share answers through the journal.
    """
    from truing.sandbox import items

    each = EACH if limit is None else -(-limit // len(kinds))
    found = {kind: items(kind, split, each, seed) for kind in kinds}
    rows = [
        {"id": f"{kind}-{at}", "kind": kind, "prompt": found[kind][at].prompt, "item": found[kind][at]}
        for at in range(each)
        for kind in kinds
        if at < len(found[kind])
    ]
    return rows[:limit]


def own_prompts(records: Any, limit: int | None, what: str, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of records that have a prompt, numbered; at most ``limit``, from the start."""
    from truing.records import as_records

    found = as_records(records, kinds=kinds, what=what)
    rows = []
    for index, row in enumerate(found):
        if limit is not None and index >= limit:
            break
        if "prompt" not in row:
            raise RecordError(
                f"{what} asks the prompts of records, and {found.source} holds {found.kind} records, which have none. "
                "Give question, preference or demonstration records."
            )
        rows.append({**row, "id": f"row-{index + 1}", "kind": str(row.get("kind", "own"))})
    return rows
