"""Untrusted text made visible and harmless, and what changed between two answers."""

from __future__ import annotations

import difflib
import re
from typing import Any

from truing.safe_text import isolated, visible

MOST_WORDS = 600
"""Longer answers are compared as wholes: a word diff of two long texts costs more than it shows."""


def conversation(prompt: Any) -> str:
    """A prompt for reading: a plain string as it is, messages with who says what."""
    if isinstance(prompt, list) and prompt and all(isinstance(item, dict) and "content" in item for item in prompt):
        if len(prompt) == 1 and prompt[0].get("role") == "user":
            return visible(prompt[0]["content"])
        return "\n".join(
            f"{visible(item.get('role', '?'), 20)}: {isolated(visible(item['content']))}" for item in prompt
        )
    return visible(prompt)


def word_diff(before: str, after: str) -> tuple[list[tuple[bool, str]], list[tuple[bool, str]]]:
    """Both texts as pieces, each marked whether it differs from the other text.

    Joining the pieces gives the texts again.
    """
    old, new = (re.findall(r"\s*\S+|\s+$", text) for text in (before, after))
    if max(len(old), len(new)) > MOST_WORDS:
        same = before == after
        return [(not same, before)], [(not same, after)]
    left: list[tuple[bool, str]] = []
    right: list[tuple[bool, str]] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(
        None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False
    ).get_opcodes():
        if i < j:
            left.append((tag != "equal", "".join(old[i:j])))
        if k < m:
            right.append((tag != "equal", "".join(new[k:m])))
    return left, right
