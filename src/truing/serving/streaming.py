"""Answers over HTTP as they are written: server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import Response

from truing.serving.answers import encoded
from truing.serving.guard import ClientGone, until_gone


class EventStream(Response):
    """Server-sent events, given up as soon as the client is gone.

    Args:
        events: their bytes.
        gone: called when the client went away before their end.
        ended: called at the end, whatever it was.
        seconds: after which a client that does not read counts as gone.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], gone: Callable[[], Any], ended: Callable[[], Any], seconds: float
    ) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._gone, self._ended, self._seconds = events, gone, ended, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them."""

        async def write() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await until_gone(receive, write(), self._seconds)
        except (ClientGone, OSError):
            self._gone()
        finally:
            self._ended()


def event(value: Any) -> bytes:
    """One event."""
    return b"data: " + encoded(value) + b"\n\n"
