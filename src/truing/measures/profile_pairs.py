"""Pairs of responses with choices: from records, from tables, and from groups that a model has written."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from truing.errors import RecordError
from truing.measures.asking import own_prompts
from truing.measures.preference import as_text
from truing.measures.profile_report import HUMAN
from truing.measures.tables import table
from truing.records.kinds import shorten

GENERATED = ("levels", "samples")
_CHOICE = "preference"


def pairs_of(
    source: Any, limit: int | None, split: str, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """Pairs with ``id``, ``kind``, ``prompt``, ``chosen`` (response 1), ``rejected`` (response 2) and perhaps
    ``source``; what each agent prefers (1, -1 or 0, [n] each), people first; and notes.

    Raises:
        RecordError: they cannot be read, or hold no pair with a preference.
    """
    rows = None
    if source is None:
        from truing.sandbox import records

        source = records("preferences", split, limit or 400, seed)
    elif type(source).__name__ != "Records" and (not isinstance(source, (str, Path)) or Path(source).is_file()):
        rows = table(source, "Profile, `records`")
        source = source if isinstance(source, (str, Path)) else rows
    if rows is not None and "response_1" in rows[0]:
        pairs, choices = _table(rows[:limit])
    else:
        pairs = own_prompts(source, limit, "Profile", ("preference",))
        pairs = [{**pair, **{side: as_text(pair[side]) for side in ("chosen", "rejected")}} for pair in pairs]
        choices = {HUMAN: np.ones(len(pairs))}
    for pair in pairs:
        if pair.get("source") is not None and not isinstance(pair["source"], str):
            raise RecordError(f"Profile: the `source` of {pair['id']} is a text, not {shorten(pair['source'])}.")
    notes = []
    none = int((choices[HUMAN] == 0).sum())
    if none == len(pairs):
        raise RecordError(
            f"Profile: none of {len(pairs)} pairs has a preference; all are ties, so no factor can be told."
        )
    if none:
        notes.append(f"{none} of {len(pairs)} pairs have no human preference and do not count for people.")
    return pairs, choices, notes


def _table(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    names = [_CHOICE, *sorted({name for row in rows for name in row if name.startswith(f"{_CHOICE}_")})]
    pairs: list[dict[str, Any]] = []
    choices: dict[str, list[float]] = {name: [] for name in names}
    for number, row in enumerate(rows, 1):
        where = f"Profile, `records`, row {number}"
        texts = [row.get("response_1"), row.get("response_2")]
        if not row.get("prompt") or not all(isinstance(text, str) for text in texts):
            raise RecordError(f"{where} needs `prompt`, `response_1` and `response_2`, found {shorten(row)}.")
        for name in names:
            value = row.get(name, None if name == _CHOICE else 0)
            if isinstance(value, bool) or value not in (1, -1, 0):
                raise RecordError(f"{where}: `{name}` is 1, -1 or 0, not {shorten(value)}.")
            choices[name].append(float(value))
        pairs.append(
            {"id": f"row-{number}", "kind": str(row.get("kind", "own")), "prompt": row["prompt"], "chosen": texts[0],
             "rejected": texts[1], "source": row.get("source")}
        )  # fmt: skip
    shown = {name: HUMAN if name == _CHOICE else name[len(_CHOICE) + 1 :] for name in names}
    return pairs, {shown[name]: np.array(values) for name, values in choices.items()}


def ranked_pairs(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All pairs of different responses within a group, the one with the higher score as ``chosen``.

    Args:
        groups: ``prompt``, ``number``, perhaps ``source``, and ``scored``: a list of (score, response).
    """
    pairs = []
    for group in groups:
        for (one, first), (two, second) in combinations(group["scored"], 2):
            # Equal texts say nothing of the factors, and a model that ignores the level writes them.
            if one != two and first != second:
                better, worse = (first, second) if one > two else (second, first)
                pairs.append({**{key: group.get(key) for key in ("prompt", "number", "source")},
                              "chosen": better, "rejected": worse})  # fmt: skip
    return pairs
