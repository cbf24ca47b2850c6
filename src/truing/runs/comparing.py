"""Runs and results of measures side by side: what lies in folders and files, as models with their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.errors import RunError, SettingsError
from truing.measures.comparison import Comparison, compare_results, other_result
from truing.runs.folder import STATE
from truing.runs.result import RunResult, load

if TYPE_CHECKING:
    from truing.measures.result import Result

BEFORE = "before"
"""The word for the model that the first run compares its own with."""


def compare(
    *what: Any, baseline: str | None = None, correction: str = "holm", figures: Sequence[str] = (), seed: int = 0
) -> Comparison:
    """Compare any number of models on all that was measured of them: one table, tests, one correction.

    Each argument is a finished run (its folder, or what `truing.runs.load` gave: its last model is taken) or the result
    of a measure (a JSON file that ``truing measure --out`` wrote, or a `Result`). Results of one model are put
    together. One run alone is compared with itself: the model that it started from, and each step that was measured.

    Args:
        what: runs and results, the baseline first.
        baseline: another model to test against, by the name that the table gives it; "before" for the model that the
            first run or result compares its own with, which then is in the table too.
        correction: "holm", "benjamini-hochberg" or "none", over all tests together.
        figures: only these, by name or as measure.figure.
        seed: of bootstrap intervals and randomisation.

    Raises:
        RunError: a folder or file cannot be read, or a run is not finished.
        SettingsError: there is nothing to compare, or no such model, figure or correction.

    Example::

        import truing as tr

        comparison = tr.compare("runs/dpo", "runs/kto", "runs/simpo")
        print(comparison)
        comparison.save_html("comparison.html")
    """
    if not what:
        raise SettingsError("There is nothing to compare: give run folders or results of measures.")
    models = _models([_read(one) for one in what], before=baseline == BEFORE)
    if baseline == BEFORE and BEFORE not in models:
        baseline = next(iter(models))
    return compare_results(models, baseline, correction=correction, figures=figures, seed=seed)


def is_result(path: str | Path) -> bool:
    """Whether a name on the command line is a run folder or the file of a result, and not a model."""
    place = Path(path)
    return (place.is_dir() and (place / STATE).is_file()) or (place.suffix == ".json" and not place.is_dir())


@dataclasses.dataclass(frozen=True)
class _Given:
    """One argument: its model's name, another one for where that is taken, its results, and the run if it is one."""

    name: str
    otherwise: str
    results: dict[str, Result]
    run: RunResult | None = None

    @property
    def source(self) -> str:
        """What tells the model of a result from others of the same name; empty for runs."""
        return "" if self.run else str(next(iter(self.results.values())).model.get("source") or "")


def _read(one: Any) -> _Given:
    from truing.measures.result import Result

    if isinstance(one, (str, Path)):
        path = Path(one)
        if path.is_dir():
            return _read(load(path))
        if not path.is_file():
            raise RunError(f"There is no run folder and no result {path}. `truing run … --out` would make one.")
        result = Result.load(path)
        return _Given(_name(result.model) or path.stem, path.stem, {result.name: result})
    if isinstance(one, RunResult):
        return _Given(one.folder.resolve().name, str(one.folder), dict(one.results), one)
    if isinstance(one, Result):
        return _Given(_name(one.model) or one.name, one.name, {one.name: one})
    raise SettingsError(f"Runs and results of measures are compared, and {type(one).__name__} is neither.")


def _models(given: Sequence[_Given], before: bool) -> dict[str, dict[str, Result]]:
    """Models by the name that the table gives them, in the order in which they were given."""
    found: dict[str, dict[str, Result]] = {}
    first = given[0]
    if before or len(given) == 1:
        others = _others(first.results)
        if others:
            found[_name(next(iter(others.values())).model) or BEFORE] = others
        elif before:
            raise SettingsError(f"{first.name} was compared with no other model, so `before` names none.")
    if len(given) == 1 and first.run is not None and first.run.state["steps"]:
        *earlier, last = [step["folder"] for step in first.run.state["steps"]]
        found.update({folder: dict(first.run.by_step[folder]) for folder in earlier if folder in first.run.by_step})
        found[_free(last, f"{last} (last)", found)] = first.results
        return found
    sources: dict[str, str] = {}
    for one in given:
        there = sources.get(one.source)
        if there is not None and not set(one.results) & set(found[there]):
            # Another measure of a model that is in the table already.
            found[there].update(one.results)
            continue
        label = _free(one.name, f"{one.name} ({one.otherwise})", found)
        found[label] = dict(one.results)
        if one.source:
            sources.setdefault(one.source, label)
    return found


def _others(results: Mapping[str, Result]) -> dict[str, Result]:
    made = {label: other_result(result) for label, result in results.items()}
    return {label: result for label, result in made.items() if result is not None}


def _name(model: Mapping[str, Any]) -> str:
    return str(model.get("name") or "")


def _free(wanted: str, otherwise: str, taken: Mapping[str, Any]) -> str:
    """A name that no model has yet."""
    names = [wanted, otherwise, *(f"{otherwise} {number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)
