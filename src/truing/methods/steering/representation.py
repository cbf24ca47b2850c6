"""Steer by a direction read from the activations of wanted and unwanted answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from truing.contracts import Method, is_number, is_whole, require, require_seed
from truing.errors import RecordError, SettingsError
from truing.methods.steering import reading
from truing.methods.steering.layer_search import SCORES, best_layer, contrastive_scores
from truing.methods.steering.modifier import SteeringModifier
from truing.methods.steering.vectors import SteeringVector
from truing.models.core import context_length

if TYPE_CHECKING:
    from truing.models import AnyModel, Model
    from truing.records import Records

POOLINGS = ("mean", "last")
LENGTHS = ("difference", "unit", "states")
CHOICES = ("middle", "probe", "contrast")


class RepresentationSteering(Method):
    """Steer by a vector read from activations: added to, or projected out of, what chosen layers give.

    For each layer a direction is read from the states of positive and negative answers to the same prompts, measured
    with the modifiers that the model already carries. Nothing is trained. Method "mean" with vectors added behind the
    prompt is contrastive activation addition, "pca" with ``pooling="last"`` is RepE's reading vector.

    Args:
        layers: indices from 0, or from the end when negative; or "middle", depth // 2; or the one layer, within
            ``depth``, that a logistic regression reads best on pairs it has not seen ("probe"), or where the two sides
            differ most ("contrast", by ``score``). None is "middle".
        strength: what the vectors are multiplied by; negative steers away, 0 changes nothing. "auto" measures the
            trade-off on ``held_out`` of the pairs and on ``ability``, and takes the best that costs at most ``loss``.
        method: how a direction is read: "mean" (difference of means), "pca_center", "pca" (of differences in shuffled
            order), or "probe".
        pooling: "mean" of an answer's tokens, or its "last" token; the end token is left out.
        length: of a vector: "difference", as far as positive and negative states are apart along it on average;
            "unit"; or "states", the mean length of the states themselves.
        operator: "add", "project_out" or "project_out_then_add"; see `SteeringModifier`.
        keep_norm: rescale edited states to the length they had.
        relative: take strength in units of each state's length.
        positions: "all", "prompt", "answer" (from the prompt's last token on) or "last" (that token alone).
        depth: between which shares of the depth a layer is looked for.
        score: of "contrast": "jsd", "separation" or "release"; see `contrastive_scores`.
        held_out: share of the pairs that are kept from learning to test probes and strengths on.
        ability: question records that say what must not be lost, for strength "auto"; see `SteeringTradeoff`.
        loss: share of the ability that strength "auto" may cost.
        vectors: a `SteeringVector`, or a file of one (.gguf, .safetensors), in place of records.
        export: a file to write the vectors to as well, .gguf or .safetensors.
        seed: of the pairs held out, and of the order within pairs of "pca".

    Source: Wolf et al. 2024, arXiv 2401.16332; Zou et al. 2023, arXiv 2310.01405; Rimsky et al. 2024, arXiv 2312.06681.

    Example:
        >>> import truing as tr
        >>> polite = tr.RepresentationSteering(strength=1.0).align(tr.load("sandbox/base"), "sandbox/contrasts")
    """

    layers: Sequence[int] | str | None = None
    strength: float | str = 1.0
    method: str = "mean"
    pooling: str = "mean"
    length: str = "difference"
    operator: str = "add"
    keep_norm: bool = False
    relative: bool = False
    positions: str = "all"
    depth: Sequence[float] = (0.25, 0.75)
    score: str = "jsd"
    held_out: float = 0.25
    ability: Records | Sequence[dict[str, Any]] | str | Path | None = None
    loss: float = 0.02
    vectors: SteeringVector | Path | str | None = None
    export: Path | str | None = None
    seed: int = 0

    record_kinds: ClassVar[tuple[str, ...]] = ("contrast",)
    records_optional: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})
    modifier: ClassVar[str | None] = "activation"
    paper: ClassVar[int | None] = 50

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        if isinstance(self.layers, str):
            require(
                self.layers in CHOICES,
                f"layers is a list of layers' numbers, or one of {', '.join(CHOICES)}, not {self.layers!r}.",
            )
        elif self.layers is not None:
            listed = isinstance(self.layers, (list, tuple)) and len(self.layers) > 0
            require(
                listed and all(is_whole(at) for at in self.layers),
                f"layers is a list of at least one layer's number, or None, not {self.layers!r}.",
            )
        require(
            is_number(self.strength) or self.strength == "auto",
            f'strength is a finite number, or "auto", not {self.strength!r}.',
        )
        for name, known in (
            ("method", reading.METHODS), ("pooling", POOLINGS), ("length", LENGTHS), ("score", SCORES),
        ):  # fmt: skip
            value = getattr(self, name)
            require(value in known, f"{name} is one of {', '.join(known)}, not {value!r}.")
        self._modifier(torch.zeros(1, 1), [0]).validate()
        ends = self.depth
        good = isinstance(ends, (list, tuple)) and len(ends) == 2 and all(map(is_number, ends))
        require(good and 0 <= ends[0] < ends[1] <= 1, f"depth is two shares, as in [0.25, 0.75], not {ends!r}.")
        for name in ("held_out", "loss"):
            value = getattr(self, name)
            require(is_number(value) and 0 < value < 1, f"{name} is a share between 0 and 1, not {value!r}.")
        require_seed(self.seed)
        require(
            self.strength != "auto" or self.ability is not None,
            'strength "auto" looks for the best strength that keeps an ability: name one by `ability`, question '
            "records such as sandbox/questions:dev.",
        )
        require(
            self.vectors is None or self.strength != "auto",
            'strength "auto" is found on records, and `vectors` take their place. Use the measure `steering_tradeoff`.',
        )

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        local = cast("Model", model)
        rows = list(records or [])
        if self.vectors is None and not rows:
            raise RecordError("RepresentationSteering learns from contrast records, or takes `vectors`; it has none.")
        if self.vectors is not None and rows:
            raise RecordError("RepresentationSteering was given `vectors` and records. Leave one of them out.")
        kept: list[dict[str, Any]] = []
        if self.strength == "auto":
            learn, test = reading.held_out(len(rows), self.held_out, self.seed)
            rows, kept = [rows[at] for at in learn], [rows[at] for at in test]
        found = self.fit(local, rows) if rows else self._given(local)
        if self.export is not None:
            found.save(self.export)
        steered = local.with_modifier(self._modifier(torch.stack(list(found.vectors.values())), found.layers))
        return self._best(steered, kept) if self.strength == "auto" else steered

    def fit(self, model: Any, records: Any) -> SteeringVector:
        """The vectors alone, of a local model and contrast records.

        Raises:
            RecordError: there is no direction in the records, or an answer is empty or too long.
            SettingsError: a layer does not exist.
        """
        from truing.models.fingerprint import checkpoint_mark

        self.validate()
        rows = list(self.check_records(records) or []) if not isinstance(records, list) else records
        pairs = [[_encoded(model, number, row, column) for column in SIDES] for number, row in enumerate(rows)]
        at, states = self._states(model, pairs)
        found = {layer: self._vector(states[:, :, place], layer) for place, layer in enumerate(at)}
        return SteeringVector(found, model.weights.config.model_type, checkpoint_mark(model))

    def _given(self, model: Any) -> SteeringVector:
        found = self.vectors if isinstance(self.vectors, SteeringVector) else SteeringVector.load(str(self.vectors))
        if self.layers is not None:
            require(not isinstance(self.layers, str), "Given `vectors` have layers of their own; list those to use.")
            from truing.models.activations import layer_indices

            wanted = layer_indices(model.weights, cast("Sequence[int]", self.layers))
            absent = [layer for layer in wanted if layer not in found.vectors]
            require(not absent, f"The vectors have no layer {absent[:1]}; they have {found.layers}.")
            found = SteeringVector({layer: found.vectors[layer] for layer in wanted}, found.hint, found.mark)
        found.check(model)
        return found

    def _modifier(self, vectors: torch.Tensor, at: list[int]) -> SteeringModifier:
        return SteeringModifier(
            vectors=vectors, at=at, strength=1.0 if self.strength == "auto" else cast("float", self.strength),
            operator=self.operator, keep_norm=self.keep_norm, relative=self.relative, positions=self.positions,
        )  # fmt: skip

    def _states(self, model: Any, pairs: list[Any]) -> tuple[list[int], torch.Tensor]:
        """The chosen layers, in order, and states [pairs, 2, layers, width]."""
        from truing.models.activations import decoder_layers, layer_indices, record

        depth = len(decoder_layers(model.weights))
        searched = self.layers in ("probe", "contrast")
        if searched:
            first = min(depth - 1, math.floor(self.depth[0] * depth))
            at = list(range(first, max(first + 1, math.ceil(self.depth[1] * depth))))
        else:
            wanted = [depth // 2] if self.layers in (None, "middle") else cast("Sequence[int]", self.layers)
            at = layer_indices(model.weights, wanted)
            require(len(set(at)) == len(at), f"layers names a layer twice: {list(wanted)!r}.")
        sides = [side for pair in pairs for side in pair]
        where: Any = "mean" if self.pooling == "mean" else "last"
        read = record(model, [tokens for _, tokens in sides], at, where, prompts=[start for start, _ in sides])
        states = read.view(len(pairs), 2, *read.shape[1:])
        if not searched:
            return at, states
        if self.layers == "contrast":
            best = best_layer(contrastive_scores(states[:, 0], states[:, 1], self.score))
        else:
            best = reading.best_by_probe(reading.probe_scores(states, self.held_out, self.seed))
        return [at[best]], states[:, :, best : best + 1]

    def _vector(self, states: torch.Tensor, layer: int) -> torch.Tensor:
        try:
            direction = reading.reading_vector(states, self.method, seed=self.seed).double()
        except SettingsError as error:
            raise RecordError(f"Layer {layer}: {error} Give answers that differ in what is wanted.") from None
        size, norm = float(states.double().norm(dim=2).mean()), float(direction.norm())
        # Differences that cancel leave rounding alone.
        if norm <= 1e-6 * size:
            raise RecordError(
                "Positive and negative answers have the same mean activation, so there is no direction to steer in. "
                "Give answers that differ in what is wanted."
            )
        unit = direction / norm
        if self.length == "unit":
            return unit.float()
        if self.length == "states":
            return (size * unit).float()
        apart = (states[:, 0].double() - states[:, 1].double()).mean(0) @ unit
        return (abs(float(apart)) * unit).float()

    def _best(self, steered: Model, kept: list[dict[str, Any]]) -> Model:
        from truing.measures.steering_tradeoff import SteeringTradeoff

        measure = SteeringTradeoff(behaviour=kept, ability=self.ability, loss=self.loss, seed=self.seed)
        return steered.with_strength(measure.measure(steered).best(self.loss))


SIDES = ("positive", "negative")


def _encoded(model: Any, number: int, row: dict[str, Any], column: str) -> tuple[int, list[int]]:
    """Where the answer begins, and the token ids of prompt and answer, without the end token."""
    prompt, answer = model.encode_pair(row["prompt"], row[column])
    if len(answer) < 2:
        raise RecordError(f"Row {number}, column `{column}`: an empty answer has no activations. Take the row out.")
    tokens = [*prompt, *answer[:-1]]
    limit = context_length(model.weights)
    if limit and len(tokens) > limit:
        raise RecordError(
            f"Row {number}, column `{column}`: prompt and answer have {len(tokens)} tokens, and {model.name} reads "
            f"{limit} at most. Shorten the answer, or take the row out."
        )
    return len(prompt), tokens
