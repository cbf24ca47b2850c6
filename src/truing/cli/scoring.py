"""``truing score``: a reward over a file of answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli.options import JSON

if TYPE_CHECKING:
    from truing.runs.spreading import RayEngine

ENGINE = typer.Option(help="Where the work is done: local, or ray for several actors.", metavar="ENGINE")
ACTORS = typer.Option(min=1, help="With --engine ray: how many actors; each holds a copy.", metavar="N")


def score(
    file: Annotated[str, typer.Argument(help="Records with a prompt and an answer.", metavar="FILE")],
    reward: Annotated[str, typer.Option(help="A reward: its name, or as in a recipe: '{keyword: {words: [please]}}'.")],
    out: Annotated[Path, typer.Option(help="A folder for the rewards, in Parquet.", metavar="FOLDER")],
    column: Annotated[str, typer.Option(help="The column of answers.", metavar="NAME")] = "completion",
    batch: Annotated[int, typer.Option(min=1, help="Answers at a time.", metavar="N")] = 256,
    engine: Annotated[str, ENGINE] = "local",
    actors: Annotated[int, ACTORS] = 2,
    as_json: JSON = False,
) -> None:
    """Score the answers in a file by a reward or a judge.

    The file may have any length: rows are read one at a time. The same command after a kill goes on.

    \b
    Examples:
      truing score a.jsonl --reward '{keyword: {words: [please]}}' --out scores
      truing score a.jsonl --reward sandbox_grade --out scores --engine ray
    """
    import dataclasses

    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit, printable
    from truing.cli.watching import watching
    from truing.runs.reading import scalar
    from truing.runs.scale import score_file

    value = scalar(reward, "--reward") if reward.lstrip()[:1] == "{" else reward
    spreads = engine_from(engine, actors, batch)
    with watching():
        found = score_file(file, value, out, column=column, engine=spreads, batch=batch)
    told: dict[str, Any] = {
        "rows": len(found.rewards), "lowest": float(found.rewards.min()), "highest": float(found.rewards.max()),
        "mean": None if found.mean is None else found.mean._asdict(), "file": str(found.file),
        "engine": dataclasses.asdict(spreads) if spreads else "local",
    }  # fmt: skip
    if as_json:
        emit(json_text(told))
        return
    if found.mean is not None:
        emit(f"mean {found.mean.value:.4g} [{found.mean.low:.4g}, {found.mean.high:.4g}], 95 % interval")
    emit(f"{told['rows']:,} rows, from {told['lowest']:.4g} to {told['highest']:.4g}")
    emit(printable(f"Written to {found.file}."))


def engine_from(engine: str, actors: int, batch: int = 64, device: str | None = None) -> RayEngine | None:
    """The engine that the options name; None for this process. An actor gets a GPU where the device is one.

    Raises:
        SettingsError: there is no such engine.
    """
    from truing.errors import SettingsError
    from truing.runs.spreading import RayEngine

    if engine not in ("local", "ray"):
        raise SettingsError(f"--engine is local or ray, not {engine!r}.")
    gpus = float((device or "").startswith("cuda"))
    return RayEngine(actors=actors, batch=batch, gpus=gpus) if engine == "ray" else None
