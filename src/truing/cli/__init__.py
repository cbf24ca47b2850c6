"""The command line: ``truing``. Commands import what they use, so that help is quick."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from truing.errors import TruingError

RESUMABLE = ("run", "align")
"""Commands that go on where they stopped, given the same words again."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 after a user's mistake (one message), 130 after an interrupt, 1 on a bug."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end] or os.environ.get("TRUING_DEBUG", "") not in ("", "0")
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    try:
        sys.exit(_run(words))
    except TruingError as error:
        if debug:
            traceback.print_exc()
        _complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        _stopped(words)
    except BrokenPipeError:
        # The reader went away; the interpreter must not complain about it when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        _complain(f"{type(error).__name__}: {error}\nThis is a fault of truing. For the traceback, add --debug.")
        sys.exit(1)


def _run(words: list[str]) -> int:
    from typer import BadParameter

    from truing.cli.app import app

    # typer brings its own copy of click in some versions; the base of its errors is found by name in all of them.
    mistake: Any = next(base for base in BadParameter.__mro__ if base.__name__ == "ClickException")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        # What libraries tell developers is not for the person who types a command.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(words, prog_name="truing", standalone_mode=False)
    except mistake as error:
        if error.__class__.__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 2
        context = getattr(error, "ctx", None)
        hint = f"\nSee `{context.command_path} --help`." if context is not None else ""
        _complain(error.format_message() + hint)
        return 2
    if code == 130:  # typer turns an interrupt into this code without a word
        _stopped(words)
    return code if isinstance(code, int) else 0


def _complain(message: str) -> None:
    from truing.cli.text import printable

    print(f"error: {printable(message)}", file=sys.stderr)


def _stopped(words: Sequence[str]) -> None:
    command = next((word for word in words if not word.startswith("-")), "")
    again = " The same command goes on where it stopped." if command in RESUMABLE else ""
    print(f"Stopped.{again}", file=sys.stderr)
    sys.exit(130)
