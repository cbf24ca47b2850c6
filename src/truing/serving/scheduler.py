"""Continuous batching: one thread owns the models, and requests join and leave its running batches between steps."""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from truing.errors import TruingError
from truing.models.engine import Engine, generate
from truing.models.logprobs import batches
from truing.models.modifiers import SearchModifier
from truing.models.running import Flight, Running
from truing.models.sampling import noise_stream
from truing.models.types import Row, Usage
from truing.serving.jobs import Event, Job, Piece, Read, Rejected, Token, deliver
from truing.serving.limits import Limits
from truing.serving.reading import check_lengths, encode, positions, prompt_logprobs

log = logging.getLogger("truing.serving")

PATIENCE = 4  # steps that a few new prompts wait at most for others to be read with them
PREFILL = 8192  # tokens of new prompts read between two steps, so that running answers do not stall for long


class _Abandoned(Exception):
    """Nobody waits for a search any longer."""


@dataclasses.dataclass(eq=False)
class _Seat(Flight):
    """An answer in flight, and whom it is for."""

    job: Job = dataclasses.field(kw_only=True)
    choice: int = dataclasses.field(kw_only=True)
    pieces: list[str] = dataclasses.field(default_factory=list, kw_only=True)
    sent: int = dataclasses.field(default=0, kw_only=True)
    slots: int = dataclasses.field(default=0, kw_only=True)


@dataclasses.dataclass(eq=False)
class _Waiting:
    """A job whose prompts are encoded."""

    job: Job
    rows: list[Row]
    slots: int

    @property
    def size(self) -> int:
        return self.job.choices * self.slots


class _Lane:
    """The running batch of one combination of modifiers and strengths."""

    def __init__(self, model: Any, usage: Usage) -> None:
        # An engine lives as long as its batch: what modifiers keep in their sessions goes with it.
        self.engine = Engine(model, usage)
        self.running: Running | None = None

    @property
    def seats(self) -> list[Any]:
        return self.running.flights if self.running is not None else []

    @property
    def width(self) -> int:
        """Tokens that its longest row may come to have."""
        return max((seat.slots for seat in self.seats), default=0)


class Scheduler:
    """Runs jobs of local models.

    Plain decoding goes on in one batch for each combination of modifiers and strengths, stepped in turn. New prompts
    are read together and join; ended and given up answers leave. A search modifier explores whole answers, so its jobs
    run as a whole, equal settings together; before each of its forward passes the running batches take a step.

    Answers do not depend on what else runs: noise is a function of (seed, prompt, sample, step, token) alone.

    Args:
        limits: see `Limits`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.usage = Usage()
        self.steps = 0
        self._inbox: collections.deque[Job] = collections.deque()
        self._plain: collections.deque[_Waiting] = collections.deque()
        self._searches: collections.deque[_Waiting] = collections.deque()
        self._searching: list[_Waiting] = []
        self._lanes: dict[Any, _Lane] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._waited = 0  # steps since prompts were last let in
        self._pace = 0.0  # seconds from one request that begins to the next one that waited, smoothed
        self._began: float | None = None
        self._thread = threading.Thread(target=self._run, name="truing-scheduler", daemon=True)

    # --- for other threads -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what still runs gets an error."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        return len(self._inbox) + len(self._plain) + len(self._searches)

    @property
    def running(self) -> int:
        """Answers being written."""
        lanes = sum(len(lane.seats) for lane in list(self._lanes.values()))
        return lanes + sum(item.job.choices for item in list(self._searching))

    @property
    def slots(self) -> int:
        """Cache slots that are taken."""
        return sum(len(lane.seats) * lane.width for lane in list(self._lanes.values()))

    def submit(self, job: Job) -> None:
        """Take a job on.

        Raises:
            Rejected: too many wait already.
        """
        if self.waiting >= self.limits.waiting:
            wait = min(60, max(1, math.ceil(self.waiting * self._pace)))
            raise Rejected(
                f"{self.limits.waiting} requests wait already. Come again in {wait} s.", 429, None, "too_many_requests",
                {"Retry-After": str(wait)},
            )  # fmt: skip
        self._inbox.append(job)
        self._wake.set()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
                if self._searches:
                    self._search()
            except Exception as error:
                self._fail_all(error)
            if not (self._inbox or self._plain or self._searches or self._lanes or self._stopping):
                self._wake.wait()
                self._wake.clear()
        self._fail_all(Rejected("The server is stopping. Ask again later.", 503, None, "stopping"))

    def _turn(self) -> None:
        """One step of all that runs, after what is new has joined and what is given up has left."""
        self._take()
        for queue in (self._plain, self._searches):
            if any(item.job.cancelled for item in queue):
                left = [item for item in queue if not item.job.cancelled]
                queue.clear()
                queue.extend(left)
        for key, lane in list(self._lanes.items()):
            gone = [seat for seat in lane.seats if seat.job.cancelled]
            if gone and lane.running is not None:
                lane.running.leave(gone)
            if not lane.seats:
                del self._lanes[key]
        self._admit()
        for key, lane in list(self._lanes.items()):
            try:
                self._step(lane)
            except Exception as error:
                self._failed({seat.job for seat in lane.seats}, error)
                lane.running = None
            if not lane.seats:
                del self._lanes[key]

    def _take(self) -> None:
        """Encode the prompts of new jobs, those of one model together."""
        by_model: dict[Any, list[Job]] = {}
        while self._inbox:
            job = self._inbox.popleft()
            if not job.cancelled:
                by_model.setdefault(job.key, []).append(job)
        for jobs in by_model.values():
            for job, rows in zip(jobs, encode(jobs, self.limits.prompt_tokens)):
                if isinstance(rows, Exception):
                    self._failed([job], rows)
                    continue
                try:
                    waiting = self._checked(job, rows)
                except TruingError as error:
                    self._failed([job], error)
                    continue
                searches = any(isinstance(modifier, SearchModifier) for modifier in job.model.modifiers)
                (self._searches if searches and job.write else self._plain).append(waiting)

    def _checked(self, job: Job, rows: list[Row]) -> _Waiting:
        limit = positions(job.model)
        longest = max(len(row.tokens) for row in rows)
        check_lengths(job, rows, self.limits.prompt_tokens)
        slots = int(min(longest + job.sampling.max_new_tokens, limit)) if job.write else longest
        waiting = _Waiting(job, rows, slots)
        if waiting.size > self.limits.cache_slots:
            raise Rejected(
                f"{job.choices} answers of {slots} tokens, prompt included, need {waiting.size} slots of the cache, "
                f"which has {self.limits.cache_slots}. Ask for fewer answers or tokens.", 400, "max_tokens",
            )  # fmt: skip
        job.prompt_tokens = sum(len(row.tokens) for row in rows)
        return waiting

    def _admit(self) -> None:
        """Let the next jobs in as far as there is room, in the order they came, and read their prompts.

        Reading one prompt takes about as long as a step of all answers, so prompts come in several at a time where
        many answers are running.
        """
        self._waited += 1
        if len(self._plain) < self.running // 8 and self._waited < PATIENCE:
            return
        self._waited = 0
        chosen: dict[Any, list[_Waiting]] = {}
        # For each lane its rows and its widest one, as they will be.
        shapes = {key: (len(lane.seats), lane.width) for key, lane in self._lanes.items()}
        tokens = 0
        while self._plain:
            item = self._plain[0]
            key, prompt = item.job.key, item.job.prompt_tokens
            rows, width = shapes.get(key, (0, 0))
            grown = {**shapes, key: (rows + item.job.choices, max(width, item.slots))}
            full = len(grown) > self.limits.lanes
            crowded = bool(shapes) and sum(rows * width for rows, width in grown.values()) > self.limits.cache_slots
            if full or crowded or (tokens and tokens + prompt > PREFILL):
                break
            self._plain.popleft()
            chosen.setdefault(key, []).append(item)
            shapes, tokens = grown, tokens + prompt
            self._paced()
        for key, items in chosen.items():
            try:
                lane = self._lanes.get(key) or _Lane(items[0].job.model, self.usage)
                self._join(lane, items)
                if lane.seats:
                    self._lanes[key] = lane
            except Exception as error:
                self._failed([item.job for item in items], error)
                if key in self._lanes:
                    gone = {id(item.job) for item in items}
                    lane.running.leave([seat for seat in lane.seats if id(seat.job) in gone])  # type: ignore[union-attr]

    def _paced(self) -> None:
        now = time.monotonic()
        if self._began is not None:
            self._pace += 0.1 * (now - self._began - self._pace)
        self._began = now if self.waiting else None

    def _join(self, lane: _Lane, items: Sequence[_Waiting]) -> None:
        """Read prompts and let their answers into the lane's batch."""
        together = [(item, row) for item in items for row in item.rows if not (item.job.echo and item.job.logprobs)]
        for group in batches([len(row.tokens) for _, row in together], PREFILL, None):
            part = [together[at] for at in group if together[at][0].job.write]
            if part:
                self._seat(lane, lane.engine.prefill([row.tokens for _, row in part]), part)
        for item in items:
            read = Read()
            if item.job.echo:
                read.texts = [_prompt_text(item.job, row) for row in item.rows]
                for row in item.rows if item.job.logprobs else ():
                    batch, found = prompt_logprobs(lane.engine, row.tokens, item.job.top)
                    read.prompts.append(found)
                    if item.job.write:
                        self._seat(lane, batch, [(item, row)])
            item.job.send(read)
            if not item.job.write:
                nothing = lane.engine.completion(item.rows[0], [], item.job.sampling, "length")
                deliver([(item.job, Piece(choice, done=nothing)) for choice in range(item.job.choices)])

    def _seat(self, lane: _Lane, batch: Any, part: Sequence[tuple[_Waiting, Row]]) -> None:
        rows, seats = [], []
        for at, (item, row) in enumerate(part):
            job = item.job
            for sample in range(job.sampling.n):
                pieces: list[str] = []
                draft = lane.engine.draft(row, job.sampling, pieces.append if job.stream else None)
                rows.append(at)
                seats.append(
                    _Seat(
                        draft, noise_stream(row.tokens, sample), job.sampling, job.top, job=job,
                        choice=row.index * job.sampling.n + sample, pieces=pieces, slots=item.slots,
                    )
                )  # fmt: skip
        if rows != list(range(len(batch))):
            batch = batch.select(rows)
        if lane.running is None:
            lane.running = Running(batch, seats)
        else:
            lane.running.join(batch, seats)

    def _step(self, lane: _Lane) -> None:
        if lane.running is None or not lane.seats:
            return
        events: list[tuple[Job, Event]] = []
        ended = lane.running.step()
        self.steps += 1
        for seat in ended:
            seat.job.completion_tokens += len(seat.draft.tokens)  # type: ignore[attr-defined]
        for seat in [*ended, *lane.seats]:
            over = seat.draft.reason is not None
            if over or (seat.job.stream and seat.pieces):
                events.append((seat.job, self._piece(seat, over)))
        # All at once, so that the event loop is woken once a step.
        deliver(events)

    def _piece(self, seat: Any, over: bool) -> Piece:
        piece = Piece(seat.choice, "".join(seat.pieces), done=seat.draft.completion() if over else None)
        seat.pieces.clear()
        if seat.job.logprobs:
            piece.tokens = [
                Token(seat.draft.tokens[at], seat.draft.logprobs[at], seat.likeliest[at] if seat.top else ())
                for at in range(seat.sent, len(seat.draft.tokens))
            ]
            seat.sent = len(seat.draft.tokens)
        return piece

    # --- searches ----------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        """Run the first waiting search, and with it those that ask the same model with the same settings."""
        group: list[_Waiting] = []
        taken = 0
        for item in list(self._searches):
            if not group or (item.job.key, item.job.sampling) == (group[0].job.key, group[0].job.sampling):
                if group and taken + item.size > self.limits.cache_slots:
                    break
                self._searches.remove(item)
                group.append(item)
                taken += item.size
                self._paced()
        if not group:
            return
        self._searching = group
        places = [(item, row) for item in group for row in item.rows]
        rows = [dataclasses.replace(row, index=at) for at, (_, row) in enumerate(places)]
        for item in group:
            item.job.send(Read([_prompt_text(item.job, row) for row in item.rows] if item.job.echo else []))

        def stream(row: int, sample: int, text: str) -> None:
            item, asked = places[row]
            if item.job.stream:
                item.job.send(Piece(asked.index * item.job.sampling.n + sample, text))

        model, how = group[0].job.model, group[0].job.sampling
        try:
            found = generate(model, rows, how, stream=stream, between=self._between(group))
        except _Abandoned:
            return
        except Exception as error:
            self._failed([item.job for item in group], error)
            return
        finally:
            self._searching = []
        for who, calls in found.usage.calls.items():
            self.usage.count(who, calls, found.usage.positions.get(who, 0))
        answers = iter(found)
        for item in group:
            for choice in range(item.job.choices):
                done = next(answers)
                item.job.completion_tokens += len(done.tokens)
                item.job.send(Piece(choice, done=done))

    def _between(self, group: Sequence[_Waiting]) -> Callable[[], None]:
        def between() -> None:
            if self._stopping or all(item.job.cancelled for item in group):
                raise _Abandoned
            self._turn()

        return between

    # --- errors ------------------------------------------------------------------------------------------------------

    def _failed(self, jobs: Any, error: Exception) -> None:
        if not isinstance(error, TruingError):
            # Without the message, which may hold text of a prompt.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("A request failed with %s:\n%s", type(error).__name__, where)
        deliver([(job, error) for job in jobs])

    def _fail_all(self, error: Exception) -> None:
        jobs = {*self._inbox, *(item.job for item in (*self._plain, *self._searches))}
        jobs.update(seat.job for lane in self._lanes.values() for seat in lane.seats)
        for queue in (self._inbox, self._plain, self._searches):
            queue.clear()
        self._lanes.clear()
        if jobs:
            self._failed(jobs, error)


def _prompt_text(job: Job, row: Row) -> str:
    asked = job.prompts[row.index]
    if asked.text is not None:
        return asked.text
    return str(job.model.tokenizer.decode(list(row.tokens), clean_up_tokenization_spaces=False))
