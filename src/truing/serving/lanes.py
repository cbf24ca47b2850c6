"""A running batch: prompts are read into it, its answers take a step together, and leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from truing.models.engine import Engine
from truing.models.logprobs import batches
from truing.models.running import Flight, Running
from truing.models.sampling import noise_stream
from truing.models.types import Row, Usage
from truing.serving.jobs import Event, Job, Piece, Read, Token, deliver
from truing.serving.reading import prompt_logprobs, prompt_texts

PREFILL = 8192  # tokens of new prompts read between two steps, so that running answers do not stall for long


@dataclasses.dataclass(eq=False)
class Waiting:
    """A job whose prompts are encoded.

    Args:
        job: what is asked.
        rows: its prompts.
        slots: of the cache, that its longest answer may come to need, prompt included.
    """

    job: Job
    rows: list[Row]
    slots: int

    @property
    def size(self) -> int:
        """Slots that all of its answers may need."""
        return self.job.choices * self.slots


@dataclasses.dataclass(eq=False)
class _Seat(Flight):
    """An answer in flight, and whom it is for."""

    job: Job = dataclasses.field(kw_only=True)
    choice: int = dataclasses.field(kw_only=True)
    pieces: list[str] = dataclasses.field(default_factory=list, kw_only=True)
    sent: int = dataclasses.field(default=0, kw_only=True)
    slots: int = dataclasses.field(default=0, kw_only=True)

    def piece(self) -> Piece:
        """What is new of the answer."""
        draft, logprobs = self.draft, self.draft.logprobs or []
        piece = Piece(self.choice, "".join(self.pieces), done=draft.completion() if draft.reason is not None else None)
        self.pieces.clear()
        if self.job.logprobs:
            piece.tokens = [
                Token(draft.tokens[at], logprobs[at], self.likeliest[at] if self.top else ())
                for at in range(self.sent, len(draft.tokens))
            ]
            self.sent = len(draft.tokens)
        return piece


class Lane:
    """The running batch of one combination of modifiers and strengths.

    Args:
        model: who answers.
        usage: where its forward passes are counted.
    """

    def __init__(self, model: Any, usage: Usage) -> None:
        # An engine lives as long as its batch: what modifiers keep in their sessions goes with it.
        self._engine = Engine(model, usage)
        self._running: Running | None = None

    @property
    def seats(self) -> list[Any]:
        """The answers in flight."""
        return self._running.flights if self._running is not None else []

    @property
    def jobs(self) -> set[Job]:
        """Whom they are for."""
        return {seat.job for seat in self.seats}

    @property
    def width(self) -> int:
        """Tokens that its longest row may come to have."""
        return max((seat.slots for seat in self.seats), default=0)

    def join(self, items: Sequence[Waiting]) -> None:
        """Read prompts and let their answers into the batch."""
        together = [(item, row) for item in items for row in item.rows if not (item.job.echo and item.job.logprobs)]
        for group in batches([len(row.tokens) for _, row in together], PREFILL, None):
            part = [together[at] for at in group if together[at][0].job.write]
            if part:
                self._seat(self._engine.prefill([row.tokens for _, row in part]), part)
        for item in items:
            read = Read(prompt_texts(item.job, item.rows))
            for row in item.rows if item.job.echo and item.job.logprobs else ():
                batch, found = prompt_logprobs(self._engine, row.tokens, item.job.top)
                read.prompts.append(found)
                if item.job.write:
                    self._seat(batch, [(item, row)])
            item.job.send(read)
            if not item.job.write:
                nothing = self._engine.completion(item.rows[0], [], item.job.sampling, "length")
                deliver([(item.job, Piece(choice, done=nothing)) for choice in range(item.job.choices)])

    def _seat(self, batch: Any, part: Sequence[tuple[Waiting, Row]]) -> None:
        rows, seats = [], []
        for at, (item, row) in enumerate(part):
            job = item.job
            for sample in range(job.sampling.n):
                pieces: list[str] = []
                draft = self._engine.draft(row, job.sampling, pieces.append if job.stream else None)
                rows.append(at)
                seats.append(
                    _Seat(
                        draft, noise_stream(row.tokens, sample), job.sampling, job.top, job=job,
                        choice=row.index * job.sampling.n + sample, pieces=pieces, slots=item.slots,
                    )
                )  # fmt: skip
        if rows != list(range(len(batch))):
            batch = batch.select(rows)
        if self._running is None:
            self._running = Running(batch, seats)
        else:
            self._running.join(batch, seats)

    def leave(self, jobs: Collection[Job]) -> None:
        """Drop the answers of some jobs."""
        if self._running is not None:
            self._running.leave([seat for seat in self.seats if seat.job in jobs])

    def step(self) -> None:
        """One more token of each answer, of which there must be some; what is new is sent."""
        assert self._running is not None
        ended: Sequence[Any] = self._running.step()
        events: list[tuple[Job, Event]] = []
        for seat in ended:
            seat.job.completion_tokens += len(seat.draft.tokens)
            events.append((seat.job, seat.piece()))
        events += [(seat.job, seat.piece()) for seat in self.seats if seat.job.stream and seat.pieces]
        # All at once, so that the event loop is woken once a step.
        deliver(events)
