"""Several models and measures in one table: figures with intervals, tests against one of them, corrected together."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from truing.errors import RunError, SettingsError
from truing.files import write_atomic
from truing.measures.result import Figure, Result, plain_values
from truing.measures.show import setting
from truing.near import near

Results = Mapping[str, Result]
"""The results of one model by measure."""
Shared = tuple[list[dict[str, Any]], list[dict[str, Any]], int]
"""Both models' rows of the items that they share, and how many items the smaller result has."""
CONTENT = ("prompt", "text", "question", "chosen", "rejected")
"""Columns that hold what was asked: rows with one id are one item only where these are equal too."""
FREE = ("limit",)
"""Settings that say how many items are measured, not what is."""
LEAST_SHARED = 0.5
"""From this share of the smaller set of items on, models are compared on the items that they share."""
ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Test:
    """One model against the baseline on one figure.

    Args:
        figure: as in `Comparison.figures`.
        model: which model.
        difference: model minus baseline with its 95 % interval, which is not corrected; `p` is the test's own.
        test: its name.
        paired: whether both models' values of the same items were compared.
        shared: items that both have; 0 where that is not known.
        p_adjusted: p among all the tests of the comparison.
    """

    __test__ = False  # pytest would take the name for its own

    figure: str
    model: str
    difference: Figure
    test: str
    paired: bool
    shared: int
    p_adjusted: float = math.nan

    @property
    def verdict(self) -> str:
        """ "better", "worse", "changed" (of a figure that is neither) or "unclear", by the corrected p-value."""
        if not self.p_adjusted < ALPHA:
            return "unclear"
        if self.difference.better not in ("higher", "lower"):
            return "changed"
        return "better" if (self.difference.value > 0) == (self.difference.better == "higher") else "worse"


@dataclasses.dataclass
class Comparison:
    """What `compare` gives; printed, it is a table.

    Args:
        models: their names, the baseline first.
        figures: figure to model to its value with interval; a model that was not measured for it is not there.
        tests: every other model against the baseline.
        correction: how p-values were corrected: "holm", "benjamini-hochberg" or "none".
        notes: what a reader must know.
        measures: figure to the measure's label and the figure's own name.
    """

    models: list[str]
    figures: dict[str, dict[str, Figure]]
    tests: list[Test]
    correction: str = "holm"
    notes: list[str] = dataclasses.field(default_factory=list)
    measures: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """The model that the others are compared with."""
        return self.models[0]

    def test_of(self, figure: str, model: str) -> Test | None:
        """The test of one model on one figure; None for the baseline, and where there is none."""
        return next((test for test in self.tests if (test.figure, test.model) == (figure, model)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; numbers that are not finite become null."""
        tests = [{**dataclasses.asdict(test), "verdict": test.verdict} for test in self.tests]
        return dict(plain_values({**dataclasses.asdict(self), "baseline": self.baseline, "tests": tests}))

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_atomic(Path(path), json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def save_html(self, path: str | Path) -> None:
        """Write a page with tables and drawings, which opens offline."""
        from truing.reports.comparison import render

        write_atomic(Path(path), render(self))

    def __str__(self) -> str:
        from truing.reports.comparison import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from truing.reports.comparison import as_html_table

        return as_html_table(self)


def compare_results(
    models: Mapping[str, Results], baseline: str | None = None, *, correction: str = "holm",
    figures: Sequence[str] = (), seed: int = 0,
) -> Comparison:  # fmt: skip
    """Compare any number of models on all that was measured.

    Args:
        models: by name, the results of each by measure. One model alone is only shown.
        baseline: the model that the others are tested against; the first unless given.
        correction: "holm", "benjamini-hochberg" or "none", over all tests together.
        figures: only these, by name or as measure.figure; all that stand in no grid unless given.
        seed: of bootstrap intervals and randomisation.

    Raises:
        SettingsError: there is no such model, figure or correction, or nothing was measured.
    """
    from truing.measures.multiple_testing import CORRECTIONS

    if correction not in CORRECTIONS:
        raise SettingsError(
            f"`correction` is {', '.join(CORRECTIONS)}, not {correction!r}.{near(correction, CORRECTIONS)}"
        )
    names = list(models)
    if baseline is not None:
        if baseline not in models:
            raise SettingsError(
                f"There is no model `{baseline}` among those compared.{near(baseline, names)} "
                f"They are: {', '.join(names)}."
            )
        names.sort(key=lambda name: name != baseline)
    chosen = _chosen(models, figures)
    if not chosen:
        raise SettingsError("Nothing was measured, so there is nothing to compare. Measure first, or name other runs.")
    table = {
        shown: {name: models[name][label].figures[figure] for name in names if _has(models[name], label, figure)}
        for shown, (label, figure) in chosen.items()
    }
    notes: list[str] = []
    tests = []

    @functools.cache
    def shared(label: str, name: str) -> Shared:
        return _on_shared(models[name][label], models[names[0]][label])

    for shown, (label, figure) in chosen.items():
        first = models[names[0]].get(label)
        if first is None or figure not in first.figures:
            if any(name in table[shown] for name in names[1:]):
                notes.append(f"`{shown}` is not tested: it was not measured on {names[0]}.")
            continue
        for name in names[1:]:
            if not _has(models[name], label, figure):
                continue
            other = models[name][label]
            why = _cannot(first, other, figure, names[0], name)
            if why:
                notes.append(f"`{shown}` of {name} is not tested: {why}")
                continue
            on_shared = functools.partial(shared, label, name)
            tests.append(_test(shown, name, figure, other, first, on_shared, seed))
            notes += [note for note in _unlike(first, other, label, names[0], name) if note not in notes]
    adjusted = CORRECTIONS[correction]([float(test.difference.p or 0.0) for test in tests])
    tests = [dataclasses.replace(test, p_adjusted=p) for test, p in zip(tests, adjusted)]
    return Comparison(names, table, tests, correction, [*notes, *_pairing(tests, table, names[0])], chosen)


def other_result(result: Result) -> Result | None:
    """The other model of a result as a result of its own; None where nothing was compared.

    Figures that compare the two models themselves (a win rate, KL) are not among them.
    """
    if not result.against or not result.against_model:
        return None
    columns = {name: column for name, column in result.columns.items() if column.null is None}
    figures = {
        name: figure for name, figure in result.against.items()
        if name in columns or (not result.columns and figure.method != "by definition")
    }  # fmt: skip
    prefix = "against_"
    rows = []
    for row in result.samples:
        own = {key: value for key, value in row.items() if not key.startswith(prefix)}
        theirs = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        if theirs:
            # What was not noted of the other model is not its own: only what was asked is the same.
            kept = {key: value for key, value in own.items() if key in ("id", "kind", "cluster", *CONTENT)}
            strata = {column.strata for column in columns.values()}
            rows.append({**{key: own[key] for key in own if key in strata}, **kept, **theirs})
    if not figures:
        return None
    return dataclasses.replace(
        result, model=dict(result.against_model), figures=figures, against=None, against_model=None, differences=None,
        samples=rows, columns=columns, curves=[], grids=[], planes=[],
    )  # fmt: skip


def _has(results: Results, label: str, figure: str) -> bool:
    return label in results and figure in results[label].figures


def _chosen(models: Mapping[str, Results], wanted: Sequence[str]) -> dict[str, tuple[str, str]]:
    """What each figure is called in the table, and where it is found: a measure's label and the figure's name."""
    known: dict[tuple[str, str], bool] = {}
    for results in models.values():
        for label, result in results.items():
            listed = result.listed
            for figure in result.figures:
                known[label, figure] = known.get((label, figure), False) or figure in listed
    names = [figure for _, figure in known]
    shown = {(label, figure): figure if names.count(figure) == 1 else f"{label}.{figure}" for label, figure in known}
    if not wanted:
        return {shown[place]: place for place, listed in known.items() if listed}
    found: dict[str, tuple[str, str]] = {}
    for name in wanted:
        places = [place for place in known if name in (shown[place], place[1], f"{place[0]}.{place[1]}")]
        if not places:
            raise SettingsError(
                f"No figure `{name}` was measured.{near(name, list(shown.values()))} "
                f"There are: {', '.join(list(shown.values())[:20])}."
            )
        found.update({shown[place]: place for place in places})
    return found


def _cannot(one: Result, two: Result, figure: str, first: str, second: str) -> str:
    """Why two figures cannot be compared; empty where they can."""
    if one.figures[figure].unit != two.figures[figure].unit:
        return f"it is in {two.figures[figure].unit}, and that of {first} in {one.figures[figure].unit}."
    column = two.columns.get(figure)
    # A figure of no column may follow from a comparison with the other model too, where others of its measure do.
    nulls = [column.null] if column is not None else [other.null for other in two.columns.values()]
    if any(null is not None for null in nulls) and _source(one.against_model) != _source(two.against_model):
        return f"it compares {second} with {_name(two.against_model)}, and {first} with {_name(one.against_model)}."
    return ""


def _source(model: Mapping[str, Any] | None) -> str:
    return str((model or {}).get("source") or (model or {}).get("name") or "")


def _name(model: Mapping[str, Any] | None) -> str:
    return str((model or {}).get("name") or "no model")


def _is_rounding(change: Figure, value: float) -> bool:
    """Whether two models differ by no more than equal ones do, whose numbers do not repeat to the last digit."""
    from truing.reports.rows import ROUNDING

    return abs(change.value) <= ROUNDING * max(1.0, abs(value))


def _test(
    shown: str, name: str, figure: str, result: Result, first: Result, on_shared: Callable[[], Shared], seed: int
) -> Test:
    """One model against the baseline: paired where they share items and the samples say how the figure follows."""
    from truing.measures.contrasts import paired_test, unpaired_test

    mine, base = result.figures[figure], first.figures[figure]
    column = result.columns.get(figure)
    shared = 0
    if column is not None and column == first.columns.get(figure):
        rows, others, smaller = on_shared()
        shared = len(rows)
        if shared >= 2 and shared >= LEAST_SHARED * smaller:
            try:
                tested = paired_test(column, rows, others, seed)
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(
                    f"The samples of `{shown}` of {name} cannot be read: {error!r}. Measure again."
                ) from None
            if tested is not None:
                found, test = tested
                if _is_rounding(found, mine.value):
                    found = dataclasses.replace(found, p=1.0)
                return Test(shown, name, found, test, True, shared)
    return Test(shown, name, *unpaired_test(mine, base), False, shared)


def _on_shared(one: Result, two: Result) -> Shared:
    """The rows of the items that both results hold, in one order and with one id, and how many the smaller has."""
    same = _aside(one.settings) == _aside(two.settings)

    def items(result: Result) -> dict[str, dict[str, Any]]:
        found = {}
        for row in result.samples:
            content = {key: row[key] for key in CONTENT if key in row}
            # Ids alone tell items apart only where both measures drew them in the same way.
            if "id" in row and (content or same):
                found[json.dumps([row["id"], content], sort_keys=True, default=str)] = row
        return found

    first, second = items(one), items(two)
    keys = [key for key in first if key in second]
    rows = [{**first[key], "id": key} for key in keys]
    others = [{**second[key], "id": key} for key in keys]
    return rows, others, min(len(one.samples), len(two.samples))


def _aside(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in FREE}


def _unlike(one: Result, two: Result, label: str, first: str, second: str) -> list[str]:
    """Notes of settings in which two results of one measure differ."""
    unlike = [
        f"{key} {setting(one.settings[key])} and {setting(two.settings[key])}"
        for key in one.settings
        if key in two.settings and key not in FREE and one.settings[key] != two.settings[key]
    ]
    if not unlike:
        return []
    return [f"`{label}` was measured with other settings on {first} than on {second}: {'; '.join(unlike)}."]


def _pairing(tests: Sequence[Test], table: Mapping[str, Mapping[str, Figure]], baseline: str) -> list[str]:
    """Notes of tests that are not paired, or not over all items."""
    notes = []
    apart = [test for test in tests if not test.paired]
    if apart:
        which = ", ".join(dict.fromkeys(f"{test.figure} of {test.model}" for test in apart))
        notes.append(
            f"Not paired, since the items differ from those of {baseline} or were not kept: {which}. "
            "Such tests see less; measure both models on the same items."
        )
    part = [
        test for test in tests
        if test.paired and test.difference.n < max(table[test.figure][name].n for name in (baseline, test.model))
    ]  # fmt: skip
    if part:
        which = ", ".join(dict.fromkeys(f"{test.figure} of {test.model} ({test.difference.n} items)" for test in part))
        notes.append(f"Compared on the shared items only: {which}.")
    return notes
