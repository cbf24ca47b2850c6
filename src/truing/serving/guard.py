"""What stands before every request: who may ask, and how much they may send."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from starlette.responses import Response

from truing.serving.answers import encoded
from truing.serving.jobs import Rejected
from truing.serving.limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
OPEN = frozenset({"/health"})  # asked by supervisors, which have no key


class ClientGone(Exception):
    """Nobody waits for the answer any longer."""


class Guard:
    """An ASGI layer that checks host and key, and refuses new work while the server stops.

    Args:
        app: what it guards.
        key: that a request's bearer token must equal; None asks for none.
        hosts: names besides addresses that a request's Host may have; None allows any. Without a key this is what
            keeps web pages out that give their own name this machine's address.
    """

    def __init__(self, app: Any, key: str | None = None, hosts: frozenset[str] | None = None) -> None:
        self.app, self._key, self._hosts = app, key.encode() if key is not None else None, hosts
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except Rejected as error:
                await refusal(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._hosts is not None and not _known_host(headers.get(b"host", b"").decode("latin-1"), self._hosts):
            raise Rejected("This server is not known by that name. Ask it by its address.", 403, None, "unknown_host")
        if scope["path"] in OPEN:
            return
        if self._key is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            # Compared in constant time, so that the time of a refusal tells nothing.
            right = hmac.compare_digest(given.strip(), self._key)
            if scheme.lower() != b"bearer" or not right:
                raise Rejected(
                    "The key is missing or wrong. Send it as `Authorization: Bearer KEY`.", 401, None,
                    "invalid_api_key", {"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        if self.stopping and scope["method"] == "POST":
            raise Rejected("The server is stopping. Ask again later.", 503, None, "stopping", {"Retry-After": "5"})


def _known_host(host: str, known: frozenset[str]) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").lower()
    if name in known:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def error_body(error: Rejected) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def refusal(error: Rejected) -> Response:
    """The answer that an error is."""
    return Response(encoded(error_body(error)), error.status, error.headers, "application/json")


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The body of a request, JSON by its content type.

    Raises:
        Rejected: it is of another type, too large (whatever its headers say), or too slow.
        ClientGone: the client went away.
    """
    headers = {name.lower(): value for name, value in scope["headers"]}
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        # A web page can send other types to this machine without asking the browser's leave first.
        raise Rejected("Send the body as `Content-Type: application/json`.", 415, None, "unsupported_media_type")
    try:
        return await asyncio.wait_for(_body(headers, receive, limits.body_bytes), limits.body_seconds)
    except asyncio.TimeoutError:
        raise Rejected(
            f"The body did not arrive within {limits.body_seconds:g} seconds.", 408, None, "timeout",
            {"Connection": "close"},
        ) from None  # fmt: skip


async def _body(headers: dict[bytes, bytes], receive: Receive, most: int) -> bytes:
    told = headers.get(b"content-length", b"0")
    size = int(told) if told.isdigit() else 0
    parts: list[bytes] = []
    held = 0
    while size <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        held += len(parts[-1])
        if held > most:
            break
        if not message.get("more_body", False):
            return b"".join(parts)
    raise Rejected(
        f"The body is larger than {most} bytes, which is the most taken here.", 413, None, "body_too_large",
        {"Connection": "close"},
    )  # fmt: skip


async def until_gone(receive: Receive, work: Awaitable[T], seconds: float | None = None) -> T:
    """The result of some work, which is cancelled when the client goes away.

    Args:
        receive: of a request whose body has been read.
        work: what to wait for.
        seconds: after which the client counts as gone.

    Raises:
        ClientGone: it went away before the work was done.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            # So that what it holds is freed before anything else happens.
            await asyncio.wait({task})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
