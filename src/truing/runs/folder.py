"""A run's folder: a kill at any moment leaves the old file or the new one, and one process at a time uses it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truing.errors import RunError
from truing.files import write_atomic

STATE = "run.json"
GATE = "gate.json"


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RunError: the file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}. Choose another folder with --out, or remove this one."
        ) from None


def remove(path: Path) -> None:
    """Remove a file or a folder that may be absent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        RunError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            raise RunError(
                f"Another process{f' ({owner})' if owner else ''} is running in {folder}. "
                "Wait for it, or choose another folder with --out."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """One line for each value in which two resolved recipes differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted({*old, *new}):
            lines += differences(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
        return lines
    if isinstance(old, list) and isinstance(new, list):
        lines = []
        for index in range(max(len(old), len(new))):
            there = old[index] if index < len(old) else None
            here = new[index] if index < len(new) else None
            lines += differences(there, here, f"{at}.{index + 1}")
        return lines
    if old == new and type(old) is type(new):
        return []
    return [f"{at}: {_short(old)} in the folder, {_short(new)} in the recipe"]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"
