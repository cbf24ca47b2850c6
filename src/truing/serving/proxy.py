"""Jobs of remote models: asked in threads of their own, since they wait for another server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from truing.serving.jobs import Job, Piece, Read, Rejected
from truing.serving.limits import Limits

THREADS = 16


class Proxy:
    """Passes jobs on to the servers of remote models; their prompt and search modifiers act here.

    A request on its way cannot be taken back: a client that goes away frees its thread when the other server has
    answered.

    Args:
        limits: see `Limits`.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._taken = 0

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        return max(0, self._taken - THREADS)

    @property
    def running(self) -> int:
        """Requests on their way."""
        return min(self._taken, THREADS)

    def submit(self, job: Job) -> None:
        """Take a job on.

        Raises:
            Rejected: too many wait already.
        """
        with self._lock:
            if self.waiting >= self._limits.waiting:
                raise Rejected(
                    f"{self._limits.waiting} requests wait already. Come again later.", 429, None, "too_many_requests",
                    {"Retry-After": "2"},
                )  # fmt: skip
            self._taken += 1
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="truing-proxy")
        self._pool.submit(self._run, job)

    def stop(self) -> None:
        """Begin nothing more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: Job) -> None:
        try:
            if not job.cancelled:
                self._ask(job)
        except Exception as error:
            job.send(error)
        finally:
            with self._lock:
                self._taken -= 1

    def _ask(self, job: Job) -> None:
        how = job.sampling
        begun = threading.Event()

        def piece(prompt: int, sample: int, text: str) -> None:
            if not begun.is_set():
                begun.set()
                job.send(Read())
            job.send(Piece(prompt * how.n + sample, text))

        prompts: list[Any] = [asked.messages for asked in job.prompts]
        found = job.model.generate(
            prompts, max_new_tokens=how.max_new_tokens, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p,
            n=how.n, stop=how.stop, seed=how.seed, stream=piece if job.stream else None,
        )  # fmt: skip
        job.prompt_tokens, job.completion_tokens = found.usage.prompt_tokens, found.usage.completion_tokens
        if not begun.is_set():
            job.send(Read())
        for choice, answer in enumerate(found):
            job.send(Piece(choice, done=answer))
