"""What methods share in which a second model writes about prompts: asking it, cleaning and judging what it wrote."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from truing import progress
from truing.contracts import Message, Prompt, is_number, is_whole, require
from truing.errors import ModelError, RecordError
from truing.models.modifiers import PromptModifier
from truing.rewards import name_of

# Prompts of which is held in memory what became of them; the oldest go first.
_HELD = 100_000
# Scripts without spaces: each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "「": "」", "`": "`"}
_ANSWER = re.compile(
    r"(?:yes|no|sure|certainly|of course|absolutely|okay|ok)(?:[,.!:;]|\s*$)|here(?: is| are|'s|’s)\b|answer\s*[:：]"
    r"|the (?:final |right |correct )?answer(?: to [^.]{1,200})? is\b|as an ai\b|(?:i am|i'm|i’m) sorry\b|sorry[,.!]"
    r"|i (?:cannot|can't|can’t|can not|will not|won't|won’t)\b|答案|答[:：]|当然[,，。!！]|以下是|抱歉|对不起",
    re.IGNORECASE,
)  # fmt: skip


class WriterModifier(PromptModifier):
    """Base of modifiers for which a second model writes; what became of a prompt is held in memory, and counted.

    A subclass defines `batch`, and ``lacks``: what a prompt that goes on as it is goes without.
    """

    lacks: ClassVar[str] = ""

    @property
    def counts(self) -> dict[str, int]:
        """Prompts by what became of them: "used", or why they go on as they are."""
        return dict(self._state()[1])

    def messages(self, messages: list[Message]) -> list[Message]:
        """The changed conversation; the list given is left as it was."""
        return self.batch([messages])[0]

    def _state(self) -> tuple[dict[str, Any], Counter[str]]:
        """What became of each prompt, and counts: what is learned in use, no setting."""
        state: tuple[dict[str, Any], Counter[str]] = self.__dict__.setdefault("_held", ({}, Counter()))
        return state

    def _hold(self, made: Mapping[str, Any], outcomes: Iterable[str]) -> None:
        """Keep what became of some more prompts, and count it; say how many go on as they are.

        That is said of the first one, the tenth, the hundredth, …, not of each.

        Args:
            made: by prompt.
            outcomes: of each, "used" or why it goes on as it is.
        """
        held, counts = self._state()
        before = counts.total() - counts["used"]
        counts.update(outcomes)
        held.update(made)
        for key in list(held)[: max(0, len(held) - _HELD)]:
            del held[key]
        lost = counts.total() - counts["used"]
        if lost and (not before or int(math.log10(lost)) > int(math.log10(before))):
            reasons = ", ".join(f"{count:,} {why}" for why, count in sorted(counts.items()) if why != "used" and count)
            progress.say(
                f"{self.label}: {lost:,} of {counts.total():,} prompts go to the model as they are, without "
                f"{self.lacks} that can be used ({reasons})."
            )


def ask(guide: Any, texts: Sequence[Prompt], bare: tuple[Sequence[Any], ...], **how: Any) -> list[tuple[str, str]]:
    """What a model says to each text, or a function to what the texts were made of; and what is wrong with that, or "".

    Args:
        guide: a model or a function.
        texts: for a model.
        bare: for a function, its arguments: lists as long as the texts.
        how: settings of `generate`.

    Raises:
        ModelError: a function gave something else than one text for each.
    """
    if not texts:
        return []
    if hasattr(guide, "generate"):
        found = [("", "prompt too long")] * len(texts)
        fitting = [at for at, text in enumerate(texts) if _fits(guide, text)]
        answers = guide.generate([texts[at] for at in fitting], **how) if fitting else []
        for at, one in zip(fitting, answers):
            found[at] = (valid(one.text), "cut off" if one.finish_reason == "length" else "")
        return found
    said = guide(*bare)
    if not isinstance(said, (list, tuple)) or len(said) != len(texts) or not all(isinstance(t, str) for t in said):
        raise ModelError(
            f"The function {name_of(guide)} was given {len(texts)} prompts, and must give a list of as many texts."
        )
    return [(valid(text), "") for text in said]


def called(writer: Any) -> str:
    """What people call a model or a function that writes."""
    return getattr(writer, "name", None) or name_of(writer)


def valid(text: str) -> str:
    """The text without halves of characters, which no file in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def unquoted(text: str) -> str:
    """A text without quotation marks around the whole of it, and white space."""
    text = text.strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1]
    return text.strip()


def looks_like_an_answer(text: str) -> bool:
    """Whether a text begins as an answer does ("Yes, …", "Here is …", "I cannot …")."""
    return _ANSWER.match(text) is not None


def count_words(text: str) -> int:
    """Words between white space, and characters of scripts that write without it."""
    return len(word_spans(text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of `count_words` begin and end."""
    return [found.span() for found in _WORD.finditer(text)]


def check_writer(name: str, writer: Any, example: str = "out/writer") -> None:
    """Raise `SettingsError` unless the setting of this name is a model or a function; the message loads an example."""
    require(
        hasattr(writer, "generate") or callable(writer),
        f"{name} is a model or a function, got {writer!r}. Load it: {name}=truing.load({example!r}).",
    )


def check_slots(name: str, text: Any, slots: Sequence[str]) -> None:
    """Raise `SettingsError` unless a template holds each slot once."""
    shown = " and ".join(f"{{{slot}}}" for slot in slots)
    require(
        isinstance(text, str) and all(text.count(f"{{{slot}}}") == 1 for slot in slots),
        f"{name} is a text that holds {shown} once, got {text!r}.",
    )


def check_numbers(settings: Any, whole: Sequence[str]) -> None:
    """Raise `SettingsError` unless these settings are whole numbers over 0, and temperature and seed can work."""
    for name in whole:
        value = getattr(settings, name)
        require(is_whole(value) and value > 0, f"{name} is a whole number over 0, got {value!r}.")
    warm = settings.temperature
    require(is_number(warm) and warm >= 0, f"temperature is a number of at least 0, got {warm!r}.")
    seed = settings.seed
    require(is_whole(seed) and 0 <= seed < 2**32, f"seed is from 0 to 2**32 - 1, got {seed!r}.")


def last_of_user(messages: Sequence[Message]) -> int | None:
    """Where the last message of the user is; None where the user wrote no text."""
    for at in reversed(range(len(messages))):
        if messages[at]["role"] == "user":
            text = messages[at]["content"]
            return at if isinstance(text, str) and text.strip() else None
    return None


def _fits(guide: Any, text: Prompt) -> bool:
    """Whether a local guide has room for the text; nobody knows of a remote one or a function."""
    if "local_weights" not in getattr(guide, "offers", ()):
        return True
    try:
        guide.encode_prompt(text)
    except RecordError:
        return False
    return True
