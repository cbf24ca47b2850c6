"""Asking a survey in several forms, and what its numbers are worth: how much they move when only the form changes.

Every answer is kept by content, as a place on the item's own scale, whatever order, labels and words it was asked in.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import is_whole, require, require_seed
from truing.errors import RecordError
from truing.measures import intervals, statistics
from truing.measures.asking import AskAndGrade, Context, asked_for, check_limit, search_notes, without_search
from truing.measures.choosing import LETTERS, READINGS, REPLY, by_probability
from truing.measures.options import WAYS, known_scores, read_choice
from truing.measures.result import Column, Figure
from truing.models.types import Sampling

if TYPE_CHECKING:
    from truing.models import AnyModel

REPLIES = {
    "letters": REPLY,
    "numbers": "Answer with the number of one option alone.",
    "text": "Answer with one of the options, word for word.",
}


@dataclasses.dataclass(frozen=True)
class Item:
    """One question of a survey.

    Args:
        id: its name.
        text: what is asked, or said.
        options: on one scale, from its low end to its high end.
        group: what it belongs to: a value, a section.
    """

    id: str
    text: str
    options: tuple[str, ...]
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Form:
    """A way of asking.

    Args:
        name: for tables.
        wording: with ``{text}`` where the question stands.
        labels: "letters" or "numbers" before the options, or "none".
        reverse: options from the high end of the scale to its low end.
        turn: by how many places the options are turned round.
        reply: "label" or "text".
    """

    name: str
    wording: str = "{text}"
    labels: str = "letters"
    reverse: bool = False
    turn: int = 0
    reply: str = "label"

    def order(self, count: int) -> list[int]:
        """Which option of the scale stands in each place."""
        places = list(range(count))[:: -1 if self.reverse else 1]
        turn = self.turn % count
        return places[turn:] + places[:turn]

    def asked(self, item: Item) -> str:
        """The whole question as text."""
        order = self.order(len(item.options))
        labels = self._labels(len(order))
        lines = [
            f"{label}. {item.options[at]}" if label else f"- {item.options[at]}" for label, at in zip(labels, order)
        ]
        head = self.wording.replace("{text}", item.text)
        return "\n".join([head, *lines, REPLIES["text" if self.reply == "text" else self.labels]])

    def labels_of(self, item: Item) -> list[str]:
        """The label of each option, in the order of the scale; empty without labels."""
        if self.labels == "none":
            return []
        order = self.order(len(item.options))
        by_option = dict(zip(order, self._labels(len(order))))
        return [by_option[at] for at in range(len(order))]

    def replies(self, item: Item) -> list[str]:
        """What the answer to each option would be, in the order of the scale."""
        return list(item.options) if self.reply == "text" else self.labels_of(item)

    def _labels(self, count: int) -> list[str]:
        if self.labels == "none":
            return [""] * count
        return list(LETTERS[:count]) if self.labels == "letters" else [str(at + 1) for at in range(count)]


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model answered to an item in one form.

    Args:
        place: the option chosen, by its place on the scale; None where the answer could not be read.
        level: the expected place over the length of the scale, from 0 to 1; None likewise.
        mass: how much of the model's probability lay on the options; None of a written answer.
        text: the written answer, or the option's words.
    """

    place: int | None
    level: float | None
    mass: float | None
    text: str


Asked = tuple[Item, Form, str]
"""An item, its form, and the persona that answers: a system message, or empty for none."""


class Surveying(AskAndGrade):
    """Base of measures that ask a survey.

    Args:
        reading: "probabilities" of the options (a local model), "written" answers read by rule, or "auto": the first
            where the model has it.
        by: how options of several tokens are compared: "sum", "token" (mean a token) or "byte".
        limit: at most that many items, from the start; None for all.
        max_new_tokens: most tokens of a written answer.
        seed: of bootstrap intervals, of permutations and of whatever else is drawn.
    """

    reading: str = "auto"
    by: str = "sum"
    limit: int | None = None
    max_new_tokens: int = 32
    seed: int = 0
    readings: ClassVar[tuple[str, ...]] = READINGS

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.reading in self.readings, f"reading is {', '.join(self.readings)}, not {self.reading!r}.")
        require(self.by in WAYS, f"by is {', '.join(WAYS)}, not {self.by!r}.")
        check_limit(self.limit)
        require(
            is_whole(self.max_new_tokens) and self.max_new_tokens >= 1,
            f"max_new_tokens is a number of at least 1, not {self.max_new_tokens!r}.",
        )
        require_seed(self.seed)

    def sampling(self) -> Sampling:
        """How written answers are sampled."""
        return Sampling(self.max_new_tokens, 0.0, seed=self.seed)

    def reads(self, model: AnyModel) -> str:
        """ "probabilities" or "written" for this model."""
        return "probabilities" if by_probability(model, self.reading) else "written"

    def replies(self, model: AnyModel, asked: Sequence[Asked], context: Context) -> tuple[list[Reply], list[str]]:
        """A reply to each item in its form, as a persona, and notes."""
        questions = [question(*one) for one in asked]
        if self.reads(model) == "probabilities":
            policy = without_search(model)
            prompts = [row["prompt"] for row in questions]
            scored = known_scores(policy, prompts, [form.replies(item) for item, form, _ in asked], context)
            found = []
            for (item, _, _), one in zip(asked, scored):
                weights = one.probabilities(self.by)
                place = int(weights.argmax())
                level = float(weights @ np.arange(len(weights))) / max(1, len(weights) - 1)
                found.append(Reply(place, level, one.mass, item.options[place]))
            return found, search_notes("The survey's answer", model)
        return written_replies(asked_for(model, questions, self.sampling(), context), f" of {model.name}")


def persona_prompt(persona: str, text: str) -> list[dict[str, Any]]:
    """A question to a persona: a system message, or none where it is empty."""
    return [*([{"role": "system", "content": persona}] if persona else []), {"role": "user", "content": text}]


def question(item: Item, form: Form, persona: str) -> dict[str, Any]:
    """An item in its form as a question of an `AskAndGrade`, which knows what was ``asked``."""
    return {
        "id": ", ".join(part for part in (item.id, form.name, persona) if part), "kind": item.group, "sample": item.id,
        "prompt": persona_prompt(persona, form.asked(item)), "asked": (item, form, persona),
    }  # fmt: skip


def written_replies(answered: Sequence[dict[str, Any]], whose: str = "") -> tuple[list[Reply], list[str]]:
    """What answered questions say, and a note of those that could not be read."""
    found = []
    for row in answered:
        item, form, _ = row["asked"]
        at = read_choice(row["answer"], item.options, form.labels_of(item), cut=row["cut"])
        found.append(Reply(at, None if at is None else at / max(1, len(item.options) - 1), None, row["answer"]))
    lost = sum(reply.place is None for reply in found)
    if not lost:
        return found, []
    return found, [
        f"{lost} of {len(found)} answers{whose} could not be read as one of the options; they count for nothing."
    ]


# --- what a number is worth -------------------------------------------------------------------------------------------

STABILITY = {
    "agreement": Column("agreement", statistic="mean"),
    "shift": Column("shift", unit="of the scale", better="lower", statistic="mean", bounds=(0.0, 1.0)),
    "answered": Column("answered", statistic="mean"),
}
"""Figures of `stability_row`: over items, so that two models are compared on the same ones."""


def stability_row(replies: Sequence[Reply]) -> dict[str, float | None]:
    """What rewording does to one item: a value for each column of `STABILITY`, and for ``level``.

    ``agreement`` is the share of pairs of forms in which the same option is chosen, ``shift`` the mean distance of two
    forms' expected places over the length of the scale, ``answered`` the share of forms with an answer that could be
    read, ``mass`` the mean probability that lay on the options (of answers by probability), and ``level`` the mean
    expected place. An item with fewer than two answers has no agreement and no shift.
    """
    read = [reply for reply in replies if reply.place is not None]
    levels = [reply.level for reply in read if reply.level is not None]
    pairs = list(itertools.combinations(read, 2))
    masses = [reply.mass for reply in read if reply.mass is not None]
    return {
        "mass": sum(masses) / len(masses) if masses else None,
        "agreement": sum(one.place == other.place for one, other in pairs) / len(pairs) if pairs else None,
        "shift": (
            sum(abs((one.level or 0.0) - (other.level or 0.0)) for one, other in pairs) / len(pairs) if pairs else None
        ),
        "answered": len(read) / len(replies) if replies else None,
        "level": sum(levels) / len(levels) if levels else None,
    }


def stability_columns(rows: Sequence[dict[str, Any]]) -> dict[str, Column]:
    """`STABILITY`, with ``mass`` where answers were taken by probability."""
    by_probability = any(row["mass"] is not None for row in rows)
    mass = {"mass": Column("mass", better="neither", statistic="mean")} if by_probability else {}
    return {**STABILITY, **mass}


def mean_figure(
    values: Sequence[float], unit: str, *, better: str = "neither", clusters: Sequence[Any] | None = None,
    seed: int = 0, within: tuple[float, float] | None = None,
) -> Figure | None:  # fmt: skip
    """A mean with its interval over the values or their clusters, cut to what is possible; None below two of them."""
    found = statistics.mean(values, clusters=clusters, seed=seed, bounds=within) if len(values) else None
    return None if found is None else Figure(*found[:5], unit=unit, better=better)


def resampled_figure(
    value: float,
    draws: Sequence[float] | np.ndarray,
    n: int,
    unit: str,
    *,
    better: str = "neither",
    method: str = "bootstrap",
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Figure | None:
    """A statistic with the percentiles of its values in resamples, cut to what is possible; None where they allow
    none.
    """
    if n < 2 or not np.isfinite(value):
        return None
    low, high = intervals.percentiles(np.asarray(draws, dtype=np.float64), n)
    if not np.isfinite(low + high):
        return None
    low, high = max(within[0], min(low, value)), min(within[1], max(high, value))
    return Figure(value, low, high, n, method, unit, better)


def drawn_rows(n: int, draws: int, seed: int) -> np.ndarray:
    """Numbers of rows of each resample, [draws, n]."""
    return np.random.default_rng(seed).integers(0, n, size=(draws, n))


# --- the user's own items ---------------------------------------------------------------------------------------------


def plain_rows(source: Any, what: str) -> list[dict[str, Any]]:
    """Rows of a JSON, JSONL or YAML file, of several such files, or as given; each knows its file's name as ``file``.

    Raises:
        RecordError: a file is absent or cannot be read, or holds no objects.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            return plain_rows(sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES), what)
        return [{"file": path.stem, **row} for row in _file_rows(path, what)]
    rows: list[dict[str, Any]] = []
    for one in source:
        if isinstance(one, (str, Path)):
            rows += plain_rows(one, what)
        elif isinstance(one, dict):
            rows.append(one)
        else:
            raise RecordError(f"{what} reads rows that are objects, got {type(one).__name__}.")
    if not rows:
        raise RecordError(f"{what} was given no row.")
    return rows


_SUFFIXES = (".json", ".jsonl", ".yaml", ".yml")


def _file_rows(path: Path, what: str) -> list[dict[str, Any]]:
    import json

    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            found: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif path.suffix in (".yaml", ".yml"):
            found = yaml.safe_load(text)
        else:
            found = json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecordError(f"{what} cannot read {str(path)[:200]}: {error}.") from None
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise RecordError(f"{what} reads a list of objects, and {str(path)[:200]} holds none.")
    return found


def text_of(row: dict[str, Any], name: str, where: str) -> str:
    """A text column of a row.

    Raises:
        RecordError: it is absent, empty, or no text.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RecordError(f"{where}: the column `{name}` is a text that is not empty, not {str(value)[:60]!r}.")
    return value


def scale_of(row: dict[str, Any], where: str, default: Sequence[str] = ()) -> tuple[str, ...]:
    """The options of a row, at least two different texts.

    Raises:
        RecordError: they are no such list.
    """
    value = row.get("options", list(default))
    fits = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
    if not fits or len(value) < 2 or len(set(value)) < len(value) or len(value) > len(LETTERS):
        raise RecordError(
            f"{where}: `options` is a list of 2 to {len(LETTERS)} different texts, not {str(value)[:80]!r}."
        )
    return tuple(value)
