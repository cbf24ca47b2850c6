"""Where a model stands on two axes over many prompts, whether what it chooses and what it writes agree, and what
personas do (Wright et al. 2024).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import is_whole, require
from truing.errors import RecordError
from truing.measures import political_axes as axes
from truing.measures.asking import Answer, Context, asked_for, cut_note
from truing.measures.political_wordings import CLOSED, OPEN, PERSONA, PERSONAS, SECTIONS
from truing.measures.result import Column, Figure, Grid, Outcome, Plane
from truing.measures.stances import check_stance, read_stances
from truing.measures.surveys import (
    STABILITY,
    Asked,
    Form,
    Item,
    Reply,
    Surveying,
    mean_figure,
    persona_prompt,
    question,
    stability_columns,
    stability_row,
    written_replies,
)
from truing.models.types import Sampling

if TYPE_CHECKING:
    from truing.models import AnyModel

AXES = ("economic", "social")
UNIT = "of 10"
SAME = 0.9
"""Share of one option among all answers above which there are no opinions to place."""
Answers = dict[tuple[str, int], list[int]]


class PoliticalCompass(Surveying):
    """Where a model stands: economic (right is positive) and social (authoritarian is positive), each from -10 to 10.

    Every proposition is put in many wordings, asking for one of four options in changing order (closed) or for free
    text whose stance is read (open). Each wording gives a point; a figure is the mean of the points with its
    interval over wordings, so it says how far the position hangs on how one asks. A point with fewer than 50 answered
    propositions is no position and is left out. ``agreement`` and ``shift`` say what rewording does to a proposition,
    ``total_variation`` how far chosen and written stances lie apart, from 0 to 1.

    Source: Wright, Arora, Borenstein, Yadav, Belongie and Augenstein, "Revealing Fine-Grained Values and Opinions in
    Large Language Models", Findings of EMNLP 2024; the weights are those of its code, the words of the prompts our own.

    Args:
        propositions: your file of the 62 propositions, one a line in their order, or a list; None for 62 statements of
            the sandbox, made to count on the same axes.
        wordings: at most that many of the ten wordings of each kind.
        closed: wordings of your own with ``{text}``, for the closed prompts.
        open: wordings of your own with ``{text}``, for the open prompts; an empty list asks none.
        personas: values by field, each taken alone in a system message beside the prompts without a persona, or
            "study" for the 21 of the study. None asks without.
        labels: of the closed options: "none" (the answer is the option's words), "letters" or "numbers".
        stance: reads the stance of free text: a model or its name, or a function from statements and answers to
            stances (0 to 3, or None); None reads stances that stand there in so many words, and counts all others as
            without a stance.
        open_tokens: most tokens of free text.
    """

    propositions: Sequence[str] | str | Path | None = None
    wordings: int = 10
    closed: Sequence[str] | None = None
    open: Sequence[str] | None = None
    personas: Mapping[str, Sequence[str]] | str | None = None
    labels: str = "none"
    stance: AnyModel | Callable[..., Any] | str | None = None
    open_tokens: int = 64

    paper: ClassVar[int | None] = 48
    gives: ClassVar[tuple[str, ...]] = (
        *(f"{axis}{more}" for axis in AXES for more in ("", " open", ": *")), "total_variation", *STABILITY, "mass",
    )  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        for name in ("wordings", "open_tokens"):
            value = getattr(self, name)
            require(is_whole(value) and value >= 1, f"{name} is a number of at least 1, not {value!r}.")
        for name in ("closed", "open"):
            value = getattr(self, name)
            fits = value is None or (
                not isinstance(value, str) and all(isinstance(one, str) and "{text}" in one for one in value)
            )
            require(fits, f"{name} is a list of wordings with {{text}} in each, not {value!r}.")
        require(self.closed is None or len(self.closed) > 0, "closed holds at least one wording.")
        require(
            self.labels in ("none", "letters", "numbers"), f"labels is none, letters or numbers, not {self.labels!r}."
        )
        given = self.personas
        fits = (
            given is None
            or given == "study"
            or (
                isinstance(given, Mapping)
                and all(
                    not isinstance(some, str) and len(some) and all(isinstance(v, str) for v in some)
                    for some in given.values()
                )
            )
        )
        require(fits, f'personas is "study", or lists of values by field, not {given!r}.')
        check_stance(self.stance)

    def questions(self) -> list[dict[str, Any]]:
        """Propositions in closed wordings and in open ones."""
        return [*(question(*one) for one in self._closed()), *self._open()]

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """Positions by written answers."""
        closed, open_ = ([row for row in answered if ("free" in row) == which] for which in (False, True))
        replies, lost = written_replies(closed)
        return self._placed([row["asked"] for row in closed], replies, open_, [*notes, *lost], "", context)

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        asked, open_ = self._closed(), self._open()
        replies, notes = self.replies(model, asked, context)
        written = asked_for(model, open_, self.sampling(), context, label=", free text")
        notes += cut_note([Answer(row["answer"], row["cut"]) for row in written], self._writing(), model.name)
        return self._placed(asked, replies, written, notes, model.name, context)

    def _placed(
        self, asked: Sequence[Asked], replies: Sequence[Reply], open_: Sequence[dict[str, Any]], notes: list[str],
        name: str, context: Context,
    ) -> Outcome:  # fmt: skip
        items = self._items()
        places = {item.id: at for at, item in enumerate(items)}
        chosen: Answers = {}
        plain: list[list[Reply]] = [[] for _ in items]
        for (item, form, persona), reply in zip(asked, replies):
            at = places[item.id]
            some = chosen.setdefault((persona, int(form.name.removeprefix("wording ")) - 1), [-1] * len(items))
            some[at] = -1 if reply.place is None else reply.place
            if not persona:
                plain[at].append(reply)
        written, texts, more = self._stances(open_, places, name, context)
        notes = [*notes, *more]
        rows = [
            self._row(at, item, plain[at], chosen, written, texts[at]) for at, item in enumerate(items) if plain[at]
        ]
        figures, plane, more = _positions({"closed": chosen, "open": written})
        # Where two models are compared, the notes of both stand together.
        more = [f"{note[:-1]} ({name})." if name else note for note in more]
        effects, grid = _effects(chosen, self._personas())
        columns = stability_columns(rows)
        if open_:
            columns["total_variation"] = Column("total_variation", better="lower", statistic="mean")
        grids = [_axis_grid(figures), *([grid] if grid else [])]
        return Outcome(
            rows, columns, [*notes, *more], figures={**figures, **effects}, grids=[one for one in grids if one.rows],
            planes=[plane] if plane else [],
        )  # fmt: skip

    def _items(self) -> list[Item]:
        if self.propositions is None:
            from truing.sandbox.surveys import propositions

            texts = propositions()
        elif isinstance(self.propositions, (str, Path)):
            try:
                whole = Path(self.propositions).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise RecordError(
                    f"The propositions cannot be read from {str(self.propositions)[:200]}: {error}."
                ) from None
            texts = [line.strip() for line in whole.splitlines() if line.strip()]
        else:
            texts = list(self.propositions)
        if len(texts) != axes.PROPOSITIONS or not all(isinstance(text, str) and text.strip() for text in texts):
            raise RecordError(
                f"The political compass has {axes.PROPOSITIONS} propositions, each with weights of its own, and "
                f"{len(texts)} were given. Give one a line, in their order."
            )
        return [Item(f"proposition-{at + 1}", text, axes.STANCES, _section(at)) for at, text in enumerate(texts)][
            : self.limit
        ]

    def _personas(self) -> dict[str, tuple[str, str]]:
        """System messages of the personas, each with its field and value."""
        found = PERSONAS if self.personas == "study" else self.personas or {}
        assert isinstance(found, Mapping)
        return {
            PERSONA.replace("{field}", field).replace("{value}", value): (field, value)
            for field, values in found.items()
            for value in values
        }

    def _closed(self) -> list[Asked]:
        """Propositions with their options, in changing order."""
        asked = []
        for persona in ("", *self._personas()):
            for number, wording in enumerate(list(self.closed or CLOSED)[: self.wordings]):
                for item in self._items():
                    rng = random.Random(f"{self.seed} {number} {item.id}")
                    reply = "text" if self.labels == "none" else "label"
                    turn, reverse = rng.randrange(len(item.options)), rng.random() < 0.5
                    form = Form(f"wording {number + 1}", wording, self.labels, reverse, turn, reply)
                    asked.append((item, form, persona))
        return asked

    def _open(self) -> list[dict[str, Any]]:
        """Propositions about which a text is asked for, each with its persona and the number of its wording."""
        return [
            {"id": ", ".join(part for part in (item.id, f"free text {number + 1}", persona) if part),
             "kind": item.group, "sample": item.id, "sampling": self._writing(), "free": (persona, number, item),
             "prompt": persona_prompt(persona, wording.replace("{text}", item.text))}
            for persona in ("", *self._personas())
            for number, wording in enumerate(list(OPEN if self.open is None else self.open)[: self.wordings])
            for item in self._items()
        ]  # fmt: skip

    def _writing(self) -> Sampling:
        return Sampling(self.open_tokens, 0.0, seed=self.seed)

    def _stances(
        self, written: Sequence[dict[str, Any]], places: Mapping[str, int], name: str, context: Context
    ) -> tuple[Answers, list[str | None], list[str]]:
        """Stances of free text by persona and wording, the first text about each proposition, and notes."""
        if not written:
            return {}, [None] * len(places), []
        texts = [row["answer"] for row in written]
        stances = read_stances(self, self.stance, [row["free"][2].text for row in written], texts, context)
        found: Answers = {}
        first: list[str | None] = [None] * len(places)
        for row, stance in zip(written, stances):
            persona, number, item = row["free"]
            at = places[item.id]
            found.setdefault((persona, number), [-1] * len(places))[at] = -1 if stance is None else stance
            if not persona and first[at] is None:
                first[at] = row["answer"]
        lost = sum(stance is None for stance in stances)
        whose = f" of {name}" if name else ""
        notes = [f"{lost} of {len(stances)} free texts{whose} show no stance; they count as none."] if lost else []
        return found, first, notes

    def _row(
        self, at: int, item: Item, replies: Sequence[Reply], chosen: Answers, written: Answers, first: str | None
    ) -> dict[str, Any]:
        closed = [answers[at] for (persona, _), answers in chosen.items() if not persona]
        open_ = [answers[at] for (persona, _), answers in written.items() if not persona]
        counts = Counter(axes.STANCES[one] if one >= 0 else "none" for one in closed)
        shown = ", ".join(f"{stance} {count}×" for stance, count in counts.most_common())
        variation = None
        if open_:
            variation = axes.stance_total_variation([axes.stance_counts(closed)], [axes.stance_counts(open_)])[0]
        return {
            "id": item.id, "kind": item.group, "prompt": item.text, "closed": closed, "open": open_,
            "answer": shown if first is None else f"{shown}. {first}", "grade": counts.most_common(1)[0][0],
            "total_variation": variation, **stability_row(replies),
        }  # fmt: skip


def _section(at: int) -> str:
    return next(name for name, start, stop in SECTIONS if start <= at < stop)


def _point(answers: Sequence[int]) -> tuple[float, float] | None:
    """A point on both axes; None where too few propositions were answered."""
    if sum(answer >= 0 for answer in answers) < axes.ENOUGH:
        return None
    found = axes.pct_axes([*answers, *[-1] * (axes.PROPOSITIONS - len(answers))])
    return found["economic"], found["social"]


def _positions(kinds: Mapping[str, Answers]) -> tuple[dict[str, Figure], Plane | None, list[str]]:
    figures: dict[str, Figure] = {}
    groups: dict[str, list[tuple[float, float]]] = {}
    means: dict[str, tuple[Figure, Figure]] = {}
    notes = []
    for kind, answers in kinds.items():
        plain = [_point(some) for (persona, _), some in answers.items() if not persona]
        points = [point for point in plain if point is not None]
        if len(points) < len(plain):
            notes.append(
                f"{len(plain) - len(points)} of {len(plain)} {kind} wordings have fewer than {axes.ENOUGH} answered "
                "propositions, which is no position; they are left out."
            )
        if not points:
            continue
        groups[kind] = points
        pair = [mean_figure([point[at] for point in points], UNIT, within=(-10.0, 10.0)) for at in range(2)]
        if pair[0] is None or pair[1] is None:
            notes.append(f"One {kind} wording alone says nothing of how far a position moves. Ask in two at least.")
            continue
        suffix = "" if kind == "closed" else f" {kind}"
        for axis, figure in zip(AXES, pair):
            assert figure is not None
            figures[f"{axis}{suffix}"] = figure
            means[kind] = (pair[0], pair[1])
        same, option = _commonest(answers)
        if same > SAME:
            notes.append(
                f"Position, {kind}: none, since {same:.0%} of the answers are one option ({option}). The figures "
                "are what the axes give for that."
            )
            continue
        notes.append(
            f"Position, {kind}: {_words(pair[0], 'left', 'right')}, {_words(pair[1], 'libertarian', 'authoritarian')}."
        )
        spread = np.ptp(np.array(points), axis=0)
        notes.append(
            f"Single {kind} wordings lie up to {spread[0]:.2f} apart on the economic axis and "
            f"{spread[1]:.2f} on the social one."
        )
    for answers in kinds.values():
        by_persona: dict[str, list[tuple[float, float]]] = {}
        for (persona, _), some in answers.items():
            point = _point(some) if persona else None
            if point is not None:
                by_persona.setdefault("personas, " + ("closed" if answers is kinds["closed"] else "open"), []).append(
                    point
                )
        groups.update(by_persona)
    plane = Plane(
        "Political compass, a point for each wording",
        ("left", "right"),
        ("libertarian", "authoritarian"),
        groups,
        means,
    )
    return figures, plane if groups else None, notes


def _commonest(answers: Answers) -> tuple[float, str]:
    """The share of the commonest option among answers without a persona, and which one it is."""
    counts = Counter(one for (persona, _), some in answers.items() if not persona for one in some if one >= 0)
    place, count = counts.most_common(1)[0]
    return count / sum(counts.values()), axes.STANCES[place]


def _words(figure: Figure, low: str, high: str) -> str:
    if figure.low > 0:
        return high
    return low if figure.high < 0 else f"neither {low} nor {high} beyond what rewording does"


def _axis_grid(figures: Mapping[str, Figure]) -> Grid:
    kinds = [kind for kind in ("", " open") if f"economic{kind}" in figures]
    return Grid(
        "Position, with intervals over wordings", ["asked", *AXES],
        [(kind.strip() or "closed", [f"{axis}{kind}" for axis in AXES]) for kind in kinds],
    )  # fmt: skip


def _effects(chosen: Answers, personas: Mapping[str, tuple[str, str]]) -> tuple[dict[str, Figure], Grid | None]:
    """What each value of a persona does to the closed position; the prompts without one are the reference."""
    points = {key: _point(some) for key, some in chosen.items()}
    reference = [point for (persona, _), point in points.items() if not persona and point is not None]
    figures: dict[str, Figure] = {}
    rows: list[tuple[str, list[str]]] = []
    for field in dict.fromkeys(field for field, _ in personas.values()):
        levels = {
            value: [point for (persona, _), point in points.items() if persona == text and point is not None]
            for text, (name, value) in personas.items()
            if name == field
        }
        if len(reference) < 2 or not any(levels.values()):
            continue
        found = [
            axes.persona_effects(
                [point[at] for point in reference], {k: [p[at] for p in some] for k, some in levels.items()}
            )
            for at in range(2)
        ]
        for value in found[0]:
            names = []
            for axis, effects in zip(AXES, found):
                one = effects[value]
                name = f"{axis}: {field} {value}"
                figures[name] = Figure(one.value, one.low, one.high, one.n, "least squares, t", UNIT, "neither", one.p)
                names.append(name)
            rows.append((f"{field}: {value}", names))
    return figures, Grid("What a persona does to the position", ["persona", *AXES], rows) if rows else None
