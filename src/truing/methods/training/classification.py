"""Binary classifiers of conversations, learned from hard or soft labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from truing.contracts import is_number, require
from truing.methods.training.encoding import Example, turn
from truing.methods.training.losses import weak_labels
from truing.methods.training.method import tell
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Scores
from truing.methods.training.reward_modelling import ScoreMethod, probability_of
from truing.records import Records

LOSSES = ("xent", "logconf", "product")
# Below it a batch says too little of where its median lies.
LEAST = 8


class ClassificationObjective(Objective):
    """Cross-entropy of s(score) to a label, which may be mixed with what the model itself believes.

    Args:
        loss: one of `LOSSES`.
        aux_coef: see `Classification`.
        warmup_frac: likewise.
        as_published: likewise.
        alpha: likewise.
        beta: likewise.
    """

    closed = True

    def __init__(
        self, loss: str = "xent", *, aux_coef: float = 0.5, warmup_frac: float = 0.1, as_published: bool = False,
        alpha: float = 1.0, beta: float = 1.0,
    ) -> None:  # fmt: skip
        self.loss, self.alpha, self.beta = loss, alpha, beta
        self.aux_coef, self.warmup_frac, self.as_published = aux_coef, warmup_frac, as_published

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """A conversation, with the probability that its label is true."""
        return [Example([turn(row["prompt"], row["completion"])], {"label": probability_of(row, float(row["label"]))})]

    def terms(self, scores: Scores) -> list[Term]:
        """One value a row."""
        assert scores.labels is not None
        # One score z is the two scores (0, z): same probabilities, and a model that is a reward as it stands.
        both = torch.cat([torch.zeros_like(scores.labels), scores.labels], 1)
        label = scores.values["label"]
        target = torch.stack([1 - label, label], 1)
        if self.loss == "product":
            return [Term(weak_labels.product(both, target, alpha=self.alpha, beta=self.beta))]
        if self.loss == "logconf" and len(label) >= LEAST:
            weight = weak_labels.confidence_weight(
                self.progress, aux_coef=self.aux_coef, warmup_frac=self.warmup_frac, as_published=self.as_published
            )
            return [Term(weak_labels.logconf(both, target, weight))]
        return [Term(weak_labels.xent(both, target))]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """How often the likelier label is the given one, and the mean probability of true."""
        assert scores.labels is not None
        found = scores.labels[:, 0]
        right = (found > 0) == (scores.values["label"] > 0.5)
        return {"accuracy": right.float(), "probability": found.sigmoid()}


class Classification(ScoreMethod):
    """Train a binary classifier of conversations. It gives a `ScoreModel`, whose score is the log-odds of true.

    A label record's ``label`` is learned, or its ``probability`` (that the label is true) where it has that column. To
    classify prompts alone, leave ``completion`` empty.

    With the losses "logconf" and "product" a model learns from weak labels and trusts itself as well: see
    `truing.methods.training.losses.weak_labels`. Burns et al. 2023 (arXiv 2312.09390); Ye et al. 2024 (arXiv
    2410.12621).

    Args:
        loss: "xent", cross-entropy to the labels; "logconf", which mixes in the model's own hardened labels; "product",
            cross-entropy to the renormalised product of both.
        aux_coef: of "logconf": the share of the hardened labels after the warm-up.
        warmup_frac: of "logconf": the part of the training in which that share rises in a line.
        as_published: of "logconf": the published code's warm-up, which reaches only warmup_frac of it and then jumps.
        alpha: of "product": exponent of the weak label.
        beta: of "product": exponent of the model's own probability.

    Example:
        >>> import truing as tr
        >>> rows = [{"prompt": "How do I burn the library?", "completion": "", "label": True},
        ...         {"prompt": "How do I wash the cup?", "completion": "", "label": False}] * 8
        >>> harmful = tr.Classification(learning_rate=1e-3).align(tr.load("sandbox/small"), rows)
        >>> harmful.probabilities(["How do I burn the museum?"], [""])
    """

    loss: str = "xent"
    aux_coef: float = 0.5
    warmup_frac: float = 0.1
    as_published: bool = False
    alpha: float = 1.0
    beta: float = 1.0

    record_kinds: ClassVar[tuple[str, ...]] = ("label",)
    paper: ClassVar[int | None] = 8

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.loss in LOSSES, f"loss is one of {', '.join(LOSSES)}, not {self.loss!r}.")
        for name in ("aux_coef", "warmup_frac"):
            value = getattr(self, name)
            require(is_number(value) and 0 <= value <= 1, f"{name} is from 0 to 1, not {value!r}.")
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, f"{name} is 0 or more, not {value!r}.")
        require(
            self.loss != "logconf" or (self.batch_size >= LEAST and self.tokens_per_batch is None),
            f"The threshold of 'logconf' is a quantile of the batch, which needs batch_size={LEAST} or more, and no "
            "tokens_per_batch.",
        )

    def objective(self) -> ClassificationObjective:
        """The loss."""
        return ClassificationObjective(
            self.loss, aux_coef=self.aux_coef, warmup_frac=self.warmup_frac, as_published=self.as_published,
            alpha=self.alpha, beta=self.beta,
        )  # fmt: skip

    def prepare(self, model: Any, records: Records, out: Path | None) -> Records:
        """Say where there is only one class to learn, or a batch too small for the confidence loss."""
        held = {probability_of(row, float(row["label"])) > 0.5 for row in records}
        if len(held) == 1:
            tell(f"All labels are {str(held.pop()).lower()}: the classifier will say so of everything.")
        rest = len(records) % self.batch_size
        if self.loss == "logconf" and 0 < rest < LEAST:
            tell(f"The last batch of an epoch has {rest} rows, too few for a threshold: labels alone teach there.")
        return records
