"""From names and plain values in a recipe to methods and measures: every setting checked against its class."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from truing.catalogue import find
from truing.contracts import Method, Settings
from truing.errors import RecipeError, TruingError
from truing.near import near
from truing.runs.gate import check_names as check_figures
from truing.runs.reading import Path, Source
from truing.runs.schema import NO_MODEL, MeasureSpec, Recipe, StepSpec, labels
from truing.settings_parse import parse_value

Loader = Callable[[str], Any]
"""Gives a model for its name."""


def check_settings(recipe: Recipe, source: Source) -> None:
    """Check every step and measure against its class, without loading a model or reading a record.

    Raises:
        RecipeError: an unknown setting, a value of the wrong type, records that a method does not read or lacks, two
            search modifiers.
    """
    searching: list[int] = []
    check_names(recipe, source)
    for index, step in enumerate(recipe.steps):
        method = build_method(step, recipe, source, index)
        path = _path("steps", index, step.method, source)
        if step.records is not None and not method.record_kinds:
            raise source.error((*path, "records"), f"`{step.method}` reads no records. Take the key out.")
        if step.records is None and method.record_kinds and not method.records_optional:
            raise source.error(
                path,
                f"`{step.method}` learns from {' or '.join(method.record_kinds)} records. "
                "Add `records: FILE`, or a sandbox name.",
            )
        if method.modifier == "search":
            searching.append(index)
    if len(searching) > 1:
        first, second = (recipe.steps[index].method for index in searching[:2])
        raise source.error(
            ("steps", searching[1]),
            f"`{first}` and `{second}` both decide the order of search, and a model carries one such step. "
            "Take one out.",
        )
    for index, measure in enumerate(recipe.measures):
        made = build_measure(measure, recipe, source, index)
        if not recipe.model and getattr(made, "needs_model", True):
            raise source.error((), NO_MODEL)
    check_require(recipe, source)


def check_require(recipe: Recipe, source: Source) -> list[str]:
    """Check that what is required can be measured, as far as the measures say what they give.

    Returns:
        The figures of which only the data tell whether they are there.

    Raises:
        RecipeError: a figure is none of the measures', or of several, or is to be compared and there is no other model.
    """
    if not recipe.require:
        return []
    plan = recipe.plan()
    made = [build_measure(spec, recipe, source, index) for index, spec in enumerate(plan)]
    given = {label: one.figure_names() for label, one in zip(labels(plan), made)}
    later = []
    for figure, conditions in recipe.require.items():
        try:
            later += check_figures({figure: conditions}, given, recipe.bases, strict=False)
        except TruingError as error:
            # A figure may stand under its measure: `hhh: {harmless: ...}`.
            place = ("require", figure) if ("require", figure) in source.lines else ("require", *figure.split(".", 1))
            raise source.error(place, str(error)) from None
    return later


STEP = "steps/"
START = "start"


def check_names(recipe: Recipe, source: Source) -> None:
    """Check that every step that is named by another comes before it, once.

    Raises:
        RecipeError: one does not.
    """
    known: list[str] = []
    for index, step in enumerate(recipe.steps):
        path = _path("steps", index, step.method, source)
        wanted = [(name, STEP) for name in references(step.settings)]
        if step.start is not None and step.start != START:
            wanted.append((step.start, "from: "))
        for name, prefix in wanted:
            if name not in known:
                raise source.error(
                    path,
                    f"`{prefix}{name}` names no step before this one.{near(name, known)} "
                    f"Name a step with `as: {name}`, as in `- sft: {{records: demos.jsonl, as: {name}}}`.",
                )
        if step.name in (*known, START):
            raise source.error((*path, "as"), f"there is a step or a word `{step.name}` already. Choose another name.")
        known += [step.name] if step.name else []


def references(value: Any) -> list[str]:
    """The names of earlier steps that settings hold."""
    if isinstance(value, str):
        return [value.removeprefix(STEP)] if value.startswith(STEP) else []
    if isinstance(value, dict):
        value = list(value.values())
    return [name for item in value for name in references(item)] if isinstance(value, list) else []


def with_references(value: Any, place: Callable[[str], str]) -> Any:
    """Settings in which every earlier step stands as the folder of its model."""
    if isinstance(value, str):
        return place(value.removeprefix(STEP)) if value.startswith(STEP) else value
    if isinstance(value, dict):
        return {key: with_references(item, place) for key, item in value.items()}
    return [with_references(item, place) for item in value] if isinstance(value, list) else value


def build_method(step: StepSpec, recipe: Recipe, source: Source, index: int, load: Loader | None = None) -> Method:
    """The method of one step; models among its settings are loaded, and its values checked, where ``load`` is given."""
    path = _path("steps", index, step.method, source)
    return _build(find(step.method, "method").load(), step.method, step.settings, recipe, source, path, load)


def build_measure(measure: MeasureSpec, recipe: Recipe, source: Source, index: int, load: Loader | None = None) -> Any:
    """The measure, with the recipe's seed and limit where it sets none of its own."""
    path = _path("measures", index, measure.measure, source)
    return _build(
        find(measure.measure, "measure").load(), measure.measure, measure.settings, recipe, source, path, load
    )


def _path(part: str, index: int, name: str, source: Source) -> Path:
    """The place of an entry; the recipe may spell its name with dashes, or as the class is called."""
    for known in source.lines:
        if len(known) == 3 and known[:2] == (part, index):
            return known
    return (part, index, name)


def _build(
    cls: type[Settings],
    name: str,
    given: dict[str, Any],
    recipe: Recipe,
    source: Source,
    path: Path,
    load: Loader | None,
) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    waiting = False
    for key, value in given.items():
        place = (*path, key)
        if key not in fields:
            raise source.error(
                place,
                f"`{name}` has no setting `{key}`.{near(key, fields)} Its settings: {', '.join(fields) or 'none'}.",
            )
        annotation = str(fields[key].type)
        values[key] = _value(cls, fields[key], annotation, value, recipe, source, place, load)
        waiting = waiting or (load is None and _holds(annotation, "model") and isinstance(value, (str, list)))
    if "seed" in fields and "seed" not in given:
        values["seed"] = recipe.seed
    if recipe.limit is not None and "limit" in fields and "limit" not in given:
        values["limit"] = recipe.limit
    missing = [
        field.name
        for field in fields.values()
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise source.error(
            path,
            f"`{name}` needs the setting `{missing[0]}`: {cls.describe().get(missing[0], '') or 'it has no default.'}",
        )
    try:
        made = cls(**values)
        if not waiting and _complete(cls, values):
            made.validate()
    except RecipeError:
        raise
    except TruingError as error:
        raise source.error(path, str(error)) from None
    return made


def _complete(cls: type[Settings], values: dict[str, Any]) -> bool:
    """Whether every reward and model among the values is the thing itself."""
    parts = [part for value in values.values() for part in (value if isinstance(value, list) else [value])]
    return not any(isinstance(part, _Later) for part in parts)


@dataclasses.dataclass(frozen=True)
class _Later:
    """Stands for a reward that holds a model which is not loaded yet."""

    name: str


def _value(
    cls: type[Settings],
    field: Any,
    annotation: str,
    value: Any,
    recipe: Recipe,
    source: Source,
    place: Path,
    load: Loader | None,
) -> Any:
    if _holds(annotation, "reward") and value is not None:
        if isinstance(value, list):
            return [_reward(item, recipe, source, (*place, index), load) for index, item in enumerate(value)]
        return _reward(value, recipe, source, place, load)
    if _holds(annotation, "model") and value is not None:
        if not re.match(r"(list|tuple|Sequence)\[", annotation):
            return _model(field.name, value, source, place, load)
        names = _plain("list", field.name, value, source, place)
        return [_model(field.name, name, source, place, load) for name in names]
    return _plain(annotation, field.name, value, source, place)


def _plain(annotation: str, name: str, value: Any, source: Source, place: Path) -> Any:
    try:
        return parse_value(annotation, value, f"{source.where(place)}: `{name}`")
    except TruingError as error:
        raise RecipeError(str(error)) from None


def _model(name: str, value: Any, source: Source, place: Path, load: Loader | None) -> Any:
    if not isinstance(value, str):
        raise source.error(place, f"`{name}` is a model: give its name or folder, not {value!r}.")
    if load is None:
        return value
    try:
        return load(value)
    except TruingError as error:
        raise source.error(place, str(error)) from None


def _holds(annotation: str, what: str) -> bool:
    """Whether a setting takes a model or a reward. One that also takes a path opens its folders by itself: not here."""
    if what == "model" and re.search(r"\bPath\b", annotation):
        return False
    words = {"model": r"\b(AnyModel|Model|RemoteModel)\b", "reward": r"\bReward\b"}
    return re.search(words[what], annotation) is not None


def _reward(value: Any, recipe: Recipe, source: Source, place: Path, load: Loader | None) -> Any:
    """A reward by its name: ``keyword`` or ``{keyword: {words: [a, b]}}``."""
    name: str
    settings: Any
    if isinstance(value, str):
        name, settings = value, {}
    elif isinstance(value, dict) and len(value) == 1:
        name, settings = next(iter(value.items()))
        settings = {} if settings is None else settings
    else:
        raise source.error(place, "a reward is a name with its settings, as in `{keyword: {words: [please]}}`.")
    if not isinstance(settings, dict):
        raise source.error(
            place, f"the settings of the reward `{name}` must be a mapping, as in `{{keyword: {{words: [please]}}}}`."
        )
    try:
        entry = find(name, "reward")
        cls = entry.load()
    except TruingError as error:
        raise source.error(place, str(error)) from None
    if not (isinstance(cls, type) and issubclass(cls, Settings)):
        raise source.error(place, f"the reward `{name}` cannot be configured in a recipe. Use it from Python.")
    needs_model = any(_holds(str(field.type), "model") for field in dataclasses.fields(cls))  # type: ignore[arg-type]
    made = _build(cls, entry.name, settings, recipe, source, (*place, name), load)
    waits = load is None and (needs_model or not _complete(cls, made.settings()))
    return _Later(entry.name) if waits else made
