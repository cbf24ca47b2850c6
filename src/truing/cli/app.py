"""The command line's commands, put together, and those that run and list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli import (
    align,
    audit,
    chatting,
    checking,
    comparing,
    coverage,
    doctor,
    harness,
    measuring,
    records,
    sandbox,
    scoring,
    serving,
    talking,
)
from truing.cli.options import JSON

if TYPE_CHECKING:
    from truing.runs import RunResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _few(kinds: tuple[str, ...]) -> str:
    """Kinds of record in the width of a column."""
    if len(kinds) > 4:
        return "any with a prompt"
    return ", ".join([*kinds[:2], "…"] if len(kinds) > 2 else kinds) or "none"


def _version(wanted: bool) -> None:
    if wanted:
        from truing._version import __version__

        typer.echo(f"truing {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")] = False,
) -> None:
    """Align language models, and measure whether they now are.

    \b
    Start with:
      truing run quickstart                 a model aligned and measured, in minutes
      truing chat --model sandbox/base      talk to a model
      truing methods                        what there is
    """


@app.command("run")
def run_recipe(
    recipe: Annotated[str, typer.Argument(help="A ready recipe's name, or a YAML file.")],
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME if left out.", metavar="FOLDER")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value of the recipe; repeat for more.", metavar="A.B=C")
    ] = None,
) -> None:
    """Run a recipe into a folder, or go on with it.

    The same command after a kill goes on where the run stopped.

    \b
    Examples:
      truing run quickstart
      truing run my-recipe.yaml --out runs/first --set dpo.beta=0.3
    """
    from truing.cli.watching import watching
    from truing.runs import run

    with watching():
        result = run(recipe, out=out, overrides=tuple(changes or ()))
    _show(result)


def _show(result: RunResult) -> None:
    from truing.cli.figures import figures
    from truing.cli.text import emit, printable, show, styled
    from truing.reports.tables import notes, result_lines

    found = result_lines(result)
    show(
        styled(result.name, "bold"),
        *([figures(found, "after", "before")] if found else []),
        styled("95 % intervals; differences are paired." if found else "Nothing was measured.", "dim"),
        *(styled(f"Note: {note}") for note in notes(result)),
        *([styled(""), checking.table(result.gate)] if result.gate.checks else []),
    )
    model = result.model_path()
    if model is not None:
        emit(printable(f"Model: {model}"))
    if result.report is not None:
        emit(printable(f"Report: {result.report}"))


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, to copy and change.")] = None,
    as_json: JSON = False,
) -> None:
    """List the ready recipes, or print one.

    \b
    Examples:
      truing recipes
      truing recipes quickstart > mine.yaml
    """
    import yaml

    from truing.cli.text import as_json as json_text
    from truing.cli.text import columns, emit, show, styled
    from truing.runs.library import find_recipe, recipe_names

    if name is not None:
        emit(find_recipe(name)[1].rstrip("\n"))
        return
    rows = []
    for name in recipe_names():
        told = yaml.safe_load(find_recipe(name)[1]).get("description", "")
        rows.append({"name": name, "description": " ".join(str(told).split())})
    if as_json:
        emit(json_text(rows))
        return
    table = columns("", "")
    for row in rows:
        table.add_row(styled(row["name"], "bold"), styled(row["description"]))
    show(table)


@app.command()
def methods(
    kind: Annotated[
        str, typer.Option(help="method, builder, measure, reward, modifier, or all.", metavar="KIND")
    ] = "method",
    as_json: JSON = False,
) -> None:
    """List the methods, or another kind of thing that truing offers.

    \b
    Examples:
      truing methods
      truing methods --kind measure
      truing align dpo --help               the settings of one of them
    """
    from truing.catalogue import KINDS, entries
    from truing.cli.text import as_json as json_text
    from truing.cli.text import columns, emit, show, styled
    from truing.errors import SettingsError

    if kind not in (*KINDS, "all"):
        raise SettingsError(f"There is no kind `{kind}`. Kinds: {', '.join(KINDS)}, all.")
    found = entries(None if kind == "all" else kind)
    if as_json:
        keys = ("name", "kind", "nature", "summary", "records", "papers", "home")
        emit(json_text([{key: getattr(entry, key) for key in keys} for entry in found]))
        return
    shows = {"method": ("how", "records"), "all": ("kind",)}.get(kind, ())
    table = columns("name", *shows, "what it does")
    for entry in found:
        cells: dict[str, Any] = {
            "how": entry.nature,
            "records": _few(entry.records),
            "kind": entry.kind,
        }
        table.add_row(styled(entry.name, "bold"), *(styled(cells[key], "dim") for key in shows), styled(entry.summary))
    show(table)


@app.command()
def papers(
    state: Annotated[str | None, typer.Option(help="Only those that are: works, planned.", metavar="STATE")] = None,
    as_json: JSON = False,
) -> None:
    """List the 59 papers that truing follows: working or planned.

    \b
    Example:
      truing papers --state works
    """
    from truing.cli.text import as_json as json_text
    from truing.cli.text import columns, emit, show, styled
    from truing.errors import SettingsError
    from truing.papers import papers as rows

    if state not in (None, "works", "planned"):
        raise SettingsError(f"A paper's state is works or planned, not `{state}`.")
    found = [row for row in rows() if state in (None, row.state)]
    if as_json:
        keys = ("number", "short", "title", "year", "url", "state", "becomes", "works_when")
        emit(json_text([{key: getattr(row, key) for key in keys} for row in found]))
        return
    table = columns("", "state", "paper")
    for row in found:
        colour = "green" if row.state == "works" else "dim"
        table.add_row(styled(f"{row.number:>2}"), styled(row.state, colour), styled(row.short))
    working = sum(row.state == "works" for row in rows())
    show(table, styled(f"{working} of {len(rows())} work; `truing papers --json` says what each becomes.", "dim"))


app.command("align", **align.EXTRA)(align.align)
app.command("measure", **measuring.EXTRA)(measuring.measure)
app.command("check")(checking.check)
app.command("generate")(talking.generate)
app.command("chat")(chatting.chat)
app.command("score")(scoring.score)
app.command("compare")(comparing.compare)
app.command("coverage")(coverage.coverage)
app.command("serve")(serving.serve)
app.command("lm-eval", **harness.EXTRA)(harness.lm_eval)
app.add_typer(audit.app, name="audit")
app.add_typer(records.app, name="records")
app.add_typer(sandbox.app, name="sandbox")
app.command("doctor")(doctor.doctor)
