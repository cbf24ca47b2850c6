"""Whether a result's figures are those that its measure declares."""

from __future__ import annotations

from fnmatch import fnmatchcase

from truing.contracts import Measure
from truing.measures import Result


def named(figure: str, names: tuple[str, ...]) -> bool:
    """Whether one of the names is the figure's, with ``*`` for what the data name."""
    return any(name == figure or ("*" in name and fnmatchcase(figure, name.replace("[", "[[]"))) for name in names)


def undeclared(measure: Measure, result: Result) -> list[str]:
    """Figures that stand in no declaration: neither that of the class nor that of its settings."""
    return [
        figure
        for figure in result.figures
        if not (named(figure, measure.gives) and named(figure, measure.figure_names()))
    ]
