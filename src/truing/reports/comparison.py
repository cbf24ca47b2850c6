"""A comparison of several models as cells, as text, and as a page that opens offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from truing.measures.show import aligned, chance, change, html_table, interval, unit_words
from truing.reports.rows import VERDICTS
from truing.safe_text import inert, visible

if TYPE_CHECKING:
    from truing.measures.comparison import Comparison, Test

CORRECTED = {
    "holm": "p (Holm)",
    "benjamini-hochberg": "p (Benjamini–Hochberg)",
    "none": "p (not corrected)",
}
MEANS = {
    "holm": "With Holm's correction a wrong finding anywhere in the table has a chance of 5 % at most.",
    "benjamini-hochberg": "With Benjamini and Hochberg's correction at most 5 % of the findings are wrong, on average.",
    "none": "Nothing is corrected: about one test in twenty shows a change by chance alone.",
}


def shown_name(comparison: Comparison, figure: str) -> str:
    """A figure's name with its unit where the numbers carry none."""
    unit = unit_words(next(iter(comparison.figures[figure].values())).unit)
    name = figure.replace("_", " ")
    return f"{name} ({unit})" if unit and unit != name else name


def matrix(comparison: Comparison) -> list[list[str]]:
    """Cells of a table: a row for each figure, a column for each model; ▲ and ▼ where a test shows a change."""
    rows = [["figure", *comparison.models]]
    for figure, values in comparison.figures.items():
        cells = []
        for model in comparison.models:
            test = comparison.test_of(figure, model)
            sign = VERDICTS[test.verdict][0] if test is not None and test.verdict != "unclear" else ""
            cells.append(f"{interval(values[model])} {sign}".rstrip() if model in values else "")
        rows.append([shown_name(comparison, figure), *cells])
    return rows


def findings(comparison: Comparison) -> list[list[str]]:
    """Cells of a table of the tests, without signs and words of the verdict; empty without tests."""
    if not comparison.tests:
        return []
    head = [
        "figure",
        "model",
        f"difference to {comparison.baseline}",
        "p",
        CORRECTED[comparison.correction],
        "test",
        "n",
    ]
    return [head, *(_cells(comparison, test) for test in comparison.tests)]


def _cells(comparison: Comparison, test: Test) -> list[str]:
    return [
        shown_name(comparison, test.figure), test.model, change(test.difference), chance(test.difference.p),
        chance(test.p_adjusted), test.test, f"{test.difference.n:,}",
    ]  # fmt: skip


def foot(comparison: Comparison) -> list[str]:
    """What stands below the tables."""
    said = ["95 % intervals; those of differences are not corrected."]
    if comparison.tests:
        said.append(MEANS[comparison.correction])
    return said


def as_text(comparison: Comparison) -> str:
    """Both tables in plain text."""
    lines = aligned(matrix(comparison))
    cells = findings(comparison)
    if cells:
        words = ["", *(" ".join(VERDICTS[test.verdict]) for test in comparison.tests)]
        lines += ["", *aligned([[*row, word] for row, word in zip(cells, words)])]
    return inert("\n".join([*lines, *foot(comparison), *(f"Note: {note}" for note in comparison.notes)]))


def as_html_table(comparison: Comparison) -> str:
    """Both tables for a notebook."""
    from html import escape

    tables = [html_table(cells) for cells in (matrix(comparison), findings(comparison)) if cells]
    return "".join(tables) + "".join(f"<p>{escape(text)}</p>" for text in [*foot(comparison), *comparison.notes])


def render(comparison: Comparison) -> str:
    """The page as text."""
    from truing.reports.html import environment

    page = (
        environment()
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            baseline=comparison.baseline,
            names={figure: shown_name(comparison, figure) for figure in comparison.figures},
            verdicts=[(model, _verdicts(comparison, model)) for model in comparison.models[1:]],
            signs=VERDICTS,
            plots=[_plots(comparison, figure) for figure in comparison.figures],
            corrected=CORRECTED[comparison.correction],
            foot=foot(comparison),
        )
    )
    return str(page).encode("utf-8", errors="replace").decode("utf-8")


def _verdicts(comparison: Comparison, model: str) -> dict[str, list[str]]:
    """Names of figures by verdict."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "changed": [], "unclear": []}
    for test in comparison.tests:
        if test.model == model:
            groups[test.verdict].append(test.figure.replace("_", " "))
    return groups


def _plots(comparison: Comparison, figure: str) -> list[Any]:
    """The values of all models, and beside them their differences to the baseline."""
    from truing.reports.svg import forest

    values = comparison.figures[figure]
    name = visible(shown_name(comparison, figure), 60)
    base = values.get(comparison.baseline)
    rows = [
        (visible(model, 120), values[model], "before" if model == comparison.baseline else "after")
        for model in comparison.models
        if model in values
    ]
    found = [test for test in comparison.tests if test.figure == figure]
    drawn = [forest(name, rows, None if base is None else base.value)]
    if found:
        changes = [(visible(test.model, 120), test.difference, "after") for test in found]
        drawn.append(forest(f"difference to {visible(comparison.baseline, 40)}", changes, 0.0, signed=True))
    return drawn
