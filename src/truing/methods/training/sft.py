"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from truing.contracts import require
from truing.methods.training.encoding import Example, Pair, turn
from truing.methods.training.method import TrainingMethod
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Scores
from truing.models import chat

TURNS = ("last", "all")


class SFTObjective(Objective):
    """Mean negative log-likelihood of an answer token, over all answer tokens of the optimiser step.

    Args:
        turns: "last" or "all" answers of a conversation.
    """

    record_kind = "demonstration"
    learns = "all"

    def __init__(self, turns: str = "last") -> None:
        self.turns = turns

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """One example: the last answer, or each answer as the model would meet it in a conversation."""
        prompt, text = turn(row["prompt"], row["completion"])
        answers: list[Pair] = [(prompt, text)]
        if self.turns == "all" and not isinstance(prompt, str):
            messages = chat.as_messages(prompt)
            earlier = [at for at, message in enumerate(messages) if message["role"] == "assistant" and at > 0]
            answers = [*((messages[:at], messages[at]["content"]) for at in earlier), *answers]
        return [Example(answers)]

    def terms(self, scores: Scores) -> list[Term]:
        """The summed negative log-likelihood of each answer; the trainer divides by tokens."""
        return [Term(-self.sequence_logps(scores.tokens, scores.mask), unit="every_token")]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Log-probability of a whole answer, in nats."""
        return {"logps": self.sequence_logps(scores.tokens, scores.mask)}


class SFT(TrainingMethod):
    """Fine-tune on demonstrations: raise the likelihood of each answer token, the end token included.

    The prompt is not learned. A conversation teaches its last answer, or with ``turns="all"`` every answer in it.

    Args:
        turns: "last" learns the last answer of a conversation; "all" learns every assistant turn, each given what
            came before it.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> tuned = tr.SFT(learning_rate=1e-4).align(model, "sandbox/demonstrations")
    """

    turns: str = "last"

    record_kinds: ClassVar[tuple[str, ...]] = ("demonstration",)

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.turns in TURNS, f"turns is one of {', '.join(TURNS)}, not {self.turns!r}.")

    def objective(self) -> SFTObjective:
        """The likelihood of the answers."""
        return SFTObjective(self.turns)
