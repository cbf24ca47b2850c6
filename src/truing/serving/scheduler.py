"""Continuous batching: one thread owns the models, and requests join and leave its running batches between steps."""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from truing.errors import TruingError
from truing.models.engine import generate
from truing.models.modifiers import SearchModifier
from truing.models.types import Row, Usage
from truing.serving.jobs import Job, Piece, Read, Rejected, deliver, log_failure
from truing.serving.lanes import PREFILL, Lane, Waiting
from truing.serving.limits import Limits
from truing.serving.reading import check_lengths, encode, positions, prompt_texts

PATIENCE = 4  # steps that a few new prompts wait at most for others to be read with them


class _Abandoned(Exception):
    """Nobody waits for a search any longer, or the server stops."""


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
        self._plain: collections.deque[Waiting] = collections.deque()
        self._searches: collections.deque[Waiting] = collections.deque()
        self._searching: list[Waiting] = []
        self._lanes: dict[Any, Lane] = {}
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
        self._fail_all(_stopped())

    def _turn(self) -> None:
        """One step of all that runs, after what is new has joined and what is given up has left."""
        self._take()
        for queue in (self._plain, self._searches):
            if any(item.job.cancelled for item in queue):
                left = [item for item in queue if not item.job.cancelled]
                queue.clear()
                queue.extend(left)
        for key, lane in list(self._lanes.items()):
            gone = {job for job in lane.jobs if job.cancelled}
            if gone:
                lane.leave(gone)
            if not lane.seats:
                del self._lanes[key]
        self._admit()
        for key, lane in list(self._lanes.items()):
            jobs = lane.jobs
            try:
                lane.step()
            except Exception as error:
                # With answers that ended in this very step, and have left the batch without being sent.
                self._failed(jobs, error)
                del self._lanes[key]
                continue
            self.steps += 1
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

    def _checked(self, job: Job, rows: list[Row]) -> Waiting:
        limit = positions(job.model)
        longest = max(len(row.tokens) for row in rows)
        check_lengths(job, rows, self.limits.prompt_tokens)
        slots = int(min(longest + job.sampling.max_new_tokens, limit)) if job.write else longest
        waiting = Waiting(job, rows, slots)
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
        chosen: dict[Any, list[Waiting]] = {}
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
                lane = self._lanes.get(key) or Lane(items[0].job.model, self.usage)
                lane.join(items)
                if lane.seats:
                    self._lanes[key] = lane
            except Exception as error:
                jobs = {item.job for item in items}
                self._failed(jobs, error)
                if key in self._lanes:
                    lane.leave(jobs)

    def _paced(self) -> None:
        now = time.monotonic()
        if self._began is not None:
            self._pace += 0.1 * (now - self._began - self._pace)
        self._began = now if self.waiting else None

    # --- searches ----------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        """Run the first waiting search, and with it those that ask the same model with the same settings."""
        group: list[Waiting] = []
        taken = 0
        for item in list(self._searches):
            if not group or (item.job.key, item.job.sampling) == (group[0].job.key, group[0].job.sampling):
                if group and taken + item.size > self.limits.cache_slots:
                    break
                self._searches.remove(item)
                group.append(item)
                taken += item.size
                self._paced()
        self._searching = group
        places = [(item, row) for item in group for row in item.rows]
        rows = [dataclasses.replace(row, index=at) for at, (_, row) in enumerate(places)]
        for item in group:
            item.job.send(Read(prompt_texts(item.job, item.rows)))

        def stream(row: int, sample: int, text: str) -> None:
            item, asked = places[row]
            if item.job.stream:
                item.job.send(Piece(asked.index * item.job.sampling.n + sample, text))

        model, how = group[0].job.model, group[0].job.sampling
        try:
            found = generate(model, rows, how, stream=stream, between=self._between(group))
        except Exception as error:
            # Where nobody waits any longer nobody hears it.
            self._failed([item.job for item in group], _stopped() if isinstance(error, _Abandoned) else error)
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

    def _between(self, group: Sequence[Waiting]) -> Callable[[], None]:
        def between() -> None:
            if self._stopping or all(item.job.cancelled for item in group):
                raise _Abandoned
            self._turn()

        return between

    # --- errors ------------------------------------------------------------------------------------------------------

    def _failed(self, jobs: Iterable[Job], error: Exception) -> None:
        if not isinstance(error, TruingError):
            log_failure(error)
        deliver([(job, error) for job in jobs])

    def _fail_all(self, error: Exception) -> None:
        jobs = {*self._inbox, *(item.job for item in (*self._plain, *self._searches))}
        jobs.update(*(lane.jobs for lane in self._lanes.values()))
        for queue in (self._inbox, self._plain, self._searches):
            queue.clear()
        self._lanes.clear()
        if jobs:
            self._failed(jobs, error)


def _stopped() -> Rejected:
    return Rejected("The server is stopping. Ask again later.", 503, None, "stopping")
