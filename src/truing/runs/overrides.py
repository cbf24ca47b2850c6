"""``--set dpo.beta=0.2``: values of a recipe changed from outside, by address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from truing.errors import RecipeError
from truing.near import near
from truing.runs.reading import Path, Source, scalar

TOP_LISTS = ("steps", "measures")


def apply_overrides(source: Source, overrides: Sequence[str], fields: Sequence[str]) -> None:
    """Change ``source.value`` in place.

    An address is a key of the recipe (``seed``, ``model``), a setting of a step or measure by its name (``dpo.beta``,
    ``hhh.limit``), or by its place, counted from 1 as in the run folder (``steps.2.beta``, ``steps.2.dpo.beta``).

    Raises:
        RecipeError: no ``=``, an unknown address, or a name that several steps answer to.
    """
    for text in overrides:
        place = f"--set {text}"
        address, sign, value = text.partition("=")
        keys = [key.strip() for key in address.split(".")]
        if not sign or not all(keys):
            raise RecipeError(f"{place}: an override is `key=value`, as in `dpo.beta=0.2` or `seed=1`.")
        if not isinstance(source.value, dict):
            raise source.error((), "a recipe is a mapping with at least the key `model`.")
        path = _resolve(source, keys, place, fields)
        _put(source, path, scalar(value, place), place)


def _resolve(source: Source, keys: list[str], place: str, fields: Sequence[str]) -> Path:
    if keys[0] in TOP_LISTS:
        if len(keys) == 1:
            return (keys[0],)
        items = source.value.get(keys[0]) or []
        if keys[1].isdigit():
            index = int(keys[1]) - 1
            if not isinstance(items, list) or not 0 <= index < len(items):
                raise RecipeError(f"{place}: there is no entry {keys[1]} in `{keys[0]}`, which holds {len(items)}.")
            name = _name(items[index])
            if name is None:
                raise RecipeError(f"{place}: entry {keys[1]} of `{keys[0]}` is not one name with its settings.")
            rest = keys[2:]
            if rest and rest[0] == name:
                rest = rest[1:]
            return (keys[0], index, name, *rest)
        return _named(source, keys[1:], place, fields, only=keys[0])
    if len(keys) == 1 or keys[0] in fields:
        if keys[0] not in fields:
            raise RecipeError(f"{place}: {_unknown(source, keys[0], fields)}")
        return tuple(keys)
    return _named(source, keys, place, fields)


def _named(source: Source, keys: list[str], place: str, fields: Sequence[str], only: str | None = None) -> Path:
    found: list[Path] = []
    wanted = keys[0].replace("-", "_").lower()
    for part in TOP_LISTS:
        items = source.value.get(part)
        for index, item in enumerate(items if isinstance(items, list) and only in (None, part) else []):
            name = _name(item)
            if name is not None and name.replace("-", "_").lower() == wanted:
                found.append((part, index, name))
    if len(found) > 1:
        choices = ", ".join(f"`{path[0]}.{int(path[1]) + 1}.{'.'.join(keys[1:])}`" for path in found)
        raise RecipeError(f"{place}: `{keys[0]}` stands {len(found)} times in the recipe. Say which: {choices}.")
    if not found:
        raise RecipeError(f"{place}: {_unknown(source, keys[0], fields)}")
    return (*found[0], *keys[1:])


def _name(item: Any) -> str | None:
    if isinstance(item, dict) and len(item) == 1:
        return next(iter(item))
    return item if isinstance(item, str) else None


def _unknown(source: Source, key: str, fields: Sequence[str]) -> str:
    known = list(fields)
    for part in TOP_LISTS:
        items = source.value.get(part)
        known += [name for item in (items if isinstance(items, list) else []) if (name := _name(item))]
    return f"the recipe has no `{key}`.{near(key, known)} It has: {', '.join(known)}."


def _put(source: Source, path: Path, value: Any, place: str) -> None:
    for known in [known for known in source.lines if known[: len(path)] == path]:
        del source.lines[known]
    holder = source.value
    for depth, key in enumerate(path[:-1]):
        inner = holder[key] if not isinstance(holder, dict) else holder.get(key)
        if isinstance(inner, str) and depth + 1 < len(path) and path[depth + 1] == inner:
            # `measures: [hhh]` becomes `measures: [{hhh: {...}}]`, so that it can hold a setting.
            inner = {inner: {}}
            holder[key] = inner
        elif inner is None:
            inner = {}
            holder[key] = inner
        usable = isinstance(inner, dict) or (isinstance(inner, list) and isinstance(path[depth + 1], int))
        if not usable:
            raise RecipeError(
                f"{place}: `{'.'.join(str(part) for part in path[: depth + 1])}` is a value and holds no settings."
            )
        holder = inner
    holder[path[-1]] = value
    source.lines[path] = place
