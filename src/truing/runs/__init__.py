"""Recipes run into folders: checked first, resumable after a kill at any moment, reported at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from truing._lazy import lazy

if TYPE_CHECKING:
    from truing.runs.comparing import compare as compare
    from truing.runs.gate import Gate as Gate
    from truing.runs.library import find_recipe as find_recipe
    from truing.runs.library import recipe_names as recipe_names
    from truing.runs.result import RunResult as RunResult
    from truing.runs.result import load as load
    from truing.runs.runner import run as run
    from truing.runs.schema import Recipe as Recipe
    from truing.runs.schema import parse as parse
    from truing.runs.schema import parse_file as parse_file

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Gate": "truing.runs.gate",
        "Recipe": "truing.runs.schema",
        "RunResult": "truing.runs.result",
        "compare": "truing.runs.comparing",
        "find_recipe": "truing.runs.library",
        "load": "truing.runs.result",
        "parse": "truing.runs.schema",
        "parse_file": "truing.runs.schema",
        "recipe_names": "truing.runs.library",
        "run": "truing.runs.runner",
    },
)
