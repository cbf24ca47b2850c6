"""What goes into a generation and what comes out of it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How next tokens are chosen and when a row ends.

    Args:
        max_new_tokens: most tokens a completion may have, its end token included.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep only the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        stop: strings that end a completion; the text ends before the first of them.
        seed: noise is a function of (seed, prompt, sample, step, token id) alone, so a batch gives what
            single prompts give.
        n: completions per prompt, all from one prefill.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    n: int = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One prompt that an engine continues.

    Args:
        prompt: the conversation as asked, after prompt modifiers: what rewards and second models read.
        tokens: its token ids, up to where the answer begins; empty for a remote model.
        index: which prompt of the generation it is.
    """

    prompt: Any
    tokens: tuple[int, ...] = ()
    index: int = 0


@dataclasses.dataclass
class Usage:
    """What a generation cost, counted by the engine; independent of the machine.

    Args:
        calls: sequential forward passes, by model ("model", "guide", ...).
        positions: token positions that those passes processed (padding excluded), by model.
        prompt_tokens: tokens of the prompts.
        completion_tokens: tokens emitted.
        seconds: wall-clock time.
    """

    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    positions: dict[str, int] = dataclasses.field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def count(self, who: str, calls: int, positions: int) -> None:
        """Add forward passes of one model."""
        self.calls[who] = self.calls.get(who, 0) + calls
        self.positions[who] = self.positions.get(who, 0) + positions

    def __add__(self, other: Usage) -> Usage:
        both = Usage(dict(self.calls), dict(self.positions), self.prompt_tokens, self.completion_tokens, self.seconds)
        for who in {*other.calls, *other.positions}:
            both.count(who, other.calls.get(who, 0), other.positions.get(who, 0))
        both.prompt_tokens += other.prompt_tokens
        both.completion_tokens += other.completion_tokens
        both.seconds += other.seconds
        return both


@dataclasses.dataclass
class Completion:
    """One answer.

    Args:
        text: the answer, without special tokens and without the stop string.
        tokens: its token ids, end token included when it ended by itself; empty for a remote model.
        logprobs: log-probability in nats of each token under the distribution it was drawn from before temperature
            and truncation; None where a search or a remote does not give them.
        finish_reason: "stop" (end token or stop string), "length", or a search's own word ("guide stopped").
        prompt_index: which prompt it answers.
        trace: what a method wants to show (nudging: who wrote which piece).
    """

    text: str
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] | None = None
    finish_reason: str = "stop"
    prompt_index: int = 0
    trace: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


class Completions(list[Completion]):
    """Answers in prompt order (n of them for each prompt, one after another), with what they cost."""

    def __init__(self, items: Iterable[Completion] = (), usage: Usage | None = None) -> None:
        super().__init__(items)
        self.usage = usage or Usage()

    @property
    def texts(self) -> list[str]:
        """The answers as plain strings."""
        return [item.text for item in self]

    def grouped(self) -> list[list[Completion]]:
        """One list for each prompt."""
        groups: dict[int, list[Completion]] = {}
        for item in self:
            groups.setdefault(item.prompt_index, []).append(item)
        return [groups[index] for index in sorted(groups)]


@dataclasses.dataclass(frozen=True)
class Step:
    """One entry of a model's history.

    Args:
        method: its name in the catalogue.
        settings: its hyperparameters, as JSON values.
        data: fingerprint, kind, number of rows and source of the records it learned from; None without records.
        versions: truing, torch and transformers.
        date: when, in UTC, ISO 8601.
    """

    method: str
    settings: dict[str, Any]
    data: dict[str, Any] | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``truing.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Step:
        """The inverse of `to_json`; unknown keys are ignored, so that newer files can be read."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})


def as_prompts(prompts: Any) -> list[Any]:
    """A list of prompts from one prompt or many.

    A string or one list of messages (dicts) is a single prompt.
    """
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, Sequence) and prompts and isinstance(prompts[0], dict):
        return [list(prompts)]
    return list(prompts)
