"""RadFact: which phrases of a report are true, which are missing, and whether their boxes are right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import is_number, is_whole, require
from truing.errors import RecordError, SettingsError
from truing.measures import intervals, statistics
from truing.measures import radfact_judging as judging
from truing.measures import radfact_rule as rule
from truing.measures.asking import Context, Questionnaire
from truing.measures.result import Column, Figure, Grid, Outcome
from truing.measures.tables import placed
from truing.records.grounded_text import Phrase, checked_boxes, parse

if TYPE_CHECKING:
    from truing.models import AnyModel

Row = dict[str, Any]
Reports = Sequence[Mapping[str, Any]] | str | Path
# What a data set may call the two sides; the first name is ours.
SIDES = {"candidate": ("candidate", "prediction", "generated"), "reference": ("reference", "target")}


class RadFact(Questionnaire):
    """How much of a report is true, how much of what is true it tells, and whether its boxes are right.

    Each phrase of one report is held against the whole other report by a judge. Phrases of the candidate give the
    precisions, those of the reference the recalls: ``logical`` (it follows), ``spatial`` (of those with boxes: it
    follows, and more than half of its boxes' pixels lie in those of its evidence) and ``grounding`` (of those with
    boxes that follow: the boxes do). Figures are means over reports, each ratio without those that have none of it, and
    F1 of those means; intervals are by bootstrap over reports. A report that cannot be read or split counts for
    nothing, and a verdict that cannot be read for one that does not follow; notes say how many there were.

    The reports are ``reports``, or answers of a model to the prompts of ``records``, or the sandbox's, whose verdicts
    are known: there a judge is also tested (``judge_accuracy``). A report is a list of phrases ``{"text", "boxes"}``,
    boxes from 0 to 1 or null; text in the grounded form of `truing.records.grounded_text`; or plain words, which are
    split first and have no boxes.

    Source: Bannur et al. 2024, "MAIRA-2: Grounded Radiology Report Generation", arXiv 2406.04449. They ask
    Llama-3-70B-Instruct, once for each phrase.

    Args:
        reports: rows with ``candidate`` (or ``prediction``) and ``reference`` (or ``target``), and an ``id``; or a
            JSON, JSONL, CSV or Parquet file of them.
        judge: a local or remote model, or its name; one trained by AlignScoreTraining judges by its scores; or a
            function from a phrase and the other report's phrases to whether it follows and the numbers of its evidence.
            None where the phrases carry verdicts: ``entailed`` (or ``status``) and ``evidence``.
        splitter: a model that rewrites reports in plain words into single findings; None splits them into sentences.
        entailed_from: the probability from which a phrase follows, for a judge that scores.
        image_size: pixels of a side of the grid on which boxes are compared.
        box_threshold: the share of own pixels that must be covered; strictly more.
        records: prompts of your own with a ``reference``, which the measured model answers with a report.
        retries: how often a reply that cannot be read is asked for again.
        judge_tokens: most tokens of a judge's reply.
        max_new_tokens: most tokens of a report that a model writes.
    """

    reports: Reports | None = None
    judge: AnyModel | Callable[[str, Sequence[str]], Any] | str | None = None
    splitter: AnyModel | str | None = None
    entailed_from: float = 0.5
    image_size: int = rule.IMAGE_SIZE
    box_threshold: float = rule.THRESHOLD
    retries: int = 2
    judge_tokens: int = 1024
    max_new_tokens: int = 450

    paper: ClassVar[int | None] = 18
    gives: ClassVar[tuple[str, ...]] = (
        *rule.RATIOS, *(f"{kind}_f1" for kind in rule.F1), "candidate_phrases", "reference_phrases", "judge_accuracy",
    )  # fmt: skip

    @property
    def needs_model(self) -> bool:
        """Whether a model is asked to write reports."""
        return self.records is not None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        for name in ("judge", "splitter"):
            value = getattr(self, name)
            fits = value is None or isinstance(value, str) or hasattr(value, "generate")
            fits = fits or (name == "judge" and callable(value))
            require(fits, f"{name} is a model or its name{', or a function' * (name == 'judge')}, not {value!r}.")
        require(
            self.reports is None or self.records is None, "Give reports, or records with prompts to ask, but not both."
        )
        require(
            is_number(self.entailed_from) and 0 < self.entailed_from <= 1,
            f"entailed_from is a probability, not {self.entailed_from!r}.",
        )
        require(
            is_number(self.box_threshold) and 0 <= self.box_threshold < 1,
            f"box_threshold is from 0 to under 1, not {self.box_threshold!r}.",
        )
        require(
            is_whole(self.image_size) and 0 < self.image_size <= 4096,
            f"image_size is from 1 to 4096 pixels, not {self.image_size!r}.",
        )
        require(is_whole(self.retries) and self.retries >= 0, f"retries is a number, not {self.retries!r}.")
        require(is_whole(self.judge_tokens) and self.judge_tokens >= 1, f"judge_tokens: {self.judge_tokens!r}.")

    def questions(self) -> list[Row]:
        """Prompts whose answers are reports, with the right ones."""
        asked = self.rows(())
        for row in asked:
            if not any(row.get(name) is not None for name in SIDES["reference"]):
                raise RecordError(f"RadFact compares with the column `reference`, and {row['id']} has none.")
        return asked

    def outcome(self, answered: list[Row], notes: list[str], context: Context) -> Outcome:
        """What reports that a model wrote are worth; one that cannot be read is counted."""
        return self._compared([_read({**row, "candidate": row["answer"]}, True) for row in answered], notes, context)

    def _measure(self, model: Any, context: Context) -> Outcome:
        if self.needs_model:
            return super()._measure(model, context)
        return self._compared([_read(row, False) for row in self._given()], [], context)

    def _compared(self, read: list[Row], notes: list[str], context: Context) -> Outcome:
        self._split(read, context, notes)
        verdicts, unread = self._verdicts(read, context)
        if unread:
            notes.append(
                f"{unread} of {sum(map(len, verdicts.values()))} verdicts could not be read; these phrases count as "
                "not following."
            )
        out = [self._row(one, verdicts[at, "candidate"], verdicts[at, "reference"]) if _readable(one) else _invalid(one)
               for at, one in enumerate(read)]  # fmt: skip
        lost = [row for row in out if not row["valid"]]
        if lost:
            notes.append(
                f"{len(lost)} of {len(out)} reports could not be read or split and count for nothing. {lost[0]['id']}: "
                f"{lost[0]['error']}"
            )
        return self._outcome(out, read, verdicts, notes)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _given(self) -> list[Row]:
        """Rows with both sides."""
        if self.reports is None:
            from truing.sandbox.reports import reports

            return reports(self.split, self.limit or 60, self.seed)
        given = self.reports
        found = placed(
            Path(given).expanduser() if isinstance(given, (str, Path)) else given,
            "a pair of reports is an object", "RadFact was given no reports.",
        )  # fmt: skip
        rows = [{**row, "id": str(row.get("id", row.get("example_id", f"report-{at}")))}
                for at, (_, row) in enumerate(found, 1)]  # fmt: skip
        names = [row["id"] for row in rows]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RecordError(f"Two pairs of reports have the id {twice!r}. Give each its own.")
        return rows[: self.limit]

    def _loaded(self, given: Any) -> Any:
        """What a setting holds; a model given by name is loaded once."""
        if not isinstance(given, str):
            return given
        held = self.__dict__.setdefault("_models", {})
        if given not in held:
            from truing.models import load

            held[given] = load(given)
        return held[given]

    def _split(self, read: list[dict[str, Any]], context: Context, notes: list[str]) -> None:
        """Reports in plain words become phrases."""
        plain = [(one, side) for one in read for side in SIDES if isinstance(one.get(side), str)]
        if not plain:
            return
        found = judging.split_report(
            self._loaded(self.splitter),
            [one[side] for one, side in plain], context, tokens=self.judge_tokens, retries=self.retries, seed=self.seed,
        )  # fmt: skip
        for (one, side), phrases in zip(plain, found):
            if phrases is None:
                one.update(error=f"its {side} could not be split into phrases.")
            else:
                one[side], one[f"{side}_rows"] = [Phrase(text) for text in phrases], [{} for _ in phrases]
        if self.splitter is None:
            notes.append("Reports in plain words were split into sentences; give a `splitter` for one finding in each.")

    def _verdicts(self, read: list[dict[str, Any]], context: Context) -> tuple[dict[Any, list[rule.Verdict]], int]:
        """A verdict on every phrase, by number of the report and side, and how many could not be read."""
        out: dict[Any, list[rule.Verdict]] = {}
        open_: list[tuple[Any, judging.Question]] = []
        for at, one in enumerate(read):
            if not _readable(one):
                continue
            for side, other in (("candidate", "reference"), ("reference", "candidate")):
                texts = [phrase.text for phrase in one[other]]
                if self.judge is not None:
                    open_ += [((at, side), (phrase.text, texts)) for phrase in one[side]]
                    out[at, side] = []
                    continue
                given = [judging.given_verdict(row, texts, f"{one['id']}, {side} {number + 1}")
                         for number, row in enumerate(one[f"{side}_rows"])]  # fmt: skip
                if any(verdict is None for verdict in given):
                    raise SettingsError(
                        f"Phrase {given.index(None) + 1} of the {side} of {one['id']} carries no verdict. Give a "
                        "`judge`: a model, a scorer trained by AlignScoreTraining, or a function."
                    )
                out[at, side] = [verdict for verdict in given if verdict is not None]
        unread = 0
        if open_:
            judge = self._loaded(self.judge)
            found = judging.judged(
                judge, [question for _, question in open_], context, threshold=self.entailed_from,
                tokens=self.judge_tokens, retries=self.retries, seed=self.seed,
            )  # fmt: skip
            for (key, _), (verdict, readable) in zip(open_, found):
                out[key].append(verdict)
                unread += not readable
        return out, unread

    # --- counting ----------------------------------------------------------------------------------------------------

    def _row(self, one: Row, forward: list[rule.Verdict], backward: list[rule.Verdict]) -> Row:
        found = rule.score_report(
            one["candidate"], one["reference"], forward, backward, size=self.image_size, threshold=self.box_threshold
        )
        shown = []
        for side, verdicts, statuses, other in (
            ("candidate", forward, found.candidate, "reference"), ("reference", backward, found.reference, "candidate"),
        ):  # fmt: skip
            shown += [
                {"side": side, "text": phrase.text, "boxes": phrase.boxes, "entailed": verdict.entailed,
                 "spatial": status, "evidence": [one[other][at].text for at in verdict.evidence]}
                for phrase, verdict, status in zip(one[side], verdicts, statuses)
            ]  # fmt: skip
        values = {name: None if math.isnan(value) else value for name, value in found.values.items()}
        parts = [f"{word} {values[name]:.2f}" for word, name in (("P", "logical_precision"), ("R", "logical_recall"))
                 if values[name] is not None]  # fmt: skip
        told = {side: "\n".join(f"{'+' if each['entailed'] else '-'} {each['text']}" for each in shown
                                if each["side"] == side) for side in SIDES}  # fmt: skip
        return {
            "id": one["id"],
            "prompt": one.get("prompt", told["reference"]),
            "answer": one.get("answer", told["candidate"]),
            "valid": True,
            **values,
            "grade": ", ".join(parts) or "empty",
            "phrases": shown,
        }

    def _outcome(
        self, rows: list[Row], read: list[Row], verdicts: Mapping[Any, list[rule.Verdict]], notes: list[str]
    ) -> Outcome:
        boxed = any(row["valid"] and (row[rule.COUNTS[2]] or row[rule.COUNTS[3]]) for row in rows)
        kinds = rule.F1 if boxed else rule.F1[:1]
        if not boxed:
            notes.append("No phrase has boxes, so there are logical figures alone.")
        columns = {
            name: Column(name, statistic="mean", bounds=(0.0, 1.0))
            for name in rule.RATIOS
            if name.split("_")[0] in kinds
        }
        for name, label in (
            ("num_candidate_phrases", "candidate_phrases"),
            ("num_reference_phrases", "reference_phrases"),
        ):
            columns[label] = Column(name, "per report", "neither", "mean")
        for row in rows:
            row["judge_accuracy"] = row["judge_count"] = None
        if self.judge is not None and self.reports is None and self.records is None:
            for at, (row, one) in enumerate(zip(rows, read)):
                pairs = [
                    (verdict.entailed, bool(given["entailed"]))
                    for side in SIDES
                    for verdict, given in zip(verdicts[at, side], one[f"{side}_rows"])
                ]
                row["judge_accuracy"], row["judge_count"] = sum(a == b for a, b in pairs), len(pairs)
            columns["judge_accuracy"] = Column("judge_accuracy", statistic="pooled_share", weight="judge_count")
        figures = f1_figures([row for row in rows if row["valid"]], kinds, self.seed)
        grid = Grid(
            "Precision, recall and F1", ["", "precision", "recall", "F1"],
            [(kind, [f"{kind}_precision", f"{kind}_recall", f"{kind}_f1"]) for kind in kinds],
        )  # fmt: skip
        return Outcome(rows, columns, notes, figures=figures, grids=[grid])


def _readable(one: Row) -> bool:
    """Whether a pair of reports was read."""
    return one.get("error") is None


def _invalid(one: Row) -> Row:
    prompt = {"prompt": one["prompt"], "answer": one["answer"]} if "prompt" in one else {}
    empty = dict.fromkeys((*rule.RATIOS, *rule.COUNTS))
    return {
        "id": one["id"],
        **prompt,
        "valid": False,
        **empty,
        "grade": "not read",
        "error": one["error"],
        "phrases": [],
    }


def _read(row: Row, told: bool) -> Row:
    """A pair with each side as phrases, or as plain words; with the ``error`` where a model's report cannot be read.

    Raises:
        RecordError: a side of the data is missing or malformed.
    """
    out: Row = {key: row[key] for key in ("id", "prompt", "answer") if key in row}
    for side, names in SIDES.items():
        held = next((row[name] for name in names if row.get(name) is not None), None)
        if held is None:
            raise RecordError(
                f"{row['id']}: a pair of reports has the columns candidate and reference; {side} is missing."
            )
        try:
            out[side], out[f"{side}_rows"] = _phrases(held, f"{row['id']}, {side}")
        except RecordError as error:
            if not (told and side == "candidate"):
                raise
            out.update({side: [], f"{side}_rows": [], "error": str(error)})
    return out


def _phrases(held: Any, place: str) -> tuple[Any, list[Any]]:
    if isinstance(held, str):
        try:
            found = parse(held)
        except RecordError as error:
            raise RecordError(f"{place}: {error}") from None
        if isinstance(found, str):
            return found, []
        return [Phrase(one.text, checked_boxes(one.boxes, f"{place} {at + 1}")) for at, one in enumerate(found)], [
            {} for _ in found
        ]
    if not isinstance(held, (list, tuple)):
        raise RecordError(f"{place}: a report is text or a list of phrases, not {held!r:.60}.")
    phrases, rows = [], []
    for at, one in enumerate(held):
        one = {"text": one} if isinstance(one, str) else one
        if not isinstance(one, Mapping) or not isinstance(one.get("text"), str) or not one["text"].strip():
            raise RecordError(
                f"{place} {at + 1}: a phrase has a text that is not empty, and boxes or null: {one!r:.60}."
            )
        phrases.append(Phrase(one["text"], checked_boxes(one.get("boxes"), f"{place} {at + 1}")))
        rows.append(dict(one))
    return phrases, rows


def f1_figures(rows: Sequence[Row], kinds: Sequence[str], seed: int) -> dict[str, Figure]:
    """F1 of the mean precision and the mean recall, each over the reports that have one, by bootstrap over reports."""
    out = {}
    for kind in kinds:
        sides = [[row[f"{kind}_{side}"] for row in rows] for side in ("precision", "recall")]
        if min(sum(one is not None for one in side) for side in sides) < 2:
            continue  # one report tells nothing of the uncertainty
        columns = [
            [0.0 if one is None else one for one in sides[0]], [float(one is not None) for one in sides[0]],
            [0.0 if one is None else one for one in sides[1]], [float(one is not None) for one in sides[1]],
        ]  # fmt: skip
        draws = statistics.resampled_means(np.array(columns).T, seed=seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = draws[:, 0] / draws[:, 1], draws[:, 2] / draws[:, 3]
            found = np.where(precision + recall == 0, 0.0, 2 * precision * recall / (precision + recall))
        means = [float(np.mean([one for one in side if one is not None])) for side in sides]
        low, high = intervals.percentiles(found, len(rows))
        value = rule.f1(*means)
        made = statistics.Estimate(value, min(low, value), max(high, value), len(rows), "bootstrap")
        made = statistics.bounded(made, (0.0, 1.0), len(rows))
        out[f"{kind}_f1"] = Figure(*made[:5])
    return out
