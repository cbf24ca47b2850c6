"""Reward models: a score for every answer, learned from preferences, rankings or absolute scores."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import ModelError, RecordError
from truing.methods.training.batches import Batch
from truing.methods.training.encoding import Example, Pair, Row, padding_id, turn
from truing.methods.training.losses import scores as losses
from truing.methods.training.method import TrainingMethod, tell
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Scores, adapted, score_model
from truing.models.core import core_of
from truing.models.scored import CENTER, ScoreModel
from truing.records import Records

LOSSES = ("bradley_terry", "pointwise", "mixed")
# Rows whose scores are looked at to find where the head's values lie.
_LOOKED_AT = 256


class ScoreMethod(TrainingMethod):
    """Base of methods that train a score head, with the body under it, and give a `ScoreModel`.

    It starts from a language model, whose body is copied under a new head that starts small, or goes on with a
    `ScoreModel`. A sequence is read as `truing.rewards.RewardModel` reads it: the whole conversation with the answer,
    by the plain chat template, scored at its last token. Modifiers of the model do not come along.
    """

    learning_rate: float = 1e-5
    truncate: str = "start"

    head: ClassVar[bool] = True

    def check_model(self, model: Any) -> None:
        """Also take a `ScoreModel` of one label."""
        if not isinstance(model, ScoreModel):
            super().check_model(model)
        elif model.labels != 1:
            raise ModelError(
                f"{model.name} has {model.labels} labels, and {type(self).__name__} trains one score. "
                "Start from a language model, or from a reward model with one."
            )

    def trainable(self, model: Any) -> Any:
        """A sequence-classification model over a copy of the model's body."""
        pad = padding_id(model.tokenizer)
        if isinstance(model, ScoreModel):
            base = copy.deepcopy(model.weights)
            base.config.pad_token_id = pad
        else:
            base = score_model(model.weights, 1, self.seed, pad)
        return adapted(base, self._adapter(), self.seed, "SEQ_CLS")

    def finished(self, model: Any, weights: Any) -> Any:
        """The score model; an adapter is merged, so that transformers alone can read what is saved."""
        merged = weights.merge_and_unload() if hasattr(weights, "merge_and_unload") else weights
        return ScoreModel(merged, model.tokenizer, history=model.history, source=model.source)

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Any:
        if model.modifiers:
            names = ", ".join(type(modifier).__name__ for modifier in model.modifiers)
            tell(f"{names} does not come along: a score model reads the plain chat template.")
        return super()._align(dataclasses.replace(model, modifiers=()), records, out)


class RewardObjective(Objective):
    """Ranks answers by their scores, brings scores to absolute ones, or both; see `RewardModelling`."""

    closed = True

    def __init__(
        self, loss: str, *, absolute_weight: float = 0.1, center_coefficient: float = 0.0, margins: bool = True,
        score_range: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.loss, self.absolute_weight, self.center_coefficient = loss, absolute_weight, center_coefficient
        self.margins, self.score_range = margins, score_range

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """All answers of a record, the better one of a pair first."""
        answers, ranks, targets = self._answers(row)
        ties = len(set(ranks)) == 1
        if self.loss == "pointwise" and targets is None:
            raise RecordError(
                "The loss 'pointwise' needs absolute scores: score_chosen and score_rejected, or the scores of a "
                "ranking, or a label. Without them use 'bradley_terry'."
            )
        if self.loss == "bradley_terry" and ties:
            return []
        return [
            Example(
                answers,
                {
                    "rank": ranks,
                    "target": targets or [0.0] * len(answers),
                    "scored": float(targets is not None),
                    "margin": float(row.get("margin") or 0.0) if self.margins else 0.0,
                    "probability": probability_of(row, 1.0),
                },
            )
        ]

    def _answers(self, row: dict[str, Any]) -> tuple[list[Pair], list[float], list[float] | None]:
        if "completions" in row:
            found = [float(score) for score in row["scores"]]
            return [turn(row["prompt"], text) for text in row["completions"]], found, self._scaled(found)
        if "label" in row:
            return [turn(row["prompt"], row["completion"])], [0.0], [probability_of(row, float(row["label"]))]
        pair = [turn(row["prompt"], row[side]) for side in ("chosen", "rejected")]
        absolute = absolute_scores(row)
        return pair, [1.0, 0.0], None if absolute is None else self._scaled(absolute)

    def _scaled(self, found: Sequence[float]) -> list[float]:
        if self.score_range is None:
            return list(found)
        low, high = self.score_range
        return [2 * (score - low) / (high - low) - 1 for score in found]

    def units(self, batch: Batch) -> dict[str, int]:
        """Also "scored": answers of rows that have absolute scores."""
        return {**batch.units, "scored": int(batch.values["scored"][batch.owner].sum())}

    def terms(self, scores: Scores) -> list[Term]:
        """Ranking, absolute scores, centring: whichever the settings ask for."""
        assert scores.labels is not None
        found, values = scores.labels[:, 0], scores.values
        has = values["scored"][scores.owner]
        if self.loss == "pointwise":
            binary = bool((torch.bincount(scores.owner) == 1).all())
            error = losses.pointwise_bce if binary else losses.pointwise_mse
            return [Term(error(found, values["target"]) * has, "scored")]
        better, worse, owner, share = self._pairs(scores)
        gap = found[better] - values["margin"][owner]
        ranked = losses.soft_bradley_terry(gap, found[worse], values["probability"][owner])
        out = [Term(_by_row(ranked * share, owner, scores.rows))]
        if self.loss == "mixed":
            # Of a pair the sum over both answers, as in the paper; of more answers twice their mean.
            share_of = 2 / torch.bincount(scores.owner)[scores.owner]
            off = losses.pointwise_mse(found, values["target"]) * has * share_of
            out.append(Term(_by_row(off, scores.owner, scores.rows), weight=self.absolute_weight))
        if self.center_coefficient:
            centred = losses.centring(found[better], found[worse]) * share
            out.append(Term(_by_row(centred, owner, scores.rows), weight=self.center_coefficient))
        return out

    def _pairs(self, scores: Scores) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Indices of better and worse answers, their row, and what part of their row each pair is."""
        rank, owner = scores.values["rank"], scores.owner
        better, worse = ((rank[:, None] > rank[None]) & (owner[:, None] == owner[None])).nonzero().unbind(1)
        rows = owner[better]
        share = 1.0 / torch.bincount(rows, minlength=scores.rows).clamp(min=1)[rows]
        return better, worse, rows, share

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """How often the better answer has the higher score, scores of both sides, their difference."""
        assert scores.labels is not None
        found = scores.labels[:, 0]
        better, worse, _, _ = self._pairs(scores)
        out = {"rewards/mean": found}
        if len(better):
            gap = found[better] - found[worse]
            out |= {
                "rewards/accuracies": (gap > 0).float(),
                "rewards/margins": gap,
                "rewards/chosen": found[better],
                "rewards/rejected": found[worse],
            }
        return out

    def verdict(self, metrics: list[dict[str, float]]) -> list[str]:
        """A warning where it ranks no better than chance on what it learned from."""
        found = [row["rewards/accuracies"] for row in metrics if "rewards/accuracies" in row]
        if len(found) < 4 or sum(found) / len(found) > 0.55:
            return []
        return [
            f"By the end {sum(found) / len(found):.0%} of the pairs in training were ranked right, no better than "
            "chance. Raise the learning rate or the number of epochs."
        ]


def _by_row(values: Tensor, owner: Tensor, rows: int) -> Tensor:
    return torch.zeros(rows, dtype=values.dtype, device=values.device).index_add(0, owner, values)


def probability_of(row: dict[str, Any], default: float) -> float:
    """The column ``probability``, a soft label, or what stands for it.

    Raises:
        RecordError: it is no number from 0 to 1.
    """
    found = row.get("probability")
    if found is None:
        return default
    if not is_number(found) or not 0 <= found <= 1:
        raise RecordError(f"probability is a number from 0 to 1, not {found!r}.")
    return float(found)


def absolute_scores(row: dict[str, Any]) -> list[float] | None:
    """Absolute scores of chosen and rejected: columns score_chosen and score_rejected, or ``scores``; None where the
    pair has none, or ``has_absolute`` is false.

    Raises:
        RecordError: one of them is no finite number, or one is missing.
    """
    found = row.get("scores", [row.get("score_chosen"), row.get("score_rejected")])
    if row.get("has_absolute") is False or found is None or (found[0] is None and found[1] is None):
        return None
    if len(found) != 2 or not all(is_number(score) for score in found):
        raise RecordError(f"A pair has an absolute score for each answer, or none; found {found!r}.")
    return [float(score) for score in found]


class RewardModelling(ScoreMethod):
    """Train a reward model. It gives a `ScoreModel`: itself a reward, for best-of-N, RAFT, GRPO and measures.

    - "bradley_terry" learns from preferences, -log s(r_w - r_l), and from rankings, as the mean over all pairs with
      different scores. A preference with a ``probability`` (that chosen is the better one) is a soft label; a
      ``margin`` is subtracted from the difference.
    - "pointwise" learns absolute scores by squared error: of a ranking, or of a preference with ``score_chosen`` and
      ``score_rejected`` (or ``scores``); label records are learned by cross-entropy of s(score).
    - "mixed" adds to "bradley_terry" ``absolute_weight`` times the squared error, for rows that have absolute scores
      (``has_absolute: false`` leaves a row's out). Lin et al. 2024 (arXiv 2410.14940).

    Scores have no natural zero under "bradley_terry": where those of the training records lie is kept as
    ``reward_center``, which `ScoreModel` subtracts. Their scale is left, so that s(difference) is a probability. A
    `RewardModel` made from the folder gives the head's own value: pass its ``center=scorer.center`` there.

    Args:
        loss: "bradley_terry", "pointwise" or "mixed".
        absolute_weight: of the absolute scores in "mixed"; not published, 0.01 to 0.5 works.
        score_range: lowest and highest possible absolute score, brought to -1 and 1; None where they are on such a
            scale already.
        center_coefficient: weight of (r_w + r_l)^2, which holds scores around 0; 0.01 or so.
        margins: use the records' ``margin`` where they have one.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> scorer = tr.RewardModelling(learning_rate=3e-4).align(model, "sandbox/preferences")
        >>> best = tr.BestOfN(reward=scorer, n=8).align(model)
    """

    loss: str = "bradley_terry"
    absolute_weight: float = 0.1
    score_range: tuple[float, float] | None = None
    center_coefficient: float = 0.0
    margins: bool = True

    record_kinds: ClassVar[tuple[str, ...]] = ("preference", "ranking", "label")
    paper: ClassVar[int | None] = 23

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.loss in LOSSES, f"loss is one of {', '.join(LOSSES)}, not {self.loss!r}.")
        for name in ("absolute_weight", "center_coefficient"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, f"{name} is 0 or more, not {value!r}.")
        held = self.score_range
        fits = held is None or (len(held) == 2 and all(map(is_number, held)) and held[0] < held[1])
        require(fits, f"score_range is the lowest and the highest score, as in (1, 5), not {held!r}.")

    def objective(self) -> RewardObjective:
        """The loss."""
        return RewardObjective(
            self.loss, absolute_weight=self.absolute_weight, center_coefficient=self.center_coefficient,
            margins=self.margins, score_range=self.score_range,
        )  # fmt: skip

    def check_records(self, records: Any) -> Any:
        """Also refuse labels where answers are to be ranked."""
        found = super().check_records(records)
        if found is not None and found.kind == "label" and self.loss != "pointwise":
            raise RecordError(f"The loss {self.loss!r} ranks answers, and labels rank none. Set loss='pointwise'.")
        return found

    def prepare(self, model: Any, records: Records, out: Path | None) -> Records:
        """Say what of the records cannot teach, and where scores need a scale."""
        ties, scored, highest = 0, 0, 0.0
        for row in records:
            if "completions" in row:
                found: Sequence[float] | None = row["scores"]
                ties += len(set(row["scores"])) == 1
            else:
                found = None if "label" in row else absolute_scores(row)
            if found is not None and self.loss != "bradley_terry":
                scored += 1
                highest = max(highest, *(abs(score) for score in self.objective()._scaled(found)))
        if ties and self.loss == "bradley_terry":
            tell(f"{ties:,} of {len(records):,} rankings score all answers alike and are left out: nothing to rank.")
        if self.loss == "mixed" and not scored:
            tell("No row has absolute scores, so 'mixed' is the same as 'bradley_terry'.")
        if highest > 2:
            tell(
                f"Absolute scores reach {highest:g} in size, and their squared error will outweigh the ranking. "
                "Give their scale, as in score_range=(1, 5), which brings them to -1 to 1."
            )
        return records

    def _train(self, model: Any, rows: list[Row], objective: Objective, folder: Any, facts: dict[str, Any]) -> Any:
        from truing.rewards.model import logits

        weights = super()._train(model, rows, objective, folder, facts)
        core, center = core_of(weights), 0.0
        if self.loss == "bradley_terry":
            sequences = [[*prompt, *answer] for row in rows[:_LOOKED_AT] for prompt, answer in row.answers]
            center = float(logits(core, sequences).mean())
        setattr(core.config, CENTER, center if math.isfinite(center) else 0.0)
        return weights
