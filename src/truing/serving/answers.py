"""Answers in the forms of OpenAI's two interfaces, whole and in pieces."""

from __future__ import annotations

import abc
import codecs
import json
import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

from truing._version import __version__
from truing.models.history import plain
from truing.models.types import Completion
from truing.serving.jobs import Job, Piece, Read, Token
from truing.serving.tokens import TokenTexts

LEAST = -9999.0  # stands for minus infinity, which JSON does not have


class Form(abc.ABC):
    """How one request's answers are written.

    Args:
        job: the request.
        model: the name it was asked by.
        texts: of tokens; None where log-probabilities cannot be asked for.
        usage: a stream ends with a chunk of the usage.
        trace: choices come with their traces.
    """

    object: str
    chunk_object: str
    prefix: str

    def __init__(
        self, job: Job, model: str, texts: TokenTexts | None, usage: bool = False, trace: bool = False
    ) -> None:
        self.job, self.texts, self.usage, self.trace = job, texts, usage, trace
        self.head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model,
            "system_fingerprint": f"truing-{__version__}",
        }  # fmt: skip
        self.written: dict[int, _Written] = {}

    # --- whole -------------------------------------------------------------------------------------------------------

    def whole(self, read: Read, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The answer to a request that is not streamed."""
        by_choice: dict[int, list[Piece]] = {}
        for piece in pieces:
            by_choice.setdefault(piece.choice, []).append(piece)
        choices = []
        for number in range(self.job.choices):
            done = by_choice[number][-1].done
            assert done is not None
            tokens = [token for piece in by_choice[number] for token in piece.tokens]
            choices.append(self._ended(self._choice(number, read, done, tokens), done))
        return {
            **self.head, "object": self.object, "choices": choices, "usage": self._usage(), "truing": self._truing(),
        }  # fmt: skip

    @abc.abstractmethod
    def _choice(self, number: int, read: Read, done: Completion, tokens: Sequence[Token]) -> dict[str, Any]:
        """A whole choice, but for how it ended."""

    @abc.abstractmethod
    def _logprobs(self, number: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """Further tokens of a choice, where log-probabilities were asked for."""

    def _ended(self, choice: dict[str, Any], done: Completion) -> dict[str, Any]:
        choice["finish_reason"] = "length" if done.finish_reason == "length" else "stop"
        if self.trace:
            choice["truing"] = {"trace": plain(done.trace), "finish_reason": done.finish_reason[:80]}
        return choice

    def _usage(self) -> dict[str, int]:
        prompt, written = self.job.prompt_tokens, self.job.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    def _truing(self) -> dict[str, Any]:
        return {"seed": self.job.sampling.seed}

    # --- streamed ----------------------------------------------------------------------------------------------------

    def start(self, read: Read) -> list[dict[str, Any]]:
        """Chunks before the first piece."""
        return []

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Text and tokens, then the end of the choice."""
        out, number = [], piece.choice
        if piece.text or piece.tokens:
            out.append(self._part(number, piece.text, self._logprobs(number, piece.tokens)))
        if piece.done is not None:
            out.append(self._ended(self._part(number), piece.done))
        return [self._chunk([part]) for part in out]

    @abc.abstractmethod
    def _part(self, number: int, text: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        """What is new of a choice; nothing at its end."""

    def end(self) -> list[dict[str, Any]]:
        """Chunks after the last piece."""
        if not self.usage:
            return []
        return [{**self._chunk([]), "usage": self._usage(), "truing": self._truing()}]

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        # With include_usage all chunks have the field, as OpenAI's have.
        return {
            **self.head, "object": self.chunk_object, "choices": choices, **({"usage": None} if self.usage else {})
        }  # fmt: skip


class _Written:
    """How far the text of one choice has come, for offsets."""

    def __init__(self) -> None:
        self.length = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, raw: Sequence[int]) -> int:
        """Where the next token begins, in characters; and on behind it."""
        start = self.length
        self.length += len(self._decoder.decode(bytes(raw)))
        return start


class Chat(Form):
    """`/v1/chat/completions`."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def _choice(self, number: int, read: Read, done: Completion, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "index": number, "message": {"role": "assistant", "content": done.text, "refusal": None},
            "logprobs": self._logprobs(number, tokens),
        }  # fmt: skip

    def start(self, read: Read) -> list[dict[str, Any]]:
        """Each choice begins with its role."""
        return [self._chunk([self._delta(n, {"role": "assistant", "content": ""})]) for n in range(self.job.choices)]

    def _part(self, number: int, text: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        return self._delta(number, {} if text is None else {"content": text}, logprobs)

    def _delta(self, number: int, delta: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, number: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.job.logprobs:
            return None
        return {
            "content": [
                {**self._token(t.id, t.logprob), "top_logprobs": [self._token(*pair) for pair in t.top]} for t in tokens
            ],
            "refusal": None,
        }

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        assert self.texts is not None
        text, raw = self.texts(token)
        return {"token": text, "logprob": _finite(logprob), "bytes": raw}


class Text(Form):
    """`/v1/completions`."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def _choice(self, number: int, read: Read, done: Completion, tokens: Sequence[Token]) -> dict[str, Any]:
        prompt, before = self._echoed(number, read)
        return {"index": number, "text": prompt + done.text, "logprobs": self._logprobs(number, [*before, *tokens])}

    def start(self, read: Read) -> list[dict[str, Any]]:
        """With echo each choice begins with its prompt."""
        if not read.texts:
            return []
        out = []
        for number in range(self.job.choices):
            prompt, before = self._echoed(number, read)
            out.append(self._chunk([self._part(number, prompt, self._logprobs(number, before))]))
        return out

    def _echoed(self, number: int, read: Read) -> tuple[str, list[Token]]:
        """The prompt of a choice and its tokens, where they were asked for."""
        at = number // self.job.sampling.n
        return read.texts[at] if read.texts else "", read.prompts[at] if read.prompts else []

    def _part(self, number: int, text: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        return {"index": number, "text": text or "", "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, number: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.job.logprobs:
            return None
        assert self.texts is not None
        written = self.written.setdefault(number, _Written())
        told = [self.texts(token.id) for token in tokens]
        top: list[dict[str, float] | None] = []
        for token in tokens:
            if token.logprob is None:
                top.append(None)
                continue
            pairs: dict[str, float] = {}
            # The token itself is among them even when it is not among the likeliest, as OpenAI's is.
            for one, logprob in [*token.top, (token.id, token.logprob)]:
                pairs.setdefault(self.texts(one)[0], _finite(logprob) or 0.0)
            top.append(pairs)
        return {
            "tokens": [text for text, _ in told],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": top if self.job.top else None,
            "text_offset": [written.add(raw) for _, raw in told],
        }


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else logprob if math.isfinite(logprob) else LEAST


def encoded(value: Any) -> bytes:
    """JSON that is valid whatever a model wrote: halves of characters are replaced."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
