"""A way to know: figures with intervals, paired differences, and one row for every sample."""

from __future__ import annotations

from truing._lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {"Figure": "truing.measures.result", "Result": "truing.measures.result", "Outcome": "truing.measures.result"},
)
