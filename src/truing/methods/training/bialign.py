"""BiAlign: a student learns its teacher's outputs, and which demonstrations in a prompt its teacher finds helpful."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import ModelError
from truing.methods.training.demonstrations import conversation, samples_of, shown_to
from truing.methods.training.distillation import Taught, comparison, need_same_vocabulary
from truing.methods.training.encoding import Example, Row, encode, turn
from truing.methods.training.losses import ranking
from truing.methods.training.method import tell
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Scores, Teacher
from truing.models import Model
from truing.models.core import core_of
from truing.records import Records

KL_REDUCTIONS = ("token", "sample")


class BiAlignObjective(Objective):
    """Divergence from the teacher over whole k-shot texts, and the ranking of subsets of their demonstrations.

    Answer 0 of an example is the whole text, of which every token but the first is predicted; answers 1 to N are the
    target, each after another subset. What a weight of 0 leaves out is not computed.

    Args:
        kl_weight: of the divergence.
        rank_weight: lambda, of the ranking.
        kl_reduction: "token" or "sample"; see `BiAlign`.
        through_range: see `losses.ranking.ranking_terms`.
    """

    record_kind = "demonstration"

    def __init__(
        self, kl_weight: float, rank_weight: float, kl_reduction: str = "token", through_range: bool = False
    ) -> None:
        self.kl_weight, self.rank_weight = kl_weight, rank_weight
        self.kl_reduction, self.through_range = kl_reduction, through_range

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """The whole text, then the target after each subset."""
        query, target = turn(row["prompt"], row["completion"])
        prompts = [conversation(row["demonstrations"], query), *shown_to(row)[0]]
        scores = row.get("teacher_scores")
        values = {} if scores is None else {"teacher": [0.0, *scores]}
        return [Example([(prompt, target) for prompt in prompts], values)]

    def arrange(self, rows: list[Row]) -> list[Row]:
        """The whole text is an answer to its own first token; parts that weigh nothing are left out."""
        out = []
        keep = slice(0 if self.kl_weight else 1, None if self.rank_weight else 1)
        for row in rows:
            whole = [*row.answers[0][0], *row.answers[0][1]]
            answers = ((whole[:1], whole[1:]), *row.answers[1:])
            values = {name: value[keep] for name, value in row.values.items() if not isinstance(value, (int, float))}
            out.append(dataclasses.replace(row, answers=answers[keep], values=values))
        return out

    def subset_scores(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """Log-probability of the target after each subset, of student and teacher, [B, N] in nats."""
        rows = scores.rows
        start = rows if self.kl_weight else 0
        student = self.sequence_logps(scores.tokens, scores.mask)[start:]
        return student.view(-1, rows).T, scores.values["teacher"][start:].view(-1, rows).T

    def terms(self, scores: Scores) -> list[Term]:
        """The divergence over tokens or samples, and the ranking loss over samples."""
        parts = []
        if self.kl_weight:
            assert scores.divergence is not None
            unit = "token" if self.kl_reduction == "token" else "row"
            parts.append(Term(scores.divergence[: scores.rows].sum(1), unit, self.kl_weight))
        if self.rank_weight:
            student, teacher = self.subset_scores(scores)
            losses = ranking.bialign_ranking(student, teacher, through_range=self.through_range)
            parts.append(Term(losses, "row", self.rank_weight))
        return parts

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Divergence of a token; ranking loss, range of subset scores in nats, agreement on best and worst."""
        out = {}
        if self.kl_weight:
            assert scores.divergence is not None
            first = slice(0, scores.rows)
            out["divergence_per_token"] = scores.divergence[first].sum(1) / scores.lengths[first].clamp(min=1)
        if self.rank_weight:
            student, teacher = self.subset_scores(scores)
            best, worst = ranking.preference_agreement(student, teacher)
            out["ranking_loss"] = ranking.bialign_ranking(student, teacher)
            out["score_range"] = ranking.score_range(student)
            out["consistency/best"], out["consistency/worst"] = best.float(), worst.float()
        return out


class BiAlign(Taught):
    """Compress a model's use of demonstrations: a student matches its teacher's distributions over k-shot texts, and
    ranks subsets of the demonstrations as the teacher does.

    Each sample is k demonstrations, a query and its target, all of one task, written as turns of a conversation through
    the chat template. KL(teacher || student) is taken at every token of it but the first, demonstrations included. The
    target's log-probability is also taken after each of ``n_subsets`` subsets of the demonstrations, the empty one
    among those that may be drawn; a pair of subsets that the student does not hold apart as the teacher's ranks are
    (as a share of its range) adds to the ranking loss. Teacher scores of subsets are computed once and kept.

    Records are demonstrations with a column ``task``, which are grouped at random; or k-shot samples with a column
    ``demonstrations``, used as they are. What several subsets begin with is computed once, and rows are not padded.

    The paper does not say how batches are averaged, which is what ``rank_weight`` depends on: here each part is a mean,
    of tokens and of samples. Gradients do not pass through the range that normalises the ranking: taken literally it
    has dead points. Ties of the teacher make no pair. Too long samples are left out whole, since a cut target would be
    another one for each subset.

    Qin et al. 2025, arXiv 2312.17055.

    Args:
        n_subsets: N, compared in each sample; 2 or more.
        rank_weight: lambda, of the ranking loss; 0 is plain distillation.
        kl_weight: of the divergence; 0 learns the ranking only, which works across vocabularies.
        kl_reduction: "token", the mean over all tokens; "sample", the sum over a sample's tokens, then the mean.
        shots: least and most demonstrations of a sample that is grouped here.
        samples: how many are grouped; None for one pass over the records.
        through_range: let gradients through the range of the student's scores.

    Example:
        >>> import truing as tr
        >>> rows = tr.sandbox.records("demonstrations", n=400)
        >>> student = tr.BiAlign(teacher=tr.load("sandbox/base")).align(tr.load("sandbox/small"), rows)
    """

    learning_rate: float = 1e-6
    truncate: str = "drop"
    n_subsets: int = 4
    rank_weight: float = 1.0
    kl_weight: float = 1.0
    kl_reduction: str = "token"
    shots: tuple[int, int] = (4, 10)
    samples: int | None = None
    through_range: bool = False

    record_kinds: ClassVar[tuple[str, ...]] = ("demonstration",)
    paper: ClassVar[int | None] = 47
    quick: ClassVar[dict[str, Any]] = {**Taught.quick, "shots": (2, 3)}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        for name in ("rank_weight", "kl_weight"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, f"{name} is 0 or more, not {value!r}.")
        require(self.rank_weight + self.kl_weight > 0, "With rank_weight and kl_weight at 0 nothing is learned.")
        require(
            self.kl_reduction in KL_REDUCTIONS,
            f"kl_reduction is one of {', '.join(KL_REDUCTIONS)}, not {self.kl_reduction!r}.",
        )
        require(_whole(self.n_subsets, 2), f"n_subsets is a whole number from 2, not {self.n_subsets!r}.")
        fits = isinstance(self.shots, (tuple, list)) and len(self.shots) == 2 and all(_whole(k, 1) for k in self.shots)
        require(fits, f"shots is the least and the most demonstrations, such as (4, 10), not {self.shots!r}.")
        least, most = self.shots
        require(least <= most, f"shots has its least number first, not {self.shots!r}.")
        require(
            2**least >= self.n_subsets,
            f"{least} demonstrations have {2**least} subsets, and n_subsets asks for {self.n_subsets}. Raise the least "
            "number of shots.",
        )
        require(
            self.samples is None or _whole(self.samples, 1),
            f"samples is a whole number over 0, or None, not {self.samples!r}.",
        )
        require(
            self.truncate != "end",
            "truncate='end' would cut a target after some subsets and not after others, whose scores then cannot be "
            "compared. Use 'drop' or 'start'.",
        )

    def check_model(self, model: Any) -> None:
        """Also raise where distributions are to be compared across vocabularies."""
        super().check_model(model)
        if self.kl_weight:
            need_same_vocabulary(
                self.teacher, model, "The ranking alone needs no common vocabulary: set kl_weight=0 to learn only that."
            )

    def objective(self) -> BiAlignObjective:
        """Divergence and ranking."""
        return BiAlignObjective(self.kl_weight, self.rank_weight, self.kl_reduction, self.through_range)

    def taught(self, model: Model) -> Teacher | None:
        """The divergence over the whole text."""
        if not self.kl_weight:
            return None
        return Teacher(core_of(self.teacher.weights).eval(), comparison("forward_kl"), slots=(0,))

    def prepare(self, model: Model, records: Records, out: Path | None) -> Records:
        """k-shot samples with subsets, and the teacher's scores of them."""
        from truing.records.reading import from_rows

        rows = samples_of(records, n_subsets=self.n_subsets, shots=self.shots, samples=self.samples, seed=self.seed)
        if self.rank_weight:
            rows = self._scored(rows)
        return from_rows(rows, kind="demonstration", source=records.source)

    def _scored(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The teacher reads the samples with its own tokenizer; what is too long for it is left out, and said."""
        from truing.methods.training.reference import reference_of

        objective = BiAlignObjective(kl_weight=0.0, rank_weight=1.0)
        encoded, counts, limit = encode(
            self.teacher, rows, objective, max_length=self.max_length, truncate=self.truncate
        )
        for note in counts.notes(limit, self.truncate):
            tell(f"As the teacher reads them: {note}")
        encoded = objective.arrange(encoded)
        table = reference_of(
            self.teacher, rows=encoded, objective=objective, pad=self.teacher.tokenizer.pad_token_id or 0
        )
        if not torch.isfinite(table).all():
            raise ModelError(f"The teacher {self.teacher.name} gives scores that are not finite. Load it in float32.")
        return [{**rows[row.index], "teacher_scores": scores.tolist()} for row, scores in zip(encoded, table)]


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
