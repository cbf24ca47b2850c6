"""Texts continued by an OpenAI-compatible server, token by token with probabilities (``/completions``, ``logprobs``).

For methods that decide at every token over two models. vLLM, llama.cpp and truing's own server offer it; most hosted
chat models do not.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from truing.contracts import Prompt
from truing.errors import RecordError, RemoteError, UnsupportedError
from truing.models import chat
from truing.models.remote_cache import AnswerCache, key_of
from truing.models.types import Sampling, Usage

if TYPE_CHECKING:
    from truing.models.remote import RemoteModel

FAR = 24  # characters of a text that may belong to tokens whose spelling is not in it
_REFUSED = frozenset({400, 404, 405, 422, 501})
_SPECIAL = re.compile(r"<.*>|\[.*\]", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Written:
    """What a server wrote after a text.

    Args:
        pieces: texts of its tokens; those of one character that is spread over tokens are one piece.
        tops: the largest probability of the distribution that each piece was taken from.
        ended: it ended the answer after them.
    """

    pieces: list[str]
    tops: list[float]
    ended: bool


class Completer:
    """Asks one server to continue texts. Used by several threads, and closed at the end.

    Args:
        model: which; with ``cache`` answers are kept, and equal requests are not sent twice.
        usage: where requests and tokens are counted.
        who: the name they are counted under.
    """

    def __init__(self, model: RemoteModel, usage: Usage, who: str) -> None:
        from truing.models.remote import client_of

        self.model, self.usage, self.who = model, usage, who
        self._cache = AnswerCache(model.cache) if model.cache is not None else None
        self._lock = threading.Lock()
        self._client = client_of(model)
        self.echoes = not model.extra or model.extra.get("echo", True) is not None

    def text_of(self, prompt: Prompt) -> str:
        """The text of a conversation for this model, up to where the answer begins."""
        return chat.render_conversation(_tokenizer(self.model.tokenizer), chat.as_messages(prompt))

    def give_up(self) -> None:
        """Send nothing more."""
        self._client.give_up()

    def close(self) -> None:
        """End the connections."""
        self._client.close()
        if self._cache is not None:
            self._cache.close()

    def write(self, text: str, most: int, sampling: Sampling | None = None, place: str = "") -> Written:
        """The continuation of a text, of so many tokens at most; greedy, or sampled as told.

        Args:
            text: the prompt and the answer so far.
            most: tokens.
            sampling: temperature, truncation and seed; None is greedy.
            place: what the seed is derived from besides ``sampling.seed``: which sample, which place in it.

        Raises:
            RemoteError: the request failed to the last try, or the server does not offer what is needed.
            UnsupportedError: it gives no log-probabilities.
        """
        body = self._body(text, most)
        if sampling is not None and sampling.temperature:
            body["temperature"] = sampling.temperature
            digest = hashlib.sha256(f"{sampling.seed}/{place}/{text}".encode("utf-8", "replace")).digest()
            body["seed"] = int.from_bytes(digest[:4], "big") >> 1
            if sampling.top_p != 1:
                body["top_p"] = sampling.top_p
            if sampling.top_k:
                body["top_k"] = sampling.top_k
        answer = self._asked(body)
        return written(answer["text"], answer["tokens"], answer["tops"], answer["finish_reason"] == "stop")

    def tested(self, text: str, start: int) -> dict[int, tuple[str, float]]:
        """The most likely next token, and its probability, at places inside a text, by one request.

        Args:
            text: whose log-probabilities the server echoes.
            start: the first place of interest.

        Returns:
            By place (a number of characters), where a token starts there and the most likely one is ordinary text;
            empty where the server does not echo, which is then not asked for again.
        """
        if not self.echoes:
            return {}
        answer = self._asked({**self._body(text, 1), "echo": True})
        if not answer["text"].startswith(text) or "refused" in answer:
            self.echoes = False
            return {}
        return echoed(answer["text"], answer["tokens"], answer["tops"], start)

    def _body(self, text: str, most: int) -> dict[str, Any]:
        body = {"model": self.model.model, "prompt": text, "max_tokens": most, "temperature": 0.0, "logprobs": 1}
        body = {**body, **{name: value for name, value in (self.model.extra or {}).items() if name != "echo"}}
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RecordError(f"A prompt cannot be sent to a server: {error}.") from error
        return {name: value for name, value in body.items() if value is not None}

    def _asked(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request, from the cache or the server."""
        key = key_of(f"{self.model.url}/completions", body, 0)
        try:
            held = self._cache.get(key) if self._cache else None
        except OSError as error:
            raise RemoteError(
                f"The answers kept in {self.model.cache} cannot be read: {error}. Choose another cache."
            ) from error
        if held is not None and isinstance(held.get("tokens"), list) and isinstance(held.get("tops"), list):
            return held
        try:
            answer = self._answer(self._client.complete(body))
        except RemoteError as error:
            status = getattr(error.__cause__, "status_code", None)
            if status not in _REFUSED:
                raise
            if not body.get("echo"):
                raise RemoteError(
                    f"{error} Nudging asks for completions of text (/completions with `logprobs`) of {self.model.model}"
                    ": vLLM, llama.cpp and `truing serve` offer them, chat-only servers do not."
                ) from error
            # What a server refuses is known as well, so that a finished run asks nothing again.
            answer = {"text": "", "tokens": [], "tops": [], "finish_reason": "", "refused": status}
        if self._cache is not None:
            try:
                self._cache.put(key, answer)
            except OSError as error:
                raise RemoteError(
                    f"An answer cannot be kept in {self.model.cache}: {error}. Choose another cache."
                ) from error
        with self._lock:
            count = answer.get("prompt_tokens", 0) + answer.get("completion_tokens", 0)
            self.usage.count(self.who, 1, count)
        return answer

    def _answer(self, held: Any) -> dict[str, Any]:
        try:
            choice, usage = held["choices"][0], held.get("usage") or {}
            text = str(choice["text"])
        except (KeyError, IndexError, TypeError):
            raise RemoteError(
                f"{self.model.url} gave a completion without text: {str(held)[:120]!r}. Is this the address of an "
                "OpenAI-compatible API, /v1 included?"
            ) from None
        found = _logprobs(choice.get("logprobs"))
        if found is None and (text or choice.get("finish_reason") != "stop"):
            raise UnsupportedError(
                f"{self.model.source} at {self.model.url} gives no log-probabilities with its completions, and nudging "
                "decides by them. Serve the model with vLLM, llama.cpp or `truing serve`, or load its weights."
            )
        tokens, tops = found or ([], [])
        counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
        return {
            "text": text, "tokens": tokens, "tops": tops,
            "finish_reason": "length" if choice.get("finish_reason") == "length" else "stop",
            **{name: value if isinstance(value, int) and value >= 0 else 0 for name, value in counts.items()},
        }  # fmt: skip


@functools.lru_cache(maxsize=4)
def _tokenizer(name: str | None) -> Any | None:
    """The tokenizer of a name, for its chat template; None for none."""
    if name is None:
        return None
    from pathlib import Path

    from transformers import AutoTokenizer

    from truing.errors import ModelError
    from truing.sandbox import checkpoint

    place = str(checkpoint(name.removeprefix("sandbox/"))) if name.startswith("sandbox/") else name
    try:
        return AutoTokenizer.from_pretrained(str(Path(place).expanduser()), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"`tokenizer` of the remote model names {name!r}, and no tokenizer can be read there: "
            f"{str(error).splitlines()[0][:200]}"
        ) from error


def _logprobs(held: Any) -> tuple[list[str], list[list[Any] | None]] | None:
    """Tokens, and the most likely one of each place with its log-probability, of either form that servers use."""
    if not isinstance(held, Mapping):
        return None
    try:
        if isinstance(held.get("content"), Sequence):  # as chat completions have it
            rows = [(str(each["token"]), each["logprob"], each.get("top_logprobs") or []) for each in held["content"]]
            told = [(token, own, {str(top["token"]): top["logprob"] for top in tops}) for token, own, tops in rows]
        else:
            tokens, own = held["tokens"], held["token_logprobs"]
            tops = held.get("top_logprobs") or [None] * len(tokens)
            told = [(str(token), value, top or {}) for token, value, top in zip(tokens, own, tops, strict=True)]
        best: list[list[Any] | None] = []
        for token, value, top in told:
            known = {**{token: value}, **top}
            scored = {piece: float(score) for piece, score in known.items() if score is not None}
            piece = max(scored, key=scored.__getitem__, default=None)
            best.append(None if piece is None else [piece, scored[piece]])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return [token for token, _, _ in told], best


def written(text: str, tokens: Sequence[str], tops: Sequence[Sequence[Any] | None], ended: bool) -> Written:
    """A completion in pieces that join to its text, whatever the tokens of its characters and ends are called."""
    pieces, probabilities = list[str](), list[float]()
    at, first = 0, None
    for token, top in zip(tokens, tops):
        found = text.find(token, at, at + FAR + len(token)) if token.strip("\ufffd") else -1
        if found < 0:
            first = first or top  # bytes of a character, or an end
            continue
        if first is not None and found > at:
            pieces.append(text[at:found])
            probabilities.append(_probability(first))
            at, first = found, None
        pieces.append(text[at : found + len(token)])
        probabilities.append(_probability(first or top))
        at, first = found + len(token), None
    rest = text[at:]
    if rest and (ended or not rest.endswith("\ufffd")):
        pieces.append(rest)
        probabilities.append(_probability(first))
    elif rest:
        ended = False
    return Written(pieces, probabilities, ended)


def echoed(
    text: str, tokens: Sequence[str], tops: Sequence[Sequence[Any] | None], start: int
) -> dict[int, tuple[str, float]]:
    """By place in an echoed text from ``start`` on, the most likely token there and its probability.

    Read from the end, since prompts may hold tokens that are spelled otherwise than in the text.
    """
    out: dict[int, tuple[str, float]] = {}
    at, order = len(text), list(zip(tokens, tops))
    while order and not (order[-1][0] and text.endswith(order[-1][0])):
        order.pop()  # an end, which is no text
    for token, top in reversed(order):
        if not token or not text.endswith(token, 0, at):
            break
        at -= len(token)
        if at < start:
            break
        if top is not None and top[0] and "\ufffd" not in top[0] and not _SPECIAL.fullmatch(top[0]):
            out[at] = (top[0], _probability(top))
    return out


def _probability(top: Sequence[Any] | None) -> float:
    return math.exp(min(0.0, float(top[1]))) if top is not None else 1.0
