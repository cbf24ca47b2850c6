"""Who competes in an arena: answers of many models to the same prompts, or probabilities of winning, from the user's
files.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from truing.contracts import is_number
from truing.errors import RecordError
from truing.measures.ratings import Array
from truing.measures.tables import placed
from truing.records.kinds import shorten

PROMPT = ("prompt", "instruction", "question")
MODEL = ("model", "model_id", "generator")
ANSWER = ("answer", "generated", "output", "completion", "response")


@dataclasses.dataclass(frozen=True)
class Entrants:
    """Models and what they said to each prompt.

    Args:
        names: of the models.
        prompts: what was asked, [prompts].
        answers: by prompt and model; None where a model failed.
        tasks: the task of each prompt; None where the data name none.
    """

    names: list[str]
    prompts: list[Any]
    answers: list[list[str | None]]
    tasks: list[str] | None = None


def entrants_of(source: Any, limit: int | None) -> Entrants:
    """Answers from rows, a file, or a folder with a file for each model.

    A row is one answer (``prompt`` or ``instruction``, ``model`` or ``model_id``, ``answer`` or ``generated``; a text
    ``source`` is put behind the prompt, ``task`` is kept), or one prompt with ``outputs``, an object from models to
    answers. In a folder the name of a file is the model where its rows name none. An answer that is null is a failure.

    Args:
        source: rows or a path.
        limit: at most that many prompts, from the start.

    Raises:
        RecordError: nothing there, a row lacks a part, a model answers a prompt twice or not at all.
    """
    prompts: dict[str, Any] = {}
    tasks: dict[str, str] = {}
    said: dict[str, dict[str, str | None]] = {}
    names: dict[str, None] = {}
    for place, row, default in _rows(source):
        text, key = _prompt(row, place)
        prompts.setdefault(key, text)
        if row.get("task") is not None:
            tasks.setdefault(key, str(row["task"]))
        given = row.get("outputs")
        if given is None:
            given = {str(_part(row, MODEL, place, default)): _part(row, ANSWER, place, absent=True)}
        if not isinstance(given, Mapping):
            raise RecordError(f"{place}: `outputs` is an object from models to answers, not {shorten(given)}.")
        answers = said.setdefault(key, {})
        for name, answer in given.items():
            if answer is not None and not isinstance(answer, str):
                raise RecordError(f"{place}: an answer is a text, or null for a failure, not {shorten(answer)}.")
            if name in answers:
                raise RecordError(
                    f"{place}: {shorten(name)} answers this prompt a second time. Give rows of one prompt a "
                    "`prompt_id` where the same text was asked twice, or leave one out."
                )
            answers[name] = answer
            names[name] = None
    keys = list(prompts)[:limit]
    for key in keys:
        lacking = [name for name in names if name not in said[key]]
        if lacking:
            raise RecordError(
                f"{shorten(lacking[0])} has no answer to the prompt {shorten(prompts[key])}. Every model must have one "
                "to each prompt; write null where it failed, which counts as lost."
            )
    return Entrants(
        list(names), [prompts[key] for key in keys], [[said[key][name] for name in names] for key in keys],
        [tasks.get(key, "other") for key in keys] if tasks else None,
    )  # fmt: skip


def _rows(source: Any) -> list[tuple[str, dict[str, Any], str | None]]:
    """Rows with their places, and the model that a file's name tells."""
    parts: list[tuple[Any, str | None]] = [(source, None)]
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        parts = [(file, file.stem) for file in sorted(Path(source).glob("*.jsonl"))]
        if not parts:
            raise RecordError(f"{source} holds no .jsonl file. Put one there for each model.")
    expected = "a row is an object with a prompt, a model and an answer"
    none = "There is no row of answers. A row has a prompt, a model and an answer."
    return [(place, row, name) for part, name in parts for place, row in placed(part, expected, none)]


def _prompt(row: dict[str, Any], place: str) -> tuple[Any, str]:
    text = _part(row, PROMPT, place)
    if not isinstance(text, (str, list)) or not text:
        raise RecordError(f"{place}: a prompt is a text or messages, not {shorten(text)}.")
    more = row.get("source")
    if isinstance(more, str) and more.strip() and isinstance(text, str):
        text = f"{text}\n\n{more}"
    key = row.get("prompt_id")
    return text, json.dumps(text if key is None else ["id", key], sort_keys=True, default=str)


def _part(row: dict[str, Any], names: Sequence[str], place: str, default: Any = None, absent: bool = False) -> Any:
    for name in names:
        if row.get(name) is not None or (absent and name in row):
            return row[name]
    if default is not None:
        return default
    raise RecordError(
        f"{place}: no {names[0]} (`{'` or `'.join(names)}`). It has {', '.join(map(str, row)) or 'nothing'}."
    )


# --- probabilities ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Chances:
    """Probabilities that models beat one fixed reference.

    Args:
        names: of the models.
        values: [prompts, models], from 0 to 1; NaN where none was read.
        trusted: figures of a leaderboard by name, each by model, as the file has them.
    """

    names: list[str]
    values: Array
    trusted: dict[str, dict[str, float]]


def chances_of(source: Any, limit: int | None) -> Chances:
    """Probabilities from an object, or a JSON file: lists by model, or objects with ``win_probability`` by model.

    Args:
        source: the object, which may stand under ``models``, or a path. An object may have a ``leaderboard``: figures
            by name.
        limit: at most that many prompts, from the start.

    Raises:
        RecordError: it holds none, lists of different lengths, or numbers outside 0 to 1.
    """
    held = read_json(source)
    held = held.get("models", held) if isinstance(held, Mapping) else held
    if not isinstance(held, Mapping) or not held:
        raise RecordError(f"Probabilities are lists by model, not {shorten(held)}.")
    columns, trusted = [], dict[str, dict[str, float]]()
    for name, value in held.items():
        inside = value.get("win_probability") if isinstance(value, Mapping) else value
        if not isinstance(inside, (list, tuple)) or not all(one is None or _share(one) for one in inside):
            raise RecordError(f"Probabilities of {shorten(name)} are numbers from 0 to 1, or null, in a list.")
        columns.append([math.nan if one is None else float(one) for one in inside][:limit])
        board = value.get("leaderboard") if isinstance(value, Mapping) else None
        for figure, number in (board or {}).items():
            trusted.setdefault(figure, {})[name] = number
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise RecordError(
            f"Probabilities of all models are of the same prompts, and the lists have {min(lengths)} to "
            f"{max(lengths)} numbers."
        )
    return Chances(list(held), np.array(columns, float).T, trusted)


def trusted_of(source: Any, names: Sequence[str], boards: Mapping[str, Mapping[str, float]]) -> Array:
    """The trusted figure of each model, higher being better, [models].

    Args:
        source: figures by model, a JSON file of such, or the name of a figure among ``boards``.
        names: of the models.
        boards: figures that came with the data.

    Raises:
        RecordError: a model has none, or it is no number.
    """
    held = boards[source] if isinstance(source, str) and source in boards else read_json(source)
    if not isinstance(held, Mapping):
        raise RecordError(f"A trusted ranking is a figure by model, not {shorten(held)}.")
    lacking = [name for name in names if not is_number(held.get(name))]
    if lacking:
        raise RecordError(f"The trusted ranking has no number for {shorten(lacking[0])}. It needs one for each model.")
    return np.array([float(held[name]) for name in names])


def read_json(source: Any) -> Any:
    """What a JSON file holds; anything but a path is given back."""
    if not isinstance(source, (str, Path)):
        return source
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{source} cannot be read as JSON: {error}.") from None


def _share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1
