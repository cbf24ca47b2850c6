"""Suites: folders of YAML and JSONL that anyone can write, read and checked; a fault names its file, line and field."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from truing.errors import RecordError
from truing.measures.choosing import LETTERS, REPLY
from truing.measures.normalise import known_script, normalise
from truing.near import near

FILE = "suite.yaml"
GRADES = ("options", "exact", "judge", "refusal")
ORIGINS = ("written", "translated", "synthetic", "collected")
MATCHES = ("inside", "whole")


@dataclasses.dataclass(frozen=True)
class SetOf:
    """Items of one origin and purpose within a dimension.

    Args:
        name: a word; its figure is ``DIMENSION_NAME``.
        title: for people, in the suite's language.
        grade: "options" (the right one of several is taken), "exact" (one of the answers is said), "judge" (a question
            about the answer), "refusal" (the answer declines).
        question: what the judge is asked.
        good: the judge's reply that is good.
        unclear: whether the judge may say "unclear", which counts half.
        match: for "exact": "inside" (the answer holds it as whole words) or "whole".
        shown: for "options": whether they are shown with letters, or scored unseen where probabilities are read.
    """

    name: str
    title: str
    grade: str
    question: str = ""
    good: str = "yes"
    unclear: bool = False
    match: str = "inside"
    shown: bool = True


@dataclasses.dataclass(frozen=True)
class SuiteItem:
    """One question; see `docs/suites.md` for the fields of its row."""

    id: str
    dimension: str
    set: str
    prompt: Any
    origin: str
    category: str
    choices: tuple[str, ...] = ()
    target: int | None = None
    answers: tuple[str, ...] = ()
    expected: str = ""
    source_id: str = ""


@dataclasses.dataclass(frozen=True)
class Dimension:
    """What a suite reports on: a figure of its name, the mean of its sets.

    Args:
        name: a word.
        title: for people, in the suite's language.
        sets: by name.
        control: harmless requests, whose figure is how often they are refused; no part of the total.
    """

    name: str
    title: str
    sets: dict[str, SetOf]
    control: bool = False


@dataclasses.dataclass(frozen=True)
class SuiteFolder:
    """A suite as it was read.

    Args:
        name, title, version, language, culture, licence, about: as its file says.
        direction: "ltr" or "rtl".
        script: the Unicode script that answers are written in; empty where it is not checked.
        system: a system text before every question, or empty.
        reply: how to answer a question with options.
        letters: labels of options.
        refusals: words that decline, in its language.
        dimensions: by name.
        items: all of them, dimension by dimension.
    """

    name: str
    title: str
    version: str
    language: str
    direction: str
    licence: str
    culture: str
    about: str
    script: str
    system: str
    reply: str
    letters: tuple[str, ...]
    refusals: tuple[str, ...]
    dimensions: dict[str, Dimension]
    items: tuple[SuiteItem, ...]

    def cells(self) -> dict[tuple[str, str, str], int]:
        """How many items each dimension, category and origin has, empty cells included."""
        counts = Counter((item.dimension, item.category, item.origin) for item in self.items)
        return {
            (name, category, origin): counts[name, category, origin]
            for name in self.dimensions
            for category in sorted({item.category for item in self.items if item.dimension == name})
            for origin in sorted({item.origin for item in self.items})
        }

    def doubles(self) -> list[tuple[str, str]]:
        """Pairs of items of one dimension whose questions are the same but for letters and signs."""
        seen: dict[tuple[str, str], str] = {}
        found = []
        for item in self.items:
            key = (item.dimension, normalise(str(item.prompt)).casefold())
            if key in seen:
                found.append((seen[key], item.id))
            seen.setdefault(key, item.id)
        return found


def ready() -> dict[str, Path]:
    """Suites that come with the package, by name."""
    folder = Path(str(resources.files("truing").joinpath("data/suites")))
    return {path.name: path for path in sorted(folder.iterdir()) if (path / FILE).is_file()}


def read_suite(path: str | Path) -> SuiteFolder:
    """A suite from its folder, or a ready one by its name.

    Raises:
        RecordError: there is none, or something in it cannot work; the message names file, line and field.
    """
    folder = Path(path)
    if not (folder / FILE).is_file():
        known = ready()
        if str(path) in known:
            folder = known[str(path)]
        else:
            what = f"has no {FILE}" if folder.is_dir() else "is no folder"
            raise RecordError(
                f"{str(path)[:200]} {what}, and no ready suite has that name. Give a folder with {FILE}, or one of: "
                f"{', '.join(known)}."
            )
    held = _Fields(_mapping(folder / FILE), str(folder / FILE))
    held.known(_FIELDS)
    dimensions: dict[str, Dimension] = {}
    items: list[SuiteItem] = []
    script = held.text("script", "")
    if script and not known_script(script):
        held.wrong("script", "a Unicode script, as in Arabic, Latin or Devanagari")
    letters = tuple(held.texts("letters", list(LETTERS)))
    if len(set(letters)) < len(letters):
        held.wrong("letters", "a list of different labels")
    for number, row in enumerate(held.rows("dimensions"), 1):
        one, more = _dimension(row, f"{folder / FILE}, dimension {number}", folder, len(letters))
        if one.name in dimensions:
            raise RecordError(f"{folder / FILE}, dimension {number}: field `name`: `{one.name}` stands twice.")
        dimensions[one.name] = one
        items += more
    repeated = [name for name, times in Counter(item.id for item in items).items() if times > 1]
    if repeated:
        raise RecordError(f"{folder}: field `id`: two items have the id `{repeated[0][:60]}`. Give each its own.")
    return SuiteFolder(
        held.text("name"), held.text("title", held.text("name")), held.text("version"), held.text("language"),
        held.one_of("direction", ("ltr", "rtl"), "ltr"), held.text("licence"), held.text("culture", ""),
        held.text("about", ""), script, held.text("system", ""), held.text("reply", REPLY), letters,
        tuple(held.texts("refusals", [])), dimensions, tuple(items),
    )  # fmt: skip


_FIELDS = (
    "name", "title", "version", "language", "direction", "licence", "culture", "about", "script", "system", "reply",
    "letters", "refusals", "dimensions",
)  # fmt: skip
_GRADED = ("grade", "question", "good", "unclear", "match", "shown")
_ROW = (
    "id", "set", "prompt", "origin", "category", "choices", "target", "answers", "expected", "source_id", "note",
)  # fmt: skip


def _dimension(row: dict[str, Any], where: str, folder: Path, most: int) -> tuple[Dimension, list[SuiteItem]]:
    held = _Fields(row, where)
    held.known(("name", "title", "items", "sets", "control", *_GRADED))
    name = held.word("name")
    control = held.flag("control", False)
    plain = {key: value for key, value in row.items() if key in _GRADED}
    sets: dict[str, SetOf] = {}
    for number, one in enumerate(held.rows("sets"), 1):
        made = _set({**plain, **one}, f"{where}, set {number}")
        if made.name in sets:
            raise RecordError(f"{where}, set {number}: field `name`: `{made.name}` stands twice.")
        if control and made.grade not in ("refusal", "judge"):
            raise RecordError(f"{where}, set {number}: field `grade` of a control is refusal or judge.")
        sets[made.name] = made
    files = held.value("items")
    several = files if isinstance(files, list) else [files]
    if not several or not all(isinstance(one, str) and re.fullmatch(r"[\w.-]+\.jsonl", one) for one in several):
        held.wrong("items", "the name of a .jsonl file in the suite's folder, or several")
    items = [item for file in several for item in _items(folder / file, name, sets, most)]
    bare = [name for name in sets if all(item.set != name for item in items)]
    if bare:
        raise RecordError(f"{where}: field `sets`: `{bare[0]}` has no item. Add some, or leave the set out.")
    return Dimension(name, held.text("title", name), sets, control), items


def _set(row: dict[str, Any], where: str) -> SetOf:
    held = _Fields(row, where)
    held.known(("name", "title", "about", *_GRADED))
    name, grade = held.word("name"), held.one_of("grade", GRADES)
    if grade == "judge" and not held.text("question", ""):
        held.wrong("question", "what the judge is asked about an answer")
    return SetOf(
        name, held.text("title", name), grade, held.text("question", ""), held.one_of("good", ("yes", "no"), "yes"),
        held.flag("unclear", False), held.one_of("match", MATCHES, "inside"), held.flag("shown", True),
    )  # fmt: skip


def _items(path: Path, dimension: str, sets: dict[str, SetOf], most: int) -> list[SuiteItem]:
    found = []
    for number, row in _lines(path):
        held = _Fields(row, f"{path}, line {number}")
        held.known(_ROW)
        of = held.one_of("set", tuple(sets))
        item = SuiteItem(
            held.text("id"), dimension, of, _prompt(held), held.one_of("origin", ORIGINS), held.text("category"),
            tuple(held.texts("choices", [])), None, tuple(held.texts("answers", [])), held.text("expected", ""),
            held.text("source_id", ""),
        )  # fmt: skip
        grade = sets[of].grade
        if grade == "options":
            if not 2 <= len(item.choices) <= most or len(set(item.choices)) < len(item.choices):
                held.wrong("choices", f"a list of 2 to {most} different texts")
            item = dataclasses.replace(item, target=_target(held, item.choices))
        if grade == "exact" and not item.answers:
            held.wrong("answers", "a list of right answers")
        found.append(item)
    return found


def _prompt(held: _Fields) -> Any:
    from truing.errors import UnsupportedError
    from truing.models.chat import as_messages

    value = held.value("prompt")
    try:
        told = as_messages(value)
    except (RecordError, UnsupportedError) as error:
        raise RecordError(f"{held.where}: field `prompt`: {error}") from None
    if not all(message["content"].strip() for message in told):
        held.wrong("prompt", "a text that is not empty, or messages")
    return value


def _target(held: _Fields, choices: Sequence[str]) -> int:
    value = held.value("target")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return value
    if isinstance(value, str) and value in choices:
        return list(choices).index(value)
    held.wrong("target", "the right one of the choices, as a text or its place from 0")
    raise AssertionError


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path} cannot be read: {error}. It is a file of JSON objects in UTF-8, one a line."
        ) from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{path}, line {number}: no JSON: {error}.") from None
        if not isinstance(row, dict):
            raise RecordError(f"{path}, line {number}: a line is a JSON object, not {str(row)[:60]!r}.")
        found.append((number, row))
    if not found:
        raise RecordError(f"{path} holds no item.")
    return found


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecordError(f"{path}, line {line}: no YAML: {error.problem}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecordError(f"{path} cannot be read: {error}.") from None
    if not isinstance(held, dict):
        raise RecordError(f"{path} holds no fields. It begins with `name:`, `language:`, and so on.")
    return held


@dataclasses.dataclass(frozen=True)
class _Fields:
    """Fields of one mapping, and where it stands."""

    row: dict[str, Any]
    where: str

    def known(self, names: Sequence[str]) -> None:
        for field in self.row:
            if field not in names:
                raise RecordError(
                    f"{self.where}: there is no field `{str(field)[:40]}`.{near(str(field), names)} "
                    f"Fields: {', '.join(names)}."
                )

    def wrong(self, field: str, wanted: str) -> None:
        given = self.row.get(field)
        shown = "it is missing" if field not in self.row else f"it is {str(given)[:60]!r}"
        raise RecordError(f"{self.where}: field `{field}` is {wanted}; {shown}.")

    def value(self, field: str) -> Any:
        if field not in self.row:
            raise RecordError(f"{self.where}: field `{field}` is missing.")
        return self.row[field]

    def text(self, field: str, default: str | None = None) -> str:
        value = self.row.get(field, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or (not value.strip() and default is None):
            self.wrong(field, "a text that is not empty")
        return str(value).strip()

    def word(self, field: str) -> str:
        value = self.text(field)
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", value):
            self.wrong(field, "a name of small Latin letters, digits and low lines")
        return value

    def texts(self, field: str, default: list[str]) -> list[str]:
        value = self.row.get(field, default)
        if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
            self.wrong(field, "a list of texts that are not empty")
        return list(value)

    def one_of(self, field: str, names: Sequence[str], default: str | None = None) -> str:
        value = self.row.get(field, default)
        if isinstance(value, bool):
            # YAML reads a bare yes and no as true and false.
            value = "yes" if value else "no"
        if value not in names:
            self.wrong(field, f"one of {', '.join(names)}")
        return str(value)

    def flag(self, field: str, default: bool) -> bool:
        value = self.row.get(field, default)
        if not isinstance(value, bool):
            self.wrong(field, "true or false")
        return bool(value)

    def rows(self, field: str) -> list[dict[str, Any]]:
        value = self.row.get(field)
        if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
            self.wrong(field, "a list of at least one entry with fields")
        return list(value or [])
