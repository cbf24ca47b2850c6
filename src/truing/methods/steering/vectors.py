"""Vectors that travel: kept by layer, added and scaled, saved as safetensors or as GGUF, and put on a model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from truing.contracts import is_whole
from truing.errors import ModelError, SettingsError
from truing.methods.steering import gguf

if TYPE_CHECKING:
    from truing.models import Model

ENDINGS = (".safetensors", ".gguf")
_FORMAT = "truing steering vector"


@dataclasses.dataclass(frozen=True, eq=False)
class SteeringVector:
    """One vector for each of some layers of a model, float32 [width].

    They add up (``polite + 0.5 * brief``), a layer that one of them lacks counting as zeros. They belong to the
    checkpoint they were measured on: on another one of the same shape they push somewhere else.

    Args:
        vectors: by layer, counted from 0; number l moves the output of layer l.
        hint: the kind of model, ``llama`` say.
        mark: of the checkpoint they were measured on (`truing.models.fingerprint.checkpoint_mark`); empty if unknown.

    Raises:
        SettingsError: no layer, a negative one, vectors of several widths, or numbers that are not finite.

    Example:
        >>> from truing.methods.steering.vectors import SteeringVector
        >>> (2 * SteeringVector({1: torch.ones(3)})).vectors[1].tolist()
        [2.0, 2.0, 2.0]
    """

    vectors: Mapping[int, torch.Tensor]
    hint: str = ""
    mark: str = ""

    def __post_init__(self) -> None:
        if not self.vectors:
            raise SettingsError("A steering vector has a vector for at least one layer.")
        kept = {}
        for layer, vector in sorted(self.vectors.items()):
            if not is_whole(layer) or layer < 0:
                raise SettingsError(f"Layers of a steering vector are counted from 0, got {layer!r}.")
            row = torch.as_tensor(vector).detach().to("cpu", torch.float32).clone()
            if row.dim() != 1 or not len(row) or not bool(row.isfinite().all()):
                raise SettingsError(f"The vector of layer {layer} is not one row of finite numbers.")
            kept[layer] = row
        if len({len(row) for row in kept.values()}) > 1:
            raise SettingsError(f"The vectors have several widths: {sorted({len(row) for row in kept.values()})}.")
        object.__setattr__(self, "vectors", kept)

    def __str__(self) -> str:
        """Layers and width, without the numbers."""
        return f"SteeringVector(layers={self.layers}, width={self.width}, hint={self.hint!r})"

    __repr__ = __str__

    @property
    def layers(self) -> list[int]:
        """The layers it moves."""
        return list(self.vectors)

    @property
    def width(self) -> int:
        """Numbers in each vector."""
        return len(next(iter(self.vectors.values())))

    @classmethod
    def of(cls, model: Any) -> SteeringVector:
        """What steers a model: the vectors of its last steering step, without the strength.

        Raises:
            SettingsError: nothing steers it.
        """
        from truing.methods.steering.modifier import SteeringModifier
        from truing.models.fingerprint import checkpoint_mark

        steering = [one for one in model.modifiers if isinstance(one, SteeringModifier)]
        if not steering:
            raise SettingsError(f"{model.name} carries no steering.")
        found = dict(zip(steering[-1].at, steering[-1].vectors))
        return cls(found, model.weights.config.model_type, checkpoint_mark(model))

    def __mul__(self, factor: float) -> SteeringVector:
        return self._with(self, lambda one, _: factor * one)

    __rmul__ = __mul__

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def __add__(self, other: SteeringVector) -> SteeringVector:
        return self._with(other, lambda one, two: one + two)

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self + -other

    def _with(self, other: SteeringVector, act: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> SteeringVector:
        if other.width != self.width:
            raise SettingsError(f"Vectors of width {self.width} and {other.width} cannot be added.")
        if self.mark and other.mark and self.mark != other.mark:
            _warn("Steering vectors of two checkpoints are added; one of them does not mean there what it did.")
        zero = torch.zeros(self.width)
        layers = sorted({*self.vectors, *other.vectors})
        made = {at: act(self.vectors.get(at, zero), other.vectors.get(at, zero)) for at in layers}
        return SteeringVector(made, self.hint or other.hint, self.mark or other.mark)

    def align(self, model: Model, strength: float = 1.0, **settings: Any) -> Model:
        """The model, steered; settings are those of `RepresentationSteering`."""
        from truing.methods.steering.representation import RepresentationSteering

        method = RepresentationSteering(vectors=self, strength=strength, **settings)
        return method.align(model)  # type: ignore[return-value]

    def check(self, model: Any) -> None:
        """Raise `SettingsError` where it does not fit a model, and warn where it was measured on another checkpoint."""
        from truing.models.activations import layer_indices
        from truing.models.fingerprint import checkpoint_mark

        width = model.weights.config.get_text_config().hidden_size
        if width != self.width:
            raise SettingsError(
                f"The steering vectors have {self.width} numbers, and the states of {model.name} {width}: they belong "
                "to another model."
            )
        layer_indices(model.weights, self.layers)
        if self.mark and self.mark != checkpoint_mark(model):
            _warn(
                f"These steering vectors were measured on another checkpoint than {model.name}, where they may mean "
                "something else. Measure them again."
            )

    def save(self, path: str | Path) -> None:
        """Write them: ``.safetensors``, or ``.gguf`` as llama.cpp and repeng read it (llama.cpp takes no layer 0).

        Raises:
            SettingsError: another ending.
            ModelError: the file cannot be written.
        """
        from safetensors.torch import save as as_bytes

        from truing.files import write_atomic

        place = Path(path).expanduser()
        try:
            if _ending(place) == ".gguf":
                rows = {layer: vector.numpy() for layer, vector in self.vectors.items()}
                gguf.write(place, rows, self.hint, {"truing.mark": self.mark} if self.mark else None)
            else:
                rows_by_name = {f"direction.{layer}": vector for layer, vector in self.vectors.items()}
                about = {"format": _FORMAT, "hint": self.hint, "mark": self.mark}
                write_atomic(place, as_bytes(rows_by_name, about))
        except OSError as error:
            raise ModelError(f"{place} cannot be written: {error.strerror}.") from None

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """Read what `save` or repeng or llama.cpp wrote. Files are not trusted: sizes are checked, nothing is run.

        Raises:
            SettingsError: another ending.
            ModelError: it cannot be read, or holds something else.
        """
        place = Path(path).expanduser()
        if _ending(place) == ".gguf":
            metadata, rows = gguf.read(place)
            hint, mark = (_told(metadata, key) for key in ("controlvector.model_hint", "truing.mark"))
        else:
            hint, mark, rows = _safetensors(place)
        try:
            return cls({layer: torch.from_numpy(np.array(row)) for layer, row in rows.items()}, hint, mark)
        except SettingsError as error:
            raise ModelError(f"{place} holds no steering vectors: {error}") from None


def _safetensors(place: Path) -> tuple[str, str, dict[int, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        if place.stat().st_size > gguf.MOST_BYTES:
            raise ModelError(f"{place} has {place.stat().st_size:,} bytes, too many for steering vectors.")
        with safe_open(place, "np") as file:
            about, rows = file.metadata() or {}, {}
            for name in list(file.keys()):
                layer = name.removeprefix("direction.")
                if not (layer.isascii() and layer.isdigit() and len(layer) <= 6):
                    raise ModelError(f"{place} holds the tensor {name[:40]!r}, and steering vectors are `direction.N`.")
                rows[int(layer)] = file.get_tensor(name)
    except (OSError, SafetensorError, TypeError) as error:
        why = getattr(error, "strerror", None) or str(error)[:200]
        raise ModelError(f"{place} cannot be read: {why}.") from None
    return str(about.get("hint", "")), str(about.get("mark", "")), rows


def _told(metadata: Mapping[str, tuple[str, Any]], key: str) -> str:
    kind, value = metadata.get(key, ("STRING", ""))
    return value if kind == "STRING" else ""


def _ending(place: Path) -> str:
    if place.suffix not in ENDINGS:
        raise SettingsError(
            f"A file of steering vectors ends with {' or '.join(ENDINGS)}, and {place.name!r} does not."
        )
    return place.suffix


def _warn(text: str) -> None:
    logging.getLogger("truing").warning(text)
