"""Whether a survey's number of a model can be trusted: stable, extrapolable, steerable (Khan et al. 2025)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import is_number, is_whole, require
from truing.errors import RecordError
from truing.measures import reliability
from truing.measures.asking import Context
from truing.measures.cultural_figures import Survey, extrapolation, plain_scores, spread, steering
from truing.measures.result import Figure, Grid, Outcome
from truing.measures.surveys import (
    STABILITY,
    Asked,
    Form,
    Item,
    Reply,
    Surveying,
    mean_figure,
    plain_rows,
    question,
    scale_of,
    stability_columns,
    stability_row,
    text_of,
    written_replies,
)

if TYPE_CHECKING:
    from truing.models import AnyModel

TESTS = ("stability", "extrapolability", "steerability")
FACTORS = ("labels", "direction", "reply")
PERSONA = "Answer as a person from {country} would."
UNIT = "of the scale"


class CulturalAlignment(Surveying):
    """Three tests that a survey score must pass before anyone reports it.

    **Stability.** Every item is asked in the full cross of two kinds of label, two directions of the scale and two
    kinds of reply. For each of the three factors: ``difference``, the mean difference of the answers (tested with
    paired permutations), and ``shift``, how far the single answers move, over the length of the scale. The yardstick is
    ``between countries``, the spread of people's means over countries: a number that a change of format moves about as
    much as a change of country says nothing about countries.

    **Extrapolability.** Each country is asked for as a persona. Clusters of countries by all dimensions are compared
    with clusters by few of them (adjusted Rand index), for the model and for people.

    **Steerability.** How far apart the personas' answers lie beside people's (``spread``; 1 is as far), how often a
    persona is nearest to its own country (``own country``), and how much nearer the persona brings the answers to that
    country's (``closer``).

    The table of plain scores shows what would have been reported from one format: agreement with the nearest country,
    and which one that is. Notes give a verdict a test: holds, fails, or undecided where the intervals allow both.

    Source: Khan, Casper and Hadfield-Menell, "Randomness, Not Representation", 2025, arXiv 2503.08688. As its own
    page of errors advises, differences are tested on plain means, answers are mapped to content once, what cannot be
    read stays missing, and p-values are never 0. The published weighted effect is in `truing.measures.reliability`.

    Args:
        survey: your rows or a file of them: ``text``, ``options`` on one scale, ``human_means`` (country to a mean
            from 0 to 1), and optionally ``question_id`` and ``dimension``. None for the sandbox's twelve lands.
        tests: which of "stability", "extrapolability" and "steerability".
        persona: the system message, with ``{country}``.
        permutations: of labels, for p-values.
        tolerance: how much of the spread between countries a change of format may move an answer, as a share.
        few: dimensions that count as few.
        ari_needed: adjusted Rand index from which few dimensions count as enough.
    """

    survey: Sequence[dict[str, Any]] | str | Path | None = None
    tests: Sequence[str] = TESTS
    persona: str = PERSONA
    permutations: int = 2000
    tolerance: float = 0.5
    few: int = 2
    ari_needed: float = 0.5

    paper: ClassVar[int | None] = 46
    gives: ClassVar[tuple[str, ...]] = (
        "between countries", *(f"{what}: {factor}" for what in ("difference", "shift") for factor in FACTORS),
        "agreement: *", "few dimensions: people", "few dimensions: model", "spread of personas", "own country nearest",
        "closer by persona", *STABILITY, "mass",
    )  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        fits = not isinstance(self.tests, str) and len(self.tests) > 0 and set(self.tests) <= set(TESTS)
        require(fits, f"tests are {', '.join(TESTS)}, not {self.tests!r}.")
        require(
            isinstance(self.persona, str) and "{country}" in self.persona,
            f"persona is a text with {{country}}, not {self.persona!r}.",
        )
        for name in ("permutations", "few"):
            value = getattr(self, name)
            require(is_whole(value) and value >= 1, f"{name} is a number of at least 1, not {value!r}.")
        require(
            is_number(self.tolerance) and 0 < self.tolerance <= 1,
            f"tolerance is a share over 0, 1 at most, not {self.tolerance!r}.",
        )
        require(
            is_number(self.ari_needed) and -1 <= self.ari_needed <= 1,
            f"ari_needed is an index from -1 to 1, not {self.ari_needed!r}.",
        )

    def questions(self) -> list[dict[str, Any]]:
        """Every item in every form, and to every persona."""
        return [question(*one) for one in self._asked(self._survey())]

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """The three tests over written answers."""
        found, lost = written_replies(answered)
        return self._tested(self._survey().of({row["sample"] for row in answered}), found, [*notes, *lost])

    def graded(self, answered: list[dict[str, Any]], context: Context) -> Outcome:
        """How stable the answers to one item are."""
        found, notes = written_replies([row for row in answered if not row["asked"][2]])
        rows = _rows([answered[0]["asked"][0]], [[one] for one in found])
        return Outcome(rows, stability_columns(rows), notes)

    def _asked(self, survey: Survey) -> list[Asked]:
        forms = cross()
        asked = [(item, form, "") for form in forms for item in survey.items]
        if set(self.tests) & {"extrapolability", "steerability"}:
            asked += [
                (i, forms[0], self.persona.replace("{country}", c)) for c in survey.countries for i in survey.items
            ]
        return asked

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        survey = self._survey()
        found, notes = self.replies(model, self._asked(survey), context)
        return self._tested(survey, found, notes, f" ({model.name})")

    def _tested(self, survey: Survey, found: Sequence[Reply], notes: list[str], whose: str = "") -> Outcome:
        forms = cross()
        n = len(survey.items)
        by_form = [found[at * n : (at + 1) * n] for at in range(len(forms))]
        personas = np.array([_levels(found[at : at + n]) for at in range(len(forms) * n, len(found), n)])
        rows = _rows(survey.items, by_form)
        outcome = Outcome(rows, stability_columns(rows), notes)
        outcome.notes.append(survey.counted)
        if "stability" in self.tests:
            self._stability(outcome, survey, forms, by_form)
        if "extrapolability" in self.tests:
            extrapolation(outcome, survey, personas, self.few, self.ari_needed, self.permutations, self.seed)
        if "steerability" in self.tests:
            steering(outcome, survey, personas, np.array(_levels(by_form[0])), self.seed)
        outcome.notes = [*notes, *(f"{note[:-1]}{whose}." for note in outcome.notes[len(notes) :])]
        return outcome

    def _stability(
        self, outcome: Outcome, survey: Survey, forms: Sequence[Form], by_form: Sequence[Sequence[Reply]]
    ) -> None:
        levels = np.array([_levels(replies) for replies in by_form])
        places = np.array([
            [np.nan if reply.place is None else reply.place / (len(item.options) - 1)
             for reply, item in zip(replies, survey.items)]
            for replies in by_form
        ])  # fmt: skip
        rows, worst = [], []
        yardstick = spread(survey)
        if yardstick is not None:
            outcome.figures["between countries"] = yardstick
        for factor in FACTORS:
            pairs = partners(forms, factor)
            moved = _nanmean(np.array([levels[b] - levels[a] for a, b in pairs]))
            shifts = _nanmean(np.array([np.abs(places[b] - places[a]) for a, b in pairs]))
            known = moved[np.isfinite(moved)]
            difference = mean_figure(known.tolist(), UNIT, seed=self.seed)
            shift = mean_figure(
                shifts[np.isfinite(shifts)].tolist(), UNIT, better="lower", seed=self.seed, within=(0.0, 1.0)
            )
            if difference is None or shift is None:
                outcome.notes.append(f"What {factor} do is not shown: fewer than two items were answered in both ways.")
                continue
            p = reliability.paired_p(known.tolist(), permutations=self.permutations, seed=self.seed)
            outcome.figures[f"difference: {factor}"] = Figure(
                difference.value, difference.low, difference.high, difference.n, difference.method, UNIT, "neither", p
            )
            outcome.figures[f"shift: {factor}"] = shift
            rows.append((f"{factor} (p {p:.3f})", [f"difference: {factor}", f"shift: {factor}"]))
            worst.append((factor, shift))
            for row, value in zip(outcome.rows, shifts):
                row[f"shift_{factor}"] = float(value) if np.isfinite(value) else None
        outcome.grids.append(
            Grid("What a change of format does", ["factor", "mean difference", "shift of an answer"], rows)
        )
        plain_scores(outcome, survey, [form.name for form in forms], levels, self.seed)
        if yardstick is None or not worst:
            outcome.notes.append("Stability is undecided: there is nothing to compare a shift with.")
            return
        factor, most = max(worst, key=lambda each: each[1].value)
        if max(shift.high for _, shift in worst) < self.tolerance * yardstick.low:
            verdict = "holds"
        else:
            verdict = "fails" if most.low > self.tolerance * yardstick.high else "is undecided"
        outcome.notes.append(
            f"Stability {verdict}: a change of {factor} moves an answer by {most.value:.3f} of the scale, and "
            f"countries differ by {yardstick.value:.3f}, of which {self.tolerance:.0%} is allowed."
        )

    def _survey(self) -> Survey:
        from truing.sandbox.surveys import land_survey

        given = land_survey() if self.survey is None else plain_rows(self.survey, "CulturalAlignment")
        return read_survey(given[: self.limit])


def read_survey(rows: Sequence[Mapping[str, Any]]) -> Survey:
    """Rows as a survey; countries are those with a mean in every item.

    Raises:
        RecordError: a row lacks its text, options or means, or has a mean outside 0 to 1; or fewer than two
            countries have all.
    """
    items, means = [], []
    for number, row in enumerate(rows, 1):
        where = f"CulturalAlignment, row {number}"
        item = Item(
            str(row.get("question_id", f"row-{number}")), text_of(dict(row), "text", where), scale_of(dict(row), where),
            str(row.get("dimension") or ""),
        )  # fmt: skip
        given = row.get("human_means")
        if not isinstance(given, Mapping) or not given:
            raise RecordError(f"{where}: `human_means` is an object from country to a mean from 0 to 1, not {given!r}.")
        wrong = [
            name for name, value in given.items() if value is not None and not (is_number(value) and 0 <= value <= 1)
        ]
        if wrong:
            raise RecordError(
                f"{where}: the mean of {str(wrong[0])[:40]!r} is {given[wrong[0]]!r}, and means are from 0 to 1. "
                "Take 1 off a place on the scale and divide by its length less 1."
            )
        items.append(item)
        means.append({str(name): float(value) for name, value in given.items() if value is not None})
    if len({item.id for item in items}) < len(items):
        raise RecordError("CulturalAlignment: two rows have the same `question_id`. Give each its own.")
    countries = [name for name in means[0] if all(name in one for one in means)]
    if len(countries) < 2:
        raise RecordError(
            f"CulturalAlignment compares countries, and {len(countries)} of them has a mean in every row. "
            "Give two at least."
        )
    lost = len({name for one in means for name in one}) - len(countries)
    return Survey(items, countries, np.array([[one[name] for one in means] for name in countries]), lost)


def cross() -> list[Form]:
    """Two kinds of label, two directions, two kinds of reply: eight forms, the plainest first."""
    return [
        Form(f"{labels}, {direction}, {reply}", labels=labels, reverse=direction == "descending", reply=reply)
        for labels, direction, reply in itertools.product(
            ("numbers", "letters"), ("ascending", "descending"), ("label", "text")
        )
    ]


def _rows(items: Sequence[Item], by_form: Sequence[Sequence[Reply]]) -> list[dict[str, Any]]:
    """A row for each item, from the replies in each form."""
    return [
        {"id": item.id, "kind": item.group or "own", "prompt": item.text, "cluster": item.id,
         "answer": ", ".join(f"{form.name}: {replies[at].text[:60]}" for form, replies in zip(cross()[:2], by_form)),
         **stability_row([replies[at] for replies in by_form])}
        for at, item in enumerate(items)
    ]  # fmt: skip


def partners(forms: Sequence[Form], factor: str) -> list[tuple[int, int]]:
    """Places of forms that differ in one factor alone."""
    keys = [{"labels": form.labels, "direction": form.reverse, "reply": form.reply} for form in forms]
    return [
        (a, b)
        for a, b in itertools.combinations(range(len(forms)), 2)
        if all((keys[a][name] != keys[b][name]) == (name == factor) for name in FACTORS)
    ]


def _levels(replies: Sequence[Reply]) -> list[float]:
    return [np.nan if reply.level is None else reply.level for reply in replies]


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Means over the first axis of what is there; not a number where nothing is."""
    there = np.isfinite(values)
    sums, counts = np.where(there, values, 0.0).sum(0), there.sum(0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
