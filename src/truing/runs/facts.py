"""What a run writes down about itself: versions, machine, data, models, settings and the command that repeats it."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truing.records import Records


def folder_name(name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-.")
    return kept or "run"


def command(recipe: str | Path, folder: Path, overrides: Sequence[str]) -> str:
    import shlex

    parts = ["truing", "run", str(recipe), "--out", str(folder)]
    for override in overrides:
        parts += ["--set", override]
    return shlex.join(parts)


def data(records: Records | None) -> dict[str, Any] | None:
    if records is None:
        return None
    return {
        "source": records.source,
        "kind": records.kind,
        "rows": len(records),
        "set_aside": records.set_aside,
        "notes": dict(records.notes),
        "fingerprint": records.fingerprint,
    }


def identity(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "source": getattr(model, "source", model.name),
        "fingerprint": getattr(model, "fingerprint", None),
    }


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON values; a model by its name, anything else by its repr."""

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if hasattr(value, "generate") and hasattr(value, "name"):
            return value.name
        return repr(value)

    return {key: plain(value) for key, value in settings.items()}


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from truing._version import __version__

    found = {"truing": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "peft", "accelerate", "datasets", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def threads() -> int:
    import torch

    return torch.get_num_threads()


def machine() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "device": device}
