"""``truing.json``: what a saved model's folder says beside its weights, read without trusting it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from truing.errors import ModelError
from truing.models.modifiers import Modifier
from truing.models.packing import unpack
from truing.models.saving import FORMAT, NOTES
from truing.models.types import Step


@dataclasses.dataclass(frozen=True)
class Notes:
    """The checked content of one file.

    Args:
        kind: "full" weights, "adapter" or "remote".
        history: the steps that made the model.
        base: the name that loads the base of an adapter.
        remote: where a remote model is.
        packed: its modifiers, as `truing.models.packing` wrote them.
    """

    kind: str
    history: tuple[Step, ...]
    base: str = ""
    remote: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    packed: tuple[Any, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Notes:
        """The notes of a folder.

        Raises:
            ModelError: they are damaged, or of a newer format.
        """
        path = folder / NOTES
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            number = held["format"]
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"format is {number!r}")
            if number > FORMAT:
                raise ModelError(
                    f"{path} has format {number}, and this version of truing reads up to {FORMAT}. Update truing."
                )
            kind = held["kind"]
            if kind not in ("full", "adapter", "remote"):
                raise ValueError(f"kind is {str(kind)[:40]!r}")
            steps = tuple(_step(item) for item in held["history"])
            packed = held["modifiers"]
            if not isinstance(packed, list) or not all(isinstance(item, dict) for item in packed):
                raise ValueError("modifiers is no list of objects")
            base = held["base"] if kind == "adapter" else ""
            remote = held["remote"] if kind == "remote" else {}
            if not isinstance(base, str) or not isinstance(remote, dict):
                raise ValueError("base or remote is of the wrong type")
            return cls(kind, steps, base, remote, tuple(packed))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"{type(error).__name__}: {str(error)[:200]}"
            raise ModelError(f"{path} is damaged ({what}). Save the model again, or get it again.") from error

    def modifiers(
        self,
        folder: Path,
        device: str,
        model: Callable[[Mapping[str, Any]], Any],
        functions: tuple[Callable[..., Any], ...],
    ) -> tuple[Modifier, ...]:
        """The modifiers, made again in their order.

        Args:
            folder: where the notes lie.
            device: where their tensors go.
            model: gives the model that a setting stands for.
            functions: which they may name.

        Raises:
            ModelError: one of them is damaged, or its tensors are missing.
        """
        made = []
        for number, packed in enumerate(self.packed, 1):
            tensors = _tensors(folder, number, device)
            try:
                modifier = unpack(packed, tensors, model, functions)
                if not isinstance(modifier, Modifier):
                    raise ModelError("It is no modifier.")
                modifier.validate()
            except (ModelError, ValueError, RecursionError) as error:
                raise ModelError(f"Modifier {number} in {folder / NOTES} cannot be made again: {error}") from error
            made.append(modifier)
        return tuple(made)


def _step(item: Any) -> Step:
    step = Step.from_json(item)
    good = isinstance(step.method, str) and isinstance(step.settings, dict) and isinstance(step.date, str)
    if not good or not isinstance(step.versions, dict) or not isinstance(step.data, (dict, type(None))):
        raise ValueError("a step of the history is of the wrong form")
    return step


def _tensors(folder: Path, number: int, device: str) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for path in sorted((folder / "modifiers").glob(f"{number:02d}-*.safetensors")):
        try:
            tensors.update(load_file(path, device=device))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {str(error)[:200]}. Save the model again.") from error
    return tensors
