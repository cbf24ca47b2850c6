"""One entry of a model's history, made from a method and its records."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

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
    versions = {name: metadata.version(name) for name in ("truing", "torch", "transformers")}
    return Step(
        type(method).__name__, {name: plain(value) for name, value in method.settings().items()}, data, versions
    )


def plain(value: Any) -> Any:
    """A setting as JSON values: models by their source, settings and functions by their name."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Settings):
        return {
            "type": type(value).__name__,
            "settings": {name: plain(item) for name, item in value.settings().items()},
        }
    if hasattr(value, "weights") or hasattr(value, "offers"):
        return {"model": value.source}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return {"function": f"{value.__module__}:{value.__qualname__}"}
    return str(value)
