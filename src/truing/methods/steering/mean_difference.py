"""Add the mean difference between the activations of wanted and unwanted answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from truing.contracts import Method, is_number, require
from truing.errors import RecordError
from truing.models.modifiers import ActivationModifier

if TYPE_CHECKING:
    from truing.models import AnyModel, Model
    from truing.records import Records

POOLINGS = ("mean", "last")
CHUNK = 64  # answers whose states are in memory at one time


class SteeringModifier(ActivationModifier):
    """Adds ``strength`` times a vector to the output of each of its layers, at every position.

    Args:
        vectors: one vector a layer, shape [layers, width].
        at: the layers, counted from 0.
        strength: what the vectors are multiplied by.
    """

    dial = "strength"

    vectors: torch.Tensor
    at: Sequence[int]
    strength: float = 1.0

    @property
    def label(self) -> str:
        """Without the numbers of the vectors."""
        return f"SteeringModifier(at={list(self.at)}, strength={self.strength})"

    def layers(self) -> Sequence[int]:
        """The layers whose output is moved."""
        return list(self.at)

    def edit(self, hidden: torch.Tensor, layer: int, positions: torch.Tensor) -> torch.Tensor:
        """The hidden states, moved."""
        vector = self.vectors[list(self.at).index(layer)]
        return hidden + (self.strength * vector).to(device=hidden.device, dtype=hidden.dtype)


class MeanDifferenceSteering(Method):
    """Steer by the mean difference of activations (contrastive activation addition).

    For each chosen layer the vector is the mean, over records, of the hidden state of the positive answer minus that
    of the negative one; it is added, times ``strength``, to what the layer gives. States are measured with the
    modifiers that the model already carries. Nothing is trained.

    Rimsky et al. take the state of one answer letter and add the vector behind the prompt; here an answer is free text,
    pooled over its tokens, and the vector is added at every position, the prompt's too, which costs no knowledge of
    where the prompt ends. Source: Rimsky et al. 2024, arXiv 2312.06681.

    Args:
        layers: indices from 0, or from the end when negative; None takes the middle one, depth // 2.
        strength: what the vector is multiplied by when it is added; negative steers away, 0 changes nothing.
        pooling: "mean" of an answer's tokens, or its "last" token; the end token is left out.
        normalise: scale each vector to the mean length of the hidden states it was measured on, so that ``strength`` is
            a share of that length, and means the same in every layer and model.

    Example:
        >>> import truing as tr
        >>> polite = tr.MeanDifferenceSteering(strength=1.0).align(tr.load("sandbox/base"), "sandbox/contrasts")
    """

    layers: Sequence[int] | None = None
    strength: float = 1.0
    pooling: str = "mean"
    normalise: bool = False

    record_kinds: ClassVar[tuple[str, ...]] = ("contrast",)
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})
    modifier: ClassVar[str | None] = "activation"

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        if self.layers is not None:
            listed = isinstance(self.layers, (list, tuple)) and len(self.layers) > 0
            require(
                listed and all(isinstance(at, int) and not isinstance(at, bool) for at in self.layers),
                f"layers is a list of at least one layer's number, or None, not {self.layers!r}.",
            )
        require(is_number(self.strength), f"strength is a finite number, not {self.strength!r}.")
        require(self.pooling in POOLINGS, f"pooling is one of {', '.join(POOLINGS)}, not {self.pooling!r}.")

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        from truing.models.activations import decoder_layers, layer_indices

        weights = cast("Model", model).weights
        wanted = [len(decoder_layers(weights)) // 2] if self.layers is None else self.layers
        at = layer_indices(weights, wanted)
        require(len(set(at)) == len(at), f"layers names a layer twice: {list(wanted)!r}.")
        vectors = self._vectors(model, records or [], at)
        return model.with_modifier(SteeringModifier(vectors=vectors, at=at, strength=self.strength))

    def _vectors(self, model: Any, records: Any, at: Sequence[int]) -> torch.Tensor:
        answers = [
            (sign, *_encoded(model, number, row, column))
            for number, row in enumerate(records)
            for sign, column in ((1.0, "positive"), (-1.0, "negative"))
        ]
        total, length = torch.zeros(()), torch.zeros(())
        for start in range(0, len(answers), CHUNK):
            part = answers[start : start + CHUNK]
            states = self._pooled(model, part, at)
            total = total + (torch.tensor([sign for sign, _, _ in part])[:, None, None] * states).sum(0)
            length = length + states.norm(dim=2).sum(0)
        vectors, sizes = total / (len(answers) / 2), length / len(answers)
        norms = vectors.norm(dim=1)
        # Equal answers differ by rounding alone.
        if bool((norms <= 1e-6 * sizes).any()):
            raise RecordError(
                "Positive and negative answers have the same mean activation, so there is no direction to steer in. "
                "Give answers that differ in what is wanted."
            )
        return vectors * (sizes / norms)[:, None] if self.normalise else vectors

    def _pooled(self, model: Any, part: Sequence[tuple[float, int, list[int]]], at: Sequence[int]) -> torch.Tensor:
        """One state an answer, float32 [answers, layers, width]."""
        from truing.models.activations import record

        sequences = [tokens for _, _, tokens in part]
        if self.pooling == "last":
            return record(model, sequences, at)
        every = record(model, sequences, at, "all")
        return torch.stack([states[start:].mean(0) for (_, start, _), states in zip(part, every)])


def _encoded(model: Any, number: int, row: dict[str, Any], column: str) -> tuple[int, list[int]]:
    """Where the answer begins, and the token ids of prompt and answer, without the end token."""
    prompt, answer = model.encode_pair(row["prompt"], row[column])
    if len(answer) < 2:
        raise RecordError(f"Row {number}, column `{column}`: an empty answer has no activations. Take the row out.")
    tokens = [*prompt, *answer[:-1]]
    limit = getattr(model.weights.config.get_text_config(), "max_position_embeddings", None)
    if limit and len(tokens) > limit:
        raise RecordError(
            f"Row {number}, column `{column}`: prompt and answer have {len(tokens)} tokens, and {model.name} reads "
            f"{limit} at most. Shorten the answer, or take the row out."
        )
    return len(prompt), tokens
