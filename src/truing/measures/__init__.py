"""A way to know: figures with intervals, paired differences, and one row for every sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from truing._lazy import lazy

if TYPE_CHECKING:
    from truing.measures.asking import Context as Context
    from truing.measures.asking import ask as ask
    from truing.measures.result import Column as Column
    from truing.measures.result import Curve as Curve
    from truing.measures.result import Figure as Figure
    from truing.measures.result import Grid as Grid
    from truing.measures.result import Outcome as Outcome
    from truing.measures.result import Plane as Plane
    from truing.measures.result import Result as Result
    from truing.measures.run import measure as measure

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Column": "truing.measures.result",
        "Curve": "truing.measures.result",
        "Context": "truing.measures.asking",
        "Figure": "truing.measures.result",
        "Grid": "truing.measures.result",
        "Outcome": "truing.measures.result",
        "Plane": "truing.measures.result",
        "Result": "truing.measures.result",
        "ask": "truing.measures.asking",
        "measure": "truing.measures.run",
    },
)
