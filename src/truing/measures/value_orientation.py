"""A profile of values, in words and in choices, with what rewording and order do to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import require
from truing.errors import RecordError
from truing.measures.asking import Context
from truing.measures.result import Column, Figure, Grid, Outcome
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
    resampled_figure,
    scale_of,
    stability_columns,
    stability_row,
    text_of,
    written_replies,
)
from truing.measures.value_portraits import DILEMMA_WORDINGS, DILEMMAS, THEORIES, WORDINGS
from truing.sandbox.surveys import LIKENESS

if TYPE_CHECKING:
    from truing.models import AnyModel

UNIT = "of the scale, centred"
DRAWS = 2000


class ValueOrientation(Surveying):
    """What a model holds to be important: a profile over named values, relative to its own mean.

    Portraits ("it is important to this person to …") are rated for likeness in every wording and every cyclic order of
    the options, by reading the options' probabilities. A rating is the mean expected place, on 1 to 6 for portraits;
    the mean over all portraits is taken away, so that the use of the scale plays no part. A figure's interval is over
    portraits. The second column of the table gives the same value with its interval over wordings: a value whose sign
    changes by rewording is no value of the model's.

    - ``agreement``, ``shift``, ``answered``: what rewording and order do to a portrait.
    - ``profile by wording``: the mean correlation of two wordings' profiles.
    - ``circle`` (ten basic values): the correlation of the distance of two values on the circle with the distance of
      their scores, above 0 where the profile has the structure that people's have.
    - ``choice: …`` (ten basic values): how often dilemmas are decided for a value against its opposite, over both
      orders; ``words and choices`` is the correlation of the two.

    Source: Yao et al. 2023, arXiv 2308.12014, for the goals and this form of survey; Schwartz 1992 for the ten values.

    Args:
        theory: "schwartz10" or "moral_foundations", of the built-in portraits.
        portraits: your own: rows or files with ``text``, ``dimension`` (else the file's name) and ``options`` on one
            scale; or rows with ``question``, ``answer_matching_behavior`` and ``answer_not_matching_behavior``.
        wordings: of your own with ``{text}``; None for the built-in ones, which differ for portraits and for your rows.
        orders: "cyclic" turns the options through all places, "one" shows them from low to high.
        labels: "letters", "numbers", or "none", where the options' words are the answer.
        choices: ask the dilemmas too, where the values are the ten.
        whose: whose values they are compared with or stand for, in words; shown beside the profile.
    """

    theory: str = "schwartz10"
    portraits: Sequence[Any] | str | Path | None = None
    wordings: Sequence[str] | None = None
    orders: str = "cyclic"
    labels: str = "letters"
    choices: bool = True
    whose: str = "the model's own, as it answers without a persona"

    paper: ClassVar[int | None] = 2
    gives: ClassVar[tuple[str, ...]] = (
        "value: *", "* over wordings", "choice: *", "profile by wording", "circle", "words and choices", *STABILITY,
        "mass",
    )  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.theory in THEORIES, f"theory is {' or '.join(THEORIES)}, not {self.theory!r}.")
        fits = self.wordings is None or (
            not isinstance(self.wordings, str)
            and len(self.wordings) > 0
            and all(isinstance(one, str) and "{text}" in one for one in self.wordings)
        )
        require(fits, f"wordings is a list of texts with {{text}} in each, not {self.wordings!r}.")
        require(self.orders in ("cyclic", "one"), f"orders is cyclic or one, not {self.orders!r}.")
        require(
            self.labels in ("letters", "numbers", "none"), f"labels is letters, numbers or none, not {self.labels!r}."
        )
        require(isinstance(self.choices, bool), f"choices is true or false, not {self.choices!r}.")
        require(
            isinstance(self.whose, str) and bool(self.whose.strip()), "whose says whose values these are, in words."
        )

    def figure_names(self) -> tuple[str, ...]:
        """With the values' names, where the portraits are those of a theory."""
        if self.portraits is not None:
            return self.gives
        values = list(THEORIES[self.theory])
        return tuple(name.replace("*", value) for name in self.gives for value in (values if "*" in name else [""]))

    def questions(self) -> list[dict[str, Any]]:
        """Portraits in every wording and order, and dilemmas."""
        dilemmas = [{**question(*one), "dilemma": True} for one in self._dilemmas()]
        return [*(question(*one) for one in self._portraits()), *dilemmas]

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """The profile of written answers."""
        rated, decided = ([row for row in answered if row.get("dilemma", False) == which] for which in (False, True))
        found, lost = written_replies(rated)
        said, more = written_replies(decided)
        return self._profiled(_asked(rated), found, _asked(decided), said, [*notes, *lost], more)

    def graded(self, answered: list[dict[str, Any]], context: Context) -> Outcome:
        """What one portrait or dilemma says by itself."""
        found, notes = written_replies(answered)
        if not answered[0].get("dilemma"):
            rows, _ = self._rated(_asked(answered), found)
            return Outcome(rows, stability_columns(rows), notes)
        item, form, _ = answered[0]["asked"]
        levels = [one.level for one in found if one.level is not None]
        grade = f"{sum(levels):.0f} of {len(levels)} times for {item.group}" if levels else "not read"
        row = {"id": item.id, "kind": item.group, "prompt": form.asked(item), "answer": found[0].text, "grade": grade}
        return Outcome([row], {}, notes)

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        asked, dilemmas = self._portraits(), self._dilemmas()
        found, notes = self.replies(model, asked, context)
        said, more = self.replies(model, dilemmas, context) if dilemmas else ([], [])
        return self._profiled(asked, found, dilemmas, said, notes, more)

    def _portraits(self) -> list[Asked]:
        reply = "text" if self.labels == "none" else "label"
        return [
            (item, Form(f"wording {w + 1}, turn {turn}", wording, self.labels, False, turn, reply), "")
            for item in self._items()
            for w, wording in enumerate(self._wordings())
            for turn in range(self._turns(item))
        ]

    def _wordings(self) -> list[str]:
        return list(self.wordings or (WORDINGS if self.portraits is None else YOURS))

    def _turns(self, item: Item) -> int:
        return len(item.options) if self.orders == "cyclic" else 1

    def _rated(self, asked: Sequence[Asked], found: Sequence[Reply]) -> tuple[list[dict[str, Any]], np.ndarray]:
        """A row for each portrait, and its ratings by wording."""
        parts = iter(found)
        items, wordings = list(dict.fromkeys(item for item, _, _ in asked)), self._wordings()
        ratings = np.full((len(items), len(wordings)), np.nan)
        rows: list[dict[str, Any]] = []
        for at, item in enumerate(items):
            some = [[next(parts) for _ in range(self._turns(item))] for _ in wordings]
            for w, replies in enumerate(some):
                levels = [one.level for one in replies if one.level is not None]
                if levels:
                    ratings[at, w] = 1 + (len(item.options) - 1) * sum(levels) / len(levels)
            flat = list(itertools.chain.from_iterable(some))
            rows.append(
                {"id": item.id, "kind": item.group, "prompt": item.text,
                 "answer": ", ".join(f"{value:.2f}" for value in ratings[at]), **stability_row(flat)}
            )  # fmt: skip
        return rows, ratings

    def _profiled(
        self, asked: Sequence[Asked], found: Sequence[Reply], dilemmas: Sequence[Asked], said: Sequence[Reply],
        notes: Sequence[str], more: Sequence[str],
    ) -> Outcome:  # fmt: skip
        items = list(dict.fromkeys(item for item, _, _ in asked))
        values = list(dict.fromkeys(item.group for item in items))
        rows, ratings = self._rated(asked, found)
        outcome = Outcome(rows, {}, [*notes, f"Whose values: {self.whose}."])
        self._profile(outcome, items, values, ratings)
        if dilemmas:
            outcome.notes += [f"Dilemmas: {note}" for note in more]
            _decided(outcome, dilemmas, said, values, self.seed)
        outcome.columns.update(stability_columns(rows))
        return outcome

    def _profile(self, outcome: Outcome, items: Sequence[Item], values: Sequence[str], ratings: np.ndarray) -> None:
        profile, by_wording = centred(ratings, [item.group for item in items])
        for row, value in zip(outcome.rows, profile):
            for name in values:
                row[f"value: {name}"] = float(value) if row["kind"] == name and np.isfinite(value) else None
        groups = np.array([item.group for item in items])
        table, moved = [], []
        for name in values:
            outcome.columns[f"value: {name}"] = Column(f"value: {name}", UNIT, "neither", "mean")
            each = [_mean(by_wording[groups == name, w]) for w in range(by_wording.shape[1])]
            figure = mean_figure([one for one in each if math.isfinite(one)], UNIT, seed=self.seed)
            if figure is not None:
                outcome.figures[f"{name} over wordings"] = figure
                if len({math.copysign(1, one) for one in each if abs(one) > 1e-9}) > 1:
                    moved.append(name)
            table.append((name, [f"value: {name}", f"{name} over wordings"]))
        outcome.grids.append(Grid("Profile", ["value", "over portraits", "over wordings"], table))
        if moved:
            outcome.notes.append(f"Rewording alone turns the sign of: {', '.join(moved)}.")
        members = [np.flatnonzero(groups == name) for name in values]
        alike = _by_wording(by_wording, members, self.seed)
        if alike is not None:
            outcome.figures["profile by wording"] = alike
        if self.portraits is None and self.theory == "schwartz10":
            circle = _resampled(
                lambda picks: circle_correlation(np.array([_mean(profile[some]) for some in picks])), members, self.seed
            )
            if circle is not None:
                outcome.figures["circle"] = circle

    def _dilemmas(self) -> list[Asked]:
        """Dilemmas in every wording and both orders; none where the values are not the ten."""
        if not (self.choices and self.portraits is None and self.theory == "schwartz10"):
            return []
        reply = "text" if self.labels == "none" else "label"
        return [
            (Item(f"dilemma-{number + 1}", "", (other, one), value),
             Form(f"wording {w + 1}{', turned' * reverse}", wording, self.labels, reverse, 0, reply), "")
            for number, (value, _, one, other) in enumerate(DILEMMAS)
            for w, wording in enumerate(DILEMMA_WORDINGS)
            for reverse in (False, True)
        ]  # fmt: skip

    def _items(self) -> list[Item]:
        if self.portraits is None:
            items = [
                Item(f"{name}-{at + 1}", text, LIKENESS, name)
                for name, texts in THEORIES[self.theory].items()
                for at, text in enumerate(texts)
            ]
            # By turns, so that a limit leaves some of each.
            items.sort(key=lambda item: int(item.id.rsplit("-", 1)[1]))
        else:
            rows = plain_rows(self.portraits, "ValueOrientation")
            items = [_own(row, number) for number, row in enumerate(rows, 1)]
            by_group: dict[str, int] = {}
            ranks = []
            for item in items:
                ranks.append(by_group.setdefault(item.group, 0))
                by_group[item.group] += 1
            items = [item for _, item in sorted(zip(ranks, items), key=lambda each: each[0])]
        items = items[: self.limit]
        if len({item.group for item in items}) < 2:
            raise RecordError("ValueOrientation compares values, and there is one dimension only. Give two at least.")
        return items


def _asked(rows: Sequence[dict[str, Any]]) -> list[Asked]:
    return [row["asked"] for row in rows]


def _decided(
    outcome: Outcome, asked: Sequence[Asked], found: Sequence[Reply], values: Sequence[str], seed: int
) -> None:  # fmt: skip
    """Add how often dilemmas were decided for a value."""
    shares: dict[str, dict[str, list[float]]] = {}
    for (item, _, _), answer in zip(asked, found):
        value, opposite, *_ = DILEMMAS[int(item.id.removeprefix("dilemma-")) - 1]
        if answer.level is not None:
            shares.setdefault(value, {}).setdefault(item.id, []).append(answer.level)
            shares.setdefault(opposite, {}).setdefault(item.id, []).append(1 - answer.level)
    table = []
    for name in values:
        each = [sum(some) / len(some) for some in shares.get(name, {}).values()]
        figure = mean_figure(each, "share", seed=seed, within=(0.0, 1.0))
        if figure is not None:
            outcome.figures[f"choice: {name}"] = figure
            table.append((name, [f"choice: {name}"]))
    if table:
        outcome.grids.append(Grid("Dilemmas decided for a value", ["value", "share"], table))
    both = [
        (_mean(np.array([row[f"value: {name}"] for row in outcome.rows if row[f"value: {name}"] is not None])),
         outcome.figures[f"choice: {name}"].value)
        for name in values
        if f"choice: {name}" in outcome.figures
    ]  # fmt: skip
    together = correlation_figure(both)
    if together is not None:
        outcome.figures["words and choices"] = together


YOURS = ("{text}", "Please answer this.\n{text}", "{text}\nWhat do you say?")


def _own(row: dict[str, Any], number: int) -> Item:
    where = f"ValueOrientation, row {number}"
    group = str(row.get("dimension") or row.get("file") or "")
    if not group:
        raise RecordError(f"{where}: the column `dimension` names the value that a portrait is of.")
    name = f"{group}-{number}"
    if "answer_matching_behavior" in row:
        match, other = (text_of(row, f"answer_{which}matching_behavior", where).strip() for which in ("", "not_"))
        return Item(name, text_of(row, "question", where), (other, match), group)
    return Item(name, text_of(row, "text", where), scale_of(row, where, LIKENESS), group)


def centred(ratings: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ratings less their grand mean: the mean over wordings, [items], and for each wording, [items, wordings].

    Args:
        ratings: [items, wordings], not a number where there is no answer.
        groups: of each item, which play no part in the mean: with equally many items each, the profile sums to 0.
    """
    if len(groups) != len(ratings):
        raise ValueError(f"Each of {len(ratings)} items has its group, got {len(groups)}.")
    there = np.isfinite(ratings)
    if not there.any():
        return np.full(len(ratings), np.nan), np.full(ratings.shape, np.nan)
    counts = there.sum(1)
    means = np.where(counts > 0, np.where(there, ratings, 0.0).sum(1) / np.maximum(counts, 1), np.nan)
    columns = [ratings[there[:, w], w].mean() if there[:, w].any() else np.nan for w in range(ratings.shape[1])]
    return means - means[np.isfinite(means)].mean(), ratings - np.array(columns)


def circle_correlation(scores: np.ndarray) -> float:
    """Correlation of the distance of two values on a circle with the distance of their scores; 0 where none varies."""
    n = len(scores)
    pairs = list(itertools.combinations(range(n), 2))
    apart = [min(b - a, n - b + a) for a, b in pairs]
    return correlation(apart, [abs(float(scores[a] - scores[b])) for a, b in pairs])


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one of the two does not vary, since nothing then goes with anything."""
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 1e-12 else 0.0


def correlation_figure(pairs: Sequence[tuple[float, float]]) -> Figure | None:
    """A correlation with its interval by Fisher's transformation; None below four pairs."""
    known = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if len(known) < 4:
        return None
    value = correlation(*zip(*known))
    middle, half = math.atanh(max(-0.999999, min(0.999999, value))), 1.959964 / math.sqrt(len(known) - 3)
    return Figure(
        value, math.tanh(middle - half), math.tanh(middle + half), len(known), "Fisher", "correlation", "neither"
    )


def _by_wording(ratings: np.ndarray, members: Sequence[np.ndarray], seed: int) -> Figure | None:
    """Mean correlation of the profiles of two wordings, by bootstrap over the items of each value."""
    wordings = ratings.shape[1]
    if wordings < 2 or len(members) < 3:
        return None

    def alike(picks: Sequence[np.ndarray]) -> float:
        profiles = [[_mean(ratings[some, w]) for some in picks] for w in range(wordings)]
        if not np.isfinite(np.array(profiles)).all():
            return math.nan
        return float(np.mean([correlation(a, b) for a, b in itertools.combinations(profiles, 2)]))

    return _resampled(alike, members, seed, better="higher")


def _resampled(
    of: Callable[[Sequence[np.ndarray]], float], members: Sequence[np.ndarray], seed: int, better: str = "neither"
) -> Figure | None:
    """A correlation of profiles with its interval over the items of each value, for profiles of as many items.

    One item less is drawn of each value, since means of n draws from n items are too alike. Resampled profiles have
    noise twice, which makes correlations smaller: their spread is laid about the value.

    Source: Rao and Wu 1988, for the number of draws.
    """
    value, rng = of(members), np.random.default_rng(seed)
    draws = np.array([of([rng.choice(some, max(1, len(some) - 1)) for some in members]) for _ in range(DRAWS // 4)])
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not math.isfinite(value):
        return None
    about = draws + (value - draws.mean())
    return resampled_figure(
        value, about, sum(map(len, members)), "correlation", better=better, within=(-1.0, 1.0)
    )  # fmt: skip


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)] if len(values) else values
    return float(known.mean()) if len(known) else math.nan
