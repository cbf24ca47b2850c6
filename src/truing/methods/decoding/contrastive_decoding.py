"""Contrastive decoding: away from what a weaker model would write, among the tokens that a model finds plausible."""

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


class ContrastiveDecodingModifier(LogitsModifier):
    """Moves next-token scores away from those of an amateur.

    Args:
        amateur: the weaker model.
        beta: how far.
        alpha: tokens of less than this share of the largest probability are excluded.
    """

    dial = "beta"

    amateur: Model
    beta: float = 0.5
    alpha: float = 0.1

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"ContrastiveDecoding(amateur={self.amateur.name}, beta={self.beta}, alpha={self.alpha})"

    @property
    def limit(self) -> int | None:
        """Positions of the amateur."""
        return positions(self.amateur)

    def validate(self) -> None:
        """Raise for values that cannot work."""
        super().validate()
        require(
            is_number(self.beta) and self.beta >= 0,
            f"`beta` is a number of at least 0, got {self.beta!r}. Usual values: 0.25 to 1; 0 leaves the amateur out.",
        )
        require(
            is_number(self.alpha) and 0 <= self.alpha <= 1,
            f"`alpha` is a share of the largest probability, from 0 to 1, got {self.alpha!r}. Usual: 0.1.",
        )

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        """(1 + beta) expert - beta amateur where p_expert >= alpha max p_expert, else minus infinity."""
        out = logits
        excluded = logits < logits.max(1, keepdim=True).values + (math.log(self.alpha) if self.alpha else -math.inf)
        if self.beta:
            amateur = follow(session, "amateur", self.amateur, prefixes, logits.shape[1])
            # A token that the amateur never writes would be infinitely better than all others.
            excluded |= amateur == -math.inf
            out = (1 + self.beta) * logits - self.beta * amateur
        return out.masked_fill(excluded, -math.inf)


class ContrastiveDecoding(Method):
    """Move a model's scores away from those of a weaker model, among tokens that the model itself finds plausible.

    A token whose probability is below alpha times the largest is excluded; the others score
    (1 + beta) expert - beta amateur. What both models like loses to what only the better one likes. Both read the
    tokens of the base, in its own chat template. Each token costs one pass of each. No training. Excluded tokens have
    probability 0, so `logprobs` of an answer that holds one is minus infinity.

    Args:
        amateur: the weaker model, of the same vocabulary.
        beta: how far the scores move; 0 is the model itself, restricted to plausible tokens. The score of Li et al.,
            log p_expert - log p_amateur, ranks as a large beta does.
        alpha: tokens of less than this share of the largest probability are excluded; 0 excludes none, 1 leaves the
            most likely.

    Source: O'Brien and Lewis 2023, "Contrastive Decoding Improves Reasoning in Large Language Models"
    (arXiv 2309.09117), eqs. 1 and 2; after Li et al. 2022, "Contrastive Decoding" (arXiv 2210.15097).

    Example:
        ``ContrastiveDecoding(amateur=truing.load("sandbox/small")).align(truing.load("sandbox/base"))``
    """

    needs: ClassVar[frozenset[str]] = frozenset({"amateur", "logits"})
    modifier: ClassVar[str | None] = "logits"

    amateur: Model
    beta: float = 0.5
    alpha: float = 0.1

    def validate(self) -> None:
        """Raise for a setting that cannot work."""
        super().validate()
        check_second("amateur", self.amateur)
        ContrastiveDecodingModifier(**self.settings()).validate()

    def check_model(self, model: AnyModel) -> None:
        """Raise before any work when the vocabularies differ."""
        super().check_model(model)
        check_vocabulary("ContrastiveDecoding", model, "amateur", self.amateur)

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(ContrastiveDecodingModifier(**self.settings()))
