"""Text from models and files, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control characters, ANSI escapes among them, shown as ``\\x1b`` and not obeyed."""
    return "".join(f"\\x{ord(c):02x}" if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 else c for c in text)
