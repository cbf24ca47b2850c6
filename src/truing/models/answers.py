"""Answers being written: where they end, and which of their text is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from truing.models.types import Completion


class Draft:
    """One answer, token by token, until an end token, a stop string or its room ends it.

    Args:
        decode: from token ids to text without special tokens.
        ends: end tokens.
        room: most tokens it may have.
        stop: strings before which the text ends.
        prompt_index: which prompt it answers.
        emit: called with pieces of text as they become certain.
        clean: from text, and whether it has ended, to the answer that it is; see `PromptModifier.clean`.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], ends: frozenset[int], room: int, stop: Sequence[str] = (),
        prompt_index: int = 0, emit: Callable[[str], None] | None = None,
        clean: Callable[[str, bool], str] | None = None,
    ) -> None:  # fmt: skip
        self.tokens: list[int] = []
        self.logprobs: list[float] | None = []
        self.reason: str | None = None
        self._decode, self._ends, self._room, self._stop = decode, ends, room, tuple(stop)
        self._index, self._emit, self._sent = prompt_index, emit, 0
        self._clean = clean or _as_it_is

    def push(self, token: int, logprob: float | None = None) -> bool:
        """Write one more token; True when it ends the answer, and ``reason`` then says why."""
        self.tokens.append(token)
        if logprob is None or self.logprobs is None:
            self.logprobs = None
        else:
            self.logprobs.append(logprob)
        if token in self._ends or (self._stop and self._cut() is not None):
            self.reason = "stop"
        elif len(self.tokens) >= self._room:
            self.reason = "length"
        if self._emit:
            self._send()
        return self.reason is not None

    def _whole(self) -> str:
        tokens = self.tokens
        return self._decode(tokens[:-1] if tokens and tokens[-1] in self._ends else tokens)

    def _cut(self) -> int | None:
        text = self._whole()
        return min((at for at in map(text.find, self._stop) if at >= 0), default=None)

    @property
    def text(self) -> str:
        """The answer so far, up to the first stop string and cleaned."""
        return self._clean(self._written(), True)

    def _written(self) -> str:
        return self._whole()[: self._cut() if self._stop else None]

    def _send(self) -> None:
        assert self._emit is not None
        text = self._written()
        end = len(text)
        if self.reason is None:
            # The last characters may still be half of one, or the beginning of a stop string.
            end = len(text.rstrip("\ufffd"))
            for stop in self._stop:
                for size in range(min(len(stop) - 1, len(text)), 0, -1):
                    if text.endswith(stop[:size]):
                        end = min(end, len(text) - size)
                        break
        certain = self._clean(text[:end], self.reason is not None)
        if len(certain) > self._sent:
            piece, self._sent = certain[self._sent :], len(certain)
            self._emit(piece)

    def completion(self, reason: str | None = None, **trace: Any) -> Completion:
        """The answer as it stands; ``reason`` overrides why it ended, and ``trace`` is kept on it."""
        return Completion(
            text=self.text,
            tokens=list(self.tokens),
            logprobs=list(self.logprobs) if self.logprobs is not None else None,
            finish_reason=reason or self.reason or "length",
            prompt_index=self._index,
            trace=trace,
        )


def _as_it_is(text: str, ended: bool) -> str:
    return text
