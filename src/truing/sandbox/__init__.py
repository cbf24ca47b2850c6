"""A small written world with ground truth: text to pretrain on, every kind of record, exact graders, and models that
ship with the package. Nothing is downloaded, and importing it loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truing.errors import ModelError
from truing.sandbox.corpus import heldout_text
from truing.sandbox.data import record_names, records, score
from truing.sandbox.graders import FIGURES, Grade, grade, grade_question
from truing.sandbox.items import KINDS, Item, items
from truing.sandbox.world import World, world

NAMES = ("base", "small", "guide")

__all__ = [
    "FIGURES", "KINDS", "NAMES", "Grade", "Item", "World", "build", "checkpoint", "grade", "grade_question",
    "heldout_text", "items",
    "record_names", "records", "score", "world",
]  # fmt: skip


def checkpoint(name: str) -> Path:
    """The folder of a model that ships with the package, in transformers' format.

    Args:
        name: ``base`` (pretrained, unaligned), ``small`` (smaller, unaligned) or ``guide`` (small, aligned).

    Raises:
        ModelError: there is no such model.
    """
    if name not in NAMES:
        raise ModelError(f"The sandbox has no model `{name[:60]}`. It has: {', '.join(f'sandbox/{n}' for n in NAMES)}.")
    folder = Path(__file__).parent / "checkpoints" / name
    if not (folder / "model.safetensors").exists():
        raise ModelError(
            f"The files of sandbox/{name} are missing from this installation. `truing sandbox build` makes them again."
        )
    return folder


def build(*args: Any, **settings: Any) -> dict[str, float]:
    """Make tokenizer and models again from the seed; see `truing.sandbox.building.build`."""
    from truing.sandbox import building

    return building.build(*args, **settings)
