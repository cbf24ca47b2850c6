"""A server on a port: where it listens, whom it lets in, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from truing.errors import MissingExtraError, SettingsError
from truing.serving.limits import Limits

LOCAL = "127.0.0.1"


def require_packages() -> None:
    """Raise `MissingExtraError` where the packages of the extra are absent."""
    for package in ("fastapi", "uvicorn"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError(package, "serve") from None


class Server:
    """Models behind OpenAI's interface on a port of this machine.

    While it serves, its models belong to its thread: use other copies of their weights beside it.

    Args:
        models: name to model; see `truing.serving.shelf.offered`.
        host: the address to listen at. Another than a loopback one needs a key, since whoever reaches it could ask.
        port: 0 takes a free one.
        key: what requests must bear; None asks for none.
        limits: see `Limits`.
        switching: requests may turn modifiers and strengths.
        open_to_all: listen at any address without a key.
        stop_seconds: most time that running requests have to end when the server stops.
        access_log: log a line for each request: address, path and status, and no text.

    Raises:
        SettingsError: the address cannot be used, or would be open to all.
        MissingExtraError: fastapi or uvicorn is not installed.
    """

    def __init__(
        self, models: Mapping[str, Any], *, host: str = LOCAL, port: int = 8000, key: str | None = None,
        limits: Limits | None = None, switching: bool = True, open_to_all: bool = False, stop_seconds: float = 30.0,
        access_log: bool = False,
    ) -> None:  # fmt: skip
        require_packages()
        import uvicorn

        from truing.serving.app import Service, create_app

        if key is not None and (len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key):
            raise SettingsError("A key has at least 8 printable ASCII characters and no spaces.")
        local = _is_local(host)
        if not local and key is None and not open_to_all:
            raise SettingsError(
                f"At {host} anyone who reaches this machine could use its models, since there is no key. Give one "
                "(--key-file FILE or TRUING_SERVE_KEY), keep the default 127.0.0.1, or say --open if that is meant."
            )
        self.service = Service(models, limits, switching)
        names = None if key is not None or open_to_all else frozenset({"localhost", host.lower()})
        self.guard = create_app(self.service, key, names)
        self._socket = _bound(host, port)
        self.port: int = self._socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/v1"
        self._server = _Uvicorn(
            uvicorn.Config(
                self.guard, lifespan="on", log_config=None, access_log=access_log, timeout_keep_alive=30,
                timeout_graceful_shutdown=max(1, round(stop_seconds)), server_header=False,
            ),
            self._stopping,
        )  # fmt: skip
        self._thread: threading.Thread | None = None

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT; running requests are finished then, and new ones refused.

        Args:
            ready: called once requests are taken.
        """
        self._server.ready = ready
        # uvicorn's own lines are for developers; its errors are not.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Stop as a signal does; from any thread."""
        self._server.stop()

    def __enter__(self) -> Server:
        """Serve in a thread: for tests, notebooks, and other programs."""
        started = threading.Event()
        self._thread = threading.Thread(target=self.run, args=(started.set,), name="truing-server", daemon=True)
        self._thread.start()
        while not started.wait(0.1):
            if not self._thread.is_alive():
                raise SettingsError("The server did not start; its log says why.")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _stopping(self) -> None:
        self.guard.stopping = True


class _Uvicorn:
    """uvicorn, which after a signal ends without raising it again: a stop that was asked for is no failure."""

    def __init__(self, config: Any, stopping: Callable[[], None]) -> None:
        import uvicorn

        outer = self
        self.ready: Callable[[], None] | None = None
        self._stopping = stopping

        class Quiet(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                if threading.current_thread() is not threading.main_thread():
                    yield
                    return
                before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
                try:
                    yield
                finally:
                    for one, handler in before.items():
                        signal.signal(one, handler)

            def handle_exit(self, sig: int, frame: Any) -> None:
                stopping()
                # A second signal does not wait for what still runs.
                self.force_exit = self.should_exit
                self.should_exit = True

            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                if self.started and outer.ready is not None:
                    outer.ready()

        self._server = Quiet(config)

    def run(self, sockets: list[socket.socket]) -> None:
        """Serve until told to stop."""
        asyncio.run(self._server.serve(sockets=sockets))

    def stop(self) -> None:
        """Stop, and let running requests end."""
        self._stopping()
        self._server.should_exit = True


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SettingsError(
            f"The server cannot listen at {host}, port {port}: {why}. Choose another --host, or --port (0: a free one)."
        ) from error
    return made
