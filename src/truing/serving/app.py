"""The application: what each address answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from truing._version import __version__
from truing.errors import ModelError, RecordError, RemoteError, SettingsError, StackError, TruingError, UnsupportedError
from truing.serving.answers import encoded
from truing.serving.asking import Order, order
from truing.serving.guard import ClientGone, Guard, error_body, read_body, refusal, until_gone
from truing.serving.jobs import Job, Piece, Read, Rejected, log_failure
from truing.serving.limits import Limits
from truing.serving.metrics import Metrics, Observed
from truing.serving.openapi import described, documented
from truing.serving.proxy import Proxy
from truing.serving.requests import ChatRequest, CompletionRequest, read_request
from truing.serving.scheduler import Scheduler
from truing.serving.shelf import Shelf
from truing.serving.streaming import EventStream, event

GRACE = 10.0  # seconds beyond a request's own that a client has to read the end of its stream


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

    async def answer(
        self, request: Request, kind: type[ChatRequest] | type[CompletionRequest], endpoint: str
    ) -> Response:
        """Answer one request, whole or as a stream."""
        observed = Observed(self.metrics, endpoint)
        try:
            asked = read_request(kind, await read_body(request.scope, request.receive, self.limits))
            made = order(asked, self.shelf, self.limits)
            observed.model = made.offered.base
            (self.scheduler if "logits" in made.job.model.offers else self.proxy).submit(made.job)
        except ClientGone:
            return _gone(observed)
        except Rejected as error:
            return _refused(observed, error)
        job = made.job
        timer = asyncio.get_running_loop().call_later(self.limits.seconds, _expire, job, self.limits.seconds)

        def ended() -> None:
            timer.cancel()
            job.cancel()

        streaming = False
        try:
            read = await until_gone(request.receive, job.next())
            assert isinstance(read, Read)
            if job.stream:
                streaming = True
                events = self._events(made, read, observed)
                return EventStream(events, lambda: _gone(observed, job), ended, self.limits.seconds + GRACE)
            pieces = await until_gone(request.receive, _all(job))
            observed.done(200, job)
            return Response(encoded(made.form.whole(read, pieces)), media_type="application/json")
        except ClientGone:
            return _gone(observed, job)
        except Exception as error:
            return _refused(observed, rejected(error, job), job)
        finally:
            if not streaming:
                ended()

    async def _events(self, made: Order, read: Read, observed: Observed) -> AsyncIterator[bytes]:
        """The chunks of a stream as server-sent events."""
        job, form = made.job, made.form
        try:
            for chunk in form.start(read):
                yield event(chunk)
            async for piece in job.pieces():
                observed.first()
                for chunk in form.chunks(piece):
                    yield event(chunk)
            for chunk in form.end():
                yield event(chunk)
            observed.done(200, job)
            yield b"data: [DONE]\n\n"
        except Exception as error:
            # The status is sent already; clients know this form, and raise.
            found = rejected(error, job)
            observed.done(found.status, job)
            yield event(error_body(found))

    def counted(self) -> str:
        """The page of metrics."""
        found, scheduler = self.metrics, self.scheduler
        found.waiting.put(scheduler.waiting + self.proxy.waiting)
        found.running.put(scheduler.running + self.proxy.running)
        found.slots.put(scheduler.slots)
        found.steps.put(scheduler.steps)
        for part, calls in list(scheduler.usage.calls.items()):
            found.passes.put(calls, part)
            found.positions.put(scheduler.usage.positions.get(part, 0), part)
        return found.text()


async def _all(job: Job) -> list[Piece]:
    return [piece async for piece in job.pieces()]


def _expire(job: Job, seconds: float) -> None:
    job.cancel()
    job.send(Rejected(f"The answer was not ready within {seconds:g} seconds. Ask for less.", 504, None, "timeout"))


def _gone(observed: Observed, job: Job | None = None) -> Response:
    observed.gone(job)
    return Response(status_code=499)


def _refused(observed: Observed, error: Rejected, job: Job | None = None) -> Response:
    observed.done(error.status, job)
    return refusal(error)


def rejected(error: Exception, job: Job) -> Rejected:
    """What a client is told of an error: its message where it is written for people, else only that there was one."""
    if isinstance(error, Rejected):
        return error
    text = str(error)[:600]
    chat = job.prompts[0].messages is not None
    if isinstance(error, (RecordError, SettingsError, UnsupportedError, StackError)):
        return Rejected(text, 400, "messages" if chat else "prompt", "invalid_value")
    if isinstance(error, ModelError) and job.switched:
        return Rejected(f"With these strengths the model does not work: {text}", 400, "truing", "invalid_value")
    if isinstance(error, ModelError) and chat and "chat template" in text:
        return Rejected(text, 400, "messages", "invalid_value")
    if isinstance(error, RemoteError):
        return Rejected(text, 502, None, "upstream_error")
    if isinstance(error, TruingError):
        return Rejected(text, 500, None, "model_error")
    log_failure(error)
    return Rejected("The server failed at this request; its log says where.", 500, None, "internal_error")


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
    async def chat(request: Request) -> Response:
        """Answer a conversation."""
        return await service.answer(request, ChatRequest, "chat")

    @app.post("/v1/completions", **documented("completions"))
    async def completions(request: Request) -> Response:
        """Continue raw text or token ids."""
        return await service.answer(request, CompletionRequest, "completions")

    @app.get("/v1/models", **documented("models"))
    async def models() -> Response:
        """The models that can be asked, with their modifiers."""
        listed = [_listed(item, service.began) for item in service.shelf.about()]
        return JSONResponse({"object": "list", "data": listed})

    @app.get("/v1/models/{model:path}", **documented("model"))
    async def model(model: str) -> Response:
        """One of them."""
        for item in service.shelf.about():
            if item["name"] == model:
                return JSONResponse(_listed(item, service.began))
        known = ", ".join(service.shelf.models)
        return refusal(Rejected(f"There is no such model here. Models: {known}.", 404, "model", "model_not_found"))

    @app.get("/health", **documented("health"))
    async def health() -> Response:
        """Whether the server takes requests."""
        status = "stopping" if guard.stopping else "ok"
        return JSONResponse({"status": status}, 503 if guard.stopping else 200)

    @app.get("/metrics", **documented("metrics"))
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return PlainTextResponse(service.counted(), media_type="text/plain; version=0.0.4")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return refusal(Rejected(f"{error.detail}.", error.status_code, None, None, dict(error.headers or {})))

    described(app, key is not None)
    guard = Guard(app, key, hosts)
    return guard


def _listed(item: dict[str, Any], created: int) -> dict[str, Any]:
    return {
        "id": item["name"], "object": "model", "created": created, "owned_by": "truing",
        "truing": {"modifiers": item["modifiers"]},
    }  # fmt: skip
