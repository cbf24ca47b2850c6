"""``truing check``: whether a run fulfils what is required, as an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truing.cli.options import JSON

if TYPE_CHECKING:
    from rich.table import Table

    from truing.measures.result import Result
    from truing.runs.gate import Gate

COLOURS = {"passed": "green", "failed": "red", "not enough data": "yellow", "not measured": "yellow"}
NARROW = 100
"""Columns below which what was found stands in a line of its own."""


def check(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder, or a result that `truing measure --out` wrote.", metavar="RUN"),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="One more condition, as in a recipe; repeat for more.", metavar="'FIGURE: \"COND\"'"),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML.", metavar="FILE")] = None,
    as_json: JSON = False,
    workflow: Annotated[bool, typer.Option("--workflow", help="Print a workflow file for GitHub Actions.")] = False,
) -> None:
    """Test what a recipe requires of its run. Nothing is measured anew.

    Exit code 0: everything is fulfilled, by the whole 95 % interval. 1: something
    fails. 2: nothing fails, but there is not enough data, something was not
    measured, or the check could not be made.

    \b
    Examples:
      truing check runs/gate
      truing check runs/gate --require 'harmless: ">= 0.95"' --junit gate.xml
      truing check --workflow > .github/workflows/gate.yml
    """
    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit, show, styled
    from truing.errors import SettingsError
    from truing.files import write_atomic

    if workflow:
        if run is not None:
            raise SettingsError("--workflow prints a file and checks nothing. Give it without RUN.")
        emit(workflow_file().rstrip("\n"))
        return
    if run is None:
        raise SettingsError("Name a run folder, or a result: `truing check runs/gate`.")
    if junit is not None and junit.is_dir():
        raise SettingsError(f"--junit is a file, and {junit} is a folder.")
    name, seconds, when, gate, notes = _judged(run, require or [])
    if junit is not None:
        from truing.reports.junit import junit as as_xml

        write_atomic(junit, as_xml(name, gate, seconds=seconds, when=when))
    if as_json:
        emit(json_text({"name": name, **gate.to_json()}))
    else:
        counted = styled(f"{name}: {gate.counted()}.", COLOURS[gate.status])
        show(table(gate), *(styled(note, "dim") for note in notes), counted)
    if gate.exit_code:
        raise typer.Exit(gate.exit_code)


def workflow_file() -> str:
    """The workflow file that comes with the package."""
    from importlib import resources

    return resources.files("truing").joinpath("data/workflows/gate.yml").read_text(encoding="utf-8")


def table(gate: Gate, width: int | None = None) -> Table:
    """Each condition with its answer and what was found."""
    from truing.cli.text import columns, console, one_line, styled

    narrow = (width or console().width) < NARROW
    made = columns("", "required", *([] if narrow else ["found"]))
    for check in gate.checks:
        status = styled(check.status, COLOURS[check.status])
        wanted, found = styled(f"{check.figure} {check.condition}", "bold"), styled(one_line(check.words()))
        if narrow:
            made.add_row(status, wanted)
            made.add_row("", found)
        else:
            made.add_row(status, wanted, found)
    return made


def _judged(run: Path, extra: list[str]) -> tuple[str, float, str, Gate, list[str]]:
    """The name, what measuring took, when it ended, the answers, and what tells several measures of a name apart."""
    from truing.errors import RunError, SettingsError
    from truing.reports.rows import told_apart
    from truing.runs.gate import BASE, check_names, judge
    from truing.runs.result import left_out, load, required

    require: dict[str, tuple[str, ...]] = {}
    results: dict[str, Result]
    gone: dict[str, str] = {}
    if run.is_dir():
        loaded = load(run)
        name, results, require, gone = loaded.name, loaded.results, required(loaded.state), left_out(loaded.state)
        seconds = sum(float(item.get("seconds", 0)) for item in loaded.state["measures"])
        when = str(loaded.state.get("finished", ""))
        other = loaded.recipe.get("against") or (loaded.recipe["model"] if loaded.state["steps"] else None)
        bases = [BASE, str(other)] if other else []
    else:
        from truing.measures.result import Result as Kept

        if not run.is_file():
            raise RunError(f"There is no run folder and no result {run}.")
        one = Kept.load(run)
        name, results, seconds, when = one.name, {one.name: one}, one.seconds, ""
        bases = [BASE, str(one.against_model["name"])] if one.against_model else []
    added = _extra(extra)
    check_names(added, {label: list(result.figures) for label, result in results.items()}, bases)
    for figure, conditions in added.items():
        require[figure] = (*require.get(figure, ()), *conditions)
    if not require:
        raise SettingsError(
            f"Nothing is required of {run}. Give --require 'FIGURE: \">= 0.95\"', or `require:` in the recipe."
        )
    return name, seconds, when, judge(require, results, gone), told_apart(results)


def _extra(texts: list[str]) -> dict[str, tuple[str, ...]]:
    from truing.errors import SettingsError
    from truing.runs.gate import as_require
    from truing.runs.reading import scalar

    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        try:
            read = as_require(scalar(text, "--require"))
        except SettingsError as error:
            raise SettingsError(f"--require {text}: {error}") from None
        for figure, conditions in read.items():
            found[figure] = (*found.get(figure, ()), *conditions)
    return found
