"""What a training method minimises: the answers of a record that it scores, and how log-probabilities become a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from truing.methods.training import losses
from truing.methods.training.batches import Batch
from truing.methods.training.encoding import Example, Row
from truing.methods.training.policy import Scores


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of a loss.

    Args:
        values: one a row or answer, 1-D.
        unit: what the sum over a whole optimiser step (all accumulated batches, all processes) is divided by:
            "row", "token" (of first answers), "every_token", or another of `Objective.units`.
        weight: its share in the loss.
    """

    values: Tensor
    unit: str = "row"
    weight: float = 1.0


def mean_of(metrics: Sequence[dict[str, float]], name: str) -> float:
    """The mean of a metric over the logged rows that have it; 0 where none has."""
    values = [row[name] for row in metrics if name in row]
    return sum(values) / len(values) if values else 0.0


def _alone(values: Tensor) -> Tensor:
    return values


class Objective:
    """Base of what the one trainer minimises.

    - ``record_kind``: the kind of record it reads.
    - ``needs_reference``: reference log-probabilities of all answers are computed once, before training.
    - ``needs_collisions``: it reads `Scores.collisions`.
    - ``learns``: "first" answers only, or "all": which ones must not be empty, and may lend their tokens to a mean.
    - ``closed``: answers are read as whole conversations, as reward models read them, and not as what comes next.
    - ``total``: sums a tensor over all processes, [..] to [..]; the trainer sets it where there are several.
    - ``progress``: the share of the training that is done, 0 to 1; the trainer keeps it.
    """

    record_kind: str = ""
    needs_reference: bool = False
    needs_collisions: bool = False
    learns: str = "first"
    closed: bool = False
    total: Callable[[Tensor], Tensor] = staticmethod(_alone)
    progress: float = 0.0

    @property
    def key(self) -> str:
        """What `sequence_logps` depends on, apart from its arguments; names cached reference log-probabilities."""
        return "sum"

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """The examples in a record."""
        raise TypeError(f"{type(self).__name__} defines no examples().")

    def arrange(self, rows: list[Row]) -> list[Row]:
        """The encoded examples as they are trained on; may add answers that depend on other rows."""
        return rows

    def units(self, batch: Batch) -> dict[str, int]:
        """What means divide by: the counts of one batch, by name. The trainer adds them up over an optimiser step."""
        return batch.units

    def sequence_logps(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of each answer, [N], from those of its tokens; also used for the reference."""
        return losses.sequence_logps(tokens, mask)

    def terms(self, scores: Scores) -> list[Term]:
        """The parts of the loss."""
        raise TypeError(f"{type(self).__name__} defines no terms().")

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """What a user watches, one value a row or answer, 1-D; called after `terms`, without gradients."""
        return {}

    def verdict(self, metrics: list[dict[str, float]]) -> list[str]:
        """What the logged metrics of the last quarter of the training warn of, one line each."""
        return []

    def state(self) -> dict[str, Any]:
        """Running statistics as JSON values, kept in checkpoints."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
