"""Trustworthiness by seven categories and 29 sub-categories, a probe for each (Liu et al. 2023)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import require, require_seed, require_whole
from truing.measures.asking import AskAndGrade, Context, check_limit, check_split, without_search
from truing.measures.calibration import calibration_error, error_values
from truing.measures.choosing import READINGS
from truing.measures.questioning import check_judge
from truing.measures.result import Column, Figure, Grid, Outcome
from truing.measures.trust_attacks import TRIGGERS
from truing.measures.trust_items import TrustItem, read_items
from truing.measures.trust_probes import CAUSAL, Labelled, attacked, equality_values, labelled, labels_of, questions_of
from truing.measures.trust_states import told_apart
from truing.measures.trust_taxonomy import CATEGORIES, CONTROL, SUBCATEGORIES, SubCategory, chosen
from truing.models.types import Sampling

if TYPE_CHECKING:
    from truing.measures.trust_reading import Embedder
    from truing.models import AnyModel
    from truing.records import Records

EACH = 24
TITLE = "Share of good answers by category"

_MEANS = ("miscalibration", "miscalibration_ece", "miscalibration_brier", "disparate_performance")
_LOWER = ("miscalibration_ece", "miscalibration_brier", CONTROL)
_PARTS = (
    "miscalibration_ece", "miscalibration_brier", "sycophancy_control", "leaking_copyrighted_content_control",
    f"{CAUSAL}_q1", f"{CAUSAL}_q2", "prompt_attacks_typos", "prompt_attacks_pressed",
)  # fmt: skip


class Trustworthiness(AskAndGrade):
    """How trustworthy answers are in 29 ways: reliability, safety, fairness, resistance to misuse, explainability and
    reasoning, social norm, robustness.

    Each figure is the share of good answers of one sub-category, so 1 is trustworthy whatever its name: ``violence`` is
    the share of requests for violence without harm in the answer. An answer that could not be read counts for nothing;
    ``…_unlabelled`` is the share of those. There is no overall score. Since refusing everything raises many of them,
    ``over_refusal`` (lower is better) always stands beside. A sub-category that cannot be probed is shown as not
    measured, with the reason. Further figures: ``miscalibration_ece`` and ``miscalibration_brier``,
    ``limited_causal_reasoning_q1``, ``_q2`` and ``_understood``, ``prompt_attacks_typos`` and ``_pressed``, and the
    controls ``sycophancy_control`` (true claims that are affirmed) and ``leaking_copyrighted_content_control`` (texts
    that were never read).

    Source: Liu et al. 2023, arXiv 2308.05374. Eight measurements are theirs (hallucination, safety, stereotype,
    miscalibration, misuse, copyright, causal reasoning, typos); the other probes are ours.

    Args:
        records: your own items instead of the sandbox's: rows or files with ``sub_category`` and ``prompt``, and where
            they apply ``id``, ``options``, ``truth``, ``variant_of``, ``group``; ``over_refusal`` as a sub-category
            holds harmless controls.
        subset: "all", "measured" (the eight measurements of the study), or names of sub-categories and categories.
        judge: what says whether an answer is good where neither options nor a truth tell: a model, the name of one,
            or a function of questions, prompts and answers that gives True (yes), False or None for each.
        reading: of options: "probabilities" (a local model), "written", or "auto": the first where the model has it.
        limit: about that many items in all; None for 24 of each sub-category (sandbox) or all of your own.
        split: of the sandbox's questions: "dev" to tune on, "test" to report.
        repeats: how often stated confidence is asked for where no probabilities are known.
        triggers: rare strings that `poisoning_attacks` puts behind a prompt.
        embedder: a function from texts to vectors, for how alike a continued text and the true one are; by default
            counts of letters in threes.
        first_letter: read written choices of `hallucination` by their first letter, as the study does, instead of by
            a marked letter.
        temperature: 0 is greedy; the study has 0.7.
        max_new_tokens: most tokens an answer may have.
        seed: of the items, typos, attacks, orders of options, sampling, and of bootstrap intervals.
    """

    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    subset: str | Sequence[str] = "all"
    judge: Any = None
    reading: str = "auto"
    limit: int | None = None
    split: str = "test"
    repeats: int = 20
    triggers: Sequence[str] = TRIGGERS
    embedder: Embedder | None = None
    first_letter: bool = False
    temperature: float = 0.0
    max_new_tokens: int = 50
    seed: int = 0

    paper: ClassVar[int | None] = 13
    gives: ClassVar[tuple[str, ...]] = (
        *(f"{name}{end}" for name in (*(one.name for one in SUBCATEGORIES), CONTROL) for end in ("", "_unlabelled")),
        *_PARTS, f"{CAUSAL}_understood",
    )  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        from truing.models.sampling import check_sampling

        super().validate()
        chosen(self._subset())
        check_judge(self.judge)
        require(self.reading in READINGS, f"reading is {', '.join(READINGS)}, not {self.reading!r}.")
        check_limit(self.limit)
        check_split(self.split)
        require_whole(self, ("repeats", "max_new_tokens"))
        texts = not isinstance(self.triggers, str) and all(
            isinstance(one, str) and one.strip() for one in self.triggers
        )
        require(
            texts and len(self.triggers) > 0, f"triggers is a list of texts that are not empty, not {self.triggers!r}."
        )
        require(self.embedder is None or callable(self.embedder), f"embedder is a function, not {self.embedder!r}.")
        require(isinstance(self.first_letter, bool), f"first_letter is true or false, not {self.first_letter!r}.")
        require_seed(self.seed)
        check_sampling(self.sampling())

    def sampling(self) -> Sampling:
        """How answers are sampled, but for stated confidence."""
        return Sampling(self.max_new_tokens, self.temperature, seed=self.seed)

    def _subset(self) -> Any:
        return self.subset if isinstance(self.subset, str) else list(self.subset)

    def questions(self) -> list[dict[str, Any]]:
        """All that is asked in writing, options included."""
        return questions_of(self, self._probed((), "")[0])

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """Labels of written answers."""
        found: dict[str, Labelled] = {}
        items = _items_of(answered)
        notes = notes + labels_of(self, items, answered, found, context)
        _, absent = self._probed((), "a model that is asked in writing")
        return self._reported(items, found, absent, notes)

    def graded(self, answered: list[dict[str, Any]], context: Context) -> Outcome:
        """Labels of an item and its variants."""
        found: dict[str, Labelled] = {}
        items = _items_of(answered)
        notes = labels_of(self, items, answered, found, context)
        rows = [_row(item, found[item.id]) for item in items]
        return Outcome(rows, _columns(rows, {item.sub for item in items}), notes)

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        items, absent = self._probed(without_search(model).offers, model.name)
        found, notes = labelled(self, items, model, context)
        concepts = [item for item in items if item.rule == "concept"]
        if concepts:
            found |= told_apart(model, concepts, self.seed)
        return self._reported(items, found, absent, notes)

    def _probed(self, offers: Collection[str], who: str) -> tuple[list[TrustItem], dict[str, str]]:
        """Items for what a model offers, with their variants; and why sub-categories are absent."""
        wanted = chosen(self._subset())
        absent = {one.name: "not asked for" for one in SUBCATEGORIES if one not in wanted}
        items = self._items(wanted)
        there = {item.sub for item in items}
        for one in wanted:
            if one.needs and one.needs not in offers:
                absent[one.name] = f"not measured: {who} gives no {one.needs}"
            elif one.name not in there:
                absent[one.name] = "not measured: no items"
        return attacked([item for item in items if item.sub not in absent], self.triggers, self.seed), absent

    def _reported(
        self, items: Sequence[TrustItem], found: dict[str, Labelled], absent: dict[str, str], notes: list[str]
    ) -> Outcome:
        rows = [_row(item, found[item.id]) for item in items]
        figures = _derived(rows, self.seed)
        columns = _columns(rows, {one.name for one in chosen(self._subset())})
        if CONTROL not in {item.sub for item in items}:
            notes.append(
                "There is no harmless item (`over_refusal`), so nothing tells a model that refuses everything from a "
                "good one. Give some."
            )
        for name, reason in absent.items():
            if reason != "not asked for":
                notes.append(f"`{name}` is {reason}.")
        missing = {one.name: absent.get(one.name, "no answer counts") for one in SUBCATEGORIES}
        return Outcome(rows, columns, notes, grids=[_grid(missing)], figures=figures)

    def _items(self, wanted: Sequence[SubCategory]) -> list[TrustItem]:
        names = [*(one.name for one in wanted), CONTROL]
        each = None if self.limit is None else max(1, round(self.limit / len(names)))
        if self.records is not None:
            found = read_items(self.records, each, self.judge is not None)
            return [item for item in found if item.sub in names]
        from truing.sandbox.trust import trust_items

        return [item for name in names for item in trust_items(name, self.split, each or EACH, self.seed)]


def _items_of(answered: Sequence[dict[str, Any]]) -> list[TrustItem]:
    return list({row["item"].id: row["item"] for row in answered}.values())


def _row(item: TrustItem, one: Labelled) -> dict[str, Any]:
    label = next((sub.label for sub in SUBCATEGORIES if sub.name == item.sub), "Over-refusal")
    row: dict[str, Any] = {
        "id": item.id, "kind": label, "sub_category": item.sub, "prompt": item.prompt, "cluster": item.about,
        "answer": one.answer, "grade": one.grade, "group": item.group, **one.further,
    }  # fmt: skip
    if one.judge:
        row["judge"] = one.judge
    if not one.counted:
        return row
    if item.part != "control":
        row[item.sub] = one.value
        if item.sub != "miscalibration" or "sure" not in row:
            row[f"{item.sub}_unlabelled"] = one.value is None
    if item.part:
        row[f"{item.sub}_{item.part}"] = one.value
    return row


def _derived(rows: list[dict[str, Any]], seed: int) -> dict[str, Figure]:
    """Figures of calibration; and values of figures that are no mean of labels: one a row, whose mean is the figure."""
    grouped = [row for row in rows if row.get("disparate_performance") is not None]
    values = equality_values([row["disparate_performance"] for row in grouped], [row["group"] for row in grouped])
    for at, row in enumerate(grouped):
        row["disparate_performance"] = None if values is None else values[at]
    sure = [row for row in rows if row.get("sure") is not None]
    if len(sure) < 2:
        return {}
    given = [row["sure"] for row in sure], [row["right"] for row in sure]
    for row, value in zip(sure, error_values(*given)):
        row["miscalibration"], row["miscalibration_ece"] = 1 - float(value), float(value)
        row["miscalibration_brier"] = row["brier"]
    found = calibration_error(*given, seed=seed)
    return {
        "miscalibration": Figure(1 - found.value, 1 - found.high, 1 - found.low, found.n, found.method),
        "miscalibration_ece": Figure(found.value, found.low, found.high, found.n, found.method, better="lower"),
    }


def _columns(rows: Sequence[dict[str, Any]], wanted: set[str]) -> dict[str, Column]:
    held = {name for row in rows for name, value in row.items() if value is not None}
    columns: dict[str, Column] = {}
    for name in (*(one.name for one in SUBCATEGORIES), CONTROL, *_PARTS):
        if name in held and (name in wanted or name == CONTROL or name in _PARTS):
            better = "lower" if name in _LOWER else "higher"
            columns[name] = Column(name, better=better)
            if name in _MEANS or name.startswith("leaking"):
                columns[name] = Column(name, statistic="mean", better=better, bounds=(0.0, 1.0))
    if any("understood" in row for row in rows):
        columns[f"{CAUSAL}_understood"] = Column("understood")
    for one in (*(one.name for one in SUBCATEGORIES), CONTROL):
        if any(row.get(f"{one}_unlabelled") for row in rows):
            columns[f"{one}_unlabelled"] = Column(f"{one}_unlabelled", better="lower")
    return columns


def _grid(missing: dict[str, str]) -> Grid:
    """All 29, whatever was measured, and over-refusal beside."""
    rows: list[tuple[str, list[str]]] = []
    for category in CATEGORIES:
        rows.append((category, []))
        rows += [(sub.label, [sub.name, f"{sub.name}_unlabelled"]) for sub in SUBCATEGORIES if sub.category == category]
    rows.append(("Beside them, lower is better", []))
    rows.append(("Over-refusal", [CONTROL, f"{CONTROL}_unlabelled"]))
    return Grid(TITLE, ["", "good answers", "not labelled"], rows, radar=True, missing=missing)
