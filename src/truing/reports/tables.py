"""The table that a run prints when it ends."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING

from truing.reports.rows import Line, change, interval, lines, told_apart, unit_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from truing.runs.result import RunResult

COLOURS = {"better": "green", "worse": "red", "changed": "yellow", "unclear": "dim", "": ""}


def result_lines(result: RunResult) -> list[Line]:
    """The lines of a run's last model."""
    side = frozenset(item["label"] for item in result.state["measures"] if item["side_effect"])
    return lines(result.results, side)


def table(result: RunResult) -> Table:
    """The figures before and after with 95 % intervals, as a rich table."""
    from rich.markup import escape
    from rich.table import Table

    found = result_lines(result)
    compared = any(line.before is not None for line in found)
    made = Table(
        title=escape(result.name),
        title_justify="left",
        caption="95 % intervals; differences are paired",
        caption_justify="left",
    )
    made.add_column("figure")
    for heading in ("before", "after", "difference", "") if compared else ("value",):
        made.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    section = False
    for line in found:
        if line.side_effect and not section:
            made.add_section()
            section = True
        unit = unit_words(line.after.unit)
        name = escape(line.name + (f" ({unit})" if unit and unit != line.name else ""))
        if not compared:
            made.add_row(name, interval(line.after))
            continue
        colour = COLOURS[line.verdict]
        mark = f"{line.sign} {line.words}".strip()
        made.add_row(
            name,
            interval(line.before) if line.before else "",
            interval(line.after),
            change(line.difference) if line.difference else "",
            f"[{colour}]{mark}[/]" if colour else mark,
        )
    return made


def print_result(result: RunResult, console: Console | None = None) -> None:
    """Print the table and where the report lies: with colours on a terminal, in plain text elsewhere."""
    from rich.console import Console
    from rich.markup import escape

    if console is None:
        plain = Console()
        console = plain if plain.is_terminal else Console(width=max(plain.width, 120))
    console.print(table(result))
    for note in notes(result):
        console.print(f"Note: {escape(note)}", highlight=False)
    for check in result.gate.checks:
        line = f"{check.status}: {check.figure} {check.condition}: {check.words()}"
        console.print(escape(line), highlight=False)
    if result.report is not None:
        console.print(f"Report: {escape(str(result.report))}", highlight=False, soft_wrap=True)


def notes(result: RunResult) -> list[str]:
    """What a reader of the figures must know, each once."""
    found = [*told_apart(result.results), *result.state.get("notes", [])]
    many = Counter(one.name for one in result.results.values())
    for label, one in result.results.items():
        whose = f"{label.replace('_', ' ')}: " if many[one.name] > 1 else ""
        found += [f"{whose}{note}" for note in one.notes if f"{whose}{note}" not in found]
    return found


def as_text(result: RunResult) -> str:
    """The same without colours."""
    from rich.console import Console

    file = io.StringIO()
    print_result(result, Console(file=file, width=120, color_system=None, force_terminal=False))
    return file.getvalue().rstrip()
