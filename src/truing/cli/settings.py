"""``--beta 0.2``: settings of a method or measure on the command line, and the help that lists them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from truing.contracts import Settings
from truing.errors import SettingsError

if TYPE_CHECKING:
    from truing.catalogue import Entry

_PLAIN = re.compile(r"[\w.]+")
_SCALARS = {"str", "int", "float", "bool", "None", "Literal", "Optional", "Union"}


def given_settings(arguments: Sequence[str], cls: type[Settings], name: str, own: Sequence[str]) -> dict[str, Any]:
    """Settings by name, from the arguments that are no options of the command itself.

    ``--name value`` and ``--name=value``; dashes may stand for underscores. A flag needs no value (``--shuffle``,
    ``--no-shuffle``). A list is ``a,b`` or the option repeated; a mapping, or a reward with settings, is written as in
    a recipe: ``'{keyword: {words: [please]}}'``. Types are checked later, by the annotation of the field.

    Args:
        arguments: what was typed.
        cls: the class that has the settings.
        name: its name in the catalogue.
        own: options of the command, so that a misspelt one is suggested too.

    Raises:
        SettingsError: there is no such setting, a value is missing, or a setting is given twice.
    """
    fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise SettingsError(f"`{word}` stands where a setting is expected: --name value. {_known(name, fields)}")
        key, sign, text = word[2:].partition("=")
        key = key.replace("-", "_")
        value: Any
        off = key.removeprefix("no_") if key.startswith("no_") and key not in fields else ""
        if fields.get(off, "").startswith("bool") and not sign:
            key, value = off, False
        elif key not in fields:
            choices = [*(field.replace("_", "-") for field in fields), *own]
            close = difflib.get_close_matches(key.replace("_", "-"), choices, n=1, cutoff=0.5)
            more = f"Did you mean --{close[0]}? Its --help lists them all." if close else _known(name, fields)
            raise SettingsError(f"`{name}` has no setting `{key}`. {more}")
        elif sign:
            value = _read(text, fields[key], word)
        elif rest and not rest[0].startswith("--"):
            value = _read(rest.pop(0), fields[key], word)
        elif fields[key].startswith("bool"):
            value = True
        else:
            raise SettingsError(f"{word} needs a value: {word} {_metavar(fields[key])}.")
        if key not in values:
            values[key] = value
        elif re.search(r"\b(list|tuple|Sequence|set)\b", fields[key]):
            values[key] = [*_as_list(values[key]), *_as_list(value)]
        else:
            raise SettingsError(f"--{key.replace('_', '-')} is given twice. Keep one.")
    return values


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read(text: str, annotation: str, where: str) -> Any:
    """Text as it stands, but what looks like a mapping or a list is read as in a recipe where one can be meant."""
    structured = set(_PLAIN.findall(annotation)) - _SCALARS
    if not structured or text.lstrip()[:1] not in ("{", "["):
        return text
    from truing.errors import RecipeError
    from truing.runs.reading import scalar

    try:
        return scalar(text, where)
    except RecipeError as error:
        raise SettingsError(str(error)) from None


def _known(name: str, fields: dict[str, str]) -> str:
    return f"Settings of `{name}`: {', '.join(fields) or 'none'}."


def _metavar(annotation: str) -> str:
    if re.search(r"\b(AnyModel|Model|RemoteModel)\b", annotation):
        return "MODEL"
    if re.search(r"\bReward\b", annotation):
        return "REWARD"
    names = [name for name in _PLAIN.findall(annotation) if name not in ("None", "Any", "Optional")]
    words = {"int": "WHOLE NUMBER", "float": "NUMBER", "str": "TEXT", "bool": "yes|no"}
    return words.get(names[0], "VALUE") if names else "VALUE"


def print_settings(entry: Entry, usage: str) -> None:
    """What a method or measure is, and each of its settings with type, default and meaning."""
    from rich.padding import Padding
    from rich.text import Text

    from truing.cli.text import columns, show, styled

    cls = entry.load()
    show(styled(f"Usage: {usage}"), "")
    about = inspect.cleandoc(cls.__doc__ or entry.summary).split("\nArgs:")[0].split("\nExample:")[0].strip()
    for paragraph in about.split("\n\n"):
        keep = paragraph.startswith(" ") or "\n " in paragraph
        show(styled(paragraph if keep else " ".join(paragraph.split())), "")
    facts = _facts(entry, cls)
    if facts:
        show(*map(styled, facts), "")
    inherited = {
        field.name for base in cls.__mro__[1:] if dataclasses.is_dataclass(base) for field in dataclasses.fields(base)
    }
    # What is its own comes first, and what all of its kind share after.
    fields = sorted(dataclasses.fields(cls), key=lambda field: field.name in inherited)
    if not fields:
        show(styled("It has no settings."))
        return
    texts = cls.describe()
    table = columns("", "")
    for field in fields:
        default = _default(field)
        type_of = str(field.type).replace("AnyModel", "model").replace("Reward", "reward")
        about = " ".join(part for part in (texts.get(field.name, ""), f"[{default}]") if part)
        table.add_row(
            Text.assemble(styled(f"--{field.name.replace('_', '-')}", "bold"), " ", styled(_short(type_of), "cyan")),
            styled(about),
        )
    show("Settings:", Padding(table, (0, 0, 0, 2)))


def _short(annotation: str, width: int = 26) -> str:
    if re.search(r"\bRecords\b", annotation):
        return "records"
    plain = annotation.replace(" | None", "").replace(" ", "")
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"default: {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f"default: {field.default_factory()!r}"
    return "must be given"


def _facts(entry: Entry, cls: Any) -> list[str]:
    from truing.papers import papers

    lines = []
    if entry.kind == "method":
        kinds = " or ".join(cls.record_kinds)
        asked = "may learn" if getattr(cls, "records_optional", False) else "learns"
        lines.append(f"It {asked} from {kinds} records (--records)." if kinds else "It reads no records.")
    needs = sorted(cls.needs)
    if needs:
        lines.append(f"It needs: {', '.join(needs).replace('_', ' ')}.")
    for number in entry.papers:
        paper = papers()[number - 1]
        lines.append(f"Paper: {paper.title}{f', {paper.url}' if paper.url else ''}")
    return lines
