"""``truing serve``: models behind OpenAI's interface."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truing.cli.options import DEVICE, DTYPE, TRUST

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.runs import RunResult

KEY = "TRUING_SERVE_KEY"


def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="[NAME=]MODEL, run folder or recipe, with @MODIFIER=STRENGTH.", metavar="MODEL..."),
    ],
    host: Annotated[str, typer.Option(help="The address to listen at.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.", metavar="PORT")] = 8000,
    key_file: Annotated[
        Path | None, typer.Option(help=f"A file with the key that requests must bear; or set {KEY}.", metavar="FILE")
    ] = None,
    open_to_all: Annotated[bool, typer.Option("--open", help="Listen at any address without a key.")] = False,
    switching: Annotated[
        bool, typer.Option("--switching/--no-switching", help="Requests may turn modifiers and strengths.")
    ] = True,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.", metavar="N")] = 4096,
    max_prompt: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of a prompt; what the model reads if left out.", metavar="N")
    ] = None,
    max_choices: Annotated[int, typer.Option(min=1, help="Most answers of one request.", metavar="N")] = 32,
    max_body: Annotated[int, typer.Option(min=1, help="Most bytes of a request.", metavar="BYTES")] = 1 << 20,
    max_waiting: Annotated[int, typer.Option(min=1, help="Most requests that wait for a turn.", metavar="N")] = 256,
    timeout: Annotated[float, typer.Option(min=0.001, help="Most seconds of a request.", metavar="SECONDS")] = 600.0,
    cache_slots: Annotated[
        int, typer.Option(min=1, help="Tokens, prompts and answers, in memory at one time.", metavar="N")
    ] = 65536,
    stop_after: Annotated[
        float, typer.Option(min=1, help="Most seconds that running requests have at a stop.", metavar="SECONDS")
    ] = 30.0,
    access_log: Annotated[bool, typer.Option("--access-log", help="A line for each request; never its text.")] = False,
    dtype: DTYPE = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Serve models behind OpenAI's interface, until Ctrl-C or SIGTERM.

    MODEL is what other commands take, a run folder, or a recipe, which is run
    first if that was not done. NAME= names it; @MODIFIER=STRENGTH or
    @MODIFIER=off after it, or after the NAME of an earlier one, turns a modifier.

    \b
    Examples:
      truing serve sandbox/base
      truing serve aligned=runs/steering strong=aligned@steering=2
      truing serve quickstart --port 0
    """
    from truing.cli.text import printable
    from truing.serving.limits import Limits
    from truing.serving.server import Server, require_packages
    from truing.serving.shelf import offered

    require_packages()
    key = _key(key_file)
    limits = Limits(
        body_bytes=max_body, prompt_tokens=max_prompt, answer_tokens=max_tokens, choices=max_choices,
        waiting=max_waiting, seconds=timeout, cache_slots=cache_slots,
    )  # fmt: skip
    limits.validate()
    found = offered(models, lambda what: _read(what, dtype, device, trust_remote_code))
    server = Server(
        found, host=host, port=port, key=key, limits=limits, switching=switching, open_to_all=open_to_all,
        stop_seconds=stop_after, access_log=access_log,
    )  # fmt: skip

    def ready() -> None:
        names = ", ".join(found)
        print(printable(f"Serving {names} at {server.url}\nCtrl-C stops."), file=sys.stderr, flush=True)

    if access_log:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    server.run(ready)
    print("Stopped.", file=sys.stderr)


def _key(file: Path | None) -> str | None:
    """The key, from a file or the environment; a command line would show it to everyone on the machine."""
    from truing.errors import SettingsError

    if file is None:
        return os.environ.get(KEY) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The key in {file} cannot be read: {error}.") from None
    if not key:
        raise SettingsError(f"{file} holds no key.")
    return key


def _read(what: str, dtype: str | None, device: str | None, trust: bool) -> AnyModel:
    """A model by its name or folder, or what a run or a recipe made."""
    from truing.cli.loading import load_model
    from truing.runs import load
    from truing.runs.folder import STATE
    from truing.runs.library import SUFFIXES, recipe_names

    path = Path(what).expanduser()
    recipe = path.suffix in SUFFIXES or (not path.exists() and what.replace("_", "-").lower() in recipe_names())
    if recipe or (path.is_dir() and (path / STATE).is_file()):
        result = _run(what) if recipe else load(path)
        what = str(result.model_path() or result.recipe["model"])
    return load_model(what, dtype, device, trust)


def _run(recipe: str) -> RunResult:
    """The run of a recipe, made now unless it was before."""
    from truing.cli.text import printable
    from truing.cli.watching import watching
    from truing.runs import run

    print(printable(f"{recipe} is a recipe: it is run first, unless that was done already."), file=sys.stderr)
    with watching():
        return run(recipe)
