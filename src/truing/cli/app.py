"""The commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    help="Align language models, and measure whether they now are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Align language models, and measure whether they now are."""


@app.command("run")
def run_recipe(
    recipe: Annotated[str, typer.Argument(help="A ready recipe's name, or a YAML file.")],
    out: Annotated[Optional[Path], typer.Option(help="The run folder.")] = None,  # noqa: UP045 (typer reads this on 3.10)
    changes: Annotated[Optional[list[str]], typer.Option("--set", help="Change a value: a.b=c.")] = None,  # noqa: UP045
) -> None:
    """Run a recipe; run again on the same folder, it goes on where it stopped."""
    from truing.runs import run

    typer.echo(str(run(recipe, out=out, overrides=tuple(changes or ()))))


@app.command()
def recipes() -> None:
    """List the ready recipes."""
    from truing.runs import recipe_names

    for name in recipe_names():
        typer.echo(name)


@app.command()
def methods(
    kind: Annotated[str, typer.Option(help="method, builder, measure, reward or modifier.")] = "method",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what truing offers."""
    from truing.catalogue import KINDS, entries
    from truing.errors import SettingsError

    if kind not in KINDS:
        raise SettingsError(f"There is no kind `{kind}`. Kinds: {', '.join(KINDS)}.")
    found = entries(kind)
    if as_json:
        keys = ("name", "kind", "nature", "summary")
        typer.echo(json.dumps([{key: getattr(entry, key) for key in keys} for entry in found], indent=2))
        return
    for entry in found:
        typer.echo(f"{entry.name:<20} {entry.nature:<10} {entry.summary}")


@app.command()
def papers(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the papers that truing follows, and whether each works or is planned."""
    from truing.papers import papers as rows

    if as_json:
        keys = ("number", "short", "title", "url", "state", "becomes")
        typer.echo(json.dumps([{key: getattr(row, key) for key in keys} for row in rows()], indent=2))
        return
    for row in rows():
        typer.echo(f"{row.number:>2}  {row.state:<8} {row.short}")


records_app = typer.Typer(help="Check and convert records.", no_args_is_help=True)
app.add_typer(records_app, name="records")


@records_app.command()
def check(
    path: Annotated[str, typer.Argument(help="A file, folder, hub name or sandbox name.")],
    kind: Annotated[Optional[str], typer.Option(help="The kind of record; recognised if left out.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every row; exit code 2 if one is bad."""
    from truing.cli.text import printable
    from truing.records.checking import check_file

    report = check_file(path, kind)
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else printable(str(report)))
    if not report.ok:
        raise typer.Exit(2)
