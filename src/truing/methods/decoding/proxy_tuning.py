"""Proxy tuning: what tuning did to a small model moves the next-token scores of a large one (Liu et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from truing.contracts import Method, is_number, require
from truing.methods.decoding.two_models import check_second, check_vocabulary, follow, least, positions
from truing.models.local import Model
from truing.models.modifiers import LogitsModifier

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class ProxyTuningModifier(LogitsModifier):
    """Adds the difference between a tuned and an untuned small model to the scores.

    Args:
        guide: the small model after tuning.
        untuned: the small model before it.
        weight: how much of the difference is added.
    """

    dial = "weight"

    guide: Model
    untuned: Model
    weight: float = 1.0

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"ProxyTuning(guide={self.guide.name}, untuned={self.untuned.name}, weight={self.weight})"

    @property
    def limit(self) -> int | None:
        """Positions of the shorter of the small models."""
        return least(positions(self.guide), positions(self.untuned))

    def validate(self) -> None:
        """Raise for a weight that is no number."""
        super().validate()
        require(is_number(self.weight), f"`weight` is a finite number, got {self.weight!r}. The paper's is 1.")

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        """base + weight * (guide - untuned); a token that the untuned model excludes is excluded."""
        if not self.weight:
            return logits
        tuned = follow(session, "guide", self.guide, prefixes, logits.shape[1])
        before = follow(session, "untuned", self.untuned, prefixes, logits.shape[1])
        moved = logits + self.weight * (tuned - before)
        return moved.masked_fill((before == -math.inf) | (tuned == -math.inf), -math.inf)


class ProxyTuning(Method):
    """Move a model's next-token scores by what tuning did to a small model of the same vocabulary.

    The scores become base + weight * (guide - untuned): in probabilities base * (guide / untuned) ** weight,
    normalised. All three models read the tokens of the base, in the base's own chat template. Each token costs one
    pass of each of the three. No training.

    Args:
        guide: the small model after tuning.
        untuned: the same model before it.
        weight: how much of the difference is added; 0 is the base, 1 the paper's, more exaggerates.

    Source: Liu et al., "Tuning Language Models by Proxy", COLM 2024 (arXiv 2401.08565); a baseline of nudging.

    Example:
        ``ProxyTuning(guide=truing.load("sandbox/guide"), untuned=truing.load("sandbox/small")).align(base)``
    """

    needs: ClassVar[frozenset[str]] = frozenset({"guide", "untuned", "logits"})
    modifier: ClassVar[str | None] = "logits"
    paper: ClassVar[int | None] = 36

    guide: Model
    untuned: Model
    weight: float = 1.0

    def validate(self) -> None:
        """Raise for a setting that cannot work."""
        super().validate()
        check_second("guide", self.guide)
        check_second("untuned", self.untuned)
        ProxyTuningModifier(**self.settings()).validate()

    def check_model(self, model: AnyModel) -> None:
        """Raise before any work when the vocabularies differ."""
        super().check_model(model)
        check_vocabulary("ProxyTuning", model, "guide", self.guide)
        check_vocabulary("ProxyTuning", model, "untuned", self.untuned)

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(ProxyTuningModifier(**self.settings()))
