"""A model behind an OpenAI-compatible server: vLLM, llama.cpp, Ollama, and the hosted ones."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from truing.contracts import Prompt
from truing.errors import ModelError, RecordError, RemoteError, SettingsError, UnsupportedError
from truing.models.modifiers import Modifier, SearchModifier
from truing.models.remote_cache import AnswerCache, key_of
from truing.models.sampling import check_sampling
from truing.models.stack import Stacked
from truing.models.types import Completion, Completions, Row, Sampling, Step, Usage, as_prompts

OPENAI = "https://api.openai.com/v1"
_RESERVED = frozenset({"model", "messages", "n", "stream", "stream_options"})
Stream = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RemoteModel(Stacked):
    """A model that is asked over the network, with the same `generate` as a local one. Making one asks nothing.

    It can carry prompt and search modifiers. What needs weights, activations or scores is refused before any request.

    Args:
        model: its name at the server.
        base_url: of the API, ``/v1`` included; ``OPENAI_BASE_URL``, else OpenAI's own, unless given.
        api_key: ``OPENAI_API_KEY`` unless given; an empty string sends none. It is never written to a file.
        max_retries: how often a request is tried again after a refusal for load (429), a failure of the server or of
            the connection, or an answer that cannot be read. Waits double, or are what the server asks for.
        concurrency: requests in flight.
        timeout: seconds until an answer must be there.
        cache: a folder in which each answer is kept as it arrives, so that the same request is not paid for twice,
            also after the process was killed.
        extra: further fields of each request (``{"top_k": 20}``); None takes one out (``{"seed": None}``).
        tokenizer: a folder, hub name or sandbox name whose chat template renders conversations where text is to be
            completed (nudging); None for the plain form, ``User: …`` and ``Assistant:``, which suits base models.
        modifiers: what changes its answers, in the order they were added.
        history: the steps that made it.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = None
    max_retries: int = 4
    concurrency: int = 8
    timeout: float = 60.0
    cache: str | Path | None = None
    extra: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    modifiers: tuple[Modifier, ...] = ()
    history: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise SettingsError(f"A remote model has a name, such as 'gpt-4.1-mini', got {self.model!r}.")
        if self.base_url is not None:
            _check_url(self.base_url)
        for name, least in (("max_retries", 0), ("concurrency", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SettingsError(f"`{name}` is a whole number of at least {least}, got {value!r}.")
        if self.tokenizer is not None and (not isinstance(self.tokenizer, str) or not self.tokenizer):
            raise SettingsError(f"`tokenizer` is a folder or a name, got {self.tokenizer!r}.")
        if not isinstance(self.timeout, (int, float)) or not self.timeout > 0:
            raise SettingsError(f"`timeout` is a number of seconds over 0, got {self.timeout!r}.")
        extra = dict(self.extra or {})
        for name in sorted(_RESERVED & set(extra)):
            raise SettingsError(f"`extra` cannot set `{name}`, which truing sets itself.")
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"`extra` holds what JSON cannot: {error}.") from error

    @property
    def source(self) -> str:
        """The name that `truing.load` takes."""
        return f"openai/{self.model}"

    @property
    def url(self) -> str:
        """Where requests go."""
        return (self.base_url or _default_url()).rstrip("/")

    @property
    def offers(self) -> frozenset[str]:
        """What methods may ask of it beyond answers: nothing."""
        return frozenset()

    def check_stack(self, kind: str, name: str) -> None:
        """Raise `UnsupportedError` for a modifier that acts inside a model, `StackError` for a second search."""
        if kind not in ("prompt", "search"):
            raise UnsupportedError(
                f"{name} acts on {kind}s, which a remote model ({self.source}) does not give. "
                "Load local weights instead: a folder, a hub name, or sandbox/base."
            )
        super().check_stack(kind, name)

    def check_key(self) -> str:
        """The key that requests carry, "" for none.

        Raises:
            RemoteError: the server needs one and none is set; said before long work that would end in this.
        """
        key = self.api_key if self.api_key is not None else os.environ.get("OPENAI_API_KEY", "")
        if not key and self.url == OPENAI:
            raise RemoteError(f"{self.url} needs a key. Set OPENAI_API_KEY, or give `api_key` or another `base_url`.")
        return key

    def generate(
        self, prompts: Any, *, max_new_tokens: int = 128, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0,
        n: int = 1, stop: Sequence[str] = (), seed: int = 0, batch_size: int | None = None,
        stream: Stream | None = None,
    ) -> Completions:  # fmt: skip
        """Answers to one prompt or many; see `Sampling` for the arguments.

        Each sample is a request of its own, with a seed of its own, since not every server knows ``n``. Equal requests
        are sent once, and so are the n samples at temperature 0. ``batch_size`` is for local models; see
        ``concurrency``.

        Raises:
            RemoteError: a request failed to the last try. With ``cache`` the answers before it are kept.
        """
        sampling = Sampling(
            max_new_tokens, temperature, top_k, top_p, (stop,) if isinstance(stop, str) else tuple(stop), seed, n
        )
        check_sampling(sampling)
        rows = [Row(m, (), index) for index, m in enumerate(self.conversations(as_prompts(prompts)))]
        began = time.perf_counter()
        engine = RemoteEngine(self)
        search = next((modifier for modifier in self.modifiers if isinstance(modifier, SearchModifier)), None)
        if search is None:
            found = engine.generate(rows, sampling, stream=stream)
        else:
            engine.stream = stream
            found = search.search(engine, rows, sampling)  # type: ignore[arg-type]
            for row, group in zip(rows, found, strict=True):
                for sample, answer in enumerate(group):
                    answer.prompt_index = row.index
                    if stream is not None and answer.text and not search.streams:
                        stream(row.index, sample, answer.text)
        engine.usage.seconds += time.perf_counter() - began
        return Completions([answer for group in found for answer in group], engine.usage)

    def logprobs(self, prompts: Any, responses: Any = None, **how: Any) -> Any:
        """Not offered: servers give no log-probabilities of answers that they did not write."""
        raise UnsupportedError(
            f"{self.source} is a remote model, which gives answers only: no log-probabilities, token ids or weights. "
            "Load local weights instead: a folder, a hub name, or sandbox/base."
        )

    text_logprobs = encode_prompt = encode_pair = with_weights = logprobs

    def address(self) -> dict[str, Any]:
        """What it takes to ask it again, as JSON values, without the key."""
        names = ("model", "max_retries", "concurrency", "timeout", "tokenizer")
        cache = None if self.cache is None else str(self.cache)
        extra = dict(self.extra) if self.extra else None
        return {**{name: getattr(self, name) for name in names}, "base_url": self.url, "cache": cache, "extra": extra}

    @classmethod
    def from_address(cls, address: Mapping[str, Any], **fields: Any) -> RemoteModel:
        """The inverse of `address`, from a file that is not trusted.

        The key of this machine is sent only to the server that this machine is set up for, never to one that a file
        names: with another ``base_url`` the model has an empty key.
        """
        known = {field.name for field in dataclasses.fields(cls)} - {"api_key", "modifiers", "history", "cache"}
        try:
            # Nor is a folder written to because a file names it.
            given = {name: value for name, value in address.items() if name in known}
            made = cls(**given)
        except (TypeError, SettingsError) as error:
            raise ModelError(f"The saved remote model cannot be made again: {error}") from error
        key = None if made.url == _default_url().rstrip("/") else ""
        return dataclasses.replace(made, api_key=key, **fields)


class RemoteEngine:
    """What a search modifier is given for a remote model: plain generation, and what it cost.

    Args:
        model: which to ask. Its search modifier is not run.
        usage: where calls and tokens are counted; a new one unless given.
        who: the name they are counted under.
    """

    def __init__(self, model: RemoteModel, usage: Usage | None = None, who: str = "model") -> None:
        self.model, self.who = model, who
        self.usage = usage if usage is not None else Usage()
        self.stream: Stream | None = None  # for a search that passes pieces on
        self._lock = threading.Lock()

    def generate(
        self, rows: Sequence[Row], sampling: Sampling, *, stream: Stream | None = None
    ) -> list[list[Completion]]:
        """For each row its ``sampling.n`` completions, asked concurrently; ``Row.tokens`` are not used.

        Raises:
            RemoteError: a request failed to the last try; requests that have not begun are not sent.
        """
        check_sampling(sampling)
        wanted: dict[str, tuple[dict[str, Any], list[tuple[int, int]]]] = {}
        keys: list[list[str]] = []
        for at, row in enumerate(rows):
            keys.append([])
            for sample in range(sampling.n):
                body = self._body(row.prompt, sampling, 0 if sampling.temperature == 0 else sample)
                key = key_of(self.model.url, body, 0 if sampling.temperature == 0 else sample)
                wanted.setdefault(key, (body, []))[1].append((at, sample))
                keys[-1].append(key)
        stop = (*sampling.stop, *self.model.stops)
        answers = self._all(wanted, rows, stream, stop)
        out = []
        for row, row_keys in zip(rows, keys):
            self.usage.prompt_tokens += answers[row_keys[0]]["prompt_tokens"]
            self.usage.completion_tokens += sum(answers[key]["completion_tokens"] for key in row_keys)
            out.append([_completion(answers[key], stop, row.index, self.model.clean) for key in row_keys])
        return out

    def _all(
        self, wanted: Mapping[str, tuple[dict[str, Any], list[tuple[int, int]]]], rows: Sequence[Row],
        stream: Stream | None, stop: Sequence[str],
    ) -> dict[str, dict[str, Any]]:  # fmt: skip
        cache = AnswerCache(self.model.cache) if self.model.cache is not None else None
        answers: dict[str, dict[str, Any]] = {}
        if cache is not None:
            try:
                answers = cache.held(wanted)
            except OSError as error:
                raise RemoteError(
                    f"The answers kept in {self.model.cache} cannot be read: {error}. Choose another cache."
                ) from error
        for key, held in answers.items() if stream else ():
            text = self.model.clean(held["text"][: _cut(held["text"], stop)])
            self._show(text, rows, wanted[key][1], stream)
        left = [key for key in wanted if key not in answers]
        if not left:
            if cache is not None:
                cache.close()
            return answers
        client = client_of(self.model)
        pool = ThreadPoolExecutor(min(self.model.concurrency, len(left)), thread_name_prefix="truing-remote")

        def ask(key: str) -> None:
            body, places = wanted[key]
            emit = functools.partial(self._show, rows=rows, places=places, stream=stream)
            shown = _Shown(emit, stop, self.model.clean) if stream else None
            answer = client.ask(body, shown.push if shown else None)
            if shown:
                shown.finish()
            if cache is not None:
                cache.put(key, answer)
            with self._lock:
                answers[key] = answer
                self.usage.count(self.who, 1, answer["prompt_tokens"] + answer["completion_tokens"])

        try:
            done, _ = wait([pool.submit(ask, key) for key in left], return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except OSError as error:
            raise RemoteError(
                f"An answer cannot be kept in {self.model.cache}: {error}. Choose another cache."
            ) from error
        finally:
            client.give_up()
            pool.shutdown(wait=True, cancel_futures=True)
            client.close()
            if cache is not None:
                cache.close()
        return answers

    def _show(self, piece: str, rows: Sequence[Row], places: Sequence[tuple[int, int]], stream: Stream | None) -> None:
        if stream and piece:
            with self._lock:
                for at, sample in places:
                    stream(rows[at].index, sample, piece)

    def _body(self, messages: Prompt, sampling: Sampling, sample: int) -> dict[str, Any]:
        text = messages if isinstance(messages, str) else self.model.rendered(messages)
        body: dict[str, Any] = {
            "model": self.model.model,
            "messages": messages if text is None else [{"role": "user", "content": text}],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "seed": _seed(sampling.seed, sample),
        }
        if sampling.top_p != 1:
            body["top_p"] = sampling.top_p
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.stop or self.model.stops:
            body["stop"] = [*sampling.stop, *self.model.stops]
        body.update(self.model.extra or {})
        body = {name: value for name, value in body.items() if value is not None}
        try:
            json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise RecordError(f"A prompt cannot be sent to a server: {error}.") from error
        return body


def client_of(model: RemoteModel) -> Any:
    """What sends requests to a model's server.

    Raises:
        RemoteError: OpenAI's own API is to be asked, and there is no key.
    """
    from truing.models.remote_client import Client

    return Client(model.url, model.check_key(), model.max_retries, model.timeout)


class _Shown:
    """Passes pieces of an answer on as they become certain: never the beginning of a stop string, or what is cleaned
    away.
    """

    def __init__(self, emit: Callable[[str], None], stop: Sequence[str], clean: Callable[[str, bool], str]) -> None:
        self._emit, self._stop, self._clean, self._text, self._sent = emit, stop, clean, "", 0

    def push(self, piece: str) -> None:
        self._text += piece
        kept = [len(s) - 1 for s in self._stop]
        self._send(len(self._text) - max(kept, default=0), False)

    def finish(self) -> None:
        self._send(len(self._text), True)

    def _send(self, end: int, ended: bool) -> None:
        cut = _cut(self._text, self._stop)
        end = max(0, end if cut is None else min(end, cut))
        certain = self._clean(self._text[:end], ended)
        if len(certain) > self._sent:
            piece, self._sent = certain[self._sent :], len(certain)
            self._emit(piece)


def _completion(answer: Mapping[str, Any], stop: Sequence[str], index: int, clean: Callable[[str], str]) -> Completion:
    text, reason = answer["text"], answer["finish_reason"]
    cut = _cut(text, stop)
    return Completion(clean(text[:cut]), finish_reason="stop" if cut is not None else reason, prompt_index=index)


def _cut(text: str, stop: Sequence[str]) -> int | None:
    return min((at for at in map(text.find, stop) if at >= 0), default=None)


def _seed(seed: int, sample: int) -> int:
    """The first sample has the seed itself; the others have seeds that no other call's first samples share."""
    if sample == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample}".encode()).digest()[:4], "big") >> 1


def _default_url() -> str:
    return os.environ.get("OPENAI_BASE_URL") or OPENAI


def _check_url(url: Any) -> None:
    parts = urllib.parse.urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise SettingsError(f"`base_url` is an address such as 'http://localhost:8000/v1', got {url!r}.")
    if "@" in parts.netloc or parts.query:
        raise SettingsError("`base_url` holds a user or a query, and would be saved with the model. Give `api_key`.")
