"""What Inspect finds by its entry point: the provider ``truing`` and a task for each measure that asks.

Inspect imports this for whoever has both installed, whatever they evaluate; so models, torch and measures wait until
they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inspect_ai import Task, task
from inspect_ai.model import ModelAPI, modelapi

from truing.catalogue import entries, find
from truing.frameworks import inspect_tasks  # its scorer, too, is found by name: `inspect score`
from truing.frameworks.inspect_inside import told


@modelapi(name="truing")
def truing() -> type[ModelAPI]:
    """Aligned models: ``--model truing/out/dpo``."""
    from truing.frameworks.inspect_provider import TruingAPI

    return TruingAPI


def _maker(name: str, summary: str) -> Callable[..., Task]:
    def made(**settings: Any) -> Task:
        with told():
            return inspect_tasks.measure_task(name, settings)

    made.__name__ = made.__qualname__ = name
    made.__doc__ = summary
    return made


def measure_as_task(name: str) -> Callable[..., Task]:
    """Make a measure of the catalogue, one of your own too, known to Inspect as ``truing/NAME``.

    Args:
        name: of an `AskAndGrade`; that it is one is checked when the task is made.

    Raises:
        SettingsError: there is no measure of that name.
    """
    entry = find(name, "measure")
    made: Callable[..., Task] = task(name=entry.name)(_maker(entry.name, entry.summary))
    return made


TASKS = {entry.name: measure_as_task(entry.name) for entry in entries("measure") if entry.nature == "asking"}
"""By the measure's name in the catalogue."""
