"""One request to an OpenAI-compatible server: what is sent, how often it is tried, and what went wrong in words."""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import openai

from truing.errors import RemoteError

LONGEST_WAIT = 120.0
_TRY_AGAIN = frozenset({408, 409, 429})
_REASONS = {"eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}


class Client:
    """Asks one server, and tries again what may succeed later.

    Args:
        url: of the API, up to and with ``/v1``.
        key: sent as a bearer token; empty for servers that ask for none.
        max_retries: how often a request is tried again.
        timeout: seconds until an answer must be there.
    """

    def __init__(self, url: str, key: str, max_retries: int, timeout: float) -> None:
        self.url, self._key, self._retries, self._timeout = url, key, max_retries, timeout
        self._given_up = threading.Event()
        # The library refuses an empty key, which many servers do without.
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=timeout)

    def give_up(self) -> None:
        """Try nothing again, and wake whoever waits to. Requests on their way go on, since they are paid for."""
        self._given_up.set()

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def ask(self, body: Mapping[str, Any], emit: Callable[[str], None] | None = None) -> dict[str, Any]:
        """One answer: ``text``, ``finish_reason``, ``prompt_tokens`` and ``completion_tokens``.

        Args:
            body: the fields of the request.
            emit: called with pieces of the answer as they come; the answer is streamed then.

        Raises:
            RemoteError: the server refused, failed to the last try, or answered in a form that cannot be read.
        """
        started = False

        def started_emit(piece: str) -> None:
            nonlocal started
            started = True
            assert emit is not None
            emit(piece)

        return self._tried(
            lambda: self._streamed(body, started_emit) if emit else self._whole(body), body, lambda: started
        )

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON of one answer to a text (``/completions``), as the server gave it.

        Raises:
            RemoteError: as in `ask`; its cause is the library's error, with the status.
        """

        def sent() -> dict[str, Any]:
            rest = {key: value for key, value in body.items() if key not in ("model", "prompt")}
            return _read(
                self._client.completions.with_raw_response.create(
                    model=body["model"], prompt=body["prompt"], extra_body=rest
                ).text
            )

        return self._tried(sent, body, lambda: False)

    def _tried(
        self, send: Callable[[], dict[str, Any]], body: Mapping[str, Any], started: Callable[[], bool]
    ) -> dict[str, Any]:
        for attempt in range(self._retries + 1):
            if self._given_up.is_set():
                raise RemoteError("Another request failed, so this one was given up.")
            try:
                return send()
            except (openai.OpenAIError, _Unreadable, ValueError) as error:
                wait = self._wait(error, attempt)
                if started() or wait is None or attempt == self._retries:
                    raise self._explained(error, body, attempt + 1, started()) from error
                if self._given_up.wait(wait):
                    raise RemoteError("Another request failed, so this one was given up.") from error
        raise RemoteError(f"{self.url} was not asked.")

    def _whole(self, body: Mapping[str, Any]) -> dict[str, Any]:
        response = self._client.chat.completions.with_raw_response.create(
            model=body["model"], messages=body["messages"], extra_body=_rest(body)
        )
        held = _read(response.text)
        try:
            choice, usage = held["choices"][0], held.get("usage") or {}
            message = choice["message"]
            return _answer(
                _text(message.get("content")) or _text(message.get("refusal")), choice.get("finish_reason"), usage
            )
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _Unreadable(f"no choices with a message: {response.text[:120]!r}") from None

    def _streamed(self, body: Mapping[str, Any], emit: Callable[[str], None]) -> dict[str, Any]:
        texts: list[str] = []
        reason: str | None = None
        usage: dict[str, Any] = {}
        with self._client.chat.completions.create(
            model=body["model"], messages=body["messages"], stream=True,
            extra_body={"stream_options": {"include_usage": True}, **_rest(body)},
        ) as chunks:  # fmt: skip
            for chunk in chunks:
                usage = chunk.usage.model_dump() if chunk.usage else usage
                for choice in (chunk.choices or [])[:1]:
                    piece = _text(choice.delta.content) if choice.delta else ""
                    reason = choice.finish_reason or reason
                    if piece:
                        texts.append(piece)
                        emit(piece)
        if reason is None:
            raise _Unreadable("the stream broke off before its end")
        return _answer("".join(texts), reason, usage)

    def _wait(self, error: Exception, attempt: int) -> float | None:
        """Seconds until the next try, or None where none can help."""
        backoff = min(0.5 * 2**attempt, 30.0) * random.uniform(0.75, 1.25)
        if isinstance(error, openai.APIStatusError):
            if error.status_code not in _TRY_AGAIN and error.status_code < 500:
                return None
            if error.code == "insufficient_quota":
                return None
            told = _retry_after(error.response.headers)
            if told is not None:
                # All that were refused at once must not come back at once.
                return told + random.uniform(0, 0.25 * min(told, 4.0)) if told <= LONGEST_WAIT else None
            return backoff
        return backoff

    def _explained(self, error: Exception, body: Mapping[str, Any], tries: int, started: bool) -> RemoteError:
        often = f" ({tries} tries)" if tries > 1 else ""
        if started:
            return RemoteError(f"{self.url} broke off in the middle of an answer: {self._said(error)}. Ask again.")
        if isinstance(error, openai.APITimeoutError):
            return RemoteError(
                f"{self.url} gave no answer within {self._timeout:g} seconds{often}. Raise `timeout`, or lower "
                "`concurrency`."
            )
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            return RemoteError(
                f"{self.url} answered with status {status}{often}: {self._said(error)}. {_remedy(status, error, body)}"
            )
        if isinstance(error, openai.APIConnectionError):
            why = error.__cause__ or error
            return RemoteError(f"{self.url} cannot be reached{often}: {self._said(why)}. Is the server running there?")
        return RemoteError(
            f"{self.url} gave an answer that cannot be read{often}: {self._said(error)}. Is this the address of an "
            "OpenAI-compatible API, /v1 included?"
        )

    def _said(self, error: BaseException) -> str:
        text = str(error)
        if isinstance(error, openai.APIStatusError):
            body = error.body
            text = str(body["message"]) if isinstance(body, dict) and body.get("message") else error.response.text
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if self._key:
            text = text.replace(self._key, "***")
        return text[:300].rstrip(".") or type(error).__name__


class _Unreadable(Exception):
    """An answer came, and is not what the protocol says."""


def _read(text: str) -> Any:
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        raise _Unreadable(f"no JSON: {text[:120]!r}") from None
    if isinstance(held, dict) and isinstance(held.get("error"), (dict, str)) and not held.get("choices"):
        raise _Unreadable(f"an error with status 200: {str(held['error'])[:200]}")
    return held


def _rest(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in ("model", "messages")}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _answer(text: str, reason: Any, usage: Mapping[str, Any]) -> dict[str, Any]:
    counts = {key: usage.get(key) for key in ("prompt_tokens", "completion_tokens")}
    return {
        "text": text,
        "finish_reason": _REASONS.get(str(reason), str(reason)[:40]) if reason else "stop",
        **{key: value if isinstance(value, int) and value >= 0 else 0 for key, value in counts.items()},
    }


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: a number of milliseconds or seconds, or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        told = headers.get(name)
        if told is None:
            continue
        try:
            return max(0.0, float(told) * unit)
        except ValueError:
            try:
                return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
            except (ValueError, TypeError):
                return None
    return None


def _remedy(status: int, error: openai.APIStatusError, body: Mapping[str, Any]) -> str:
    if status in (401, 403):
        return "Check the key: set OPENAI_API_KEY, or give `api_key`."
    if status == 404:
        return f"Check the model's name, {body['model']!r}, and that base_url ends with /v1."
    if status in (400, 422):
        return "If it does not know one of the fields, change or take it out with `extra`, as in extra={'seed': None}."
    if status == 429:
        if error.code == "insufficient_quota":
            return "The account has no quota left, so waiting does not help."
        return "Lower `concurrency`, raise `max_retries`, or wait."
    if status >= 500:
        return "The server failed; look at its log, or try later."
    return "See the server's documentation."
