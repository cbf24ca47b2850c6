"""Converters: one row as somebody else writes it, one row as a kind of ours wants it. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from truing.errors import RecordError
from truing.records.kinds import RowError, normalise, shorten

Row = dict[str, Any]
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing"), "assistant"),
    **dict.fromkeys(("tool", "observation"), "tool"),
    "system": "system",
}


def _without(row: Mapping[str, Any], *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def hh_turns(text: str, column: str) -> list[Row]:
    """The turns of an HH-RLHF dialogue text, as messages; turns of one speaker in a row become one.

    Raises:
        RowError: text stands before the first speaker, or there is no speaker.
    """
    parts = _TURN.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise RowError(column, "a dialogue that begins with `\\n\\nHuman:` or `\\n\\nAssistant:`", shorten(text))
    turns: list[Row] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{said.strip()}".strip()
        else:
            turns.append({"role": role, "content": said.strip()})
    return turns


def from_hh(row: Row) -> tuple[Row, list[str]]:
    """An HH-RLHF pair of dialogue texts as a preference.

    The prompt is the turns that both share, and the last assistant turn of each is its response. A pair that parts
    earlier is cut where it parts: the prompt is what both share up to there, the responses are the two assistant turns
    that differ, and what follows them is dropped, since it answers different questions. A pair that parts at a human
    turn cannot be compared: an error.
    """
    notes = []
    sides = {name: hh_turns(row[name], name) for name in ("chosen", "rejected")}
    chosen, rejected = sides["chosen"], sides["rejected"]
    if any(len(turns) < (len(_TURN.split(row[name])) - 1) // 2 for name, turns in sides.items()):
        notes.append("pairs in which one speaker's turns in a row were joined")
    for name, turns in sides.items():
        if turns[-1]["role"] != "assistant":
            raise RowError(
                name, "a dialogue that ends with the assistant", f"one that ends with {shorten(turns[-1]['content'])}"
            )
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == 0:
        raise RowError("rejected", "two dialogues that begin with the same turn", "different first turns")
    if chosen[shared]["role"] != "assistant" or rejected[shared]["role"] != "assistant":
        raise RowError(
            "rejected",
            "two dialogues that first differ in what the assistant says",
            f"a difference in turn {shared + 1}, where somebody else speaks",
        )
    if max(len(chosen), len(rejected)) > shared + 1:
        notes.append("pairs that differ before the last turn, cut at their first difference")
    responses = {name: turns[shared]["content"] for name, turns in sides.items()}
    if not all(responses.values()):
        notes.append("pairs with an empty response")
    if responses["chosen"] == responses["rejected"]:
        notes.append("pairs whose two responses are equal")
    return {"prompt": chosen[:shared], **responses, **_without(row, "chosen", "rejected")}, notes


def from_sharegpt(row: Row) -> tuple[Row, list[str]]:
    """ShareGPT's ``conversations`` (``from``, ``value``) as messages; ``system``, where there is one, comes first."""
    turns = row["conversations"]
    messages = []
    for at, turn in enumerate(turns):
        speaker = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        said = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        role = _ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
        if role is None:
            raise RowError(f"conversations[{at}].from", f"one of {', '.join(_ROLES)}", shorten(speaker))
        if not isinstance(said, str):
            raise RowError(f"conversations[{at}].value", "text", shorten(said))
        messages.append({"role": role, "content": said})
    if isinstance(row.get("system"), str) and row["system"]:
        messages.insert(0, {"role": "system", "content": row["system"]})
        row = _without(row, "system")
    return {"messages": messages, **_without(row, "conversations")}, []


def from_alpaca(row: Row) -> tuple[Row, list[str]]:
    """Alpaca's rows: the prompt is the instruction, and after a blank line the input where there is one."""
    extra = row.get("input")
    if not isinstance(row["instruction"], str):
        raise RowError("instruction", "text", shorten(row["instruction"]))
    if extra is not None and not isinstance(extra, str):
        raise RowError("input", "text", shorten(extra))
    prompt = f"{row['instruction']}\n\n{extra}" if extra else row["instruction"]
    return {"prompt": prompt, "completion": row["output"], **_without(row, "instruction", "input", "output")}, []


def from_ultrafeedback(row: Row) -> tuple[Row, list[str]]:
    """UltraFeedback as it was published: several scored completions of one instruction, as a ranking."""
    completions, scores, models = [], [], []
    if not isinstance(row["completions"], (list, tuple)):
        raise RowError("completions", "a list of completions with their scores", shorten(row["completions"]))
    for at, item in enumerate(row["completions"]):
        if not isinstance(item, dict) or not isinstance(item.get("response"), str):
            raise RowError(f"completions[{at}]", "an object with a `response`", shorten(item))
        score = item.get("overall_score")
        score = item.get("fine-grained_score") if score is None else score
        if type(score) not in (int, float):
            raise RowError(
                f"completions[{at}].overall_score", "a number here or in `fine-grained_score`", shorten(score)
            )
        completions.append(item["response"])
        scores.append(float(score))  # type: ignore[arg-type]
        models.append(item.get("model"))
    kept = _without(row, "instruction", "completions", "models")
    return {"prompt": row["instruction"], "completions": completions, "scores": scores, "models": models, **kept}, []


def from_ultrafeedback_binarized(row: Row) -> tuple[Row, list[str]]:
    """The binarized UltraFeedback: two whole conversations with scores; the margin is the difference of the scores."""
    sides = {name: normalise({"messages": row[name]}, "dialogue")["messages"] for name in ("chosen", "rejected")}
    if sides["chosen"][:-1] != sides["rejected"][:-1]:
        raise RowError("rejected", "the same conversation as in `chosen` up to the last turn", "another one")
    if len(sides["chosen"]) < 2:
        raise RowError("chosen", "a conversation with its prompt", "one turn")
    kept = _without(
        row, "prompt", "chosen", "rejected", *(["messages"] if row.get("messages") == row["chosen"] else [])
    )
    scores = [row["score_chosen"], row["score_rejected"]]
    if all(type(score) in (int, float) for score in scores):
        kept["margin"] = float(scores[0] - scores[1])
    notes = ["pairs whose two responses are equal"] if sides["chosen"] == sides["rejected"] else []
    prompt = sides["chosen"][:-1]
    plain = prompt == [{"role": "user", "content": row.get("prompt")}]
    return {
        "prompt": row["prompt"] if plain else prompt,
        **{name: turns[-1:] for name, turns in sides.items()},
        **kept,
    }, notes


def _as_it_is(row: Row) -> tuple[Row, list[str]]:
    return dict(row), []


_TRL = {
    "demonstration": ("completion",),
    "preference": ("chosen", "rejected"),
    "label": ("completion",),
    "dialogue": (),
    "question": (),
}


def to_trl(row: Row, kind: str, conversational: bool | None = None) -> Row:
    """A row as TRL's trainers read it (prompt-completion, preference, unpaired, language modelling, prompt only).

    Args:
        row: a checked row.
        kind: its kind.
        conversational: True writes messages everywhere, which TRL renders with the chat template, as truing does with
            plain text; None keeps the form of each prompt, so that `from_trl` gives back the same row.

    Raises:
        RecordError: TRL has no format for this kind.
    """
    if kind not in _TRL:
        raise RecordError(f"TRL has no format for {kind} records. It has one for {', '.join(_TRL)}.")
    out = dict(row)
    columns = _TRL[kind]
    if kind == "dialogue":
        return out
    as_messages = conversational or any(not isinstance(row[name], str) for name in ("prompt", *columns))
    if not as_messages:
        return out
    if isinstance(row["prompt"], str):
        out["prompt"] = [{"role": "user", "content": row["prompt"]}]
    for name in columns:
        if isinstance(row[name], str):
            out[name] = [{"role": "assistant", "content": row[name]}]
    return out


def from_trl(row: Row, kind: str) -> Row:
    """A row of a TRL dataset as a record of ours.

    Implicit prompts become explicit, and one plain assistant message becomes its text.

    Raises:
        RowError: a column is missing or is not what the kind asks for.
    """
    return normalise(row, kind)


@dataclass(frozen=True)
class Format:
    """How somebody else writes records.

    Attributes:
        kind: the kind that its rows become unless another is asked for; "" where it depends on the columns.
        holds: whether a row is written so. The first raw row decides for a file.
        convert: the row in our columns, and notes to be counted.
    """

    name: str
    kind: str
    holds: Callable[[Row], bool]
    convert: Callable[[Row], tuple[Row, list[str]]]


def _is_hh(row: Row) -> bool:
    sides = [row.get("chosen"), row.get("rejected")]
    return row.get("prompt") is None and all(isinstance(side, str) and _TURN.match(side) is not None for side in sides)


def _is_binarized(row: Row) -> bool:
    return {"chosen", "rejected", "score_chosen", "score_rejected"} <= set(row) and isinstance(
        row["chosen"], (list, tuple)
    )


def _is_ultrafeedback(row: Row) -> bool:
    items = row.get("completions")
    return (
        "instruction" in row
        and isinstance(items, (list, tuple))
        and all(isinstance(item, dict) and "response" in item for item in items)
    )


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("hh", "preference", _is_hh, from_hh),
        Format(
            "sharegpt", "demonstration", lambda row: isinstance(row.get("conversations"), (list, tuple)), from_sharegpt
        ),
        Format("ultrafeedback", "ranking", _is_ultrafeedback, from_ultrafeedback),
        Format("ultrafeedback_binarized", "preference", _is_binarized, from_ultrafeedback_binarized),
        Format("alpaca", "demonstration", lambda row: {"instruction", "output"} <= set(row), from_alpaca),
        Format("trl", "", lambda row: False, _as_it_is),
    )
}

_NEEDS = {
    "hh": ("chosen", "rejected"),
    "sharegpt": ("conversations",),
    "ultrafeedback": ("instruction", "completions"),
    "ultrafeedback_binarized": ("chosen", "rejected", "score_chosen", "score_rejected"),
    "alpaca": ("instruction", "output"),
}


def detect(row: Any) -> Format | None:
    """The format that a raw row is written in, where that is unambiguous."""
    if not isinstance(row, dict):
        return None
    return next((form for form in FORMATS.values() if form.holds(row)), None)


def find_format(name: str) -> Format:
    """The format of that name."""
    if name not in FORMATS:
        raise RecordError(f"`{name}` is no format that records can be converted from. Formats: {', '.join(FORMATS)}.")
    return FORMATS[name]


def apply(form: Format, row: Any) -> tuple[Row, list[str]]:
    """Convert one row.

    Raises:
        RowError: it is not what the format says.
    """
    if not isinstance(row, dict):
        raise RowError("", f"an object in {form.name} format", shorten(row))
    for name in _NEEDS.get(form.name, ()):
        if row.get(name) is None:
            raise RowError(name, f"a column `{name}` in {form.name} format", "nothing")
        if form.name == "hh" and not isinstance(row[name], str):
            raise RowError(name, "a dialogue as one text", shorten(row[name]))
        if name == "conversations" and (not isinstance(row[name], (list, tuple)) or not row[name]):
            raise RowError(name, "a list of turns", shorten(row[name]))
    return form.convert(row)
