"""Reading what a judge replies: a line behind a label, or one JSON object. Nothing is ever guessed."""

from __future__ import annotations

import json
import re
from typing import Any

NOT_APPLICABLE = "N/A"


class Unreadable(Exception):
    """A reply that says nothing, or two things; its text names what is wrong, in words that the judge is told."""


def said(label: str, reply: str, *, cut: bool = False) -> Any:
    """What a reply says: behind the label on a line of its own (``Score: 7``), or in a JSON object under its name.

    Lines that begin with ">" are quotations, whatever they hold. A reply that has both forms must say the same twice.

    Args:
        label: the word before the colon; as a key of JSON in lower case.
        reply: any text.
        cut: the reply ran into its length limit, so its end may lack.

    Raises:
        Unreadable: neither form is there once, or the two do not agree.
    """
    lines = _lines(label, reply)
    if len(lines) > 1:
        raise Unreadable(f"it has {len(lines)} lines that begin with `{label}:`, and must have one")
    if lines and cut and lines[0].end() == len(reply):
        raise Unreadable("it was cut by its length limit")
    own = "\n".join(line for line in reply.split("\n") if not line.lstrip().startswith(">"))
    held = read_object(own, cut=cut)
    named = {key.strip().lower(): value for key, value in held.items()} if held else {}
    inside = named.get(label.lower())
    if lines and inside is not None and str(inside).strip() != lines[0][1]:
        raise Unreadable(f"its line `{label}:` and its JSON do not say the same")
    if lines:
        return lines[0][1]
    if inside is None:
        cause = "it was cut by its length limit" if cut else f"it has no line that begins with `{label}:`"
        raise Unreadable(cause)
    return inside.strip() if isinstance(inside, str) else inside


def said_after(label: str, reply: str, *, cut: bool = False) -> str | None:
    """What stands behind a label (``Score: 7``) in a reply, or None unless exactly one line begins with it.

    Args:
        label: the word before the colon.
        reply: any text.
        cut: the reply ran into its length limit, so its last line may lack an end ("Score: 1" of "Score: 10").
    """
    lines = _lines(label, reply)
    if len(lines) != 1 or (cut and lines[0].end() == len(reply)):
        return None
    return lines[0][1]


def _lines(label: str, reply: str) -> list[re.Match[str]]:
    return list(re.finditer(rf"^[ \t]*{re.escape(label)}:[ \t]*(.*?)\s*$", reply, re.MULTILINE))


def read_object(reply: str, *, cut: bool = False) -> dict[str, Any] | None:
    """The one JSON object in a reply, or None.

    Forms that differ from JSON are mended where their meaning is plain (a fence or words around the object, commas too
    many, curly or single quotes, line breaks in a text, closing braces that lack).

    Args:
        reply: any text.
        cut: the reply ran into its length limit, so its last number may lack digits: no brace is added.
    """
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0:
        return None
    whole = reply[start : end + 1] if end > start else ""
    forms = _forms(whole)
    if not cut:
        for text in (reply[start:].rstrip().removesuffix("```").rstrip(), whole):
            forms += [form + "}" * _unclosed(form) for form in _forms(text)]
    for form in forms:
        try:
            held = json.loads(form, strict=False, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            continue
        if isinstance(held, dict):
            return held
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once each: of two scores for one aspect none is the one."""
    names = [key.strip().lower() for key, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _forms(text: str) -> list[str]:
    """A text, and what may have been meant by it, in the order in which they are tried."""
    if not text:
        return []
    curly = re.sub(r"[\u201c\u201d\u201e]", '"', text)
    bare = re.sub(r"(:\s*)(n/?a)(?=\s*[,}])", rf'\1"{NOT_APPLICABLE}"', curly, flags=re.IGNORECASE)
    commas = re.sub(r",(\s*[}\]])", r"\1", bare)
    single = re.sub(r"(?<=[{,:\s])'|'(?=\s*[,:}])", '"', commas) if '"' not in commas else commas
    return list(dict.fromkeys([text, commas, single]))


def _unclosed(text: str) -> int:
    """Braces that are open at the end, those inside strings apart."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    return max(0, bare.count("{") - bare.count("}"))
