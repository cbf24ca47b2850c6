"""The nine kinds of record as declarative schemas, and the check that brings a row to its kind's one form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Any

from truing.errors import RecordError

MAX_DEPTH = 64
PARTS = ("text", "image", "image_url", "audio", "video")


def shorten(value: object, limit: int = 60) -> str:
    """A value as an error shows it: its repr, cut, and safe to print (never half a surrogate pair)."""
    if isinstance(value, (list, dict)) and len(value) > 8:
        text = f"{type(value).__name__} of {len(value)} items"
    else:
        try:
            text = repr(value)
        except (RecursionError, ValueError):
            text = f"a {type(value).__name__}"
    return (text if len(text) <= limit else text[: limit - 1] + "…").encode("utf-8", "backslashreplace").decode()


class RowError(RecordError):
    """One row that cannot be used.

    Attributes:
        column: the column at fault, or "" for the whole row.
        expected: what should have been there.
        found: what was there, shortened.
        place: file and row, once known.
    """

    def __init__(self, column: str, expected: str, found: str, place: str = "") -> None:
        self.column, self.expected, self.found, self.place = column, expected, found, place
        where = [part for part in (place, f"column `{shorten(column)[1:-1]}`" if column else "") if part]
        super().__init__(f"{', '.join(where) + ': ' if where else ''}expected {expected}, found {found}.")

    def at(self, place: str) -> RowError:
        """The same error, with its place."""
        return RowError(self.column, self.expected, self.found, place)

    @property
    def problem(self) -> str:
        """What is wrong, without the place and the value: rows with the same problem count together."""
        return f"{f'column `{self.column}`' if self.column else 'row'}: expected {self.expected}"


class Odd:
    """A value that a file can write but no record can hold (a doubled key, a number of 5,000 digits)."""

    def __init__(self, text: str, expected: str) -> None:
        self.text, self.expected = text, expected

    def __repr__(self) -> str:
        return self.text


def clean(value: Any, column: str, depth: int = 0) -> Any:
    """A value as plain JSON data: UTF-8 text, whole numbers of 64 bits, finite floats, lists, string-keyed dicts.

    Raises:
        RowError: it holds something else.
    """
    kind = type(value)
    if kind is str:
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise RowError(column, "text in UTF-8", shorten(value)) from None
        return value
    if value is None or kind is bool:
        return value
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise RowError(
                column,
                "a whole number of at most 64 bits",
                shorten(value) if abs(value) < 10**40 else "one of more than 40 digits",
            )
        return value
    if kind is float:
        if not math.isfinite(value):
            raise RowError(column, "a finite number (write null where there is none)", shorten(value))
        return value
    if depth > MAX_DEPTH:
        raise RowError(column, f"at most {MAX_DEPTH} levels of nesting", "more")
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise RowError(column, "text as the keys of an object", shorten(key))
            clean(key, column)
        return {key: clean(item, column, depth + 1) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [clean(item, column, depth + 1) for item in value]
    if isinstance(value, Odd):
        raise RowError(column, value.expected, shorten(value))
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return clean(value.tolist(), column, depth + 1)
    # Subclasses: enumerations, ordered dicts.
    if isinstance(value, Mapping):
        return clean(dict(value), column, depth + 1)
    for plain in (str, int, float):
        if isinstance(value, plain):
            return clean(plain(value), column, depth + 1)
    raise RowError(column, "plain JSON data", f"a {kind.__name__}")


def _messages(value: Any, column: str) -> list[dict[str, Any]]:
    if type(value) is not list or not value:
        raise RowError(column, "a list of messages, each with a role and content", shorten(value))
    return [_message(item, f"{column}[{at}]") for at, item in enumerate(value)]


def _message(value: Any, column: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise RowError(column, 'a message {"role": …, "content": …}', shorten(value))
    role, content = value.get("role"), value.get("content")
    if type(role) is not str or not role:
        raise RowError(f"{column}.role", "a role (system, user, assistant, tool)", shorten(role))
    # Arrow gives every key of a struct to every message; an absent one arrives as None.
    message = {key: item for key, item in value.items() if item is not None}
    if content is None and "tool_calls" in message:
        return message
    if type(content) is list:
        message["content"] = [_part(part, f"{column}.content[{at}]") for at, part in enumerate(content)]
    elif type(content) is not str:
        raise RowError(f"{column}.content", "text or a list of parts", shorten(content))
    return message


def _part(value: Any, column: str) -> dict[str, Any]:
    kind = value.get("type") if type(value) is dict else None
    if kind not in PARTS:
        raise RowError(column, f'a part {{"type": …}} of type {", ".join(PARTS)}', shorten(value))
    part = {key: item for key, item in value.items() if item is not None}
    if kind == "text" and type(part.get("text")) is not str:
        raise RowError(f"{column}.text", "text", shorten(part.get("text")))
    return part


def _prompt(value: Any, column: str) -> Any:
    if type(value) is str:
        if not value:
            raise RowError(column, "a prompt: text or a list of messages", "empty text")
        return value
    if type(value) is not list:
        raise RowError(column, "a prompt: text or a list of messages", shorten(value))
    return _messages(value, column)


def _completion(value: Any, column: str) -> Any:
    """Text, or messages; one plain assistant message is its text, so that a completion has one form."""
    if type(value) is str:
        return value
    if type(value) is not list:
        raise RowError(column, "a completion: text or a list of messages", shorten(value))
    messages = _messages(value, column)
    last = messages[-1]
    if last["role"] != "assistant":
        raise RowError(
            f"{column}[{len(messages) - 1}].role", "a completion that ends with the assistant", shorten(last["role"])
        )
    if len(messages) == 1 and set(last) == {"role", "content"} and type(last["content"]) is str:
        return last["content"]
    return messages


def _several(value: Any, column: str) -> list[Any]:
    if type(value) is not list or not value:
        raise RowError(column, "a list of completions", shorten(value))
    return [_completion(item, f"{column}[{at}]") for at, item in enumerate(value)]


def _one_or_more(value: Any, column: str) -> list[Any]:
    is_one = type(value) is str or (type(value) is list and value and type(value[0]) is dict)
    return [_completion(value, column)] if is_one else _several(value, column)


def _numbers(value: Any, column: str) -> list[float]:
    if type(value) is not list:
        raise RowError(column, "a list of numbers", shorten(value))
    return [_number(item, f"{column}[{at}]") for at, item in enumerate(value)]


def _number(value: Any, column: str) -> float:
    if type(value) not in (int, float):
        raise RowError(column, "a number", shorten(value))
    return value


def _flag(value: Any, column: str) -> bool:
    if type(value) is not bool:
        raise RowError(column, "true or false", shorten(value))
    return value


def _text(value: Any, column: str) -> str:
    if type(value) is not str:
        raise RowError(column, "text", shorten(value))
    return value


def _answers(value: Any, column: str) -> list[str]:
    if type(value) is str:
        return [value]
    if type(value) is not list:
        raise RowError(column, "text or a list of texts", shorten(value))
    return [_text(item, f"{column}[{at}]") for at, item in enumerate(value)]


def _anything(value: Any, column: str) -> Any:
    return value


Check = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of record: its columns, each with what checks it. Any other column is metadata, kept as it is."""

    name: str
    required: Mapping[str, Check]
    optional: Mapping[str, Check]
    used_by: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("demonstration", {"prompt": _prompt, "completion": _completion}, {}, "SFT"),
        Kind(
            "preference",
            {"prompt": _prompt, "chosen": _completion, "rejected": _completion},
            {"margin": _number, "factors": _anything},
            "DPO, reward models",
        ),
        Kind("label", {"prompt": _prompt, "completion": _completion, "label": _flag}, {}, "KTO, BCO"),
        Kind("dispreference", {"prompt": _prompt, "rejected": _one_or_more}, {}, "D2O"),
        Kind(
            "judgment",
            {"prompt": _prompt, "completion": _completion, "judgment": _text, "label": _flag},
            {},
            "CUT, critics",
        ),
        Kind("ranking", {"prompt": _prompt, "completions": _several, "scores": _numbers}, {}, "RAFT, CycleAlign"),
        Kind("contrast", {"prompt": _prompt, "positive": _completion, "negative": _completion}, {}, "steering vectors"),
        Kind("dialogue", {"messages": _messages}, {}, "audits of whole conversations"),
        Kind("question", {"prompt": _prompt, "answers": _answers}, {}, "measures"),
    )
}  # fmt: skip

# What else stands for a kind: TRL's implicit prompt, and a conversation that ends with the assistant.
_FORMS: list[tuple[str, frozenset[str]]] = [
    *((kind.name, frozenset(kind.required)) for kind in KINDS.values()),
    ("preference", frozenset({"chosen", "rejected"})),
    ("demonstration", frozenset({"messages"})),
]


def candidates(columns: Iterable[str]) -> list[str]:
    """The kinds that a row with these columns can be, the most specific only (label, not demonstration)."""
    have = frozenset(columns)
    fitting = [(name, form) for name, form in _FORMS if form <= have]
    best = [name for name, form in fitting if not any(form < other for _, other in fitting)]
    return list(dict.fromkeys(best))


def only_prompts(columns: Iterable[str]) -> bool:
    """Whether these columns hold prompts and nothing that any kind of record has beside them."""
    have = set(columns)
    others = {name for kind in KINDS.values() for name in kind.required} - {"prompt"}
    return "prompt" in have and not have & others


def recognise(columns: Iterable[str], among: Iterable[str] = (), what: str = "these records") -> str:
    """The kind of a row with these columns.

    Args:
        columns: the names of the columns that hold something.
        among: the kinds that whoever asks can use; decides where the columns alone leave more than one.
        what: what is being read, for the error.

    Raises:
        RecordError: no kind has these columns, or more than one does.
    """
    have = list(columns)
    found = candidates(have)
    narrowed = [name for name in found if name in set(among)]
    if len(found) > 1 and len(narrowed) == 1:
        return narrowed[0]
    shown = ", ".join(f"`{shorten(name)[1:-1]}`" for name in have[:12]) or "no columns"
    if len(found) > 1:
        raise RecordError(
            f"{what}: the columns {shown} can be {' or '.join(found)} records. "
            f'Say which: kind="{found[0]}" (or --kind on the command line).'
        )
    if not found:
        table = "; ".join(f"{kind.name}: {', '.join(kind.required)}" for kind in KINDS.values())
        raise RecordError(
            f"{what}: no kind of record has the columns {shown}. The kinds and what they need: {table}. "
            "Rename the columns, or name a format."
        )
    return found[0]


def check_kind(kind: str) -> str:
    """The kind, if there is one of that name."""
    if kind not in KINDS:
        raise RecordError(f"`{kind}` is no kind of record. Kinds: {', '.join(KINDS)}.")
    return kind


def normalise(row: Any, kind: str) -> dict[str, Any]:
    """A row in the one form of its kind. A null is the same as an absent column; implicit prompts become explicit.

    Raises:
        RowError: a column is missing, or is not what the kind asks for. It names the column; the caller adds the place.
    """
    if not isinstance(row, Mapping):
        raise RowError(
            "", f"an object with the columns of a {kind} record", repr(row) if isinstance(row, Odd) else shorten(row)
        )
    cleaned = {}
    for name, value in row.items():
        if type(name) is not str:
            raise RowError("", "column names that are text", shorten(name))
        if "\0" in name:  # Arrow ends a name there, and would not find it again
            raise RowError("", "column names without null characters", shorten(name))
        if value is not None:
            cleaned[clean(name, "")] = clean(value, name)
    if kind == "preference" and "prompt" not in cleaned:
        cleaned = _explicit_prompt(cleaned)
    if kind == "demonstration" and "messages" in cleaned and "prompt" not in cleaned and "completion" not in cleaned:
        cleaned = _last_turn(cleaned)
    schema = KINDS[kind]
    had = list(cleaned)
    out = {}
    for name, check in schema.required.items():
        if name not in cleaned:
            raise RowError(
                name,
                f"a column `{name}` in a {kind} record",
                f"only {', '.join(map(shorten, had[:8])) or 'an empty row'}",
            )
        out[name] = check(cleaned.pop(name), name)
    for name, value in cleaned.items():
        out[name] = schema.optional[name](value, name) if name in schema.optional else value
    if kind == "ranking" and len(out["completions"]) != len(out["scores"]):
        raise RowError(
            "scores", f"one score for each of {len(out['completions'])} completions", f"{len(out['scores'])} scores"
        )
    return out


def _last_turn(row: dict[str, Any]) -> dict[str, Any]:
    messages = _messages(row.pop("messages"), "messages")
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise RowError(
            "messages",
            "a conversation that ends with the assistant, after something it answers",
            shorten(messages[-1]["role"]),
        )
    return {"prompt": messages[:-1], "completion": messages[-1:], **row}


def _explicit_prompt(row: dict[str, Any]) -> dict[str, Any]:
    """TRL's implicit prompt: what two whole conversations (or texts) have in common at their start."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    both = type(chosen) is type(rejected) and type(chosen) in (str, list)
    if not both:
        return row
    common = 0
    shortest = min(len(chosen), len(rejected))  # type: ignore[arg-type]
    while common < shortest and chosen[common] == rejected[common]:  # type: ignore[index]
        common += 1
    if type(chosen) is str:
        # Cut between words, as TRL does: a common prefix may end inside one.
        while common and not chosen[common - 1].isspace():
            common -= 1
        while common and chosen[common - 1].isspace():
            common -= 1
    elif common == shortest:
        common -= 1  # two equal conversations: the last turn is the completion
    if common <= 0:
        raise RowError(
            "prompt",
            "a column `prompt`, or `chosen` and `rejected` that begin with the same prompt",
            "two different beginnings",
        )
    return {**row, "prompt": chosen[:common], "chosen": chosen[common:], "rejected": rejected[common:]}  # type: ignore[index]
