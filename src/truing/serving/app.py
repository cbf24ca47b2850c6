"""The application: what each address answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from truing._version import __version__
from truing.errors import (
    ModelError,
    RecordError,
    RemoteError,
    SettingsError,
    StackError,
    TruingError,
    UnsupportedError,
)
from truing.models.types import Sampling
from truing.serving.answers import Chat, Form, Text, encoded
from truing.serving.guard import ClientGone, Guard, error_body, read_body, until_gone
from truing.serving.jobs import Asked, Job, Piece, Read, Rejected
from truing.serving.limits import Limits
from truing.serving.metrics import Metrics
from truing.serving.openapi import described, documented
from truing.serving.proxy import Proxy
from truing.serving.requests import ChatRequest, CompletionRequest, read_request
from truing.serving.scheduler import Scheduler
from truing.serving.shelf import Offered, Shelf, Turns
from truing.serving.tokens import TokenTexts

log = logging.getLogger("truing.serving")

COLD = 1e-4  # temperatures below it are greedy, which is their limit


class Service:
    """All that a running server holds.

    Args:
        models: name to model; see `Shelf`.
        limits: see `Limits`.
        switching: requests may turn modifiers.
    """

    def __init__(self, models: Mapping[str, Any], limits: Limits | None = None, switching: bool = True) -> None:
        self.limits = limits or Limits()
        self.limits.validate()
        self.shelf = Shelf(models, switching)
        self.scheduler = Scheduler(self.limits)
        self.proxy = Proxy(self.limits)
        self.metrics = Metrics()
        self.began = int(time.time())
        self._texts: dict[int, TokenTexts] = {}
        self.guard: Guard | None = None

    # --- from a request to a job -------------------------------------------------------------------------------------

    def job(self, asked: ChatRequest | CompletionRequest) -> tuple[Job, Form, Offered]:
        """What a request asks of the models, and the form of its answer.

        Raises:
            Rejected: it asks for what this server or this model does not do.
        """
        turns = asked.truing
        offered = self.shelf.find(
            asked.model,
            Turns(tuple((turns.strength or {}).items()), tuple(turns.without or ())) if turns else Turns(),
        )
        if asked.stream_options is not None and not asked.stream:
            raise Rejected("`stream_options` needs `stream: true`.", 400, "stream_options", "invalid_value")
        form: type[Form]
        if isinstance(asked, ChatRequest):
            form, prompts, echo, write = Chat, _conversation(asked), False, True
            most, name = _most(asked)
            wants, top = bool(asked.logprobs), asked.top_logprobs or 0
            if top and not wants:
                raise Rejected("`top_logprobs` needs `logprobs: true`.", 400, "top_logprobs", "invalid_value")
        else:
            form, prompts, echo = Text, _raw(asked, offered), bool(asked.echo)
            most, name = (16 if asked.max_tokens is None else asked.max_tokens), "max_tokens"
            wants, top = asked.logprobs is not None, asked.logprobs or 0
            write = most > 0
            if not write and not echo:
                raise Rejected("`max_tokens` of 0 needs `echo: true`.", 400, "max_tokens", "invalid_value")
            if asked.best_of is not None and asked.best_of != (asked.n or 1):
                raise Rejected("`best_of` is not supported. Leave it out.", 400, "best_of", "unsupported_parameter")
        if most is None:
            most = self.limits.answer_tokens
        elif most > self.limits.answer_tokens:
            raise Rejected(
                f"`{name}` is {most}, and {self.limits.answer_tokens} is the most given here.",
                400,
                name,
                "too_many_tokens",
            )
        n = asked.n or 1
        if n * len(prompts) > self.limits.choices:
            raise Rejected(
                f"{n * len(prompts)} answers are asked for, and {self.limits.choices} are the most of one request.", 400,
                "n" if n > 1 else "prompt", "too_many_choices",
            )  # fmt: skip
        remote = "logits" not in offered.model.offers
        searches = any(modifier.kind == "search" for modifier in offered.model.modifiers)
        if wants and (remote or (searches and write)):
            why = "asks another server" if remote else "searches among answers"
            raise Rejected(
                f"`{offered.name}` {why}, which gives no log-probabilities. "
                + ("Leave `logprobs` out." if remote else "Take its search modifier off: `truing.without`."),
                400, "logprobs", "unsupported_parameter",
            )  # fmt: skip
        if remote and prompts[0].messages is None:
            raise Rejected(f"`{offered.name}` asks another server, and takes conversations only.", 400, "prompt")
        sampling = Sampling(
            max_new_tokens=max(1, most),
            temperature=_temperature(asked.temperature),
            top_k=asked.top_k or 0,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
            seed=secrets.randbits(63) if asked.seed is None else asked.seed & (2**63 - 1),
            n=n,
        )
        job = Job(
            offered.model, offered.key, prompts, sampling, wants, top, echo, write, bool(asked.stream), offered.switched
        )
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        trace = bool(turns and turns.trace)
        return job, form(job, offered.name, self._words(offered.model) if wants else None, usage, trace), offered

    def _words(self, model: Any) -> TokenTexts:
        key = id(model.tokenizer)
        if key not in self._texts:
            self._texts[key] = TokenTexts(model.tokenizer)
        return self._texts[key]

    def submit(self, job: Job) -> None:
        """Give a job to whoever runs it.

        Raises:
            Rejected: too many wait.
        """
        (self.scheduler if "logits" in job.model.offers else self.proxy).submit(job)

    # --- answering ---------------------------------------------------------------------------------------------------

    async def answer(
        self, request: Request, kind: type[ChatRequest] | type[CompletionRequest], endpoint: str
    ) -> Response:
        """Answer one request, whole or as a stream."""
        began = time.monotonic()
        told = _Told(self.metrics, endpoint, began)
        try:
            body = await read_body(request.scope, request.receive, self.limits)
            asked = read_request(kind, body)
            del body
            job, form, offered = self.job(asked)
            told.model = offered.base
            self.submit(job)
        except ClientGone:
            return told.gone()
        except Rejected as error:
            return told.refused(error)
        timer = asyncio.get_running_loop().call_later(self.limits.seconds, _expire, job, self.limits.seconds)
        streaming = False
        try:
            read = await until_gone(request.receive, job.next())
            assert isinstance(read, Read)
            if asked.stream:
                streaming = True
                return EventStream(self._events(job, form, read, told, timer), told, self.limits.seconds)
            pieces = await until_gone(request.receive, _all(job))
            told.done(200, job)
            return Response(encoded(form.whole(read, pieces)), media_type="application/json")
        except ClientGone:
            return told.gone()
        except Exception as error:
            return told.refused(rejected(error, job), job)
        finally:
            if not streaming:
                timer.cancel()
                job.cancel()

    async def _events(
        self, job: Job, form: Form, read: Read, told: _Told, timer: asyncio.TimerHandle
    ) -> AsyncIterator[bytes]:
        """The chunks of a stream as server-sent events."""
        try:
            for chunk in form.start(read):
                yield _event(chunk)
            left = job.choices
            while left:
                piece = await job.next()
                assert isinstance(piece, Piece)
                told.first()
                left -= piece.done is not None
                for chunk in form.chunks(piece):
                    yield _event(chunk)
            for chunk in form.end():
                yield _event(chunk)
            told.done(200, job)
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            raise
        except Exception as error:
            found = rejected(error, job)
            told.done(found.status, job)
            yield _event(error_body(found))
        finally:
            timer.cancel()
            job.cancel()


class _Told:
    """What one request adds to the metrics."""

    def __init__(self, metrics: Metrics, endpoint: str, began: float) -> None:
        self.metrics, self.endpoint, self.began, self.model = metrics, endpoint, began, ""
        self._first = self._done = False

    def first(self) -> None:
        if not self._first:
            self._first = True
            self.metrics.first.observe(time.monotonic() - self.began, self.endpoint)

    def done(self, status: int, job: Job | None = None) -> None:
        if self._done:
            return
        self._done = True
        self.metrics.requests.add(1, self.endpoint, self.model, str(status))
        self.metrics.seconds.observe(time.monotonic() - self.began, self.endpoint)
        if job is not None:
            self.metrics.prompt_tokens.add(job.prompt_tokens, self.model)
            self.metrics.completion_tokens.add(job.completion_tokens, self.model)

    def refused(self, error: Rejected, job: Job | None = None) -> Response:
        self.done(error.status, job)
        return JSONResponse(error_body(error), error.status, error.headers)

    def gone(self) -> Response:
        self.metrics.gone.add()
        self.done(499)
        return Response(status_code=499)


class EventStream(Response):
    """Server-sent events, given up as soon as the client is gone.

    Args:
        events: their bytes.
        told: what to count.
        seconds: after which a client that does not read counts as gone.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], told: _Told, seconds: float) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._told, self._seconds = events, told, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them."""

        async def write() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await until_gone(receive, write(), self._seconds + 10)
        except (ClientGone, OSError):
            self._told.gone()
        finally:
            await self._events.aclose()  # type: ignore[attr-defined]


def _event(value: Any) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"


def _expire(job: Job, seconds: float) -> None:
    job.cancel()
    job.send(Rejected(f"The answer was not ready within {seconds:g} seconds. Ask for less.", 504, None, "timeout"))


async def _all(job: Job) -> list[Piece]:
    pieces: list[Piece] = []
    left = job.choices
    while left:
        piece = await job.next()
        assert isinstance(piece, Piece)
        pieces.append(piece)
        left -= piece.done is not None
    return pieces


def rejected(error: Exception, job: Job | None = None) -> Rejected:
    """What a client is told of an error: its message where it is written for people, else only that there was one."""
    if isinstance(error, Rejected):
        return error
    text = str(error)[:600]
    if isinstance(error, (RecordError, SettingsError, UnsupportedError, StackError)):
        raw = job is not None and job.prompts[0].messages is None
        return Rejected(text, 400, "prompt" if raw else "messages", "invalid_value")
    if isinstance(error, ModelError) and job is not None:
        if job.switched:
            return Rejected(f"With these strengths the model does not work: {text}", 400, "truing", "invalid_value")
        if job.prompts[0].messages is not None and "chat template" in text:
            return Rejected(text, 400, "messages", "invalid_value")
    if isinstance(error, RemoteError):
        return Rejected(text, 502, None, "upstream_error")
    if isinstance(error, TruingError):
        return Rejected(text, 500, None, "model_error")
    log.error("Failed with %s:\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return Rejected("The server failed at this request; its log says where.", 500, None, "internal_error")


def _temperature(asked: float | None) -> float:
    return 1.0 if asked is None else 0.0 if asked < COLD else asked


def _conversation(asked: ChatRequest) -> list[Asked]:
    from truing.models.chat import as_messages

    messages = [
        {
            "role": message.role,
            "content": message.content
            if isinstance(message.content, str)
            else [part.model_dump(exclude_unset=True) for part in message.content],
        }
        for message in asked.messages
    ]
    try:
        return [Asked(messages=as_messages(messages))]
    except TruingError as error:
        raise Rejected(str(error)[:600], 400, "messages", "invalid_value") from None


def _most(asked: ChatRequest) -> tuple[int | None, str]:
    both = (asked.max_completion_tokens, asked.max_tokens)
    if None not in both and both[0] != both[1]:
        raise Rejected("`max_tokens` and `max_completion_tokens` differ. Give one.", 400, "max_tokens", "invalid_value")
    return (both[0], "max_completion_tokens") if both[0] is not None else (both[1], "max_tokens")


def _raw(asked: CompletionRequest, offered: Offered) -> list[Asked]:
    acting = [modifier for modifier in offered.model.modifiers if modifier.kind == "prompt"]
    if acting:
        raise Rejected(
            f"`{offered.name}` changes conversations ({type(acting[0]).__name__}), which raw text is not. Use "
            "/v1/chat/completions, or take that modifier off: `truing.without`.", 400, "prompt", "unsupported_parameter",
        )  # fmt: skip
    prompt = asked.prompt
    if isinstance(prompt, str):
        return [Asked(text=prompt)]
    if all(isinstance(item, int) for item in prompt):
        return [Asked(tokens=tuple(prompt))]  # type: ignore[arg-type]
    return [Asked(text=item) if isinstance(item, str) else Asked(tokens=tuple(item)) for item in prompt]  # type: ignore[arg-type]


def create_app(service: Service, key: str | None = None, hosts: frozenset[str] | None = None) -> Guard:
    """The ASGI application of a server.

    Args:
        service: models and limits.
        key: that requests must bear; see `Guard`.
        hosts: see `Guard`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.scheduler.stop)
            service.proxy.stop()

    app = FastAPI(
        title="truing", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Aligned models behind OpenAI's interface.",
    )  # fmt: skip

    @app.post("/v1/chat/completions", **documented("chat"))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await service.answer(request, ChatRequest, "chat")

    @app.post("/v1/completions", **documented("completions"))
    async def completions(request: Request) -> Response:
        """Continue raw text or token ids."""
        return await service.answer(request, CompletionRequest, "completions")

    @app.get("/v1/models", **documented("models"))
    async def models() -> Response:
        """The models that can be asked, with their modifiers."""
        return JSONResponse(
            {"object": "list", "data": [_listed(item, service.began) for item in service.shelf.about()]}
        )

    @app.get("/v1/models/{model:path}", **documented("model"))
    async def model(model: str) -> Response:
        """One of them."""
        for item in service.shelf.about():
            if item["name"] == model:
                return JSONResponse(_listed(item, service.began))
        known = ", ".join(service.shelf.models)
        error = Rejected(f"There is no such model here. Models: {known}.", 404, "model", "model_not_found")
        return JSONResponse(error_body(error), 404)

    @app.get("/health", **documented("health"))
    async def health() -> Response:
        """Whether the server takes requests."""
        stopping = guard.stopping
        return JSONResponse({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)

    @app.get("/metrics", **documented("metrics"))
    async def metrics() -> Response:
        """Counters for Prometheus."""
        found, scheduler = service.metrics, service.scheduler
        found.waiting.put(scheduler.waiting + service.proxy.waiting)
        found.running.put(scheduler.running + service.proxy.running)
        found.slots.put(scheduler.slots)
        found.steps.put(scheduler.steps)
        for part, calls in list(scheduler.usage.calls.items()):
            found.passes.put(calls, part)
            found.positions.put(scheduler.usage.positions.get(part, 0), part)
        return PlainTextResponse(found.text(), media_type="text/plain; version=0.0.4")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        told = Rejected(f"{error.detail}.", error.status_code, None, None, dict(error.headers or {}))
        return JSONResponse(error_body(told), error.status_code, told.headers)

    described(app, key is not None)
    guard = service.guard = Guard(app, key, hosts)
    return guard


def _listed(item: dict[str, Any], created: int) -> dict[str, Any]:
    return {
        "id": item["name"], "object": "model", "created": created, "owned_by": "truing",
        "truing": {"modifiers": item["modifiers"]},
    }  # fmt: skip
