"""KTO: learning from single answers with a thumb up or down; and what methods that read thumbs share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import TrainingError
from truing.methods.training.encoding import Example, Ids, Row, turn
from truing.methods.training.losses import unpaired
from truing.methods.training.method import TrainingMethod, check_reference, tell
from truing.methods.training.objective import Objective, Term, mean_of
from truing.methods.training.policy import Scores
from truing.models import Model
from truing.records import Records

LOSSES = ("kto", "apo_zero_unpaired")
# Weighted good answers per weighted bad one, after the paper's advice; a little beside it is no mistake.
_ADVISED, _TOLERANCE = (1.0, 4 / 3), 0.05


class ThumbObjective(Objective):
    """What objectives share that read one answer and whether it is good.

    A preference gives two examples: chosen is good, rejected is bad.

    Args:
        beta: scale of the implicit reward, beta times the log-ratio of policy to reference.
    """

    record_kind = "label"
    needs_reference = True

    def __init__(self, beta: float) -> None:
        self.beta = beta
        # The log-ratio above which an answer counts as good, kept for the metrics.
        self.threshold = 0.0

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """The answer with its label; for a preference the chosen one, then the rejected one."""
        if "label" in row:
            return [self.example(row, "completion", row["label"])]
        return [self.example(row, "chosen", True), self.example(row, "rejected", False)]

    def example(self, row: dict[str, Any], column: str, good: bool) -> Example:
        """One answer of a row."""
        return Example([turn(row["prompt"], row[column])], {"label": float(good)})

    def arrange(self, rows: list[Row]) -> list[Row]:
        """The rows as they are, once it was told what is odd about their labels."""
        good = sum(row.values["label"] == 1 for row in rows)
        for line in self.label_notes(good, len(rows) - good):
            tell(line)
        return rows

    def label_notes(self, good: int, bad: int) -> list[str]:
        """What the numbers of good and bad answers call for, one line each."""
        return []

    def ratios(self, scores: Scores) -> Tensor:
        """Log-ratio of policy to reference of every answer, [N]."""
        assert scores.reference is not None
        return self.sequence_logps(scores.tokens, scores.mask) - scores.reference

    def labels(self, scores: Scores) -> Tensor:
        """Which first answers are good, bool [B]."""
        return scores.values["label"].bool()

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Implicit rewards and log-probabilities of good (chosen) and bad (rejected) answers, where there are any.

        ``rewards/accuracies`` is how often the log-ratio lies on the label's side of the threshold.
        """
        labels, ratios = self.labels(scores), self.ratios(scores)[: scores.rows]
        logps = self.sequence_logps(scores.tokens, scores.mask)[: scores.rows]
        out = {"rewards/accuracies": ((ratios > self.threshold) == labels).float()}
        for name, those in (("chosen", labels), ("rejected", ~labels)):
            if those.any():
                out[f"rewards/{name}"] = self.beta * ratios[those]
                out[f"logps/{name}"] = logps[those]
                out[f"logratio/{name}"] = ratios[those]
        return out

    def verdict(self, metrics: list[dict[str, float]]) -> list[str]:
        """A warning where good answers became less likely."""
        mean = mean_of(metrics, "logratio/chosen")
        if mean > -1:
            return []
        return [
            f"By the end the good answers were less likely than before training, by {-mean:.1f} nats an answer: the "
            "model learned to avoid bad answers and good ones with them. A lower learning rate or a higher beta keeps "
            "them."
        ]


class ThumbMethod(TrainingMethod):
    """Base of methods that learn from thumbs, and from preferences by taking them apart.

    Args:
        beta: how strongly the reference holds; small values move further.
        reference: another model to compare with, of the same tokenizer; None for the model that comes in.
    """

    learning_rate: float = 1e-6
    beta: float = 0.1
    reference: Model | None = None

    record_kinds: ClassVar[tuple[str, ...]] = ("label", "preference")

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_number(self.beta) and self.beta > 0, f"beta is a number over 0, not {self.beta!r}.")

    def check_model(self, model: Any) -> None:
        """Also raise where the reference speaks other tokens."""
        super().check_model(model)
        if self.reference is not None:
            check_reference(self.reference, model)

    def reference_model(self, model: Model) -> Model:
        """``reference``, or the model that comes in."""
        return model if self.reference is None else self.reference

    def prepare(self, model: Model, records: Records, out: Path | None) -> Records:
        """The records; a preference's columns named as a thumb's are left out: they would be taken for one."""
        clash = {"completion", "label"} & set(records.dataset.column_names)
        if records.kind != "preference" or not clash:
            return records
        return dataclasses.replace(records, dataset=records.dataset.remove_columns(sorted(clash)))


class KTOObjective(ThumbObjective):
    """KTO's loss, or APO-zero's for single answers.

    Args:
        beta: see `ThumbObjective`.
        loss: one of `LOSSES`.
        desirable_weight: of good answers.
        undesirable_weight: of bad answers.
        nonzero_only: z divides by the mismatched pairs whose log-ratio is not 0 (HALOs), instead of by all (TRL).
    """

    def __init__(
        self,
        beta: float,
        *,
        loss: str = "kto",
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        nonzero_only: bool = False,
    ) -> None:
        super().__init__(beta)
        self.loss, self.nonzero_only = loss, nonzero_only
        self.weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}

    def arrange(self, rows: list[Row]) -> list[Row]:
        """Each row with an answer to another prompt as its second one, where the loss needs it."""
        rows = super().arrange(rows)
        return mismatched(rows) if self.loss == "kto" else rows

    def label_notes(self, good: int, bad: int) -> list[str]:
        """What one-sided or unbalanced labels call for."""
        if not good or not bad:
            kind, other = ("good", "bad") if good else ("bad", "good")
            return [
                f"All {good + bad:,} answers are {kind}: KTO learns from one kind alone, but nothing tells it what a "
                f"{other} answer is. Add some if you can."
            ]
        up, down = self.weights["desirable_weight"], self.weights["undesirable_weight"]
        if not up or not down:
            return []
        low, high = _ADVISED
        found = up * good / (down * bad)
        if low - _TOLERANCE <= found <= high + _TOLERANCE:
            return []
        return [
            f"{good:,} answers are good and {bad:,} bad, which with these weights count {found:.2f} to 1. KTO's "
            f"authors advise {low:g} to {high:.2f}: set undesirable_weight from {up * good / bad / high:.2f} to "
            f"{up * good / bad / low:.2f}, or desirable_weight from {low * down * bad / good:.2f} to "
            f"{high * down * bad / good:.2f}, not both."
        ]

    def reference_point(self, ratios: Tensor) -> Tensor:
        """z, a scalar without gradient: the mean log-ratio of mismatched pairs of all processes, at least 0.

        Args:
            ratios: of this process's mismatched pairs, [m].
        """
        values = ratios.detach()
        count = (values != 0).sum() if self.nonzero_only else torch.tensor(len(values), device=values.device)
        total, pairs = self.total(torch.stack([values.sum(), count.to(values.dtype)]))
        return (total / pairs.clamp(min=1)).clamp(min=0)

    def terms(self, scores: Scores) -> list[Term]:
        """The loss of each row."""
        assert scores.reference is not None
        logps, labels, rows = self.sequence_logps(scores.tokens, scores.mask), self.labels(scores), scores.rows
        policy, reference = logps[:rows], scores.reference[:rows]
        if self.loss != "kto":
            values = unpaired.apo_zero_unpaired(policy, reference, labels, beta=self.beta, **self.weights)
            return [Term(values)]
        z = self.reference_point(self.ratios(scores)[rows:])
        self.threshold = float(z)
        return [Term(unpaired.kto(policy, reference, labels, z, beta=self.beta, **self.weights))]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Also z, as "kl", in nats."""
        out = super().metrics(scores)
        return {**out, "kl": torch.tensor([self.threshold])} if self.loss == "kto" else out


def mismatched(rows: list[Row]) -> list[Row]:
    """Each row with a second answer, one that another prompt got: the answer of the row before it.

    Rows that follow each other with one prompt take the answers of those before them, in order, so that a preference
    taken apart does not meet its own other half. An answer loses its end where it would make the row the longest.

    Raises:
        TrainingError: all prompts are the same.
    """
    numbers: dict[tuple[int, ...], int] = {}
    prompts = [numbers.setdefault(tuple(row.answers[0][0]), len(numbers)) for row in rows]
    if len(numbers) == 1:
        raise TrainingError(
            f"KTO measures how far the policy moved on answers to other prompts, and all {len(rows):,} records have "
            "the same prompt. Add records with other prompts, or use loss='apo_zero_unpaired', which measures nothing."
        )
    longest = max(row.width for row in rows)
    runs = _runs(prompts)
    out = []
    for at, row in enumerate(rows):
        other = (at - runs[at]) % len(rows)
        while prompts[other] == prompts[at]:
            other -= 1  # a negative index counts from the end
        prompt, answer = row.answers[0][0], rows[other].answers[0][1]
        pair: tuple[Ids, Ids] = (prompt, answer[: longest - len(prompt)])
        out.append(Row(row.index, (*row.answers, pair), row.values))
    return out


def _runs(prompts: list[int]) -> list[int]:
    """How many neighbours in a row have the same prompt, for each of them."""
    out: list[int] = []
    start = 0
    for at in range(1, len(prompts) + 1):
        if at == len(prompts) or prompts[at] != prompts[start]:
            out += [at - start] * (at - start)
            start = at
    return out


class KTO(ThumbMethod):
    """Learn from thumbs up and down: raise good answers above what the policy drifts by anyway, bad ones below it.

    The drift is z, the mean log-ratio of policy to reference on answers to other prompts, at least 0 and without
    gradient; each batch has its own, so it is noisy where ``batch_size`` is small. Preferences are read too: chosen is
    a thumb up, rejected a thumb down. The loss saturates: very wrong answers teach as little as learned ones, which
    tolerates mislabelled answers and learns slowly from a bad start (see `BCO`). Ethayarajh et al. 2024
    (arXiv 2402.01306); compared with the DPO family by Saeidi et al. 2024 (arXiv 2404.14723).

    Args:
        loss: "kto", or "apo_zero_unpaired", which fixes z at 0 and so needs no mismatched pairs (D'Oosterlinck et al.
            2024, arXiv 2408.06266).
        desirable_weight: of good answers. The authors advise that good answers together weigh 1 to 4/3 of what bad ones
            do; where they do not, a line says which weights would.
        undesirable_weight: of bad answers.
        nonzero_only: z divides by the mismatched pairs whose log-ratio is not 0, as the authors' HALOs code does,
            instead of by all, as TRL does.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> aligned = tr.KTO(beta=0.5).align(model, "sandbox/labels")
    """

    loss: str = "kto"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    nonzero_only: bool = False

    paper: ClassVar[int | None] = 37

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.loss in LOSSES, f"loss is one of {', '.join(LOSSES)}, not {self.loss!r}.")
        for name in ("desirable_weight", "undesirable_weight"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, f"{name} is a number, 0 or more, not {value!r}.")
        some = self.desirable_weight > 0 or self.undesirable_weight > 0
        require(some, "Both weights are 0, so nothing would be learned. Give one of them a weight.")
        require(
            not self.nonzero_only or self.loss == "kto",
            "nonzero_only has no effect without z. Leave it out, or use kto.",
        )

    def objective(self) -> KTOObjective:
        """The loss with its weights."""
        return KTOObjective(
            self.beta,
            loss=self.loss,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            nonzero_only=self.nonzero_only,
        )
