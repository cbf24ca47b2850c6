"""Progress of long work, told to whoever listens: a terminal, a log file, or nobody."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol


class Task(Protocol):
    """One bar. ``advance`` is called when work is done, never before."""

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Count finished steps; the note (``loss 0.31``, say) stands beside the bar."""


class Listener(Protocol):
    """What shows progress."""

    def task(self, label: str, total: float | None) -> contextlib.AbstractContextManager[Task]:
        """Open a bar of ``total`` steps, or of unknown length."""

    def say(self, text: str) -> None:
        """A line that should stay (a warning, a finished step)."""


class _Silent:
    def advance(self, steps: float = 1, note: str = "") -> None:
        return


class SilentListener:
    """Shows nothing."""

    @contextlib.contextmanager
    def task(self, label: str, total: float | None) -> Iterator[Task]:
        yield _Silent()

    def say(self, text: str) -> None:
        return


_SILENT = SilentListener()
_listener: ContextVar[Listener] = ContextVar("truing_progress", default=_SILENT)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the progress of everything inside the block to a listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def listener() -> Listener:
    """Who listens now, for a listener that passes on what it hears."""
    return _listener.get()


def task(label: str, total: float | None = None) -> contextlib.AbstractContextManager[Task]:
    """Open a bar: ``with progress.task("answers", 300) as bar: bar.advance(32)``."""
    return _listener.get().task(label, total)


def say(text: str) -> None:
    """A line for the person who watches."""
    _listener.get().say(text)


def tell(text: str) -> None:
    """A line for whoever watches; where nobody does, a warning in the log."""
    if isinstance(_listener.get(), SilentListener):
        logging.getLogger("truing").warning(text)
    else:
        say(text)
