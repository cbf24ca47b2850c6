"""``log.txt``: what a run did and when, beside whatever the terminal shows."""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from truing import progress


class _Bar:
    def __init__(self, outer: progress.Task) -> None:
        self.outer = outer
        self.steps = 0.0
        self.note = ""

    def advance(self, steps: float = 1, note: str = "") -> None:
        self.steps += steps
        self.note = note or self.note
        self.outer.advance(steps, note)


class LogListener:
    """Writes every line and every finished bar to a file, and passes all of it on."""

    def __init__(self, file: TextIO, outer: progress.Listener) -> None:
        self.file = file
        self.outer = outer

    @contextlib.contextmanager
    def task(self, label: str, total: float | None) -> Iterator[progress.Task]:
        began = time.monotonic()
        with self.outer.task(label, total) as outer:
            bar = _Bar(outer)
            yield bar
        of = f" of {total:g}" if total is not None else ""
        note = f", {bar.note}" if bar.note else ""
        self.write(f"{label}: {bar.steps:g}{of} in {time.monotonic() - began:.1f} s{note}")

    def say(self, text: str) -> None:
        self.write(text)
        self.outer.say(text)

    def write(self, text: str) -> None:
        """A line with the time in UTC; line breaks inside it are indented, so that every entry begins with its time."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.file.write(f"{now} {text}".replace("\n", "\n    ") + "\n")
        self.file.flush()


class _Handler(logging.Handler):
    def __init__(self, listener: LogListener) -> None:
        super().__init__(logging.WARNING)
        self.listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        self.listener.write(f"{record.levelname.lower()} from {record.name}: {record.getMessage()}")


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[LogListener]:
    """Append to the log everything that is said inside the block, with warnings of the libraries."""
    with path.open("a", encoding="utf-8", errors="replace") as file:
        listener = LogListener(file, progress.listener())
        handler = _Handler(listener)
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            with progress.listening(listener):
                yield listener
        finally:
            root.removeHandler(handler)
