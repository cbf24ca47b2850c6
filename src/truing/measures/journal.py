"""What was computed already, on disk: a killed measure repeats no finished batch, and measures that ask a model the
same questions share its answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import weakref
from pathlib import Path
from typing import Any


class Journal:
    """A value for each key, appended to one JSONL file for each model (or judge) they come from.

    A line that a kill has cut is passed over and computed again; so is any other line that is no entry. Without a
    folder it lives in memory.

    Args:
        folder: where the files lie; made when the first value is written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[str, dict[str, Any]] = {}

    def known(self, origin: str) -> dict[str, Any]:
        """Every value of one origin, by key."""
        if origin not in self._known:
            self._known[origin] = {} if self.folder is None else _read(self._path(origin))
        return self._known[origin]

    def add(self, origin: str, values: dict[str, Any]) -> None:
        """Keep a finished batch. It is on disk when this returns."""
        self.known(origin).update(values)
        if self.folder is None or not values:
            return
        path = self._path(origin)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in values.items())
        with path.open("ab+") as file:
            # After a kill the last line may lack its end; what is added must not be glued to it.
            if file.tell():
                file.seek(-1, os.SEEK_END)
                lines = lines if file.read(1) == b"\n" else "\n" + lines
            file.write(lines.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())

    def kept(self, model: Any) -> Any:
        """A remote model whose answers are kept as they arrive, in a folder within this one; any other as it is.

        A batch is journaled when all of it is there. What a server was paid for must outlive a kill before that.
        """
        if self.folder is None or not hasattr(model, "base_url") or getattr(model, "cache", None) is not None:
            return model
        return dataclasses.replace(model, cache=self.folder / "remote")

    def _path(self, origin: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key_of(origin)}.jsonl"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not path.is_file():
        return found
    for line in path.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
            found[str(entry["key"])] = entry["value"]
        except (ValueError, TypeError, KeyError):
            # A cut line: its batch counts as not done.
            continue
    return found


def key_of(value: Any) -> str:
    """A short hash of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_FINGERPRINTS: weakref.WeakKeyDictionary[Any, tuple[Any, str]] = weakref.WeakKeyDictionary()


def fingerprint(model: Any) -> str:
    """The model's fingerprint. Hashing all weights takes long, so it is done once, and again only if they changed."""
    stamp = _stamp(model)
    known = _FINGERPRINTS.get(model)
    if known is None or known[0] != stamp:
        known = (stamp, str(model.fingerprint))
        _FINGERPRINTS[model] = known
    return known[1]


def _stamp(model: Any) -> Any:
    """Changes whenever weights are changed in place, by torch's own count of changes."""
    weights = getattr(model, "weights", None)
    if weights is None:
        return None
    return [(id(one), 0 if one.is_inference() else one._version) for one in weights.state_dict(keep_vars=True).values()]


def identity(value: Any) -> str | None:
    """What a judge or a reward is, the same in another process; None where it names a model by a folder, whose content
    may change.
    """
    from truing.models.fingerprint import canonical

    return None if isinstance(getattr(value, "model", None), str) else key_of(canonical(value))
