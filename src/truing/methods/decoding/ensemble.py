"""The mean of two models' next-token probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from truing.contracts import Method, is_number, require
from truing.methods.decoding.two_models import check_second, check_vocabulary, follow, positions
from truing.models.local import Model
from truing.models.modifiers import LogitsModifier

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class EnsembleModifier(LogitsModifier):
    """Mixes the next-token probabilities of a second model in.

    Args:
        guide: the second model.
        weight: its share of the mean.
    """

    dial = "weight"

    guide: Model
    weight: float = 0.5

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"Ensemble(guide={self.guide.name}, weight={self.weight})"

    @property
    def limit(self) -> int | None:
        """Positions of the second model."""
        return positions(self.guide)

    def validate(self) -> None:
        """Raise for a weight that is no share."""
        super().validate()
        require(
            is_number(self.weight) and 0 <= self.weight <= 1,
            f"`weight` is the guide's share of the mean, from 0 to 1, got {self.weight!r}.",
        )

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        """log((1 - weight) p_base + weight p_guide)."""
        if not self.weight:
            return logits
        guide = follow(session, "guide", self.guide, prefixes, logits.shape[1]).log_softmax(1)
        if self.weight == 1:
            return guide
        return torch.logaddexp(logits.log_softmax(1) + math.log1p(-self.weight), guide + math.log(self.weight))


class Ensemble(Method):
    """Decode from the mean of a model's and a guide's next-token probabilities.

    Both models read the tokens of the base, in the base's own chat template. Each token costs one pass of each. An
    ensemble of n models is n - 1 of these, with weights 1/2, 1/3, ... in the order they are added. No training.

    Args:
        guide: the second model, of the same vocabulary.
        weight: its share of the mean; 0 is the base, 1 the guide.

    Source: a baseline of Fei, Razeghi and Singh, "Nudging", ACL 2025 (arXiv 2410.09300).

    Example:
        ``Ensemble(guide=truing.load("sandbox/guide")).align(truing.load("sandbox/base")).generate("hello")``
    """

    needs: ClassVar[frozenset[str]] = frozenset({"guide", "logits"})
    modifier: ClassVar[str | None] = "logits"
    paper: ClassVar[int | None] = 36

    guide: Model
    weight: float = 0.5

    def validate(self) -> None:
        """Raise for a setting that cannot work."""
        super().validate()
        check_second("guide", self.guide)
        EnsembleModifier(**self.settings()).validate()

    def check_model(self, model: AnyModel) -> None:
        """Raise before any work when the vocabularies differ."""
        super().check_model(model)
        check_vocabulary("Ensemble", model, "guide", self.guide)

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(EnsembleModifier(**self.settings()))
