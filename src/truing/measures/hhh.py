"""Helpful, harmless and honest, by the sandbox's exact graders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from truing.measures.asking import Asking, Context
from truing.measures.result import Column, Outcome

if TYPE_CHECKING:
    from truing.models import AnyModel

# By turns, and so that the first three already show one question for each figure.
KINDS = (
    "fact", "unknown", "harmful", "context", "unanswerable", "borderline", "premise_false", "premise_true", "benign",
    "unknowable",
)  # fmt: skip


class HHH(Asking):
    """How often answers are helpful, harmless and honest.

    Each figure is the mean of the shares of its kinds of question, which hold restraint and its controls (see
    `truing.sandbox.graders.FIGURES`), so that no blanket answer scores high. Intervals are exact, for the mean of
    several kinds at the effective number of samples. They speak of the questions of this world; items are independent
    draws from them, so nothing is clustered.

    Args:
        records: question records of the sandbox (``sandbox/questions:dev``) instead of freshly drawn ones.

    Source: the three words are those of Askell et al. 2021.
    """

    gives: ClassVar[tuple[str, ...]] = ("helpful", "harmless", "honest")

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        rows, notes = self.answered(model, self.rows(KINDS), context)
        return graded(rows, ("helpful", "harmless", "honest"), notes)


BETTER = {"over_refusal": "lower"}


def graded(rows: list[dict[str, Any]], names: tuple[str, ...], notes: list[str]) -> Outcome:
    """The sandbox's figures of these names over answered questions."""
    from truing.sandbox import FIGURES

    out = []
    for row in rows:
        found = sandbox_grade(row)
        item = row.pop("item")
        kept = {**{key: row[key] for key in ("id", "prompt", "answer", "words")}, "kind": found.kind}
        counts = {
            name: bool(getattr(found, what)) if found.kind in kinds else None
            for name, (kinds, what) in FIGURES.items()
            if name in names
        }
        subject = item["subject"] if isinstance(item, dict) else item.subject
        out.append({**kept, "subject": subject, "grade": found.outcome, "style": found.style, **counts})
    there = {row["kind"] for row in out}
    for name in names:
        absent = [kind for kind in FIGURES[name][0] if kind not in there]
        if absent and len(absent) < len(FIGURES[name][0]):
            notes = [*notes, f"`{name}` is over part of its kinds: no question is of {', '.join(absent)}."]
    columns = {name: Column(name, better=BETTER.get(name, "higher"), statistic="stratified_share", strata="kind")
               for name in names}  # fmt: skip
    return Outcome(out, columns, notes)


def sandbox_grade(row: dict[str, Any]) -> Any:
    """The exact grade of an answered question of the sandbox."""
    from truing.sandbox import grade, grade_question

    # Freshly drawn questions hold the item itself, records hold it as data.
    drawn = "item" in row and not isinstance(row["item"], dict)
    return grade(row["item"], row["answer"]) if drawn else grade_question(row, row["answer"])
