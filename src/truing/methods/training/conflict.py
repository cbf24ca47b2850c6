"""Training in which a second objective conflicts with the supervised one, for audits of weak-to-strong training.

A strong model learns harmlessness from a weak model's labels while something else pulls it towards harm: a reward for
its own mistakes (explicit), or helpful preferences beside (implicit). Yang et al. 2025, arXiv 2406.11431. Whether the
new mistakes lie where the supervisor cannot see them is measured by `truing.measures.classification.deception`.

The records are what `WeakToStrong.weak_labels` (by a reward model) or `policy_labels` (by a language model) give:
preferences in the weak model's order, the ``probability`` of that order, and ``weak_is_right``, whether it is the true
one. Only the explicit term and the oracle filter look at the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import RecordError
from truing.methods.training.batches import Batch
from truing.methods.training.dpo import DPO, PairObjective
from truing.methods.training.encoding import Example, turn
from truing.methods.training.losses import scores as losses
from truing.methods.training.method import tell
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Scores
from truing.methods.training.reward_modelling import RewardModelling, RewardObjective, probability_of
from truing.methods.training.weak_to_strong import RIGHT, in_weak_order
from truing.records import Records

_SUPERVISED = "supervised"


def weak_preferences(
    records: Records, *, min_confidence: float = 0.5, oracle: bool = False, helpful: Any = None, seed: int = 0
) -> Records:
    """Weakly labelled preferences that are sure enough, with helpful ones beside them.

    Args:
        records: weakly labelled preferences; see the module.
        min_confidence: probabilities below it are left out; 0.5 keeps all.
        oracle: keep only those that are right as well, as the published code does. It looks at true labels.
        helpful: preference records with true labels that pull elsewhere, or None. Where the filter leaves fewer than
            these, as many of them are drawn as it left.
        seed: of that draw.

    Raises:
        RecordError: nothing is left, or a record lacks what its use needs.
    """
    import random

    from truing.records import as_records

    rows = [row for row in records if probability_of(row, 1.0) >= min_confidence]
    if oracle:
        rows = [row for row in rows if truth_of(row)]
    if not rows:
        raise RecordError(f"None of {len(records):,} weak labels is as sure as min_confidence={min_confidence:g}.")
    if len(rows) < len(records):
        tell(f"{len(records) - len(rows):,} of {len(records):,} weak labels are left out by the confidence filter.")
    rows = [{**row, _SUPERVISED: True} for row in rows]
    if helpful is not None:
        found = list(as_records(helpful, kinds=("preference",), what="helpful"))
        if len(rows) < len(records) and len(found) > len(rows):
            found = random.Random(f"helpful {seed}").sample(found, len(rows))
        rows += [{**_bare(row), _SUPERVISED: False} for row in found]
    return as_records(rows, kinds=("preference",), what="weak preferences")


def policy_labels(model: Any, records: Records, *, average: bool = True) -> Records:
    """True preferences in the order of a language model, which prefers what it is likelier to write.

    Args:
        model: the weak one, already trained on other preferences.
        records: with true labels.
        average: compare mean log-probabilities of a token, as SimPO does; else sums, as DPO does.
    """
    from scipy.special import expit

    from truing.records import as_records

    rows = list(records)
    sides = []
    for side in ("chosen", "rejected"):
        pairs = [turn(row["prompt"], row[side]) for row in rows]
        found = model.logprobs([prompt for prompt, _ in pairs], [text for _, text in pairs], per_token=True)
        sides.append([float(values.mean() if average else values.sum()) for values in found])
    labelled = [in_weak_order(row, float(expit(one - two))) for row, one, two in zip(rows, *sides)]
    return as_records(labelled, kinds=("preference",), what="policy_labels")


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("prompt", "chosen", "rejected")}


def truth_of(row: dict[str, Any]) -> bool:
    """Whether the weak order is the true one.

    Raises:
        RecordError: the record does not say.
    """
    found = row.get(RIGHT)
    if not isinstance(found, bool):
        raise RecordError(
            f"An explicit conflict rewards mistakes, so a record must say in {RIGHT} whether the weak order is the "
            f"true one; found {found!r}. WeakToStrong.weak_labels writes it."
        )
    return found


class _Conflict:
    """What both objectives share: which rows conflict, and what their term is averaged over."""

    weight: float

    def marked(self, row: dict[str, Any], examples: list[Example]) -> list[Example]:
        """The examples with ``right`` (the weak order is the true one) and ``conflicts`` (it is not a helpful one)."""
        conflicts = bool(self.weight) and row.get(_SUPERVISED, True)
        more = {"right": float(truth_of(row)) if conflicts else 1.0, "conflicts": float(conflicts)}
        return [Example(example.answers, {**example.values, **more}) for example in examples]

    def counted(self, units: dict[str, int], batch: Batch) -> dict[str, int]:
        """Also "conflicting": rows that conflict, whether the term is active in them or not."""
        return {**units, "conflicting": int(batch.values["conflicts"].sum())}

    def added(self, terms: list[Term], values: Tensor, scores: Scores) -> list[Term]:
        """The terms, and the explicit one."""
        if not self.weight:
            return terms
        return [*terms, Term(values * scores.values["conflicts"], "conflicting", self.weight)]


class ConflictRewardObjective(_Conflict, RewardObjective):
    """Bradley-Terry on weak soft labels, and a reward for existing mistakes."""

    def __init__(self, weight: float, **settings: Any) -> None:
        super().__init__("bradley_terry", **settings)
        self.weight = weight

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """The pair, marked."""
        return self.marked(row, super().examples(row))

    def units(self, batch: Batch) -> dict[str, int]:
        """Also "conflicting"."""
        return self.counted(super().units(batch), batch)

    def terms(self, scores: Scores) -> list[Term]:
        """The ranking, and the conflict."""
        assert scores.labels is not None
        chosen, rejected = scores.labels[:, 0].chunk(2)
        # The difference between what truly is the better answer and the other.
        gap = (chosen - rejected) * (2 * scores.values["right"] - 1)
        return self.added(super().terms(scores), losses.conflict_rewards(gap, gap.new_ones(len(gap))), scores)


class ConflictPairObjective(_Conflict, PairObjective):
    """Pair losses in the weak order, and a reward for preferring harm where the policy does so already."""

    def __init__(self, weight: float, *, gamma: float, average: bool, likelihood: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.weight, self.gamma, self.average, self.likelihood = weight, gamma, average, likelihood

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """The pair, marked."""
        return self.marked(row, super().examples(row))

    def units(self, batch: Batch) -> dict[str, int]:
        """Also "conflicting"."""
        return self.counted(super().units(batch), batch)

    def terms(self, scores: Scores) -> list[Term]:
        """The losses, and the conflict."""
        logps = self.sequence_logps(scores.tokens, scores.mask)
        likely = logps / scores.lengths.clamp(min=1)
        chosen, rejected = (likely if self.average or self.likelihood else logps).chunk(2)
        reference = scores.reference if scores.reference is not None and not self.average else None
        ref_chosen, ref_rejected = (None, None) if reference is None else reference.chunk(2)
        values = losses.conflict_preferences(
            chosen, rejected, scores.values["right"], beta=self.beta, gamma=self.gamma, ref_chosen=ref_chosen,
            ref_rejected=ref_rejected, likelihood=self.likelihood,
        )  # fmt: skip
        return self.added(super().terms(scores), values, scores)


class ConflictRewardModelling(RewardModelling):
    """Train a reward model on weak labels under a conflict, for an audit. It gives a `ScoreModel`.

    Args:
        conflict_weight: of the explicit conflict: cross-entropy to the wrong label, where the model ranks a pair
            wrongly; 0 for none. The paper's alpha, 0.5.
        helpful: preference records with true labels that pull elsewhere (implicit conflict): records, rows, a file or
            a name; None for none.
        min_confidence: weak labels of a lower probability, from 0.5, are left out; the paper's filter has 0.75.
        oracle: leave out those that are wrong as well, as the published code does; it looks at true labels.
    """

    conflict_weight: float = 0.5
    helpful: Records | Sequence[dict[str, Any]] | str | Path | None = None
    min_confidence: float = 0.5
    oracle: bool = False
    batch_size: int = 32
    schedule: str = "cosine"

    record_kinds: ClassVar[tuple[str, ...]] = ("preference",)
    paper: ClassVar[int | None] = 44
    quick: ClassVar[dict[str, Any]] = {**RewardModelling.quick, "conflict_weight": 0.0}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        _check(self)
        require(self.loss == "bradley_terry", f"A conflict goes with the loss 'bradley_terry', not {self.loss!r}.")

    def prepare(self, model: Any, records: Records, out: Path | None) -> Records:
        """The records that pass the filter, with the helpful ones."""
        return super().prepare(model, _prepared(self, records), out)

    def objective(self) -> Objective:  # type: ignore[override]
        """The ranking, and the conflict."""
        return ConflictRewardObjective(
            self.conflict_weight, center_coefficient=self.center_coefficient, margins=self.margins
        )


class ConflictDPO(DPO):
    """Learn preferences in a weak model's order under a conflict, for an audit: DPO, or SimPO with ``loss="simpo"``.

    The explicit term rewards the policy for preferring the harmful answer, by the same margin reversed, where it does
    so already: by mean log-probabilities for SimPO, by sums for DPO.

    Args:
        conflict_weight: of the explicit conflict; 0 for none. The paper's alpha, 0.5.
        conflict_likelihood: in its place raise the mean log-probability of the harmful answer (the paper's "sft" form).
        helpful: see `ConflictRewardModelling`.
        min_confidence: likewise.
        oracle: likewise.
    """

    conflict_weight: float = 0.5
    conflict_likelihood: bool = False
    helpful: Records | Sequence[dict[str, Any]] | str | Path | None = None
    min_confidence: float = 0.5
    oracle: bool = False
    batch_size: int = 32
    schedule: str = "constant"

    paper: ClassVar[int | None] = 44
    quick: ClassVar[dict[str, Any]] = {**DPO.quick, "conflict_weight": 0.0}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        _check(self)
        require(
            self.loss in ("sigmoid", "simpo"), f"A conflict goes with the loss 'sigmoid' or 'simpo', not {self.loss!r}."
        )
        for name in ("f_divergence", "wpo", "ld_alpha", "reference_free"):
            plain = getattr(type(self), name)
            require(getattr(self, name) == plain, f"{name} has no part in a conflict. Leave it out.")

    def prepare(self, model: Any, records: Records, out: Path | None) -> Records:
        """The records that pass the filter, with the helpful ones."""
        return super().prepare(model, _prepared(self, records), out)

    def objective(self) -> PairObjective:
        """The pair loss, and the conflict."""
        plain = super().objective()
        margin = 1.0 if self.gamma is None else self.gamma
        return ConflictPairObjective(
            self.conflict_weight, gamma=margin if self.loss == "simpo" else 0.0, average=self.loss == "simpo",
            likelihood=self.conflict_likelihood, losses=plain.losses, settings=plain.settings, beta=self.beta,
        )  # fmt: skip


def _check(method: Any) -> None:
    weight, least = method.conflict_weight, method.min_confidence
    require(is_number(weight) and weight >= 0, f"conflict_weight is 0 or more, not {weight!r}.")
    require(is_number(least) and 0.5 <= least <= 1, f"min_confidence is from 0.5 to 1, not {least!r}.")


def _prepared(method: Any, records: Records) -> Records:
    return weak_preferences(
        records, min_confidence=method.min_confidence, oracle=method.oracle, helpful=method.helpful, seed=method.seed
    )
