"""Progress on a terminal: bars that move when work is done, nested ones below, and lines that stay."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from truing import progress
from truing.cli.text import console, printable, styled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

EVERY = 30.0
"""Seconds between two lines about one piece of work, where there is no terminal."""


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Show the progress of everything inside the block on standard error: bars on a terminal, else plain lines."""
    shown = console(stderr=True)
    listener: progress.Listener = Bars(shown) if shown.is_terminal else Lines(shown.file)
    with progress.listening(listener):
        yield


class Lines:
    """Lines as they are said, and every 30 seconds how far a longer piece of work is."""

    def __init__(self, file: IO[str], every: float = EVERY) -> None:
        self.file = file
        self.every = every

    @contextlib.contextmanager
    def task(self, label: str, total: float | None) -> Iterator[progress.Task]:
        """A piece of work; a short one is not mentioned."""
        yield _Counted(self, label, total)

    def say(self, text: str) -> None:
        """Write a line."""
        print(printable(text), file=self.file, flush=True)


class _Counted:
    def __init__(self, lines: Lines, label: str, total: float | None) -> None:
        self.lines, self.label, self.total = lines, label, total
        self.done, self.spoke = 0.0, time.monotonic()

    def advance(self, steps: float = 1, note: str = "") -> None:
        self.done += steps
        if time.monotonic() - self.spoke >= self.lines.every:
            self.spoke = time.monotonic()
            self.lines.say(f"{self.label}: {counted(self.done, self.total)}{f', {note}' if note else ''}")


class Bars:
    """Bars in rich. A finished one goes, and what is said stays above them."""

    def __init__(self, shown: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        def text(what: str, style: str = "", **column: Any) -> TextColumn:
            return TextColumn(what, markup=False, style=style, table_column=Column(no_wrap=True, **column))

        self.progress = Progress(
            text("{task.description}", max_width=30),
            BarColumn(bar_width=16),
            text("{task.fields[count]}", justify="right"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            text("{task.fields[note]}", "dim", ratio=1),
            console=shown,
            transient=True,
            expand=True,
        )
        self.open = 0

    @contextlib.contextmanager
    def task(self, label: str, total: float | None) -> Iterator[progress.Task]:
        """A bar, below those of the work that it is a part of."""
        if not self.open:
            self.progress.start()
        name = "  " * self.open + " ".join(printable(label).split())
        self.open += 1
        handle = self.progress.add_task(name, total=total, count=counted(0, total), note="")
        try:
            yield _Bar(self, handle, total)
        finally:
            self.open -= 1
            self.progress.remove_task(handle)
            if not self.open:
                self.progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.progress.console.print(styled(text), soft_wrap=True)


class _Bar:
    def __init__(self, bars: Bars, handle: TaskID, total: float | None) -> None:
        self.bars, self.handle, self.total = bars, handle, total
        self.done, self.note = 0.0, ""

    def advance(self, steps: float = 1, note: str = "") -> None:
        self.done += steps
        self.note = " ".join(printable(note).split()) or self.note
        self.bars.progress.update(self.handle, advance=steps, count=counted(self.done, self.total), note=self.note)


def counted(done: float, total: float | None) -> str:
    """``120 of 1,000``."""
    now = f"{done:,.0f}" if float(done).is_integer() else f"{done:,.1f}"
    return now if total is None else f"{now} of {total:,.0f}"
