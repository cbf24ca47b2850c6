"""One entry of a model's history, made from a method and its records."""

from __future__ import annotations

import math
from importlib import metadata
from typing import TYPE_CHECKING, Any

from truing import catalogue
from truing.contracts import Method, Settings
from truing.models.types import Step

if TYPE_CHECKING:
    from truing.records import Records


def step(method: Method, records: Records | None) -> Step:
    """The entry for one `align`: the method, its settings, what it learned from, and versions."""
    data = None
    if records is not None:
        data = {
            "fingerprint": records.fingerprint,
            "kind": records.kind,
            "rows": len(records),
            "source": records.source,
        }
    settings = {name: plain(value) for name, value in method.settings().items()}
    return Step(name_of(type(method), "method"), settings, data, versions())


def versions() -> dict[str, str]:
    """Of truing and of what the numbers depend on."""
    return {name: metadata.version(name) for name in ("truing", "torch", "transformers")}


def entry_of(cls: type, kind: str | None = None) -> catalogue.Entry | None:
    """The catalogue's entry of a class, or None."""
    home = f"{cls.__module__}:{cls.__qualname__}"
    return next((entry for entry in catalogue.entries(kind) if entry.home == home), None)


def name_of(cls: type, kind: str | None = None) -> str:
    """The catalogue's name of a class, or its own."""
    entry = entry_of(cls, kind)
    return entry.name if entry else cls.__name__


def plain(value: Any) -> Any:
    """A setting as JSON values: models by their source, settings and functions by their name."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Settings):
        return {
            "type": type(value).__name__,
            "settings": {name: plain(item) for name, item in value.settings().items()},
        }
    if hasattr(value, "generate") and hasattr(value, "source"):
        return {"model": value.source}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=repr)
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        return value.tolist() if not value.shape else f"{type(value).__name__} of shape {list(value.shape)}"
    if callable(value) and hasattr(value, "__qualname__"):
        return {"function": f"{value.__module__}:{value.__qualname__}"}
    # The repr of an object may hold its address, which says nothing the next day.
    return str(value) if type(value).__str__ is not object.__str__ else type(value).__name__
