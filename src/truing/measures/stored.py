"""Results as files keep them: every value is checked when it is read, since a file may be cut or changed by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truing.contracts import is_number, is_whole
from truing.measures.result import Column, Curve, Figure, Grid, Plane
from truing.records.kinds import shorten

STATISTICS = ("share", "stratified_share", "mean", "exp_mean", "ratio", "pooled_share")
SHARES = ("share", "stratified_share")
BETTER = ("higher", "lower", "neither")
MOST = 2**53


def fields_of(value: Any, known: set[str]) -> dict[str, Any]:
    """The fields of a result from what JSON holds of it; what is not known is ignored.

    Args:
        value: what `Result.to_json` gave.
        known: names of the fields.

    Raises:
        ValueError: a value is none that a result has; the message names its place.
    """
    given = {key: item for key, item in _object(value, "it").items() if key in known}
    for name in ("name", "model", "figures"):
        if given.get(name) is None:
            raise ValueError(f"`{name}` is missing")
    _text(given["name"], "`name`")
    for name in ("model", "settings", "seeds", "versions", "usage"):
        _object(given.get(name, {}), f"`{name}`")
    for name in ("against_model", "against", "differences"):
        if given.get(name) is not None:
            _object(given[name], f"`{name}`")
    for name in ("figures", "against", "differences"):
        if given.get(name) is not None:
            given[name] = _each(given[name], f"`{name}`", _figure)
    for who in ("model", "against_model"):
        if given.get(who):
            _text(given[who].get("name"), f"`{who}`: `name`")
    for note in _list(given.get("notes", []), "`notes`"):
        _text(note, "`notes`")
    if not is_number(given.get("seconds", 0.0)):
        raise ValueError(f"`seconds` is a number, not {shorten(given['seconds'])}")
    given["columns"] = _each(given.get("columns") or {}, "`columns`", _column)
    given["samples"] = _samples(given.get("samples", []), given["columns"])
    for name, read in (("grids", _grid), ("curves", _curve), ("planes", _plane)):
        given[name] = _all(given.get(name) or [], f"`{name}`", read)
    return given


def _samples(value: Any, columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    """Rows whose values the columns can be worked out from."""
    rows = _list(value, "`samples`")
    names = {name for one in columns.values() for name in (one.column, one.weight, one.minus) if name}
    numbers = [name for each in sorted(names) for name in (each, f"against_{each}")]
    words = ["id", "cluster", *sorted({one.strata or "kind" for one in columns.values()})]
    for number, row in enumerate(rows, 1):
        where = f"`samples`, row {number}"
        _object(row, where)
        for name in numbers:
            held = row.get(name)
            if held is not None and not isinstance(held, bool) and not _is_real(held):
                raise ValueError(f"{where}: `{name}` is a number, true, false or null, not {shorten(held)}")
        for name in words:
            if isinstance(row.get(name), (list, dict)):
                raise ValueError(f"{where}: `{name}` is text or a number, not {shorten(row[name])}")
        if "id" not in row:
            raise ValueError(f"{where} has no `id`")
        for one in columns.values():
            for prefix in ("", "against_"):
                counted = row.get(prefix + one.column) is not None
                if counted and one.statistic in SHARES and not 0 <= row[prefix + one.column] <= 1:
                    held = shorten(row[prefix + one.column])
                    raise ValueError(f"{where}: `{prefix}{one.column}` counts for a share, from 0 to 1, and is {held}")
                if counted and one.weight and row.get(prefix + one.weight) is None:
                    raise ValueError(f"{where} has `{prefix}{one.column}` without its weight `{prefix}{one.weight}`")
                if counted and one.statistic == "stratified_share" and (one.strata or "kind") not in row:
                    raise ValueError(f"{where} has `{prefix}{one.column}` without `{one.strata or 'kind'}`")
    return [dict(row) for row in rows]


def _figure(value: Any, where: str) -> Figure:
    given = _known(value, where, Figure)
    for name in ("value", "low", "high"):
        held = given.get(name, "")
        if held is not None and not _is_real(held):
            raise ValueError(f"{where}: `{name}` is a number or null, not {shorten(held)}")
        given[name] = math.nan if held is None else float(held)
    _count(given.get("n"), f"{where}: `n`")
    if given.get("p") is not None and not is_number(given["p"]):
        raise ValueError(f"{where}: `p` is a number or null, not {shorten(given['p'])}")
    _text(given.get("method"), f"{where}: `method`")
    _unit(given, where)
    return Figure(**given)


def _column(value: Any, where: str) -> Column:
    given = _known(value, where, Column)
    _unit(given, where)
    for name in ("column", "weight", "strata", "minus"):
        if given.get(name) is not None and not _text(given[name], f"{where}: `{name}`"):
            raise ValueError(f"{where}: `{name}` is the name of a column, and empty")
    _text(given.get("column"), f"{where}: `column`")
    _one_of(given.get("statistic", "share"), STATISTICS, f"{where}: `statistic`")
    if given.get("null") is not None and not is_number(given["null"]):
        raise ValueError(f"{where}: `null` is a number or null, not {shorten(given['null'])}")
    if given.get("bounds") is not None:
        given["bounds"] = _pair(given["bounds"], f"{where}: `bounds`")
    return Column(**given)


def _grid(value: Any, where: str) -> Grid:
    given = _known(value, where, Grid)
    rows = []
    for row in _list(given.get("rows"), f"{where}: `rows`"):
        if not isinstance(row, (list, tuple)) or len(row) != 2:
            raise ValueError(f"{where}: a row is a label and names, not {shorten(row)}")
        rows.append((_text(row[0], f"{where}: a label"), _texts(row[1], f"{where}: names of figures")))
    missing = _object(given.get("missing") or {}, f"{where}: `missing`")
    return Grid(
        _text(given.get("title"), f"{where}: `title`"), _texts(given.get("columns"), f"{where}: `columns`"), rows,
        bool(given.get("radar")), {name: _text(why, f"{where}: `missing`") for name, why in missing.items()},
    )  # fmt: skip


def _curve(value: Any, where: str) -> Curve:
    given = _known(value, where, Curve)
    points = []
    for point in _list(given.get("points"), f"{where}: `points`"):
        if not isinstance(point, (list, tuple)) or len(point) != 2 or not _is_real(point[0]):
            raise ValueError(f"{where}: a point is a number and a figure, not {shorten(point)}")
        points.append((float(point[0]), _figure(point[1], where)))
    fit = _all(given.get("fit") or [], f"{where}: `fit`", _pair)
    name, x = (_text(given.get(key), f"{where}: `{key}`") for key in ("name", "x"))
    return Curve(name, x, points, fit, _text(given.get("formula", ""), f"{where}: `formula`"))


def _plane(value: Any, where: str) -> Plane:
    given = _known(value, where, Plane)
    ends = []
    for axis in ("x", "y"):
        some = _texts(given.get(axis), f"{where}: `{axis}`")
        if len(some) != 2:
            raise ValueError(f"{where}: `{axis}` has words for two ends, not {len(some)}")
        ends.append((some[0], some[1]))
    groups = _each(given.get("groups"), f"{where}: `groups`", lambda points, at: _all(points, at, _pair))
    means = _each(given.get("means"), f"{where}: `means`", _two)
    if not is_number(given.get("reach", 10.0)):
        raise ValueError(f"{where}: `reach` is a number, not {shorten(given['reach'])}")
    title = _text(given.get("title"), f"{where}: `title`")
    return Plane(title, ends[0], ends[1], groups, means, float(given.get("reach", 10.0)))


def _two(value: Any, where: str) -> tuple[Figure, Figure]:
    found = _all(value, where, _figure)
    if len(found) != 2:
        raise ValueError(f"{where}: a mean has two figures, not {len(found)}")
    return found[0], found[1]


# --- parts ------------------------------------------------------------------------------------------------------------


def _is_real(value: Any) -> bool:
    """A number that a float can hold; not a number among them, since a cut file may hold it as it stands."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) <= MOST


def _pair(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(_is_real, value)):
        raise ValueError(f"{where} is two numbers, not {shorten(value)}")
    return float(value[0]), float(value[1])


def _count(value: Any, where: str) -> None:
    if not is_whole(value) or not 0 <= value <= MOST:
        raise ValueError(f"{where} is a number of samples, not {shorten(value)}")


def _unit(given: Mapping[str, Any], where: str) -> None:
    _text(given.get("unit", ""), f"{where}: `unit`")
    _one_of(given.get("better", "higher"), BETTER, f"{where}: `better`")


def _one_of(value: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{where} is one of {', '.join(known)}, not {shorten(value)}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is text, not {shorten(value)}")
    return value


def _texts(value: Any, where: str) -> list[str]:
    return [_text(one, where) for one in _list(value, where)]


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} is a list, not {shorten(value)}")
    return list(value)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is an object, not {shorten(value)}")
    return value


def _known(value: Any, where: str, cls: Any) -> dict[str, Any]:
    """An object's values for the fields of a class."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {key: item for key, item in _object(value, where).items() if key in names}


def _each(value: Any, where: str, read: Callable[[Any, str], Any]) -> dict[str, Any]:
    return {name: read(item, f"{where}, {name}") for name, item in _object(value, where).items()}


def _all(value: Any, where: str, read: Callable[[Any, str], Any]) -> list[Any]:
    return [read(item, where) for item in _list(value, where)]
