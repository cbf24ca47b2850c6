"""``truing measure``: one measure, from the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli.options import DEVICE, DTYPE, JSON, TRUST
from truing.cli.scoring import ACTORS, ENGINE, engine_from

if TYPE_CHECKING:
    from truing.measures.result import Result
    from truing.runs.schema import Recipe
    from truing.runs.spreading import RayEngine

EXTRA: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}
OWN = (
    "model", "against", "limit", "json", "out", "power", "pilot", "engine", "actors", "dtype", "device",
    "trust-remote-code", "help",
)  # fmt: skip


def measure(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A measure of `truing methods --kind measure`.", metavar="MEASURE")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="What to measure: sandbox/base, a folder, …", metavar="MODEL")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A model to compare with, on the same items.", metavar="MODEL")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most that many items.", metavar="N")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the result, with every sample, as JSON (ray: a folder).", metavar="FILE"),
    ] = None,
    power: Annotated[
        float | None,
        typer.Option(help="Measure nothing; say how many items show this difference.", metavar="DIFFERENCE"),
    ] = None,
    pilot: Annotated[
        Path | None, typer.Option(help="With --power: an earlier result of the measure, from --out.", metavar="FILE")
    ] = None,
    as_json: JSON = False,
    engine: Annotated[str, ENGINE] = "local",
    actors: Annotated[int, ACTORS] = 2,
    dtype: DTYPE = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
    wants_help: Annotated[
        bool, typer.Option("--help", help="Show this, or after MEASURE its own settings, and exit.")
    ] = False,
) -> None:
    """Measure a model, alone or against another.

    Every setting of the measure is an option: `truing measure MEASURE --help`
    lists them. Figures have 95 % intervals; differences are paired.

    \b
    Examples:
      truing measure hhh --model out/dpo --against sandbox/base
      truing measure perplexity --model out/dpo --limit 200 --json
      truing measure hhh --power 0.02 --pilot hhh.json
      truing measure hhh --help
    """
    from truing.catalogue import find
    from truing.cli.settings import given_settings, print_settings
    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit, harmless, printable
    from truing.cli.watching import watching
    from truing.errors import SettingsError
    from truing.runs.schema import MeasureSpec, Recipe

    if power is None and pilot is not None:
        raise SettingsError("--pilot goes with --power DIFFERENCE: it says how far values spread.")
    if power is not None and name is None:
        _advise("", power, pilot, as_json)
        return
    if name is None or (wants_help and name.startswith("-")):
        if wants_help:
            typer.echo(context.get_help())
            return
        raise SettingsError("Name a measure first: `truing measure hhh …`. `truing methods --kind measure` lists them.")
    if name.startswith("-"):
        raise SettingsError(f"Name the measure before its settings: `truing measure MEASURE {name} …`.")
    entry = find(name, "measure")
    if wants_help:
        print_settings(entry, f"truing measure {entry.name} --model MODEL [--against MODEL] [--SETTING VALUE …]")
        return
    if power is not None:
        if context.args:
            raise SettingsError(f"--power measures nothing, so `{context.args[0]}` has no use here. Leave it out.")
        _advise(entry.name, power, pilot, as_json)
        return
    settings = given_settings(context.args, entry.load(), entry.name, OWN)
    spec = MeasureSpec(measure=entry.name, settings=settings)
    recipe = Recipe(
        model=model or "",
        measures=(spec,),
        limit=limit,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    spreads = engine_from(engine, actors, device=device)
    if spreads is None:
        _check(recipe, entry.load(), out)
    else:
        out = _check_spread(recipe, entry.load(), out)
    with watching():
        result = _measured(recipe, against, spreads, out)
    if out is not None:
        from truing.files import write_atomic

        write_atomic(out, map(harmless, result.pieces()))
    if as_json:
        emit(json_text(result.to_json()))
        return
    _show(result)
    if out is not None:
        emit(printable(f"Written with {len(result.samples):,} samples to {out}."))


def _advise(name: str, difference: float, pilot: Path | None, as_json: bool) -> None:
    """Print how many items show a difference."""
    import dataclasses

    from truing.cli.text import as_json as json_text
    from truing.cli.text import columns, emit, show, styled
    from truing.errors import SettingsError
    from truing.measures.result import Result
    from truing.measures.sample_size import advice
    from truing.measures.show import POINTS, number

    known = None if pilot is None else Result.load(pilot)
    if known is not None and name and known.name != name:
        raise SettingsError(f"{pilot} is a result of `{known.name}`, not of `{name}`.")
    found = advice(difference, known)
    if as_json:
        emit(json_text({"difference": difference, "advice": [dataclasses.asdict(row) for row in found]}))
        return
    sees = any(row.sees is not None for row in found)
    table = columns("figure", "models answer", "items", "pilot shows" if sees else "", "if")
    table.columns[2].justify = "right"
    for row in found:
        shown = (
            ""
            if row.sees is None
            else f"{100 * row.sees:.1f} pp"
            if row.unit in ("share", POINTS)
            else number(row.sees, "")
        )
        needed = "–" if row.needed is None else f"{row.needed:,}"
        figure = styled(row.figure.replace("_", " "), "bold")
        table.add_row(figure, styled(row.items), needed, shown, styled(row.assumes))
    notes = ["Items a model, so that 8 of 10 tries show the difference at the two-sided 5 % level."]
    if known is None:
        notes.append("Figures that are no shares need --pilot: a result that says how far their values spread.")
    else:
        notes.append(f"The pilot's own {_counted(known)} items show no difference below that in its column.")
        if any(figure.n < len(known.samples) for figure in known.figures.values()):
            notes.append(
                f"Only items that count for a figure are counted; the pilot has {len(known.samples):,} in all."
            )
    show(styled(f"To see a difference of {difference:g}:"), table, *(styled(note, "dim") for note in notes))


def _check(recipe: Recipe, cls: Any, out: Path | None) -> None:
    import dataclasses

    from truing.errors import SettingsError
    from truing.runs.resolve import build_measure, check_settings

    if recipe.limit is not None and "limit" not in {field.name for field in dataclasses.fields(cls)}:
        raise SettingsError(f"`{recipe.measures[0].measure}` takes no --limit.")
    if out is not None and out.is_dir():
        raise SettingsError(f"--out is a file for the result, and {out} is a folder.")
    source = _source(recipe)
    needs_model = getattr(build_measure(recipe.measures[0], recipe, source, 0), "needs_model", True)
    if needs_model and not recipe.model:
        raise SettingsError("`truing measure` needs --model. See `truing measure --help`.")
    check_settings(recipe, source)


def _check_spread(recipe: Recipe, cls: Any, out: Path | None) -> Path:
    """Where the result goes, within the folder of an engine's answers."""
    from truing.errors import SettingsError
    from truing.runs.resolve import build_measure
    from truing.runs.scale import check_spreads

    if out is None or out.is_file():
        raise SettingsError("--engine ray writes answers in Parquet, and needs a folder for them: --out FOLDER.")
    _check(recipe, cls, out / "result.json")
    check_spreads(build_measure(recipe.measures[0], recipe, _source(recipe), 0), recipe.measures[0].measure)
    return out / "result.json"


def _source(recipe: Recipe) -> Any:
    from truing.runs.reading import Source

    spec = recipe.measures[0]
    source = Source(f"truing measure {spec.measure}", None, {})
    source.lines.update({("measures", 0, spec.measure, key): f"--{key.replace('_', '-')}" for key in spec.settings})
    return source


def _measured(recipe: Recipe, against: str | None, spreads: RayEngine | None, out: Path | None) -> Result:
    from truing.cli.loading import loader
    from truing.measures.run import measure as run_measure
    from truing.runs.resolve import build_measure

    load = loader(recipe)
    made = build_measure(recipe.measures[0], recipe, _source(recipe), 0, load)
    asked: Callable[[str], Any] = load
    if spreads is not None and out is not None:
        from truing.runs.scale import spread_model

        loading: dict[str, Any] = {
            "dtype": recipe.dtype,
            "device": recipe.device,
            "trust_remote_code": recipe.trust_remote_code,
        }
        asked = functools.partial(spread_model, engine=spreads, out=out.parent, **loading)
    subject, other = (asked(name) if name else None for name in (recipe.model, against))
    return run_measure(made, subject, other)


def _counted(result: Result) -> str:
    counts = sorted({figure.n for figure in result.figures.values()}) or [0]
    return f"{counts[0]:,} to {counts[-1]:,}" if counts[0] != counts[-1] else f"{counts[0]:,}"


def _show(result: Result) -> None:
    from truing.cli.figures import figures, plain
    from truing.cli.text import show, styled
    from truing.reports.rows import lines

    compared = bool(result.differences)
    samples = _counted(result)
    against = f" against {result.against_model['name']}" if result.against_model else ""
    further = [
        part
        for title, cells in result.further_tables()
        for part in (*(("", styled(title, "bold")) if title else ()), plain(cells))
    ]
    show(
        styled(f"{result.name} of {result.model['name']}{against}" if result.model else result.name),
        figures(lines({result.name: result})),
        *further,
        styled(f"95 % intervals, {samples} samples{'; differences are paired' if compared else ''}.", "dim"),
        *(styled(f"Note: {note}") for note in result.notes),
    )
