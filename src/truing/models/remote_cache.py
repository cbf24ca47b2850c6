"""Answers of remote models on disk, so that nothing paid for is asked twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class AnswerCache:
    """One small JSON file an answer, in folders by the first letters of its key.

    Args:
        folder: where; made when the first answer is kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer kept under a key, or None; a file that cannot be read counts as none, and is asked again."""
        try:
            held = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(held, dict) or held.get("key") != key or not isinstance(held.get("text"), str):
            return None
        return held

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer; the file is whole or not there, also when two processes write it."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{key}.{secrets.token_hex(4)}")
        try:
            partial.write_text(json.dumps({"key": key, **answer}, ensure_ascii=False), encoding="utf-8")
            os.replace(partial, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def key_of(url: str, body: Mapping[str, Any], sample: int) -> str:
    """The key of one answer: all that is sent, where to, and which sample of the same request it is."""
    told = json.dumps([url, body, sample], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()
