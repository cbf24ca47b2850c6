"""Preferences of principles and annotators from tables: probabilities or signs, in one order of showing or both."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truing.errors import RecordError
from truing.measures.principle_tables import both_orders, preferences
from truing.measures.tables import table
from truing.records.kinds import shorten

Array = NDArray[np.float64]
Keys = list[Hashable]
_PROBABILITIES = ("prob_A", "prob_B", "prob_NA")
FIRST = "first"


def principle_matrix(source: Any) -> tuple[Keys, Keys, Array]:
    """Ids of rows, ids of principles, and what each principle prefers in each row, [rows, principles].

    Args:
        source: a table with ``row_id``, ``principle_id``, and what `_preferences` reads.

    Raises:
        RecordError: a row lacks a principle that others have, or a cell cannot be read.
    """
    what = "Discretion, `table`"
    found = _preferences(table(source, what, ("row_id", "principle_id")), what, ("row_id", "principle_id"))
    rows, principles = (list(dict.fromkeys(key[at] for key in found)) for at in (0, 1))
    places = {key: at for at, key in enumerate(rows)}, {key: at for at, key in enumerate(principles)}
    matrix = np.full((len(rows), len(principles)), np.nan)
    for (row, principle), value in found.items():
        matrix[places[0][row], places[1][principle]] = value
    if len(found) != matrix.size:
        lacking = next((row, one) for row in rows for one in principles if (row, one) not in found)
        raise RecordError(
            f"{what} says nothing of principle {lacking[1]!r} in row {lacking[0]!r}, one of {matrix.size - len(found)} "
            f"gaps among {len(rows)} rows and {len(principles)} principles. Ask the judge for these too; a principle "
            "that has no view there has an entry that says so (no preference, or NA the likeliest)."
        )
    return rows, principles, matrix


def annotator(source: Any, rows: Sequence[Hashable], name: str) -> tuple[Array, list[str]]:
    """What an annotator prefers in each of the rows, NaN where it has said nothing, and notes.

    Args:
        source: "first" for one that always prefers the first response, as people do in sets of chosen and rejected
            answers; or a table with ``row_id`` and what `_preferences` reads.
        rows: ids, in order.
        name: of the annotator.

    Raises:
        RecordError: the table cannot be read, or speaks of none of the rows.
    """
    if source == FIRST:
        return np.ones(len(rows)), []
    what = f"Discretion, annotator `{name}`"
    found = _preferences(table(source, what, ("row_id",)), what, ("row_id",))
    values = np.array([found.get((row,), math.nan) for row in rows])
    absent = sum((row,) not in found for row in rows)
    if absent == len(rows):
        raise RecordError(
            f"{what} speaks of none of the {len(rows)} rows that the principles speak of: check `row_id`."
        )
    notes = [f"{name} says nothing of {absent} of {len(rows)} rows."] if absent else []
    further = len(found) - (len(rows) - absent)
    if further:
        notes.append(f"{name} also speaks of {further} rows of which the principles say nothing; they are left out.")
    return values, notes


def _preferences(rows: list[dict[str, Any]], what: str, keys: tuple[str, ...]) -> dict[tuple[Hashable, ...], float]:
    """A preference for each key, from ``preference`` (1, -1, 0, or empty for no view) or from the probabilities
    ``prob_A``, ``prob_B`` and ``prob_NA`` of what was shown first, second, and neither. ``order`` 1 says that the
    second response was shown first; with both orders the two are combined.
    """
    orders: list[dict[tuple[Hashable, ...], float]] = [{}, {}]
    signs = "preference" in rows[0]
    numbers = [_sign(row, what) for row in rows] if signs else preferences(_triples(rows, what)).tolist()
    for number, (row, value) in enumerate(zip(rows, numbers), 1):
        order = row.get("order") or 0
        if order not in (0, 1):
            raise RecordError(f"{what}, row {number}: `order` is 0 or 1, not {shorten(row['order'])}.")
        key = tuple(row[name] for name in keys)
        if not all(isinstance(part, (str, int)) for part in key):
            raise RecordError(f"{what}, row {number}: {' and '.join(keys)} are numbers or texts, not {shorten(key)}.")
        if key in orders[order]:
            raise RecordError(f"{what}, row {number}: {shorten(key)} has an entry in order {order} already.")
        orders[order][key] = value
    first, second = orders
    both = [key for key in first if key in second]
    joined = both_orders([first[key] for key in both], [second[key] for key in both]).tolist()
    return {**{key: -value for key, value in second.items()}, **first, **dict(zip(both, joined))}


def _triples(rows: list[dict[str, Any]], what: str) -> list[list[float]]:
    found = []
    for number, row in enumerate(rows, 1):
        values = [row.get(name) for name in _PROBABILITIES]
        good = all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1.001 for value in values
        )
        if not good:
            raise RecordError(
                f"{what}, row {number} needs a `preference` (1, -1, 0 or none), or three probabilities "
                f"{', '.join(_PROBABILITIES)}; found {shorten(dict(zip(_PROBABILITIES, values)))}."
            )
        found.append([float(value) for value in values])  # type: ignore[arg-type]
    return found


def _sign(row: dict[str, Any], what: str) -> float:
    value = row.get("preference")
    if value is None:
        return math.nan
    if isinstance(value, bool) or value not in (1, -1, 0):
        raise RecordError(f"{what}: `preference` is 1, -1, 0 or none, not {shorten(value)}.")
    return float(value)


def principle_texts(given: Any) -> list[str]:
    """Principles as texts: a list, or a text file with one a line.

    Raises:
        RecordError: there is no such file, or it holds none.
    """
    several: list[Any] = [given] if isinstance(given, (str, Path)) else list(given)
    # The command line gives the name of a file as a list of one.
    if len(several) == 1 and (isinstance(given, (str, Path)) or Path(several[0]).is_file()):
        path = Path(several[0])
        if not path.is_file():
            raise RecordError(f"Discretion, `principles`: there is no file {path}. Give texts as a list.")
        several = path.read_text(encoding="utf-8").splitlines()
    texts = [" ".join(str(one).split()) for one in several]
    texts = [one for one in texts if one]
    if not texts:
        raise RecordError("Discretion, `principles` holds no principle.")
    return texts
