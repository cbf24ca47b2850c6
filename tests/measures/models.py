"""Models to measure: a real tiny one, and one whose answers a function writes and that keeps what it was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.models.types import Completion, Completions, Usage, as_prompts

if TYPE_CHECKING:
    from truing.models import Model


@dataclasses.dataclass(eq=False)
class Scripted:
    """What a remote model offers: answers and nothing else."""

    answer: Callable[[Any], str]
    name: str = "scripted"
    offers: frozenset[str] = frozenset()
    modifiers: tuple[Any, ...] = ()
    history: tuple[Any, ...] = ()
    asked: list[Any] = dataclasses.field(default_factory=list)
    longest: int = 1000
    fails_after: int | None = None

    @property
    def fingerprint(self) -> str:
        return f"scripted {self.name}"

    def generate(self, prompts: Any, **settings: Any) -> Completions:
        found = []
        for index, prompt in enumerate(as_prompts(prompts)):
            if self.fails_after is not None and len(self.asked) >= self.fails_after:
                raise KeyboardInterrupt
            self.asked.append(prompt)
            text = self.answer(prompt)
            reason = "length" if len(text.split()) > self.longest else "stop"
            found.append(Completion(text, finish_reason=reason, prompt_index=index))
        return Completions(found, Usage(calls={"model": 1}, completion_tokens=len(found)))


def small(seed: int = 0, **changes: Any) -> Model:
    """A random model."""
    from tests import tiny
    from truing.models import Model

    return Model(tiny.network(seed=seed, **changes), tiny.tokenizer(), source=f"tiny {seed}")


def lines(folder: Path) -> int:
    """How many entries all journals of a folder hold."""
    return sum(len(path.read_text().splitlines()) for path in folder.glob("*.jsonl"))
