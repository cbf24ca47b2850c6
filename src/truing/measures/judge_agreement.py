"""Whether a judge agrees with people, and what sways it besides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import Measure, Reward, Settings, is_number, require, require_seed
from truing.errors import RecordError
from truing.measures import agreement, judging
from truing.measures.asking import Context, check_limit, check_split, own_prompts
from truing.measures.journal import key_of
from truing.measures.length_control import length_terms
from truing.measures.preference import as_text
from truing.measures.result import Column, Figure, Outcome
from truing.measures.statistics import Estimate
from truing.rewards import name_of
from truing.rewards.pairwise import consistent, first_place, pair_score
from truing.safe_text import visible

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

PAIRS = ("chosen", "rejected", "tie")
MIRROR = {"chosen": "rejected", "rejected": "chosen", "tie": "tie"}
LABELS = (True, False)
_FIRST: dict[str | None, float] = {"first": 1.0, "second": 0.0, "tie": 0.5}
GRADES = {1.0: "agrees", 0.5: "tie", 0.0: "differs", None: "not read"}


class JudgeAgreement(Measure):
    """How well a judge agrees with people, or with a ground truth, and whether place or length sways it.

    On preference records the judge sees every pair in both orders; on label records it scores every answer, and takes
    it for good above ``threshold``.

    - ``accuracy``: how often both orders agree with people (verdicts that change with the order are a tie, a half);
      ``accuracy_decided``: the same where both orders take one answer.
    - ``cohen_kappa``, ``fleiss_kappa``: agreement beyond chance, with the record's own verdict, and among all raters
      (the people in ``people`` and the judge); ``people_kappa``: among the people alone, which is what can be reached.
    - ``first_place``: how often it takes the answer that it reads first (50 % without a leaning); ``consistency``: how
      often both orders give one verdict; ``accuracy_if_first``, ``accuracy_if_second``: of one question, where the
      answer that people prefer stands first, and where it stands second.
    - ``accuracy_if_longer``, ``accuracy_if_shorter``: where people prefer the longer answer, and where the shorter.
    - ``length_effect``: log-odds of taking an answer that is longer by about a standard deviation, the truth and the
      place held still, from a logistic regression; ``accuracy_at_equal_length``: what the regression leaves without
      the effects of length and place.
    - ``unreadable``: items with a reply that could not be read. They count for no other figure.

    A reward can be tested in the same way: the higher number wins, and places play no part. Kappas of pairs count each
    pair in both orders, so that they do not hang on how the file orders them.

    Args:
        judge: a judge or any other reward. None where the measured model is the judge, asked with the standard rubric;
            with another model to compare with, accuracies are paired.
        records: preference or label records of people's verdicts; None for pairs of the sandbox.
        people: a column with several people's verdicts on an item, where there is one: "chosen", "rejected" or "tie"
            for pairs, true or false for labels.
        threshold: the score above which an answer counts as good; None for the middle of the judge's scale, or 0.5.
        limit: at most that many items, from the start; None for all, or 400 of the sandbox.
        split: of the sandbox's pairs.
        seed: of the sandbox's pairs and of bootstrap intervals.
    """

    gives: ClassVar[tuple[str, ...]] = (
        "accuracy", "accuracy_decided", "cohen_kappa", "fleiss_kappa", "people_kappa", "first_place", "consistency",
        "accuracy_if_first", "accuracy_if_second", "accuracy_if_longer", "accuracy_if_shorter", "length_effect",
        "accuracy_at_equal_length", "accuracy_of_good", "accuracy_of_bad", "unreadable",
    )  # fmt: skip

    judge: Reward | None = None
    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    people: str = "labels"
    threshold: float | None = None
    limit: int | None = None
    split: str = "test"
    seed: int = 0

    @property
    def needs_model(self) -> bool:
        """Whether the measured model is the judge."""
        return self.judge is None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            self.judge is None or callable(self.judge) or judging.compares(self.judge),
            f"judge is a Judge, another reward, or None where the model is the judge, not {self.judge!r}.",
        )
        require(isinstance(self.people, str), f"people is the name of a column, not {self.people!r}.")
        require(self.threshold is None or is_number(self.threshold), f"threshold is a number, not {self.threshold!r}.")
        check_limit(self.limit)
        check_split(self.split)
        require_seed(self.seed)

    def _measure(self, model: AnyModel | None, context: Context) -> Outcome:
        if self.records is None:
            from truing.sandbox import records

            found: Any = records("preferences", self.split, self.limit or 400, self.seed)
        else:
            found = self.records
        items = own_prompts(found, self.limit, "JudgeAgreement", ("preference", "label"))
        if not items:
            raise RecordError("JudgeAgreement was given no records, so there is nothing to agree with.")
        judge: Any = self.judge
        if judge is None:
            from truing.rewards.judge import Judge

            judge = Judge(model=model)  # type: ignore[arg-type]
        kind = self._pairs if "chosen" in items[0] else self._labels
        outcome = kind(judge, items, context)
        shown = repr(judge) if isinstance(judge, Settings) else name_of(judge)
        outcome.notes.insert(0, f"The judge: {visible(shown, 160)}.")
        return outcome

    def _pairs(self, judge: Any, items: Sequence[dict[str, Any]], context: Context) -> Outcome:
        sides = [(as_text(row["chosen"]), as_text(row["rejected"])) for row in items]
        pairs = [(row["prompt"], *both) for row, both in zip(items, sides)]
        forward, backward = judging.both_orders(judge, pairs, context)
        rows = []
        for item, (chosen, rejected), there, back in zip(items, sides, forward, backward):
            score = pair_score(there, back)
            longer = None if len(chosen) == len(rejected) else len(chosen) > len(rejected)
            rows.append(
                {
                    "id": item["id"], "kind": item["kind"], "prompt": item["prompt"],
                    "cluster": key_of(item["prompt"]), "chosen": chosen, "rejected": rejected,
                    "verdict_first": there, "verdict_second": back,
                    "verdict": None if score is None else PAIRS[{1.0: 0, 0.0: 1, 0.5: 2}[score]],
                    "accuracy": score, "accuracy_decided": None if score == 0.5 else score,
                    "accuracy_if_first": None if score is None else _FIRST[there],
                    "accuracy_if_second": None if score is None else 1 - _FIRST[back],
                    "first_place": None if score is None else first_place(there, back),
                    "consistency": consistent(there, back),
                    "accuracy_if_longer": score if longer is True else None,
                    "accuracy_if_shorter": score if longer is False else None,
                    "unreadable": float(score is None), "grade": GRADES[score],
                }
            )  # fmt: skip
        placed = judging.compares(judge)
        columns = {name: Column(name) for name in ("accuracy", "accuracy_decided")}
        if placed:
            columns["first_place"] = _leaning([row["first_place"] for row in rows])
            for name in ("consistency", "accuracy_if_first", "accuracy_if_second"):
                columns[name] = Column(name)
        outcome = self._outcome(rows, columns, judging.unread_notes(forward, backward))
        read = [at for at, row in enumerate(rows) if row["accuracy"] is not None]
        people = self._people(items, read, PAIRS, "chosen")
        self._kappas(outcome, [rows[at] for at in read], people, ["chosen"] * len(read), PAIRS, MIRROR)
        ahead = [float(len(sides[at][0]) - len(sides[at][1])) for at in read]
        terms = length_terms([*ahead, *(-one for one in ahead)], [0.0] * (2 * len(ahead)))
        # Verdicts speak of the first answer: the chosen one in the first half, the rejected one in the other.
        taken = [_FIRST[forward[at]] for at in read] + [_FIRST[backward[at]] for at in read]
        truth = [1.0] * len(read) + [-1.0] * len(read)
        self._swayed(outcome, taken, truth, terms, [rows[at]["cluster"] for at in read] * 2, True)
        return outcome

    def _labels(self, judge: Any, items: Sequence[dict[str, Any]], context: Context) -> Outcome:
        answers = [as_text(row["completion"]) for row in items]
        found = judging.scores(judge, [row["prompt"] for row in items], answers, context)
        bar = self._bar(judge)
        rows = []
        for item, answer, score in zip(items, answers, found):
            good = None if score is None else score > bar
            right = None if good is None else float(good == item["label"])
            rows.append(
                {
                    "id": item["id"], "kind": item["kind"], "prompt": item["prompt"],
                    "cluster": key_of(item["prompt"]), "answer": answer, "label": item["label"], "score": score,
                    "verdict": good, "accuracy": right, "accuracy_of_good": right if item["label"] else None,
                    "accuracy_of_bad": None if item["label"] else right, "unreadable": float(good is None),
                    "grade": GRADES[right],
                }
            )  # fmt: skip
        columns = {name: Column(name) for name in ("accuracy", "accuracy_of_good", "accuracy_of_bad")}
        lost = sum(row["verdict"] is None for row in rows)
        one = "The reply on 1 answer" if lost == 1 else f"The replies on {lost} answers"
        outcome = self._outcome(
            rows, columns,
            [f"Scores above {bar:g} count as good (`threshold`)."]
            + ([f"{one} of {len(rows)} could not be read, which counts for nothing."] if lost else []),
        )  # fmt: skip
        read = [at for at, row in enumerate(rows) if row["verdict"] is not None]
        truth = [bool(items[at]["label"]) for at in read]
        people = self._people(items, read, LABELS, None)
        self._kappas(outcome, [rows[at] for at in read], people, truth, LABELS, None)
        lengths = [float(len(answers[at])) for at in read]
        terms = length_terms(lengths, [sum(lengths) / max(1, len(lengths))] * len(lengths))
        taken = [float(bool(rows[at]["verdict"])) for at in read]
        signs = [1.0 if label else -1.0 for label in truth]
        self._swayed(outcome, taken, signs, terms, [rows[at]["cluster"] for at in read], False)
        return outcome

    def _outcome(self, rows: list[dict[str, Any]], columns: dict[str, Column], notes: list[str]) -> Outcome:
        for name in ("accuracy_if_longer", "accuracy_if_shorter"):
            if any(row.get(name) is not None for row in rows):
                columns[name] = Column(name)
        columns = {name: column for name, column in columns.items() if any(row[name] is not None for row in rows)}
        columns["unreadable"] = Column("unreadable", better="lower")
        return Outcome(rows, columns, notes)

    def _bar(self, judge: Any) -> float:
        if self.threshold is not None:
            return float(self.threshold)
        scale = getattr(judge, "scale", None)
        return (scale[0] + scale[1]) / 2 if scale is not None else 0.5

    def _people(
        self, items: Sequence[dict[str, Any]], read: Sequence[int], categories: Sequence[Any], own: Any
    ) -> list[list[Any]]:
        """What people said of each item: the verdicts of several where the records hold them, else the record's own."""
        out = []
        for at in read:
            said = items[at].get(self.people)
            if said is None:
                said = [items[at]["label"] if own is None else own]
            if not isinstance(said, list) or not said or any(one not in categories for one in said):
                words = ", ".join(str(one).lower() for one in categories)
                raise RecordError(
                    f"Record {at + 1}: the column `{self.people}` holds people's verdicts, a list of {words}, not "
                    f"{str(said)[:80]!r}. Name another column with `people`."
                )
            out.append(said)
        return out

    def _kappas(
        self, outcome: Outcome, rows: Sequence[dict[str, Any]], people: Sequence[Sequence[Any]], truth: Sequence[Any],
        categories: Sequence[Any], mirror: dict[Any, Any] | None,
    ) -> None:  # fmt: skip
        if len(rows) < 2:
            return
        verdicts, clusters = [row["verdict"] for row in rows], [row["cluster"] for row in rows]
        found: dict[str, Estimate | None] = {
            "cohen_kappa": agreement.cohen(
                truth, verdicts, categories, mirror=mirror, clusters=clusters, seed=self.seed
            )
        }
        sides = [list(zip(people, verdicts, clusters))]
        if mirror is not None:
            # Each pair in both orders, as in Cohen's.
            sides.append([([mirror[one] for one in said], mirror[verdict], key) for said, verdict, key in sides[0]])
        units = [unit for side in sides for unit in side]
        keys = [key for *_, key in units]
        everyone = [_counts([*said, verdict], categories) for said, verdict, _ in units]
        found["fleiss_kappa"] = agreement.fleiss(np.array(everyone), clusters=keys, seed=self.seed)
        if all(len(said) > 1 for said in people):
            alone = [_counts(said, categories) for said, _, _ in units]
            found["people_kappa"] = agreement.fleiss(np.array(alone), clusters=keys, seed=self.seed)
        for name, estimate in found.items():
            if estimate is None:
                outcome.notes.append(f"`{name}` is not defined: all verdicts are of one kind.")
            else:
                low, high, many = estimate.low, estimate.high, len(rows)
                outcome.figures[name] = Figure(estimate.value, low, high, many, estimate.method, unit="kappa")

    def _swayed(
        self, outcome: Outcome, taken: Sequence[float], truth: Sequence[float], terms: Any, clusters: Sequence[Any],
        ordered: bool,
    ) -> None:  # fmt: skip
        found = agreement.sway(taken, truth, terms, ordered=ordered, clusters=clusters)
        if found is None:
            outcome.notes.append(
                "`length_effect` is not shown: the judge made no mistake, or all lengths are alike, so nothing shows "
                "whether length sways it."
            )
            return
        outcome.figures["length_effect"] = Figure(*found.length[:5], unit="log-odds", better="neither")
        outcome.figures["accuracy_at_equal_length"] = Figure(*found.accuracy[:5])


def _leaning(places: Sequence[float | None]) -> Column:
    """How the share of first places gets its interval: by bootstrap over pairs, most of which are a half because both
    orders cancel, so that an exact interval of single verdicts would be far too wide. Near 0 and 1 the exact one.
    """
    found = [place for place in places if place is not None]
    inside = len(found) >= 30 and len(set(found)) > 1 and 0.1 < sum(found) / len(found) < 0.9
    return Column("first_place", better="neither", statistic="mean" if inside else "share")


def _counts(said: Sequence[Any], categories: Sequence[Any]) -> list[int]:
    return [sum(one == category for one in said) for category in categories]
