"""What a recipe may say, checked before any work; every error names the line and suggests the nearest key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from truing.errors import RecipeError, TruingError
from truing.near import near
from truing.runs.gate import BASE, as_require
from truing.runs.overrides import apply_overrides
from truing.runs.reading import Source, read_text

SIDE_EFFECTS = ("capability", "over_refusal", "length", "diversity", "kl")
"""Measured in every run unless the recipe says ``side_effects: false``."""

STEP_KEYS = ("records", "as", "from")
"""Keys of a step that are no settings of its method."""

RECORD_KEYS = ("path", "kind", "format", "limit", "seed", "on_error", "tags")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RecordsSpec(_Strict):
    """Where a step's records come from.

    Args:
        path: a file, a folder, a hub name, or a sandbox name (``sandbox/preferences``).
        kind: the kind of record, where it cannot be recognised.
        format: how the rows are written (``hh``, ``sharegpt``, ...), where it cannot be recognised.
        limit: take that many rows, chosen by the seed.
        seed: of that choice; the recipe's by default.
        on_error: "raise" or "set_aside" for rows that are not what the kind asks for.
        tags: places on the maps of `truing coverage` that these records speak for (``goals/goal/values/hhh``).
    """

    path: str = Field(min_length=1)
    kind: str | None = None
    format: str | None = None
    limit: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    on_error: str = Field(default="raise", pattern="^(raise|set_aside)$")
    tags: tuple[str, ...] = ()


class StepSpec(_Strict):
    """One step: a method of the catalogue, its records, its settings.

    Args:
        method: its name in the catalogue.
        records: what it learns from.
        settings: its hyperparameters. A model among them may be that of an earlier step: ``steps/NAME``.
        name: what later steps call its model (``as: NAME`` in a recipe).
        start: the model that it starts from (``from: NAME``): that of an earlier step, or ``start``; the step before
            by default.
    """

    method: str
    records: RecordsSpec | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    start: str | None = None


class MeasureSpec(_Strict):
    """One measure of the catalogue with its settings; ``side_effect`` when the run added it by itself."""

    measure: str
    settings: dict[str, Any] = Field(default_factory=dict)
    side_effect: bool = False


NO_MODEL = "the recipe names no `model`. Say what to start from, as in `model: sandbox/base`."


class Recipe(_Strict):
    """A checked recipe.

    Args:
        model: what to start from: a sandbox name, a folder, a hub name, or a remote model; empty where only given data
            are measured.
        steps: what is done to it, in order.
        measures: how one knows; measured on the last model and on what it is compared with.
        name, description: for people.
        against: another model to compare with; the start model by default.
        seed: the seed of every step and measure that sets none of its own.
        limit: at most that many items for every measure that sets no limit of its own.
        side_effects: also measure capability, over-refusal, length, diversity and KL to the start.
        measure_each_step: measure after each step, not only at the end.
        require: what the last model must fulfil: figure (``name`` or ``measure.name``) to conditions, such as
            ``>= 0.95`` or ``not worse than base by 0.02``; ``truing check`` tests them.
        report: the report's file name inside the run folder, or false for none.
        dtype, device: how models are loaded; chosen by themselves when absent.
        trust_remote_code: allow code that comes with a model.
    """

    model: str = ""
    steps: tuple[StepSpec, ...] = ()
    measures: tuple[MeasureSpec, ...] = ()
    name: str = ""
    description: str = ""
    against: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    limit: int | None = Field(default=None, ge=1)
    side_effects: bool = True
    measure_each_step: bool = False
    require: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    report: str | bool = "report.html"
    dtype: str | None = None
    device: str | None = None
    trust_remote_code: bool = False

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default written out: what a run folder remembers and compares."""
        return self.model_dump(mode="json")

    def all_measures(self) -> tuple[MeasureSpec, ...]:
        """The recipe's measures, then the side effects that it does not name itself."""
        named = {measure.measure for measure in self.measures}
        added = [name for name in SIDE_EFFECTS if name not in named] if self.side_effects else []
        return (*self.measures, *(MeasureSpec(measure=name, side_effect=True) for name in added))

    @property
    def bases(self) -> tuple[str, ...]:
        """Names of the model that the last one is compared with; none where nothing is compared."""
        if not self.steps and self.against is None:
            return ()
        return (BASE, self.against or self.model)

    def plan(self) -> tuple[MeasureSpec, ...]:
        """What is measured: side effects too where there is another model to compare with."""
        return self.all_measures() if self.bases else self.measures


def labels(plan: Sequence[MeasureSpec]) -> list[str]:
    """What each measure is called in a run: its name, numbered from the second of a name on."""
    used: dict[str, int] = {}
    found = []
    for spec in plan:
        used[spec.measure] = used.get(spec.measure, 0) + 1
        found.append(spec.measure if used[spec.measure] == 1 else f"{spec.measure}-{used[spec.measure]}")
    return found


FIELDS = tuple(Recipe.model_fields)


def parse(text: str, name: str = "recipe", overrides: Sequence[str] = ()) -> tuple[Recipe, Source]:
    """Read a recipe, with overrides applied, and check all that can be checked without loading a model.

    Raises:
        RecipeError: something in it cannot work; the message names the line.
    """
    from truing.runs.resolve import check_settings

    source = read_text(text, name)
    apply_overrides(source, overrides, FIELDS)
    recipe = _shape(source)
    check_settings(recipe, source)
    return recipe, source


def parse_file(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Source]:
    """`parse` for a file in UTF-8."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: the recipe cannot be read: {error}.") from None
    return parse(text, path.name, overrides)


def _shape(source: Source) -> Recipe:
    value = source.value
    if not isinstance(value, dict):
        what = "is empty" if value is None else f"holds {_kind(value)}"
        raise source.error((), f"the recipe {what}. A recipe is a mapping with at least the key `model`.")
    shaped = dict(value)
    # Before pydantic looks, so that a misspelt key is suggested and not buried among other errors.
    for key in value:
        if key not in FIELDS:
            raise source.error(
                (key,), f"a recipe has no key `{key}`.{near(key, FIELDS)} Its keys: {', '.join(FIELDS)}."
            )
    if "model" in value and value["model"] in ("", None):
        raise source.error(("model",), "`model` is empty. Say what to start from, as in `model: sandbox/base`.")
    if "model" not in value and (value.get("steps") or value.get("against") or not value.get("measures")):
        raise source.error((), NO_MODEL)
    shaped["steps"] = tuple(
        _step(source, index, item) for index, item in enumerate(_items(source, "steps", "dpo: {records: pairs.jsonl}"))
    )
    shaped["measures"] = tuple(
        _measure(source, index, item) for index, item in enumerate(_items(source, "measures", "hhh"))
    )
    shaped["require"] = _require(source)
    shaped = {key: item for key, item in shaped.items() if item is not None}
    try:
        recipe = Recipe.model_validate(shaped)
    except ValidationError as error:
        raise _translated(source, error, ()) from None
    if isinstance(recipe.report, str) and (
        Path(recipe.report).name != recipe.report or not recipe.report.endswith(".html")
    ):
        raise source.error(
            ("report",),
            f"the report lies in the run folder: give a plain file name ending in .html, not {recipe.report!r}.",
        )
    if recipe.report is True:
        recipe = recipe.model_copy(update={"report": "report.html"})
    return recipe


def _require(source: Source) -> dict[str, tuple[str, ...]]:
    given = source.value.get("require")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise source.error(("require",), f"`require` maps figures to conditions, and is {_kind(given)}.")
    found: dict[str, tuple[str, ...]] = {}
    for figure, conditions in given.items():
        try:
            found.update(as_require({figure: conditions}))
        except TruingError as error:
            raise source.error(("require", figure), str(error)) from None
    return found


def _items(source: Source, key: str, example: str) -> list[Any]:
    items = source.value.get(key)
    if items is None:
        return []
    if not isinstance(items, list):
        raise source.error((key,), f"`{key}` must be a list, one entry a line (`- {example}`), and is {_kind(items)}.")
    return items


def _entry(source: Source, part: str, index: int, item: Any, example: str) -> tuple[str, dict[str, Any]]:
    """The name and settings of ``name``, ``name:`` or ``name: {...}``."""
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, dict) or len(item) != 1:
        found = f"{len(item)} keys ({', '.join(item)})" if isinstance(item, dict) else _kind(item)
        raise source.error(
            (part, index), f"an entry of `{part}` is one name with its settings, as in `- {example}`; found {found}."
        )
    name, settings = next(iter(item.items()))
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise source.error(
            (part, index, name),
            f"the settings of `{name}` must be a mapping, as in `- {example}`, and are {_kind(settings)}.",
        )
    return name, settings


def _step(source: Source, index: int, item: Any) -> StepSpec:
    name, settings = _entry(source, "steps", index, item, "dpo: {records: pairs.jsonl, beta: 0.1}")
    path = ("steps", index, name)
    entry = _find(source, path, name, "method")
    rest = {key: value for key, value in settings.items() if key not in STEP_KEYS}
    records = _records(source, (*path, "records"), settings.get("records"))
    try:
        return StepSpec(
            method=entry, records=records, settings=rest, name=settings.get("as"), start=settings.get("from")
        )
    except ValidationError as error:
        raise source.error(
            path,
            f"`as` and `from` are names in small letters, digits and dashes: {error.errors()[0]['input']!r} is not.",
        ) from None


def _measure(source: Source, index: int, item: Any) -> MeasureSpec:
    name, settings = _entry(source, "measures", index, item, "hhh: {limit: 100}")
    return MeasureSpec(measure=_find(source, ("measures", index, name), name, "measure"), settings=settings)


def _records(source: Source, path: tuple[str | int, ...], value: Any) -> RecordsSpec | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        raise source.error(path, f"`records` is a file or a name, or {{path: …, limit: …}}, and is {_kind(value)}.")
    for key in value:
        if key not in RECORD_KEYS:
            raise source.error(
                (*path, key),
                f"`records` has no key `{key}`.{near(key, RECORD_KEYS)} Its keys: {', '.join(RECORD_KEYS)}.",
            )
    shaped = {**value, **({"tags": tuple(value["tags"])} if isinstance(value.get("tags"), list) else {})}
    try:
        spec = RecordsSpec.model_validate(shaped)
    except ValidationError as error:
        raise _translated(source, error, path) from None
    if spec.tags:
        from truing.coverage import tags

        for tag in spec.tags:
            if tag not in tags():
                hint = near(tag, tags())
                raise source.error(
                    (*path, "tags"), f"no map has a place `{tag}` for records.{hint} See `truing coverage`."
                )
    return spec


def _find(source: Source, path: tuple[str | int, ...], name: str, kind: str) -> str:
    from truing.catalogue import find

    try:
        return find(name, kind).name
    except TruingError as error:
        raise source.error(path, str(error)) from None


def _translated(source: Source, error: ValidationError, path: tuple[str | int, ...]) -> RecipeError:
    first = error.errors()[0]
    place = (*path, *first["loc"])
    # A union reports one error for each member, with the member's type at the end of its place.
    keys = [str(part) for part in first["loc"] if part not in ("str", "bool", "int")]
    message = first["msg"].replace("Input should be", "it must be")
    if first["type"] == "missing":
        message = "it is missing"
    return source.error(place, f"`{'.'.join(keys) or place[-1]}` is {first['input']!r}: {message}.")


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing")
