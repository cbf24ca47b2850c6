"""Both ways with the field's frameworks: aligned models and measures inside Inspect and lm-evaluation-harness.

Inspect finds `truing.frameworks.inspect_entry` by itself, where both are installed. The harness finds no plug-ins, so
``truing lm-eval`` calls it. Nothing here imports either of them before it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truing.errors import UnsupportedError


def load_asked(name: str, *, base_url: str | None = None, **how: Any) -> Any:
    """A model that writes, by what a person calls it in a framework.

    Args:
        name: what `truing.load` takes, or the folder of a run; ``@MODIFIER=STRENGTH`` or ``@MODIFIER=off`` after it, as
            in ``truing serve``, turns a modifier.
        base_url: of a remote model.
        how: as `truing.load` takes it.

    Raises:
        ModelError: there is no such model.
        SettingsError: it has no such modifier, or that one has no strength.
        UnsupportedError: it scores answers and writes none.
    """
    from truing.models import load
    from truing.runs import load as load_run
    from truing.runs.folder import STATE
    from truing.serving.shelf import Turns, split_turns, turned

    what, turns = (name, Turns()) if Path(name).expanduser().exists() else split_turns(name)
    folder = Path(what).expanduser()
    if folder.is_dir() and (folder / STATE).is_file():
        run = load_run(folder)
        what = str(run.model_path() or run.recipe["model"])
    model: Any = load(what, base_url=base_url, **how)
    check_writes(model)
    return turned(model, turns)


def check_writes(model: Any) -> None:
    """Raise `UnsupportedError` for a model that scores answers and writes none."""
    if "scores" in getattr(model, "offers", ()):
        raise UnsupportedError(
            f"{model.name} scores answers and writes none, so nothing can be asked of it here. Use it as a reward: "
            "`BestOfN(reward=...)`."
        )


def as_inspect(model: Any, name: str | None = None) -> Any:
    """A model that is loaded already, as a model of Inspect: ``inspect_ai.eval(task, model=as_inspect(model))``.

    Args:
        model: local or remote, with its modifiers.
        name: under which Inspect logs it, after ``truing/``, and loads it again to score a log; what the model was
            loaded from unless given.

    Raises:
        MissingExtraError: Inspect is not installed.
    """
    from truing.errors import MissingExtraError

    try:
        from inspect_ai.model import GenerateConfig, Model
    except ImportError as error:
        raise MissingExtraError("inspect_ai", "inspect") from error
    from truing.frameworks.inspect_entry import truing

    check_writes(model)
    made: Any = truing
    config = GenerateConfig()
    return Model(made(model_name=name or model.source or model.name, config=config, model=model), config)
