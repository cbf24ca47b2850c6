"""What a training method minimises: the answers of a record that it scores, and how log-probabilities become a loss."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from truing.methods.training import losses
from truing.methods.training.encoding import Pair
from truing.methods.training.policy import Scores


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of a loss.

    Args:
        values: one a row, [B].
        unit: what the sum over a whole optimiser step (all accumulated batches) is divided by: "row" or "token".
        weight: its share in the loss.
    """

    values: Tensor
    unit: str = "row"
    weight: float = 1.0


class Objective:
    """Base of what the one trainer minimises.

    - ``record_kind``: the kind of record it reads.
    - ``needs_reference``: reference log-probabilities of all answers are computed once, before training.
    - ``needs_collisions``: it reads `Scores.collisions`.
    """

    record_kind: str = ""
    needs_reference: bool = False
    needs_collisions: bool = False

    @property
    def key(self) -> str:
        """What `sequence_logps` depends on, apart from its arguments; names cached reference log-probabilities."""
        return "sum"

    def examples(self, row: dict[str, Any]) -> list[list[Pair]]:
        """The examples in a record: for each, a prompt and a text for every answer, the answer to learn first."""
        raise TypeError(f"{type(self).__name__} defines no examples().")

    def sequence_logps(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of each answer, [N], from those of its tokens; also used for the reference."""
        return losses.sequence_logps(tokens, mask)

    def terms(self, scores: Scores) -> list[Term]:
        """The parts of the loss."""
        raise TypeError(f"{type(self).__name__} defines no terms().")

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """What a user watches, one value a row, [B] each; called without gradients."""
        return {}

    def verdict(self, metrics: list[dict[str, float]]) -> list[str]:
        """What the logged metrics of the last quarter of the training warn of, one line each."""
        return []
