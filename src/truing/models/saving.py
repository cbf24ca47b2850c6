"""Writing a model to a folder that loads again: after a move, in another process, on another machine.

``truing.json`` beside the weights holds what transformers' format has no place for. A folder is whole or not there: it
is written under another name beside its place, and then renamed.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from truing.errors import ModelError
from truing.models import provenance
from truing.models.card import card
from truing.models.history import name_of, versions
from truing.models.packing import Packed, safe

FORMAT = 1
NOTES = "truing.json"
# What others add to the folder of a model without making it something else.
_WELCOME = frozenset({"README.md", ".gitattributes", ".DS_Store"})


def save(model: Any, folder: Path) -> None:
    """Write a local or remote model; see `Model.save`."""
    plan = _Plan(model)
    folder = Path(os.path.abspath(folder.expanduser()))
    _check_place(folder)
    token = secrets.token_hex(4)
    partial, old = (folder.parent / f".{folder.name}.{token}.{word}" for word in ("partial", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        plan.write(partial)
        _replace(partial, folder, old)
    except (OSError, ValueError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)[:300]
        raise ModelError(f"{folder} cannot be written: {why}. Nothing was saved; choose another place.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _check_place(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file. Give a folder to save a model in.")
    held = {place.name for place in folder.iterdir()}
    if not held:
        return
    try:
        files = set(json.loads((folder / NOTES).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        files = set()
    other = sorted(held - files - _WELCOME - {NOTES}) if files else sorted(held)
    if other:
        raise ModelError(
            f"{folder} holds {other[0]!r}, which is no part of a model saved by truing, and saving would remove it. "
            "Choose a new folder, or empty this one."
        )


def _replace(partial: Path, folder: Path, old: Path) -> None:
    # No system replaces a folder that holds files in one move: the old one steps aside first, and back on failure.
    aside = folder.exists()
    if aside:
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        if aside:
            old.rename(folder)
        raise


class _Plan:
    """All that is to be written for one model, found out, and refused if need be, before a file is made."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.modifiers: list[Any] = []
        self.tensors: dict[str, dict[str, torch.Tensor]] = {}
        self.models: dict[str, _Plan] = {}
        for number, modifier in enumerate(model.modifiers, 1):
            label = safe(f"{number:02d}-{name_of(type(modifier), 'modifier')}")
            packed = Packed(_loads_by_name)
            self.modifiers.append(packed.pack(modifier, label))
            if packed.tensors:
                self.tensors[label] = packed.tensors
            self.models.update({key: _Plan(item) for key, item in packed.models.items()})
        self.remote = not hasattr(model, "weights")
        self.base = None if self.remote else _adapter_base(model.weights)

    def write(self, place: Path) -> None:
        if self.remote:
            kind, extra = "remote", {"remote": self.model.address()}
        elif self.base is not None:
            kind, extra = "adapter", {"base": self.base}
            _write_adapter(self.model.weights, place, self.base)
        else:
            kind, extra = "full", {}
            with quiet():
                _merged(self.model.weights).save_pretrained(place)
        if not self.remote:
            self.model.tokenizer.save_pretrained(place)
        for label, tensors in self.tensors.items():
            (place / "modifiers").mkdir(exist_ok=True)
            save_file(tensors, place / "modifiers" / f"{label}.safetensors")
        for key, plan in self.models.items():
            (place / "modifiers" / key).mkdir(parents=True)
            plan.write(place / "modifiers" / key)
        notes = {
            "format": FORMAT,
            "kind": kind,
            **extra,
            "source": self.model.source,
            "history": [step.to_json() for step in self.model.history],
            "modifiers": self.modifiers,
            "versions": versions(),
            "files": sorted(item.name for item in place.iterdir() if item.name != "README.md"),
        }
        text = json.dumps(notes, indent=1, ensure_ascii=False, allow_nan=False)
        (place / NOTES).write_text(text + "\n", encoding="utf-8")
        (place / "README.md").write_text(card(self.model), encoding="utf-8")
        # safetensors writes files that only their owner may read.
        mode = stat.S_IMODE((place / NOTES).stat().st_mode)
        for file in (*place.glob("*.safetensors"), *place.glob("modifiers/*.safetensors")):
            file.chmod(mode)


def _loads_by_name(model: Any) -> str | None:
    if model.history or model.modifiers or not hasattr(model, "weights"):
        return None
    return provenance.name_of(model.weights, model.tokenizer)


def _adapter_base(weights: Any) -> str | None:
    """The name that loads the base of an adapter; None where whole weights have to be written."""
    if not hasattr(weights, "peft_config"):
        return None
    if list(weights.peft_config) == ["default"]:
        name = provenance.name_of(weights.get_base_model())
        if name is not None:
            return name
    if not hasattr(weights, "merge_and_unload"):
        kind = weights.peft_config[weights.active_adapter].peft_type
        raise ModelError(
            f"An adapter of type {getattr(kind, 'value', kind)} cannot be merged into its base, and this base was not "
            "loaded by a name that loads again. Load the base from the hub or the sandbox, and align that."
        )
    return None


def _merged(weights: Any) -> Any:
    return copy.deepcopy(weights).merge_and_unload() if hasattr(weights, "peft_config") else weights


def _write_adapter(weights: Any, place: Path, base: str) -> None:
    # The base is unchanged, so its embeddings need no copy; "auto" would ask the hub about them.
    weights.save_pretrained(place, save_embedding_layers=False)
    path = place / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers inside the block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
