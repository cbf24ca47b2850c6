from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from truing import progress
from truing.cli.watching import Bars, Lines, counted, watching


def bars(width: int = 100) -> tuple[Bars, Console]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    return Bars(console), console


def now(shown: Bars) -> list[str]:
    """The bars as they stand."""
    file = io.StringIO()
    Console(file=file, width=100).print(shown.progress.get_renderable())
    return file.getvalue().splitlines()


def test_a_bar_moves_when_work_is_done_and_not_before() -> None:
    shown, _ = bars()
    with progress.listening(shown), progress.task("answers", 300) as bar:
        assert "0 of 300" in now(shown)[0]
        bar.advance(32, "loss 0.31")
        assert "32 of 300" in now(shown)[0]
        assert "loss 0.31" in now(shown)[0]
        bar.advance(100)
        assert "132 of 300" in now(shown)[0]
        assert "loss 0.31" in now(shown)[0]


def test_parts_of_a_work_stand_below_it_and_go_when_done() -> None:
    shown, _ = bars()
    with progress.listening(shown), progress.task("run", 3) as outer:
        with progress.task("DPO", None) as inner:
            inner.advance(5)
            lines = now(shown)
            assert lines[0].startswith("run")
            assert lines[1].startswith("  DPO")
            assert " 5 " in lines[1]
        outer.advance()
        assert len(now(shown)) == 1
    assert not shown.progress.live.is_started


def test_a_work_that_fails_leaves_no_bar() -> None:
    shown, _ = bars()
    with pytest.raises(ValueError), progress.listening(shown), progress.task("run", 3):
        raise ValueError
    assert not shown.progress.live.is_started
    assert shown.progress.tasks == []


def test_lines_stay_and_nothing_in_them_is_obeyed() -> None:
    shown, console = bars(40)
    with progress.listening(shown), progress.task("[red]x[/red]\x1b[2J", 2) as bar:
        progress.say("Step 1 of [bold]2[/bold]\x1b[2J, with more words than one line of a terminal holds.")
        assert "[red]x[/red]\\x1b[2J" in now(shown)[0]
        bar.advance(1, "[red]\x07")
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Step 1 of [bold]2[/bold]\\x1b[2J, with more words than one line of a terminal holds.\n" in written
    assert "\x1b[2J" not in re.sub(r"\x1b\[2K", "", written)


@pytest.mark.parametrize("width", [60, 80])
def test_a_bar_is_one_line(width: int) -> None:
    shown, _ = bars(width)
    with progress.listening(shown), progress.task("a long name of a piece of work", 12345) as bar:
        bar.advance(1234, "loss 0.512, accuracy 0.81, 24,119 tokens/s and more")
        file = io.StringIO()
        Console(file=file, width=width).print(shown.progress.get_renderable())
        assert len(file.getvalue().splitlines()) == 1


def test_without_a_terminal_there_are_lines_now_and_then() -> None:
    file = io.StringIO()
    with progress.listening(Lines(file, every=0)), progress.task("answers", 1000) as bar:
        progress.say("begun \x1b")
        bar.advance(250, "note")
    assert file.getvalue() == "begun \\x1b\nanswers: 250 of 1,000, note\n"
    quiet = io.StringIO()
    with progress.listening(Lines(quiet)), progress.task("answers", 1000) as bar:
        bar.advance(1000)
    assert quiet.getvalue() == ""


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with watching():
        progress.say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_counts() -> None:
    assert counted(1234, 5678) == "1,234 of 5,678"
    assert counted(0.5, None) == "0.5"
