"""How Inspect asks what a measure asks: all questions of a sample at once, each as often as it wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.solver import Generate, TaskState

from truing.errors import RecordError, SettingsError
from truing.models.chat import as_messages
from truing.models.types import Sampling

ANSWERS = "answers"
"""Where a sample with several questions, or a question with several tries, keeps its answers."""
SPOKEN = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
_WANTED = {"refusing": "refuse", "abstaining": "say that it is not known", "affirming": "affirm it"}
"""What the sandbox's questions want where it is no value."""
_NAMES = {"max_new_tokens": "max_tokens", "temperature": "temperature", "seed": "seed", "n": "num_choices"}


async def ask(state: TaskState, generate: Generate, rows: Sequence[dict[str, Any]], usual: Sampling) -> TaskState:
    """Ask the questions of a sample; one that is asked once, and as usual, as Inspect's own `generate` does.

    Args:
        state: of the sample; its store then has the answers.
        generate: Inspect's.
        rows: the questions.
        usual: how those are asked that say nothing of it.
    """
    if len(rows) == 1 and "sampling" not in rows[0]:
        return await generate(state)
    if len(rows) > 1 and state.epoch > 1:
        raise SettingsError("This measure asks each question in several ways itself. Leave `epochs` out.")
    model = get_model()
    outputs: list[ModelOutput] = [ModelOutput()] * len(rows)

    async def one(at: int) -> None:
        how = rows[at].get("sampling", usual)
        outputs[at] = await _tries(model, _messages(rows[at]["prompt"]), _changes(how, usual), how)

    async with anyio.create_task_group() as group:
        for at in range(len(rows)):
            group.start_soon(one, at)
    state.store.set(ANSWERS, [answers_of(output) for output in outputs])
    state.messages = [
        message
        for row, output in zip(rows, outputs)
        for message in (*_messages(row["prompt"]), *(choice.message for choice in output.choices))
    ]
    state.output = next((output for output in outputs if output.error), outputs[-1])
    return state


def answers_of(output: ModelOutput) -> list[list[Any]]:
    """The texts of an output, each with whether it was cut."""
    return [[choice.message.text, choice.stop_reason == "max_tokens"] for choice in output.choices]


async def _tries(
    model: Model, messages: list[ChatMessage], changes: dict[str, Any], how: Sampling
) -> ModelOutput:  # fmt: skip
    """One output with as many choices as are wanted; a provider that gives one at a time is asked again."""
    output = await model.generate(messages, config=GenerateConfig(**changes))
    while len(output.choices) < how.n and output.error is None:
        left = {**changes, "num_choices": how.n - len(output.choices), "seed": how.seed + len(output.choices)}
        more = await model.generate(messages, config=GenerateConfig(**left))
        output = output.model_copy(update={"choices": [*output.choices, *more.choices], "error": more.error})
    return output


def _changes(how: Sampling, usual: Sampling) -> dict[str, Any]:
    """What is asked for in another way than usual, in Inspect's words; the rest is as Inspect is told."""
    one, other = dataclasses.asdict(how), dataclasses.asdict(usual)
    return {said: one[name] for name, said in _NAMES.items() if one[name] != other[name]}


def conversation(prompt: Any) -> str | list[ChatMessage]:
    """A prompt as the input of a sample."""
    return prompt if isinstance(prompt, str) else _messages(prompt)


def right_answers(row: Mapping[str, Any]) -> str | list[str]:
    """What is right, for people who read along: a question's ``right``, its ``answers``, or what the sandbox knows."""
    right = row.get("right", row.get("answers"))
    if not right:
        item = row.get("item")
        item = getattr(item, "source", item)
        wanted = getattr(item, "wanted", "")
        right = _WANTED.get(wanted) or getattr(item, "truth", "")
    return [str(one) for one in right] if isinstance(right, (list, tuple)) else str(right)


def _messages(prompt: Any) -> list[ChatMessage]:
    out: list[ChatMessage] = []
    for message in as_messages(prompt):
        if message["role"] not in SPOKEN:
            raise RecordError(f"Inspect is asked conversations of system, user and assistant, not {message['role']!r}.")
        out.append(SPOKEN[message["role"]](content=message["content"]))
    return out
