"""``truing lm-eval``: lm-evaluation-harness on aligned models."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from truing.cli.options import DTYPE, TRUST

EXTRA: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}
COMMANDS = ("run", "ls", "validate")
"""Of the harness; the first is meant where none is named, and needs a model."""


def lm_eval(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="sandbox/base, a folder, a run, …, with @MODIFIER=STRENGTH.", metavar="MODEL"
        ),
    ] = None,
    dtype: DTYPE = None,
    trust_remote_code: TRUST = False,
    wants_help: Annotated[
        bool, typer.Option("--help", help="Show this, or after `run` the harness' own options, and exit.")
    ] = False,
) -> None:
    """Run lm-evaluation-harness on a model.

    All other options are the harness' own, and its tasks and results are as
    ever. Modifiers act; those that change the prompt need
    --apply_chat_template. Batches fill themselves: --batch_size is not needed.

    \b
    Examples:
      truing lm-eval --model out/dpo --tasks arc_easy --limit 100
      truing lm-eval --model out/dpo --tasks mine --include_path tasks
      truing lm-eval ls tasks
      truing lm-eval run --help             the harness' own options
    """
    from truing.errors import MissingExtraError, SettingsError, TruingError

    words = list(context.args)
    named = words[:1] if words[:1] in [[name] for name in COMMANDS] else []
    if wants_help and not named:
        typer.echo(context.get_help())
        return
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        raise MissingExtraError("lm_eval", "lm-eval") from error
    if wants_help:
        words = [*words, "--help"]
    elif named in ([], ["run"]):
        if model is None:
            raise SettingsError("`truing lm-eval` needs --model. See `truing lm-eval --help`.")
        from truing.frameworks import lm_eval_model  # noqa: F401  the harness then knows its name

        given = {"model": model, "dtype": dtype, "trust_remote_code": trust_remote_code or None}
        told = json.dumps({name: value for name, value in given.items() if value is not None})
        words = ["run", "--model", "truing", "--model_args", told, *words[len(named) :]]
    before = sys.argv
    sys.argv = ["lm-eval", *words]
    try:
        cli_evaluate()
    except TruingError:
        raise
    except (ValueError, KeyError, OSError) as error:
        raise SettingsError(f"lm-evaluation-harness stopped: {str(error)[:600] or type(error).__name__}") from error
    finally:
        sys.argv = before
