"""Untrusted text made visible and harmless: for reading, inside Markdown, and in what a model is asked."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_DIRECTION = "\u200e\u200f\u202a-\u202e\u2066-\u2069"


def visible(text: Any, most: int = 4000) -> str:
    """Text in which nothing is hidden.

    Control and direction characters and lone surrogates are written out; long text is cut and says so.
    """
    shown = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, default=str)
    cut = len(shown) - most
    shown = shown[:most]
    shown = re.sub(
        f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029{_DIRECTION}\ud800-\udfff]",
        lambda found: f"⟨U+{ord(found[0]):04X}⟩",
        shown,
    )
    return f"{shown}… ({cut:,} more characters)" if cut > 0 else shown


def inert(text: str) -> str:
    """Lines of text that cannot steer a terminal: what cannot be printed is replaced. The two signs that only part and
    join letters stay, since words of many scripts are written with them.
    """
    return "".join(letter if letter.isprintable() or letter in "\n\u200c\u200d" else "\ufffd" for letter in text)


def isolated(text: str) -> str:
    """Text whose lines keep their own direction inside text of another: letters from right to left, and the stops that
    belong to them, do not move what stands beside them. Text without such letters stays as it is.
    """
    return "\n".join(
        f"\u2068{line}\u2069" if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in line) else line
        for line in text.split("\n")
    )


def plain(text: Any) -> str:
    """Text in which Markdown and HTML mean nothing, on one line."""
    line = " ".join(visible(text, 1000).split())
    line = re.sub(r"([\\`*_{}\[\]()#+!|~>])", r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;")


def code(text: str) -> str:
    """Text as inline code, whatever backticks it holds."""
    line = " ".join(visible(text, 300).split()).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: str) -> str:
    """Text as a code block, whatever backticks it holds."""
    shown = visible(text)
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", shown)), default=0) + 1)
    return f"{fence}\n{shown}\n{fence}"


def quoted(text: str) -> str:
    """Every line behind a mark, whatever counts as the end of a line, so that no text can end its own quotation."""
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


def filled(template: str, **slots: str) -> str:
    """A template with its slots filled in one pass, so that braces in what is filled in stay text."""
    return re.sub(r"\{(\w+)\}", lambda found: slots.get(found[1], found[0]), template)
