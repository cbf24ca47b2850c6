"""Text from models and files, made safe for a terminal, and the consoles that print it."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# Control characters but for line breaks and tabs; marks that turn the direction of text; halves of characters.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters, ANSI escapes among them, shown as ``\\x1b`` and not obeyed."""

    def shown(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return _UNSAFE.sub(shown, text)


def one_line(text: str, width: int = 0) -> str:
    """Printable text in one line, cut with an ellipsis to a width if one is given."""
    line = " ".join(printable(text).split())
    return line if not width or len(line) <= width else line[: width - 1].rstrip() + "…"


def as_json(value: Any, indent: int | None = 2) -> str:
    """JSON that a terminal cannot obey either. Numbers that JSON does not know become null."""
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    return harmless(text)


def harmless(text: str) -> str:
    """JSON with the letters that a terminal obeys escaped."""
    # Line breaks of the layout are not in the pattern, and those in strings are escaped already.
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def emit(text: str = "") -> None:
    """Print a line of data as it is: not wrapped, not coloured."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def console(stderr: bool = False) -> Console:
    """A console on which nothing is parsed as markup. Into a pipe or a file it writes 160 columns, or ``COLUMNS``."""
    from rich.console import Console

    plain: dict[str, Any] = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}
    made = Console(**plain)
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(**plain, width=160)


def show(*parts: Any) -> None:
    """Print texts and tables to standard output; into a pipe or a file without the blanks that fill a line."""
    shown = console()
    for part in parts:
        if shown.is_terminal:
            shown.print(part)
            continue
        with shown.capture() as written:
            shown.print(part)
        emit("\n".join(line.rstrip() for line in written.get().removesuffix("\n").split("\n")))


def styled(text: str, style: str = "") -> Text:
    """Printable text with a style; what looks like markup in it is text."""
    from rich.text import Text

    return Text(printable(text), style=style)


def columns(*headings: str, wrap: int = -1) -> Table:
    """A table without lines; the column ``wrap`` (the last by default) is the one that may break."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(headings), header_style="bold")
    for index, heading in enumerate(headings):
        breaks = index == wrap % len(headings)
        table.add_column(heading, no_wrap=not breaks, overflow="fold")
    return table
