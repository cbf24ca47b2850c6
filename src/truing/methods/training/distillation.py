"""Distillation: a student learns a teacher's whole next-token distributions, not only the tokens that were written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import ModelError
from truing.methods.training.losses import distillation
from truing.methods.training.method import TrainingMethod
from truing.methods.training.objective import Term
from truing.methods.training.policy import Scores, Teacher
from truing.methods.training.sft import SFT, SFTObjective
from truing.models import Model
from truing.models.core import core_of
from truing.models.local import same_vocabulary

DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward_kl": distillation.forward_kl,
    "reverse_kl": distillation.reverse_kl,
    "jensen_shannon": distillation.generalised_jsd,
}


def comparison(name: str, **settings: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A divergence for `Teacher`: scores of teacher and student, [m, V] each, to nats per position, [m].

    One tokenizer may serve embeddings of several sizes, padded to a round number; the entries that both have count.

    Args:
        name: one of `DIVERGENCES`.
        settings: of that function.
    """
    function = functools.partial(DIVERGENCES[name], **settings)

    def compare(teacher: Tensor, student: Tensor) -> Tensor:
        size = min(teacher.shape[-1], student.shape[-1])
        return function(teacher[..., :size], student[..., :size])

    return compare


class Taught(TrainingMethod):
    """Base of methods with a teacher, a frozen model that is asked what it would write.

    Args:
        teacher: a local model, of the student's vocabulary wherever distributions are compared.
    """

    teacher: Model

    needs = frozenset({"gradients", "local_weights", "teacher"})

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            hasattr(self.teacher, "offers"),
            f"`teacher` is a model, got {self.teacher!r}. Load it: teacher=truing.load('sandbox/base').",
        )

    def check_model(self, model: Any) -> None:
        """Also raise where the teacher cannot be asked."""
        super().check_model(model)
        if not isinstance(self.teacher, Model):
            raise ModelError(
                f"The teacher {self.teacher.name} has no local weights, so its distributions cannot be read. Load a "
                "folder or a hub name; or let it write answers, and train on them with SFT."
            )
        if self.teacher.modifiers:
            names = ", ".join(type(modifier).__name__ for modifier in self.teacher.modifiers)
            raise ModelError(
                f"The teacher carries {names}, which does not act where its weights alone are asked: it would teach "
                "something else than it writes. Let it write answers and train on them with SFT, or give the teacher "
                "without it (`teacher.unstack()`)."
            )

    def reference_model(self, model: Model) -> Model:
        """The teacher: it belongs to what a training folder was made with."""
        return self.teacher


def need_same_vocabulary(teacher: Model, student: Model, remedy: str) -> None:
    """Raise `ModelError` where distributions cannot be compared token by token."""
    if not same_vocabulary(teacher, student):
        raise ModelError(
            f"{teacher.name} and {student.name} have different vocabularies, so their next-token distributions cannot "
            f"be compared. {remedy}"
        )


class DistillationObjective(SFTObjective):
    """A teacher's divergence and the likelihood of what was written, each as a mean over all answer tokens.

    Args:
        sft_weight: share of the likelihood; the divergence has the rest.
        turns: see `SFTObjective`.
    """

    def __init__(self, sft_weight: float, turns: str = "last") -> None:
        super().__init__(turns)
        self.sft_weight = sft_weight

    def terms(self, scores: Scores) -> list[Term]:
        """Both parts, summed over each answer; the trainer divides by tokens."""
        assert scores.divergence is not None
        parts = [Term(scores.divergence.sum(1), "every_token", 1 - self.sft_weight)]
        if self.sft_weight:
            parts += [dataclasses.replace(term, weight=self.sft_weight) for term in super().terms(scores)]
        return parts

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Also the mean divergence of a token in each answer."""
        assert scores.divergence is not None
        per_token = scores.divergence.sum(1) / scores.lengths.clamp(min=1)
        return {**super().metrics(scores), "divergence_per_token": per_token}


class Distillation(Taught, SFT):
    """Fit a student to a teacher's next-token distributions over the answers of demonstrations.

    (1 - sft_weight) * mean_t T^2 D(teacher_t, student_t) + sft_weight * (SFT loss), the mean over answer tokens. The
    teacher is asked in every step, in evaluation mode, about positions of answers only. It sees the plain chat
    template, as the student does. For distillation from texts alone (a teacher behind a server, or of another
    vocabulary), let the teacher write the completions and use `SFT`.

    Rows are packed without padding, and a prompt that several answers share is computed once.

    Hinton, Vinyals and Dean 2015 (arXiv 1503.02531) for temperature and mixing; Agarwal et al. 2024 (GKD, arXiv
    2306.13649) for the generalised Jensen-Shannon divergence.

    Args:
        divergence: "forward_kl", KL(teacher || student), spreads the student over all that the teacher finds likely;
            "reverse_kl" keeps it to the teacher's modes; "jensen_shannon" lies between.
        temperature: divides the scores of both; T^2 multiplies the divergence, so that gradients keep their size.
        mix: of "jensen_shannon", the teacher's share in the middle distribution, over 0 and under 1.
        sft_weight: share of the SFT loss, from 0 to under 1.

    Example:
        >>> import truing as tr
        >>> teacher = tr.SFT(learning_rate=5e-4).align(tr.load("sandbox/base"), "sandbox/demonstrations")
        >>> student = tr.Distillation(teacher=teacher).align(tr.load("sandbox/small"), "sandbox/demonstrations")
    """

    divergence: str = "forward_kl"
    temperature: float = 1.0
    mix: float = 0.5
    sft_weight: float = 0.5

    record_kinds: ClassVar[tuple[str, ...]] = ("demonstration",)
    paper: ClassVar[int | None] = 20

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        known = ", ".join(DIVERGENCES)
        require(self.divergence in DIVERGENCES, f"divergence is one of {known}, not {self.divergence!r}.")
        heat = self.temperature
        require(is_number(heat) and heat > 0, f"temperature is a number over 0, not {heat!r}.")
        require(is_number(self.mix) and 0 < self.mix < 1, f"mix is over 0 and under 1, not {self.mix!r}.")
        share = self.sft_weight
        fits = is_number(share) and 0 <= share < 1
        require(fits, f"sft_weight is from 0 to under 1, not {share!r}. At 1 nothing is distilled: use SFT.")

    def check_model(self, model: Any) -> None:
        """Also raise where teacher and student have different vocabularies."""
        super().check_model(model)
        need_same_vocabulary(
            self.teacher, model, "Choose a teacher with the student's tokenizer, or train on its texts with SFT."
        )

    def objective(self) -> DistillationObjective:
        """Divergence and likelihood."""
        return DistillationObjective(self.sft_weight, self.turns)

    def taught(self, model: Model) -> Teacher:
        """The divergence on all answers."""
        settings = {"temperature": self.temperature}
        if self.divergence == "jensen_shannon":
            settings["mix"] = self.mix
        return Teacher(core_of(self.teacher.weights).eval(), comparison(self.divergence, **settings))
