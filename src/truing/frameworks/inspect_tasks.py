"""Measures of truing as tasks of Inspect: Inspect asks, truing grades and counts."""

from __future__ import annotations

import functools
import json
from typing import Any

import anyio
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import TaskState, generate

from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.measures.asking import Context, Questionnaire
from truing.models.chat import as_messages

SPOKEN = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def measure_task(name: str, settings: dict[str, Any]) -> Task:
    """A measure as a task: its questions, its way of asking, its grades, and its figures with their intervals.

    Args:
        name: in the catalogue.
        settings: of the measure, as in a recipe.

    Raises:
        SettingsError: a setting is unknown or cannot work.
        RecordError: its records cannot be read, or have no prompts.
    """
    measure = _Carried.of(name, settings).measure
    sampling = measure.sampling()
    samples = [
        Sample(input=_input(row["prompt"]), id=row["id"], metadata={"kind": row["kind"]})
        for row in _Carried.of(name, settings).questions.values()
    ]
    return Task(
        dataset=MemoryDataset(samples, name=name),
        solver=generate(),
        scorer=graded(name, settings),
        metrics=[figures(name, settings)],
        config=GenerateConfig(
            max_tokens=sampling.max_new_tokens, temperature=sampling.temperature, seed=sampling.seed
        ),
    )  # fmt: skip


class _Carried:
    """A measure that Inspect carries out: its questions, and what its judge has said so far."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        from truing.models import load
        from truing.runs.reading import Source
        from truing.runs.resolve import build_measure
        from truing.runs.schema import MeasureSpec, Recipe

        spec = MeasureSpec(measure=name, settings=settings)
        source = Source(f"truing/{name}", None, {})
        self.measure = build_measure(spec, Recipe(measures=(spec,)), source, 0, functools.cache(load))
        self.measure.validate()
        if not isinstance(self.measure, Questionnaire):
            raise UnsupportedError(f"`{name}` is no measure that another framework can ask for.")
        if not self.measure.needs_model:
            raise SettingsError(f"`{name}` was given the answers, so no model is asked. Use `truing measure {name}`.")
        self.questions = {row["id"]: row for row in self.measure.questions()}
        self.context = Context(name)
        # What a labelled sample says of a judge is about all answers together.
        labelled = "labels" in self.measure.settings()
        self.single: Questionnaire = self.measure.clone(labels=None) if labelled else self.measure
        self.turn = anyio.CapacityLimiter(1)

    _known: dict[str, _Carried] = {}

    @classmethod
    def of(cls, name: str, settings: dict[str, Any]) -> _Carried:
        """One for all that have the same settings: scorer, metric and dataset share it."""
        try:
            key = json.dumps([name, settings], sort_keys=True)
        except TypeError:
            key = f"{name} {sorted((key, id(value)) for key, value in settings.items())}"
        if key not in cls._known:
            cls._known[key] = cls(name, settings)
        return cls._known[key]

    def answered(self, sample: Any, answer: str) -> dict[str, Any]:
        """A question with its answer, as the measure's `outcome` takes it."""
        if sample not in self.questions:
            raise RecordError(f"{sample} is none of this measure's questions. Score a log with the settings it has.")
        return {**self.questions[sample], "answer": answer, "words": len(answer.split())}


@scorer(metrics=[])
def graded(measure: str, settings: dict[str, Any]) -> Scorer:
    """The measure's own grade of each answer; the value holds what each of its figures counts.

    Args:
        measure: in the catalogue.
        settings: of the measure.
    """
    carried = _Carried.of(measure, settings)

    async def score(state: TaskState, target: Target) -> Score:
        if state.output.error is not None:
            raise RecordError(f"{state.sample_id}: {state.output.error}")
        answer = state.output.completion
        row = carried.answered(state.sample_id, answer)
        # A judge may be a model, for which Inspect's loop must not wait.
        outcome = await anyio.to_thread.run_sync(
            carried.single.outcome, [row], [], carried.context, limiter=carried.turn
        )
        found = outcome.rows[0]
        value = {name: found.get(column.column) for name, column in outcome.columns.items()}
        kept = {key: item for key, item in found.items() if key not in ("id", "prompt", "answer", *value)}
        return Score(value=value, answer=answer, explanation=str(found.get("grade", "")), metadata=kept)

    return score


@metric(scores="unreduced")
def figures(measure: str, settings: dict[str, Any]) -> Metric:
    """The measure's figures over all answers: ``name``, its 95 % interval ``name_low``, ``name_high``, and ``name_n``.

    Several epochs are several answers to one question: questions are then the clusters of the intervals.

    Args:
        measure: in the catalogue.
        settings: of the measure.
    """
    carried = _Carried.of(measure, settings)

    def compute(scores: list[SampleScore]) -> Value:
        from truing.measures.run import compare

        rows = [carried.answered(one.sample_id, one.score.answer or "") for one in scores]
        asked = [row["id"] for row in rows]
        if not rows:
            return {}
        order = {identity: at for at, identity in enumerate(carried.questions)}
        rows.sort(key=lambda row: order[row["id"]])
        outcome = carried.measure.outcome(rows, [], carried.context)
        if len(set(asked)) < len(asked):
            outcome.rows = [{"cluster": row["id"], **row} for row in outcome.rows]
        found = compare(measure, outcome, seed=carried.measure.seed).figures
        return {
            key: value
            for name, one in found.items()
            for key, value in (
                (name, one.value), (f"{name}_low", one.low), (f"{name}_high", one.high), (f"{name}_n", one.n),
            )
        }  # fmt: skip

    return compute


def _input(prompt: Any) -> str | list[ChatMessage]:
    if isinstance(prompt, str):
        return prompt
    out: list[ChatMessage] = []
    for message in as_messages(prompt):
        if message["role"] not in SPOKEN:
            raise RecordError(f"Inspect is asked conversations of system, user and assistant, not {message['role']!r}.")
        out.append(SPOKEN[message["role"]](content=message["content"]))
    return out
