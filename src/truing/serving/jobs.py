"""What a request asks of the models, and how its answers come back from the thread that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import traceback
from collections.abc import AsyncIterator, Sequence
from typing import Any

from truing.contracts import Message
from truing.errors import TruingError
from truing.models.types import Completion, Sampling

log = logging.getLogger("truing.serving")


class Rejected(TruingError):
    """A request that is answered with an error.

    Args:
        message: for whoever asked.
        status: of HTTP.
        param: the field at fault, or None.
        code: a word for programs, or None.
        headers: that the answer has besides.
    """

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}


@dataclasses.dataclass(frozen=True)
class Asked:
    """One prompt: a conversation, or text or token ids as they are.

    Args:
        messages: a conversation, which prompt modifiers and the chat template act on; None for a raw prompt.
        text: a raw prompt.
        tokens: a raw prompt as ids.
    """

    messages: list[Message] | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Token:
    """One token of a prompt or an answer.

    Args:
        id: its number in the vocabulary.
        logprob: in nats; None for the first token of a prompt.
        top: the likeliest tokens at its place, with their log-probabilities.
    """

    id: int
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


@dataclasses.dataclass
class Piece:
    """Something new of one answer.

    Args:
        choice: number of the answer: prompt by prompt, n of them each.
        text: what was written since the last piece; whole characters.
        tokens: what was written since, where log-probabilities were asked for.
        done: the whole answer, when this is its end.
    """

    choice: int
    text: str = ""
    tokens: list[Token] = dataclasses.field(default_factory=list)
    done: Completion | None = None


@dataclasses.dataclass
class Read:
    """The prompts have been read, so nothing is wrong with them; comes before any piece.

    Args:
        texts: each prompt as text, where echo was asked for.
        prompts: the tokens of each prompt with their log-probabilities, where echo and those were asked for.
    """

    texts: list[str] = dataclasses.field(default_factory=list)
    prompts: list[list[Token]] = dataclasses.field(default_factory=list)


Event = Piece | Read | Exception


@dataclasses.dataclass(eq=False)
class Job:
    """A request on its way through the models.

    Args:
        model: who answers, its modifiers as the request wants them.
        key: equal for jobs whose models are one: they share a batch.
        prompts: see `Asked`.
        sampling: of all answers.
        logprobs: give log-probabilities of the tokens.
        top: how many of the likeliest tokens to give at each place.
        echo: give the prompts too.
        write: False where nothing but the prompts is asked for.
        stream: give pieces as they come.
        switched: the request changed modifiers or strengths.
        prompt_tokens: of its prompts, once they are read.
        completion_tokens: of its answers so far.
    """

    model: Any
    key: Any
    prompts: list[Asked]
    sampling: Sampling
    logprobs: bool = False
    top: int = 0
    echo: bool = False
    write: bool = True
    stream: bool = False
    switched: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cancelled: bool = False

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def choices(self) -> int:
        """Answers that it asks for."""
        return len(self.prompts) * self.sampling.n

    def cancel(self) -> None:
        """Nobody waits any longer: its rows are freed before the next step."""
        self.cancelled = True

    def send(self, event: Event) -> None:
        """Give something to whoever asked; from any thread."""
        deliver([(self, event)])

    async def next(self) -> Read | Piece:
        """The next event.

        Raises:
            Exception: what went wrong; nothing comes after it.
        """
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def pieces(self) -> AsyncIterator[Piece]:
        """What comes after `Read`, up to the end of the last answer.

        Raises:
            Exception: what went wrong.
        """
        left = self.choices
        while left:
            piece = await self.next()
            assert isinstance(piece, Piece)
            left -= piece.done is not None
            yield piece


def log_failure(error: Exception) -> None:
    """Note where an error came from, without its message, which may hold text of a prompt."""
    log.error("A request failed with %s:\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


def deliver(events: Sequence[tuple[Job, Event]]) -> None:
    """Give events to the loops that their jobs belong to, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Event]]] = {}
    for job, event in events:
        by_loop.setdefault(job._loop, []).append((job, event))
    for loop, part in by_loop.items():
        # A loop that has ended has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_put, part)


def _put(events: Sequence[tuple[Job, Event]]) -> None:
    for job, event in events:
        job._events.put_nowait(event)
