"""``truing compare RUN…``: any number of runs and results in one table, tested together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from truing.cli.text import as_json as json_text
from truing.cli.text import columns, console, emit, printable, show, styled

if TYPE_CHECKING:
    from rich.table import Table

    from truing.measures.comparison import Comparison


def compare_runs(
    what: Sequence[str], baseline: str | None, correction: str, figures: Sequence[str], html: Path | None, as_json: bool
) -> None:
    """Print the comparison, and write its page where one is wanted."""
    from truing.errors import SettingsError
    from truing.runs.comparing import compare

    if html is not None and html.is_dir():
        raise SettingsError(f"--html is a file, and {html} is a folder.")
    found = compare(*what, baseline=baseline, correction=correction, figures=figures)
    if html is not None:
        found.save_html(html)
    if as_json:
        emit(json_text(found.to_json()))
        return
    print_comparison(found)
    if html is not None:
        emit(printable(f"Page: {html}"))


def print_comparison(found: Comparison) -> None:
    """Both tables: figures by models where there is room, else one line for each value, and the tests."""
    from truing.reports.comparison import findings, foot, matrix

    parts: list[Table | str] = []
    cells = matrix(found)
    if _width(cells) <= console().width:
        parts.append(_table(cells, wrap=0))
    else:
        rows = [
            [row[0] if at == 0 else "", model, cell]
            for row in cells[1:]
            for at, (model, cell) in enumerate((model, cell) for model, cell in zip(found.models, row[1:]) if cell)
        ]
        parts.append(_table([["figure", "model", "value"], *rows], wrap=1))
    if found.tests:
        parts += ["", _tests(found, findings(found))]
    show(*parts, *(styled(text, "dim") for text in foot(found)), *(styled(f"Note: {note}") for note in found.notes))


def _table(cells: Sequence[Sequence[str]], wrap: int) -> Table:
    made = columns(*map(printable, cells[0]), wrap=wrap)
    for row in cells[1:]:
        made.add_row(styled(row[0], "bold"), *(styled(cell) for cell in row[1:]))
    return made


def _tests(found: Comparison, cells: Sequence[Sequence[str]]) -> Table:
    """The tests; a narrow terminal gets two lines for each."""
    from truing.reports.rows import VERDICTS
    from truing.reports.tables import COLOURS

    words = [" ".join(VERDICTS[test.verdict]) for test in found.tests]
    wide = [[*cells[0], ""], *([*row, word] for row, word in zip(cells[1:], words))]
    if _width(wide) <= console().width:
        made = columns(*map(printable, wide[0]), wrap=0)
        for line, test in zip(wide[1:], found.tests):
            made.add_row(styled(line[0], "bold"), *map(styled, line[1:-1]), styled(line[-1], COLOURS[test.verdict]))
        return made
    made = columns(printable(cells[0][0]), printable(cells[0][2]), wrap=1)
    for row, word, test in zip(cells[1:], words, found.tests):
        made.add_row(styled(row[0], "bold"), styled(row[2]))
        made.add_row(styled(f"  {row[1]}"), styled(f"{cells[0][4]} {row[4]}  {word}", COLOURS[test.verdict]))
    return made


def _width(cells: Sequence[Sequence[str]]) -> int:
    """Columns that a table takes."""
    return sum(max(map(len, column)) + 2 for column in zip(*cells)) - 2
