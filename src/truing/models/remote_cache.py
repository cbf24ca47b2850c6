"""Answers of remote models on disk, so that nothing paid for is asked twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = "answers.sqlite"
_WAIT = 60.0  # seconds that one process waits for another's write
_MOST = 500  # keys in one query


class AnswerCache:
    """A SQLite file with one row an answer, each committed by itself as it arrives.

    An answer is on disk when `put` returns, whatever kills the process next. Several threads and processes may share
    a folder on a local disk. A row that cannot be read counts as none, and is asked again.

    Args:
        folder: where the file lies; made when the first answer is kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self._lock = threading.Lock()
        self._open: sqlite3.Connection | None = None

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer kept under a key, or None."""
        return self.held([key]).get(key)

    def held(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The answers that are kept, of those under these keys.

        Raises:
            OSError: there is a file that is no cache, or cannot be read.
        """
        wanted = list(keys)
        if not (self.folder / FILE).is_file():
            return {}
        found: dict[str, dict[str, Any]] = {}
        with self._lock, self._told():
            for start in range(0, len(wanted), _MOST):
                some = wanted[start : start + _MOST]
                marks = ",".join("?" * len(some))
                rows = self._connected().execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", some)
                for key, text in rows.fetchall():
                    with contextlib.suppress(ValueError, RecursionError, TypeError):
                        answer = json.loads(text)
                        if isinstance(answer, dict) and isinstance(answer.get("text"), str):
                            found[key] = answer
        return found

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer. It is on disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps(answer)
        with self._lock, self._told():
            self._connected().execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))

    def close(self) -> None:
        """End the connection; the next call opens another."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    def _connected(self) -> sqlite3.Connection:
        if self._open is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Autocommit: every statement is a transaction of its own. The lock lets threads share the connection.
            made = sqlite3.connect(self.folder / FILE, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            try:
                # Readers then do not wait for writers. Where the disk cannot (a network share), SQLite stays with its
                # own journal, which is as safe.
                made.execute("PRAGMA journal_mode=WAL")
                # An answer survives a power cut too, not the end of the process alone: each one was paid for.
                made.execute("PRAGMA synchronous=FULL")
                made.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            except BaseException:
                made.close()
                raise
            self._open = made
        return self._open

    @contextlib.contextmanager
    def _told(self) -> Any:
        """Faults of the file as `OSError`, as of any other file."""
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"{self.folder / FILE}: {error}") from error


def key_of(url: str, body: Mapping[str, Any], sample: int) -> str:
    """The key of one answer: all that is sent, where to, and which sample of the same request it is."""
    told = json.dumps([url, body, sample], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()
