"""``truing records``: check, convert and show files of records."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli.options import JSON

if TYPE_CHECKING:
    from rich.text import Text

app = typer.Typer(
    help="Check, convert and show records.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

SOURCE = Annotated[
    str, typer.Argument(help="A file, a folder, a hub name, or a sandbox name (sandbox/preferences).", metavar="SOURCE")
]
KIND = Annotated[
    str | None, typer.Option(help="The kind of record; recognised by the columns if left out.", metavar="KIND")
]
FORMAT = Annotated[
    str | None,
    typer.Option(help="How it is written (hh, sharegpt, alpaca, …); recognised if left out.", metavar="FORMAT"),
]
LONGEST = 600
"""Characters of one text that `show` prints, unless it is asked for all."""


@app.command()
def check(source: SOURCE, kind: KIND = None, format: FORMAT = None, as_json: JSON = False) -> None:
    """Check every row, and say what is wrong and where; exit code 2 if a row is bad.

    \b
    Example:
      truing records check pairs.jsonl
    """
    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit, printable
    from truing.cli.watching import watching
    from truing.records.checking import check_file

    with watching():
        report = check_file(source, kind, format=format)
    emit(json_text(report.to_dict()) if as_json else printable(str(report)))
    if not report.ok:
        raise typer.Exit(2)


@app.command()
def convert(
    source: SOURCE,
    target: Annotated[
        str, typer.Argument(help="A .jsonl, .json, .csv or .parquet file, also with .gz.", metavar="TARGET")
    ],
    to: Annotated[
        str | None, typer.Option(help="trl for TRL's conversational columns, or a kind of record.", metavar="WHAT")
    ] = None,
    kind: KIND = None,
    format: FORMAT = None,
    on_error: Annotated[
        str, typer.Option(help="raise, or set-aside to put bad rows into a file beside TARGET.", metavar="WHAT")
    ] = "raise",
) -> None:
    """Write records to another file or format, row by row.

    \b
    Examples:
      truing records convert hh.jsonl pairs.parquet --on-error set-aside
      truing records convert pairs.parquet for-trl.jsonl --to trl
    """
    from truing.cli.text import emit, printable
    from truing.cli.watching import watching
    from truing.records.checking import convert_file

    with watching():
        done = convert_file(source, target, to, kind=kind, format=format, on_error=on_error.replace("-", "_"))
    emit(printable(str(done)))


@app.command()
def show(
    source: SOURCE,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows.", metavar="N")] = 3,
    kind: KIND = None,
    format: FORMAT = None,
    full: Annotated[bool, typer.Option("--full", help="Print long texts to their end.")] = False,
    as_json: JSON = False,
) -> None:
    """Print the first rows for reading; only those are read, however large the file is.

    \b
    Examples:
      truing records show sandbox/preferences
      truing records show huge.jsonl.gz --limit 10 --full
    """
    from truing.cli.text import as_json as json_text
    from truing.cli.text import console, emit, styled
    from truing.records import stream

    shown = console()
    for number, row in enumerate(islice(stream(source, kind, format=format), limit), 1):
        if as_json:
            emit(json_text(row, indent=None))
            continue
        if number > 1:
            shown.print()
        shown.print(styled(f"{number}", "bold"))
        width = max(map(len, row))
        for name, value in row.items():
            for text in _cell(name.ljust(width), value, LONGEST if not full else 0):
                shown.print(text, soft_wrap=not shown.is_terminal)


def _cell(label: str, value: Any, longest: int) -> list[Text]:
    """The lines of one column: a name and a text, or a line for each message or text of a list."""
    from rich.text import Text

    from truing.cli.text import styled

    if isinstance(value, dict) and "role" in value and "content" in value:
        parts = _cell(str(value["role"]), value["content"], longest)
        return [Text.assemble(styled(f"{label}  " if not index else " " * (len(label) + 2), "cyan"), part)
                for index, part in enumerate(parts)]  # fmt: skip
    if isinstance(value, list) and value and all(isinstance(item, (dict, str)) for item in value):
        lines = [line for item in value for line in _cell(label, item, longest)]
        blank = styled(" " * (len(label) + 2))
        return [line if not index else Text.assemble(blank, line[len(label) + 2 :]) for index, line in enumerate(lines)]
    text = value if isinstance(value, str) else _plain(value)
    cut = f" … {len(text) - longest:,} characters more" if longest and len(text) > longest else ""
    return [
        Text.assemble(
            styled(f"{label}  ", "cyan"),
            styled((text[:longest] if longest else text).replace("\n", "\n" + " " * (len(label) + 2))),
            styled(cut, "dim"),
        )
    ]


def _plain(value: Any) -> str:
    from truing.cli.text import as_json

    return as_json(value, indent=None)
