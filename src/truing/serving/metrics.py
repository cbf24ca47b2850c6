"""Counters of a server in Prometheus' text format."""

from __future__ import annotations

import bisect
import collections
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truing.serving.jobs import Job

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Counter:
    """A number that only grows, by labels.

    Args:
        name: of the metric.
        told: what it counts.
        labels: names of its labels.
    """

    kind = "counter"

    def __init__(self, name: str, told: str, labels: Sequence[str] = ()) -> None:
        self.name, self.told, self.labels = name, told, tuple(labels)
        self._values: dict[tuple[str, ...], float] = collections.defaultdict(float)
        if not labels:
            self._values[()] = 0.0

    def add(self, value: float = 1.0, *labels: str) -> None:
        """Count; one value for each label."""
        self._values[labels] += value

    def put(self, value: float, *labels: str) -> None:
        """Set to what was counted elsewhere."""
        self._values[labels] = value

    def lines(self) -> list[str]:
        """In the text format."""
        rows = [
            f"{self.name}{_labels(self.labels, key)} {_number(value)}" for key, value in sorted(self._values.items())
        ]
        return [*_head(self.name, self.told, self.kind), *rows]


class Gauge(Counter):
    """A number that goes up and down."""

    kind = "gauge"


class Histogram:
    """Seconds, sorted into buckets, by labels; see `Counter`."""

    def __init__(self, name: str, told: str, labels: Sequence[str] = ()) -> None:
        self.name, self.told, self.labels = name, told, tuple(labels)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = collections.defaultdict(float)

    def observe(self, seconds: float, *labels: str) -> None:
        """Count one."""
        counts = self._counts.setdefault(labels, [0] * (len(SECONDS) + 1))
        counts[bisect.bisect_left(SECONDS, seconds)] += 1
        self._sums[labels] += seconds

    def lines(self) -> list[str]:
        """In the text format."""
        out = _head(self.name, self.told, "histogram")
        for key, counts in sorted(self._counts.items()):
            total = 0
            for edge, count in zip((*map(_number, SECONDS), "+Inf"), counts):
                total += count
                out.append(f"{self.name}_bucket{_labels((*self.labels, 'le'), (*key, edge))} {total}")
            out.append(f"{self.name}_sum{_labels(self.labels, key)} {_number(self._sums[key])}")
            out.append(f"{self.name}_count{_labels(self.labels, key)} {total}")
        return out


class Metrics:
    """All that a server counts. Labels hold names of the server's own only, so that they cannot grow."""

    def __init__(self) -> None:
        self.requests = Counter("truing_requests_total", "Requests answered.", ("endpoint", "model", "status"))
        self.seconds = Histogram("truing_request_seconds", "From a request to its last token.", ("endpoint",))
        self.first = Histogram(
            "truing_first_token_seconds", "From a streamed request to its first token.", ("endpoint",)
        )
        self.prompt_tokens = Counter("truing_prompt_tokens_total", "Tokens of prompts.", ("model",))
        self.completion_tokens = Counter("truing_completion_tokens_total", "Tokens written.", ("model",))
        self.gone = Counter("truing_clients_gone_total", "Requests whose client went away.")
        self.waiting = Gauge("truing_requests_waiting", "Requests whose turn has not come.")
        self.running = Gauge("truing_answers_running", "Answers being written.")
        self.slots = Gauge("truing_cache_slots", "Cache slots reserved for running answers.")
        self.steps = Counter("truing_steps_total", "Steps of running batches.")
        self.passes = Counter("truing_forward_passes_total", "Forward passes, by the part a model has.", ("part",))
        self.positions = Counter("truing_positions_total", "Token positions that those read.", ("part",))

    def text(self) -> str:
        """The page that Prometheus reads."""
        return "\n".join(line for metric in vars(self).values() for line in metric.lines()) + "\n"


class Observed:
    """What one request adds to the metrics, once.

    Args:
        metrics: where it is counted.
        endpoint: "chat" or "completions".
    """

    def __init__(self, metrics: Metrics, endpoint: str) -> None:
        self.model = ""
        self._metrics, self._endpoint, self._began = metrics, endpoint, time.monotonic()
        self._first = self._done = False

    def first(self) -> None:
        """A stream has its first piece."""
        if not self._first:
            self._first = True
            self._metrics.first.observe(time.monotonic() - self._began, self._endpoint)

    def done(self, status: int, job: Job | None = None) -> None:
        """The request has ended; ``job`` says how many tokens it took."""
        if self._done:
            return
        self._done = True
        self._metrics.requests.add(1, self._endpoint, self.model, str(status))
        self._metrics.seconds.observe(time.monotonic() - self._began, self._endpoint)
        if job is not None:
            self._metrics.prompt_tokens.add(job.prompt_tokens, self.model)
            self._metrics.completion_tokens.add(job.completion_tokens, self.model)

    def gone(self, job: Job | None = None) -> None:
        """The client went away."""
        if not self._done:
            self._metrics.gone.add()
        self.done(499, job)


def _head(name: str, told: str, kind: str) -> list[str]:
    return [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
