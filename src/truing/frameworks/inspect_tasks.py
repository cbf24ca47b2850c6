"""Measures of truing as tasks of Inspect: Inspect asks, truing grades and counts."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import anyio
from inspect_ai import Epochs, Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import (
    Metric,
    SampleScore,
    Score,
    Scorer,
    ScoreReducer,
    Target,
    Value,
    metric,
    score_reducer,
    scorer,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver

from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.frameworks.inspect_asking import ANSWERS, answers_of, ask, conversation, right_answers
from truing.measures.asking import Answer, AskAndGrade, Context, with_answer
from truing.measures.result import Outcome


def measure_task(name: str, settings: dict[str, Any]) -> Task:
    """A measure as a task: its questions, its way of asking, its grades, and its figures with their intervals.

    Args:
        name: in the catalogue.
        settings: of the measure, as in a recipe.

    Raises:
        SettingsError: a setting is unknown or cannot work.
        RecordError: its records cannot be read, or have no prompts.
        UnsupportedError: it is no measure that asks and grades, or needs probabilities.
    """
    carried = Carried.of(name, settings)
    sampling = carried.measure.sampling()
    samples = [
        Sample(
            input=conversation(rows[0]["prompt"]), id=sample, target=right_answers(rows[0]),
            metadata={"kind": rows[0]["kind"]} | ({"questions": len(rows)} if len(rows) > 1 else {}),
        )
        for sample, rows in carried.samples.items()
    ]  # fmt: skip
    return Task(
        dataset=MemoryDataset(samples, name=name),
        solver=asked(name, settings),
        scorer=logged(name, settings),
        metrics=[figures(name, settings)],
        epochs=Epochs(1, truing_mean()),
        config=GenerateConfig(
            max_tokens=sampling.max_new_tokens, temperature=sampling.temperature, seed=sampling.seed
        ),
    )  # fmt: skip


class Carried:
    """A measure that Inspect carries out: its questions by sample, and what its judge has said so far."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.measure = _built(name, settings)
        self.samples: dict[str, list[dict[str, Any]]] = {}
        self.order: dict[str, int] = {}
        for at, row in enumerate(self.measure.questions()):
            self.samples.setdefault(row.get("sample", row["id"]), []).append(row)
            self.order[row["id"]] = at
        self.context = Context(name)
        self.turn = anyio.CapacityLimiter(1)

    _known: dict[str, Carried] = {}

    @classmethod
    def of(cls, name: str, settings: dict[str, Any]) -> Carried:
        """One for all that have the same settings: scorer, metric and dataset share it."""
        try:
            key = json.dumps([name, settings], sort_keys=True)
        except TypeError:
            key = f"{name} {sorted((key, id(value)) for key, value in settings.items())}"
        if key not in cls._known:
            cls._known[key] = cls(name, settings)
        return cls._known[key]

    def answered(self, sample: Any, answers: Sequence[Sequence[Sequence[Any]]]) -> list[dict[str, Any]]:
        """The questions of a sample with their answers, as the measure takes them.

        Args:
            sample: its id.
            answers: for each question its tries: texts, and whether they were cut.
        """
        rows = self.samples.get(sample, [])
        if len(rows) != len(answers):
            raise RecordError(f"{sample} is no sample of this measure. Score a log with the settings it has.")
        return [with_answer(row, [Answer(*one) for one in tries]) for row, tries in zip(rows, answers)]


def _built(name: str, settings: dict[str, Any]) -> AskAndGrade:
    from truing.models import load
    from truing.runs.reading import Source
    from truing.runs.resolve import build_measure
    from truing.runs.schema import MeasureSpec, Recipe

    spec = MeasureSpec(measure=name, settings=settings)
    source = Source(f"truing/{name}", None, {})
    measure: Any = build_measure(spec, Recipe(measures=(spec,)), source, 0, functools.cache(load))
    measure.validate()
    if not isinstance(measure, AskAndGrade):
        raise UnsupportedError(f"`{name}` is no measure that another framework can ask for.")
    if not measure.needs_model:
        raise SettingsError(
            f"`{name}` asks no model with these settings, which hold all that is measured. Use `truing measure {name}`."
        )
    reading = getattr(measure, "reading", "written")
    if reading == "probabilities":
        raise UnsupportedError(
            f"Inspect asks models in writing, and gives no probabilities of options. Use `truing measure {name}`, or "
            "`-T reading=written`."
        )
    return measure if reading == "written" else measure.clone(reading="written")


@solver
def asked(measure: str, settings: dict[str, Any]) -> Solver:
    """Asks all questions of a sample, each as often and in the way that the measure wants.

    Args:
        measure: in the catalogue.
        settings: of the measure.
    """
    carried = Carried.of(measure, settings)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await ask(state, generate, carried.samples[str(state.sample_id)], carried.measure.sampling())

    return solve


@scorer(metrics=[])
def graded(measure: str, settings: dict[str, Any]) -> Scorer:
    """The measure's own grade of each answer; the value holds what each of its figures counts.

    Args:
        measure: in the catalogue.
        settings: of the measure.
    """
    carried = Carried.of(measure, settings)

    async def score(state: TaskState, target: Target) -> Score:
        if state.output.error is not None:
            raise RecordError(f"{state.sample_id}: {state.output.error}")
        answers = state.store.get(ANSWERS)
        if answers is None:
            answers = [answers_of(state.output)]
        rows = carried.answered(state.sample_id, answers)
        # A judge may be a model, for which Inspect's loop must not wait.
        outcome = await anyio.to_thread.run_sync(
            carried.measure.graded, list(rows), carried.context, limiter=carried.turn
        )
        plain = len(answers) == 1 and len(answers[0]) == 1 and not answers[0][0][1]
        return Score(
            value=_values(outcome), answer="\n".join(str(row.get("answer", "")) for row in outcome.rows),
            explanation=_explained(outcome), metadata=_further(outcome, rows) | ({} if plain else {ANSWERS: answers}),
        )  # fmt: skip

    return score


# A log names a scorer without its package, by which `inspect score` then cannot find it; so this one bears its package
# in its own name, and what the log says leads to the other.
_plain: Any = graded
logged: Callable[..., Scorer] = scorer(metrics=[], name="truing/graded")(_plain.__wrapped__)


@metric(scores="unreduced")
def figures(measure: str, settings: dict[str, Any]) -> Metric:
    """The measure's figures over all answers: ``name``, its 95 % interval ``name_low``, ``name_high``, and ``name_n``.

    Several epochs are several answers to one question: questions are then the clusters of the intervals.

    Args:
        measure: in the catalogue.
        settings: of the measure.
    """
    carried = Carried.of(measure, settings)

    def compute(scores: list[SampleScore]) -> Value:
        from truing.measures.run import compare

        rows: list[dict[str, Any]] = []
        for one in scores:
            answers = (one.score.metadata or {}).get(ANSWERS, [[[one.score.answer or "", False]]])
            rows += carried.answered(one.sample_id, answers)
        if not rows:
            return {}
        rows.sort(key=lambda row: carried.order[row["id"]])
        again = len({row["id"] for row in rows}) < len(rows)
        outcome = carried.measure.outcome(rows, [], carried.context)
        if again:
            outcome.rows = [{"cluster": row["id"], **row} for row in outcome.rows]
        found = compare(measure, outcome, seed=getattr(carried.measure, "seed", 0)).figures
        return {
            key: value
            for name, one in found.items()
            for key, value in (
                (name, one.value), (f"{name}_low", one.low), (f"{name}_high", one.high), (f"{name}_n", one.n),
            )
        }  # fmt: skip

    return compute


@score_reducer(name="truing_mean")
def truing_mean() -> ScoreReducer:
    """A sample's values over its epochs, each the mean over those that have it; figures are not made from them."""

    def reduce(scores: list[Score]) -> Score:
        held = [one.value for one in scores if isinstance(one.value, dict)]
        names = dict.fromkeys(name for value in held for name in value)
        return scores[0].model_copy(update={"value": {name: _mean([one.get(name) for one in held]) for name in names}})

    return reduce


def _values(outcome: Outcome) -> dict[str, Any]:
    """What each figure counts of a sample: a value, or the mean of several; figures for which it counts nothing are
    left out.
    """
    found = {name: _mean([row.get(column.column) for row in outcome.rows]) for name, column in outcome.columns.items()}
    return {name: value for name, value in found.items() if value is not None}


def _mean(values: Sequence[Any]) -> Any:
    """The mean of those that are there; one alone as it is."""
    there = [value for value in values if value is not None]
    return None if not there else there[0] if len(there) == 1 else sum(map(float, there)) / len(there)


def _explained(outcome: Outcome) -> str:
    """Grades in words, with what a judge said."""
    several = len(outcome.rows) > 1
    lines = []
    for row in outcome.rows:
        grade = str(row.get("grade") or "")
        lines.append(f"{row['id']}: {grade}" if several else grade)
        if isinstance(row.get("reasons"), dict):
            lines += [f"{name}: {reason}" for name, reason in row["reasons"].items() if reason]
        if row.get("judge"):
            lines.append(f"The judge: {row['judge']}")
    return "\n\n".join(line for line in lines if line)


def _further(outcome: Outcome, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the measure says of a sample besides values, answer and grade."""
    if len(outcome.rows) != 1:
        return {}
    shown = {column.column for column in outcome.columns.values()} | {"grade", "cluster", "reasons", "judge"}
    known = {key for row in rows for key in row}
    return {key: value for key, value in outcome.rows[0].items() if key not in shown | known and value is not None}
