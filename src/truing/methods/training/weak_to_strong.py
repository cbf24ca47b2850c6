"""Weak-to-strong: a strong model learns from a weaker model's labels; how much of the gap between them it recovers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from truing import progress
from truing.contracts import is_number, require
from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.files import write_atomic
from truing.methods.training.classification import LOSSES, Classification
from truing.methods.training.method import TrainingMethod, tell
from truing.methods.training.reward_modelling import RewardModelling
from truing.methods.training.sft import SFT
from truing.models import Model
from truing.models.scored import ScoreModel
from truing.records import Records

_SHARED = tuple(field.name for field in dataclasses.fields(TrainingMethod))
RIGHT = "weak_is_right"
_OF_LOSS = ("aux_coef", "warmup_frac", "as_published", "alpha", "beta")


class WeakToStrong(TrainingMethod):
    """Train a strong model on labels of a weaker one. The model to align is the strong one; it gives the student.

    The records, with true labels, are split once: the weak model learns from its share of them, and labels the rest,
    whose true labels are then hidden; the student learns from those labels. What is learned follows from the kind of
    record:

    - label: a classifier; weak labels are probabilities. The student is a `ScoreModel`.
    - preference: a reward model; weak labels are probabilities that an answer is the better one. A `ScoreModel`.
    - demonstration: the weak model writes the answers to the rest's prompts. The student is a language model.

    Models learn from each other in a chain where ``through`` names models in between. Training settings are those of
    every model in it. Burns et al. 2023 (arXiv 2312.09390); Ye et al. 2024 (arXiv 2410.12621).

    Args:
        weak: the weak model, or its name.
        through: models in between, in order: each learns from the one before it (bootstrapping).
        loss: of students of label records: "xent", "logconf" or "product"; see `Classification`.
        aux_coef: of "logconf".
        warmup_frac: of "logconf".
        as_published: of "logconf".
        alpha: of "product".
        beta: of "product".
        weak_share: share of the records that the weak model learns from; with 0 it labels all of them as it is, and
            must be a `ScoreModel` for labels and preferences.
        weak_settings: training settings of the weak model that differ, by name.
        min_confidence: weak labels of a lower probability, from 0.5, are left out.
        temperature: at which answers are written; 0 is greedy.
        max_new_tokens: most tokens of a written answer.

    Example:
        >>> import truing as tr
        >>> method = tr.WeakToStrong(weak="sandbox/small", learning_rate=5e-4)
        >>> scorer = method.align(tr.load("sandbox/base"), "sandbox/preferences")
    """

    weak: Model | ScoreModel | str = "sandbox/small"
    through: Sequence[Model] = ()
    loss: str = "xent"
    aux_coef: float = 0.5
    warmup_frac: float = 0.1
    as_published: bool = False
    alpha: float = 1.0
    beta: float = 1.0
    weak_share: float = 0.5
    weak_settings: dict[str, Any] | None = None
    min_confidence: float = 0.5
    temperature: float = 0.0
    max_new_tokens: int = 64
    learning_rate: float = 5e-5
    epochs: float = 3.0
    batch_size: int = 16
    truncate: str = "start"

    record_kinds: ClassVar[tuple[str, ...]] = ("label", "preference", "demonstration")
    paper: ClassVar[int | None] = 8

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        for one in (self.weak, *self.through):
            named = isinstance(one, (str, Path)) and bool(str(one).strip())
            require(named or hasattr(one, "offers"), f"weak and through are models or their names, not {one!r}.")
        require(self.loss in LOSSES, f"loss is one of {', '.join(LOSSES)}, not {self.loss!r}.")
        share, least = self.weak_share, self.min_confidence
        require(is_number(share) and 0 <= share < 1, f"weak_share is from 0 to under 1, not {share!r}.")
        require(is_number(least) and 0.5 <= least <= 1, f"min_confidence is from 0.5 to 1, not {least!r}.")
        require(
            isinstance(self.weak_settings, (dict, type(None))),
            f"weak_settings are settings by name, not {self.weak_settings!r}.",
        )
        unknown = sorted(set(self.weak_settings or ()) - set(_SHARED))
        require(not unknown, f"weak_settings holds {', '.join(unknown)}, which no training has.")
        for kind in self.record_kinds:
            if kind == "label" or self.loss == "xent":
                self.learner(kind).validate()
                self.learner(kind, weak=True).validate()

    def check_records(self, records: Any) -> Any:
        """Also refuse a loss that the kind of record has no use for."""
        found = super().check_records(records)
        if found is not None and found.kind != "label" and self.loss != "xent":
            raise SettingsError(f"The loss {self.loss!r} is for label records; {found.kind} records take 'xent'.")
        return found

    def learner(self, kind: str, *, weak: bool = False) -> TrainingMethod:
        """What trains a model on records of this kind: the weak one on true labels, or a student."""
        given = {name: getattr(self, name) for name in _SHARED}
        if weak:
            given |= self.weak_settings or {}
        if kind == "demonstration":
            return SFT(**given)
        if kind == "preference":
            return RewardModelling(**given)
        return Classification(**given, **({} if weak else {name: getattr(self, name) for name in ("loss", *_OF_LOSS)}))

    def split(self, records: Records) -> tuple[Records | None, Records]:
        """What the weak model learns from, and what it labels: no row is in both."""
        if not self.weak_share:
            return None, records
        first, rest = records.split(self.weak_share, self.seed)[::-1]
        return first, rest

    def supervisor(self, records: Records, out: Path | None = None) -> Any:
        """The weak model after it has learned from its share of the records.

        Args:
            records: all of them.
            out: a folder in which a killed call goes on.

        Raises:
            UnsupportedError: it is to label as it is, and cannot.
        """
        weak, (first, _) = _loaded(self.weak), self.split(records)
        if first is not None:
            method = self.learner(records.kind, weak=True)
            method.check_model(weak)
            return method._align(weak, first, out / "weak" if out else None)
        if records.kind != "demonstration" and not isinstance(weak, ScoreModel):
            raise UnsupportedError(
                f"{weak.name} gives no labels as it is. Give it a share of the records to learn from "
                "(weak_share=0.5), or a ScoreModel."
            )
        return weak

    def weak_labels(self, teacher: Any, records: Records, out: Path | None = None) -> Records:
        """The records with a teacher's labels in place of the true ones; other columns are left out.

        A label record gets a ``probability``, and the label that it makes likelier. A preference is put in the order
        that the teacher prefers, with the ``probability`` of that order; ``weak_is_right`` keeps, for audits, whether
        it was the true one. A demonstration gets the teacher's answer.

        Args:
            teacher: a `ScoreModel`, or a language model for demonstrations.
            records: with true labels, which the teacher does not see.
            out: a folder in which labels are kept, named by a hash of teacher and records.

        Raises:
            RecordError: no label is as sure as min_confidence.
        """
        how = [self.temperature, self.max_new_tokens, self.seed] if records.kind == "demonstration" else []
        found = _kept(out, [teacher.fingerprint, records.fingerprint, how], lambda: self._ask(teacher, records))
        rows = []
        for row, label in zip(records, found, strict=True):
            if isinstance(label, str):
                rows.append({"prompt": row["prompt"], "completion": label})
                continue
            sure = max(label, 1 - label)
            if sure < self.min_confidence:
                continue
            if "chosen" not in row:
                sides = {"completion": row["completion"], "label": label >= 0.5}
                rows.append({"prompt": row["prompt"], **sides, "probability": label})
                continue
            rows.append(in_weak_order(row, label))
        if not rows:
            raise RecordError(
                f"None of {len(records):,} weak labels is as sure as min_confidence={self.min_confidence:g}. Lower it."
            )
        if len(rows) < len(records):
            tell(
                f"{len(records) - len(rows):,} of {len(records):,} weak labels are less sure than "
                f"{self.min_confidence:g} and are left out."
            )
        from truing.records import as_records

        return as_records(rows, kinds=(records.kind,), what="WeakToStrong")

    def _ask(self, teacher: Any, records: Records) -> list[Any]:
        rows = list(records)
        prompts = [row["prompt"] for row in rows]
        progress.say(f"{teacher.name} labels {len(rows):,} records.")
        if records.kind == "demonstration":
            return list(
                teacher.generate(
                    prompts, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=self.seed
                ).texts
            )
        return [float(value) for value in judged(teacher, rows)]

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Any:
        assert records is not None
        # Beside the student's own checkpoints, so that what removes those removes these.
        place = out / "checkpoints" if out else None
        teacher = self.supervisor(records, place)
        _, rest = self.split(records)
        for at, one in enumerate([*map(_loaded, self.through), model], 1):
            method = self.learner(records.kind)
            method.check_model(one)
            labelled = self.weak_labels(teacher, rest, place)
            last = at > len(self.through)
            teacher = method._align(one, labelled, out if last else place / f"through-{at}" if place else None)
        return teacher

    def ceiling(self, model: Any, records: Any, *, out: str | Path | None = None) -> Any:
        """The strong model trained on the true labels of what the student learns from: what could be reached.

        Args:
            model: the strong one, as it is given to ``align``.
            records: likewise.
            out: a folder in which a killed call goes on.
        """
        self.validate()
        found = self.check_records(records)
        _, rest = self.split(found)
        return self.clone(loss="xent").learner(found.kind)._align(model, rest, Path(out) if out is not None else None)


def in_weak_order(row: Mapping[str, Any], probability: float) -> dict[str, Any]:
    """A true preference in the order that a weak model prefers, with the ``probability`` of that order.

    Args:
        row: chosen is truly the better answer.
        probability: by the weak model, that chosen is the better one.
    """
    right = probability >= 0.5
    order = ("chosen", "rejected") if right else ("rejected", "chosen")
    sides = {"chosen": row[order[0]], "rejected": row[order[1]]}
    return {"prompt": row["prompt"], **sides, "probability": max(probability, 1 - probability), RIGHT: right}


def judged(scorer: ScoreModel, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Probability that each label is true, or that each chosen answer is the better one, float64 [n].

    Args:
        scorer: trained on such records.
        rows: label or preference records; their labels and order are not looked at.
    """
    from truing.methods.training.encoding import turn

    def texts(side: str) -> tuple[list[Any], list[str]]:
        found = [turn(row["prompt"], row[side]) for row in rows]
        return [prompt for prompt, _ in found], [text for _, text in found]

    if "chosen" not in rows[0]:
        return scorer.probabilities(*texts("completion"))
    chosen, rejected = (scorer(*texts(side)) for side in ("chosen", "rejected"))
    from scipy.special import expit

    return np.asarray(expit(chosen - rejected))


def _loaded(model: Any) -> Any:
    if not isinstance(model, (str, Path)):
        return model
    from truing.models import load

    return load(model)


def _kept(out: Path | None, key: Any, work: Any) -> list[Any]:
    if out is None:
        return list(work())
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = out / f"labels-{name}.json"
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        found = list(work())
    write_atomic(path, json.dumps(found))
    return found
