"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_atomic(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write a whole file, text as UTF-8 and perhaps in pieces, or leave the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            file.writelines(piece.encode("utf-8") for piece in ([content] if isinstance(content, str) else content))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
