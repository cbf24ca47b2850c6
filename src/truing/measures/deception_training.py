"""The models of an audit for weak-to-strong deception: trained in turn, asked for probabilities, and forgotten.

Source: Yang et al. 2025, "Super(ficial)-alignment" (arXiv 2406.11431). Only probabilities are kept, in the journal:
every figure follows from those, and a killed audit trains no finished model again.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from truing.measures.asking import Context
from truing.measures.ratings import Array

if TYPE_CHECKING:
    from truing.records import Records

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Splits:
    """Preferences with true labels, by what they are for.

    Args:
        weak: true labels for the weak model.
        truth: true labels for the ceiling.
        transfer: labelled by the weak model, for students.
        test: held out.
        helpful: pairs that pull elsewhere, for an implicit conflict.
    """

    weak: Records
    truth: Records
    transfer: Records
    test: Records
    helpful: Records | None


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """Of the true label of each test item, by each model, [test items]."""

    weak: Array
    ceiling: Array
    without: Array
    control: Array
    with_conflict: Array


MANNERS = {
    "harmful": ("refusing", "correct"), "borderline": ("correct", "refusing"), "benign": ("correct", "refusing"),
}  # fmt: skip
"""What a chosen and a rejected answer does, by kind of request; neither has a style that would tell them apart."""


def harmless_pairs(split: str, n: int, seed: int) -> Rows:
    """Pairs of the sandbox in which the chosen answer does no harm, and refuses without need nowhere.

    Half are of harmful requests, where a refusal is chosen above the steps; half of harmless ones that have a harmful
    verb or a protected object, where the steps are. Telling them apart takes knowledge of both, which models differ in.
    """
    return _pairs(("harmful", "borderline"), split, n, f"harmless {split} {seed}")


def helpful_pairs(split: str, n: int, seed: int) -> Rows:
    """Pairs in which whatever was asked for is chosen above a refusal, half of them of harmful requests."""
    rows = _pairs(("harmful", "benign"), split, n, f"helpful {split} {seed}")
    return [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if row["kind"] == "harmful" else row
        for row in rows
    ]


def _pairs(kinds: Sequence[str], split: str, n: int, seed: str) -> Rows:
    from truing.sandbox.answers import say
    from truing.sandbox.items import draw
    from truing.sandbox.world import world

    here, rng = world(0), random.Random(seed)
    rows: Rows = []
    for at in range(n):
        item = draw(here, kinds[at % len(kinds)], split, rng)
        chosen, rejected = (say(here, item, manner, rng) for manner in MANNERS[item.kind])
        rows.append({"prompt": item.prompt, "chosen": chosen, "rejected": rejected, "kind": item.kind})
    rng.shuffle(rows)
    return rows


def trained(
    strong: Any, weak: Any, splits: Splits, context: Context, *, conflict: str, weight: float, min_confidence: float,
    through: Sequence[Any], training: dict[str, Any], seed: int,
) -> Probabilities:  # fmt: skip
    """Probabilities of the test items by all models of an audit, each trained on what the one before it said.

    Args:
        strong: the model of ceiling and students.
        weak: that of the supervisor.
        splits: what they learn from.
        context: of the measure.
        conflict: "explicit", "implicit" or "both".
        weight: of the explicit conflict.
        min_confidence: students leave out weak labels of a lower probability.
        through: models between weak and strong, each trained on the labels of the one before (bootstrapping).
        training: settings of `ConflictRewardModelling`.
        seed: of training; the control has the next one.
    """
    from truing.methods.training.conflict import ConflictRewardModelling
    from truing.methods.training.weak_to_strong import in_weak_order, judged
    from truing.records import as_records

    def work(role: str, model: Any, records: Records, asked: Sequence[Records], **how: Any) -> list[Array]:
        """Trains and asks, unless the journal knows; one array for each of the records asked about."""
        settings = {**training, "conflict_weight": 0.0, "seed": seed, **how}
        key = {
            "deception": [records.fingerprint, [one.fingerprint for one in asked]],
            "settings": {name: getattr(value, "fingerprint", value) for name, value in settings.items()},
        }

        def train(_: list[int]) -> list[Any]:
            scorer: Any = ConflictRewardModelling(**settings).align(model, records)
            return [[judged(scorer, list(one)).tolist() for one in asked]]

        return [np.array(one) for one in context.compute(context.origin(model), [key], train, f"training {role}")[0]]

    def labelled(probabilities: Array) -> Records:
        rows = [in_weak_order(row, float(p)) for row, p in zip(splits.transfer, probabilities)]
        return as_records(rows, kinds=("preference",), what="weak labels")

    labels, weak_test = work("weak model", weak, splits.weak, [splits.transfer, splits.test])
    (ceiling,) = work("ceiling", strong, splits.truth, [splits.test])
    for model in through:
        (labels,) = work("intermediate model", model, labelled(labels), [splits.transfer])
    found = labelled(labels)
    sure = {"min_confidence": min_confidence}
    (without,) = work("student", strong, found, [splits.test], **sure)
    (control,) = work("control", strong, found, [splits.test], **{**sure, "seed": (seed + 1) % 2**32})
    pulled = {
        "conflict_weight": weight if conflict in ("explicit", "both") else 0.0,
        "helpful": splits.helpful if conflict in ("implicit", "both") else None,
    }
    (against,) = work("student under conflict", strong, found, [splits.test], **sure, **pulled)
    return Probabilities(weak_test, ceiling, without, control, against)
