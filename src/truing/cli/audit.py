"""``truing audit``: write down what a model is made of, and check it later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from truing.cli.options import DEVICE, DTYPE, JSON, TRUST

app = typer.Typer(
    help="Write down what a model is made of, and check it later.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
MODEL = Annotated[str, typer.Argument(help="sandbox/base, a folder, or a hub name.", metavar="MODEL")]


@app.command("manifest")
def write(
    model: MODEL,
    out: Annotated[Path, typer.Option(help="The manifest, as JSON.", metavar="FILE")],
    canaries: Annotated[
        int, typer.Option(min=1, help="Token sequences after which scores are kept.", metavar="N")
    ] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the canaries; keep it to yourself.", metavar="SEED")] = 0,
    dtype: DTYPE = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Write a model's manifest, while the model can be trusted.

    It holds modules, hooks, hashes of weights and files, and scores after
    canaries. Keep it where nobody can write who can write the model.

    \b
    Example:
      truing audit manifest out/dpo --out dpo.manifest.json
    """
    from truing.audit import manifest
    from truing.cli.loading import load_model
    from truing.cli.text import emit, printable
    from truing.cli.watching import watching
    from truing.errors import ModelError

    if out.is_dir():
        raise ModelError(f"--out is a file for the manifest, and {out} is a folder.")
    folder = _folder(model)
    if folder is not None and folder.resolve() in out.resolve().parents:
        raise ModelError(f"{out} lies in the model's own folder, whose files the manifest lists. Choose another place.")
    with watching():
        loaded = load_model(model, dtype, device, trust_remote_code)
        made = manifest(loaded, folder, canaries=canaries, seed=seed)
    made.save(out)
    emit(printable(f"{len(made.modules)} modules, {len(made.tensors)} tensors and {canaries} canaries: {out}"))


@app.command()
def check(
    model: MODEL,
    file: Annotated[Path, typer.Argument(help="What `truing audit manifest` wrote.", metavar="FILE")],
    as_json: JSON = False,
    dtype: DTYPE = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Compare a model with its manifest.

    Exit code 0: nothing has changed. 1: something has, and is listed.
    2: the check could not be made. Load it with the type and on the kind of
    device that the manifest was made with, since hashes are of the numbers.

    \b
    Example:
      truing audit check out/dpo dpo.manifest.json
    """
    from truing.audit import Manifest, consistency, integrity
    from truing.cli.loading import load_model
    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit, printable
    from truing.cli.watching import watching

    kept = Manifest.load(file)
    with watching():
        loaded: Any = load_model(model, dtype, device, trust_remote_code)
        report = integrity(loaded, kept, _folder(model)) + consistency(loaded, kept)
    emit(json_text(report.to_json()) if as_json else printable(str(report)))
    if not report.ok:
        raise typer.Exit(1)


def _folder(name: str) -> Path | None:
    return Path(name) if Path(name).is_dir() else None
