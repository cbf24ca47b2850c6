"""Results made by the product's own statistics from values that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truing.measures.result import Column, Outcome, Result
from truing.measures.run import compare

RIGHT = Column("right")
WORDS = Column("words", "words", "neither", "mean")


def outcome(right: Sequence[Any], words: Sequence[float] | None = None, **more: Sequence[Any]) -> Outcome:
    """One row for each value: a share, ``right``, and where given a mean, ``length``."""
    rows: list[dict[str, Any]] = [
        {"id": f"q-{at}", "prompt": f"Question {at}?", "answer": "x", "right": value} for at, value in enumerate(right)
    ]
    for name, values in {**more, **({} if words is None else {"words": words})}.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return Outcome(rows, {"right": RIGHT, **({} if words is None else {"length": WORDS})})


def result(
    found: Outcome, model: str = "model", against: tuple[str, Outcome] | None = None, name: str = "exam",
    settings: Mapping[str, Any] | None = None,
) -> Result:  # fmt: skip
    """The result of a measure named ``exam``, as a file would give it back."""
    made = compare(name, found, None if against is None else against[1])
    made.model = {"name": model, "source": f"models/{model}", "history": []}
    if against is not None:
        made.against_model = {"name": against[0], "source": f"models/{against[0]}", "history": []}
    made.settings = dict(settings or {"seed": 0})
    return Result.from_json(made.to_json())


def first(share: float, n: int) -> list[float]:
    """That share of ones, then zeros."""
    return [1.0] * round(share * n) + [0.0] * (n - round(share * n))
