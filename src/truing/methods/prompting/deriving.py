"""Derived prompts: what the writer is asked, what can be used of what it wrote, and how near it is to the original."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from truing.contracts import Message, Prompt
from truing.methods.prompting.similarity import words as words_of
from truing.methods.prompting.writers import count_words, last_of_user, looks_like_an_answer, unquoted, word_spans

INSTRUCTION = (
    "Below is a question that somebody will ask. Write a new version of it that can be answered better: complete, easy "
    "to understand, and with the context that an answer needs. Keep what is asked for, and leave it open to be seen "
    "from several sides; do not narrow it to a few of them. Do not answer it, and explain nothing: return the new "
    "question alone.\n\nThe question:\n{prompt}\n\nThe new question:"
)
"""The derivation instruction, unless another is given."""

_NAME = r"(?:question|prompt|version|request|instruction)"
# "New question: …" on one line, or a line of its own such as "Sure! Here is a better version of the prompt:".
_LABEL = re.compile(rf"(?:the )?(?:(?:new|derived|rewritten|improved|better) )?{_NAME}\s*[:：]\s*", re.IGNORECASE)
_PREFACE = re.compile(rf"[^\n]{{0,200}}\b{_NAME}\b[^\n:：]{{0,60}}[:：][*_ \t]*\n+", re.IGNORECASE)


def cleaned(text: str, prompt: str = "") -> str:
    """What was written without a label or a line before it ("Here is the new question:") and quotation marks around it.

    Args:
        text: what the writer wrote.
        prompt: the original, which may begin with such words itself.
    """
    text = text.strip()
    for pattern in (_PREFACE, _LABEL):
        found = pattern.match(text)
        if found is not None and pattern.match(prompt.strip()) is None:
            text = text[found.end() :].strip()
    return unquoted(text)


def unfit(prompt: str, derived: str, max_words: int) -> str:
    """Why a text cannot stand for a prompt, or "" where it can.

    "copy" is legitimate, and means that there is nothing to be had from it.
    """
    if not derived.strip():
        return "empty"
    if count_words(derived) > max_words:
        return "too long"
    if derived.split() == prompt.split():
        return "copy"
    if looks_like_an_answer(derived) and not looks_like_an_answer(prompt.strip()):
        return "answers the prompt"
    return ""


def similarity(one: str, other: str) -> float:
    """How near two texts are in their words: the cosine of their word counts, from 0 to 1, whatever the case.

    A character of a script without spaces counts as a word. 1 for two texts without words, 0 where one has none.
    """
    counts = [Counter(words_of(text.casefold())) for text in (one, other)]
    if not all(counts):
        return float(counts[0] == counts[1])
    product = sum(count * counts[1][word] for word, count in counts[0].items())
    lengths = [math.sqrt(sum(count * count for count in each.values())) for each in counts]
    return min(1.0, product / (lengths[0] * lengths[1]))


def question_of(prompt: Prompt) -> str | None:
    """The text of the last message of the user, which is what is derived; None where there is none."""
    if isinstance(prompt, str):
        return prompt if prompt.strip() else None
    at = last_of_user(prompt)
    return None if at is None else str(prompt[at]["content"])


def with_question(prompt: Prompt, text: str, before: Sequence[Message] = ()) -> Prompt:
    """A conversation with another text in the last message of the user, and other messages before that one."""
    if isinstance(prompt, str) and not before:
        return text
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    at = last_of_user(messages)
    if at is None:
        return messages
    return [*messages[:at], *before, {**messages[at], "content": text}, *messages[at + 1 :]]


def shortened(text: str, words: int) -> str:
    """The beginning of a text, at most so many words, and if possible whole sentences.

    A sentence end counts if it leaves at least half of what there may be.
    """
    spans = word_spans(text)
    if len(spans) <= words:
        return text
    if words <= 0:
        return ""
    cut = text[: spans[words - 1][1]]
    ends = [found.end() for found in re.finditer(r"[.!?。！？](?=\s|$)|[。！？]", cut)]
    return cut[: ends[-1]] if ends and ends[-1] >= len(cut) / 2 else cut
