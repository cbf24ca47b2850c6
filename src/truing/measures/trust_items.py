"""Items of the trustworthiness probes: what they hold, and how the user's own are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from truing.contracts import Prompt, is_whole
from truing.errors import RecordError
from truing.measures.choosing import LETTERS
from truing.measures.surveys import plain_rows
from truing.measures.trust_taxonomy import BY_NAME, CONTROL, SubCategory, plain_name
from truing.near import near

if TYPE_CHECKING:
    from truing.sandbox.items import Item

REFUSE = "refuse"
"""The truth of a prompt attack that is to be refused, so that words that press are put to it."""


@dataclasses.dataclass(frozen=True)
class TrustItem:
    """One thing that is asked.

    Args:
        id: names it.
        sub: its sub-category, or ``over_refusal`` for a harmless control.
        prompt: what is asked.
        rule: how its answer is labelled: "choice", "text" (one of the truths is said), "judge", "base" (not
            at all: its variants are compared with it), "same" (as its base), "kept" (right, where its base is),
            "continued", "concept", "harmless" (where its base is), or a rule of the sandbox.
        options: to choose among.
        right: the place of the right option.
        truths: right texts; of a text that is continued how it goes on; "yes" or "no" of a concept.
        variant_of: the id of the item that it is a variant of.
        group: whom it concerns.
        part: of the probe: "control" stands beside its figure, other parts are in it and beside it.
        source: the sandbox's question, for its exact graders.
        shown: whether options are shown with letters where probabilities are read.
        fixed: whether options are shown in the order given.
    """

    id: str
    sub: str
    prompt: Prompt
    rule: str
    options: tuple[str, ...] = ()
    right: int | None = None
    truths: tuple[str, ...] = ()
    variant_of: str = ""
    group: str = ""
    part: str = ""
    source: Item | None = None
    shown: bool = True
    fixed: bool = False

    @property
    def about(self) -> str:
        """What it shares with its variants."""
        return self.variant_of or self.id


def read_items(records: Any, limit: int | None, judged: bool) -> list[TrustItem]:
    """The user's own items.

    Args:
        records: rows or files with ``sub_category`` and ``prompt``, and where they apply ``id``, ``options``,
            ``truth``, ``variant_of``, ``group`` and ``part``.
        limit: at most that many of each sub-category.
        judged: whether there is a judge.

    Raises:
        RecordError: a row lacks what its sub-category needs; the message names the row and the column.
    """
    found: list[TrustItem] = []
    counts: dict[str, int] = {}
    for at, row in enumerate(plain_rows(records, "Trustworthiness"), 1):
        where = f"Trustworthiness, row {at}"
        item = _item(row, str(row.get("id") or f"row-{at}"), where, judged)
        counts[item.sub] = counts.get(item.sub, 0) + 1
        if limit is None or counts[item.sub] <= limit:
            found.append(item)
    known: dict[str, TrustItem] = {}
    for item in found:
        if item.id in known:
            raise RecordError(f"Trustworthiness: two rows have the id `{item.id[:60]}`. Give each its own.")
        known[item.id] = item
    for item in found:
        if item.variant_of and item.variant_of not in known:
            raise RecordError(
                f"Trustworthiness: `{item.id[:60]}` is a variant of `{item.variant_of[:60]}`, and no row has that id"
                + (" among those that `limit` keeps." if limit is not None else ".")
            )
    return found


def _item(row: dict[str, Any], name: str, where: str, judged: bool) -> TrustItem:
    sub = _sub(row, where)
    prompt = row.get("prompt")
    if not (isinstance(prompt, (str, list)) and prompt):
        raise RecordError(f"{where}: the column `prompt` is a text or messages, not {str(prompt)[:60]!r}.")
    texts = {column: _optional(row, column, where) for column in ("variant_of", "group", "part")}
    base = TrustItem(
        name, CONTROL if sub is None else sub.name, prompt, "base", variant_of=texts["variant_of"],
        group=texts["group"], part=texts["part"],
    )  # fmt: skip
    if sub is None:
        return dataclasses.replace(base, rule=_judge(judged, where, CONTROL))
    if sub.form == "groups" and not texts["group"]:
        raise RecordError(f"{where}: {sub.name} compares groups. Give each row its `group`.")
    options = _options(row, where)
    if options and sub.form == "pair":
        return dataclasses.replace(base, options=options, rule="same" if texts["variant_of"] else "base")
    if options:
        fixed = sub.name == "limited_causal_reasoning"
        return dataclasses.replace(base, options=options, right=_right(row, options, where), rule="choice", fixed=fixed)
    truths = _truths(row, where)
    return dataclasses.replace(base, truths=truths, rule=_rule(sub, truths, texts["variant_of"], where, judged))


def _sub(row: dict[str, Any], where: str) -> SubCategory | None:
    name = plain_name(row.get("sub_category", ""))
    if name == CONTROL:
        return None
    named = next((one for one in BY_NAME.values() if name in (one.name, plain_name(one.label))), None)
    if named is None:
        raise RecordError(
            f"{where}: `sub_category` is one of the 29 names, or `{CONTROL}` for a harmless control, not "
            f"{str(row.get('sub_category'))[:60]!r}.{near(name, [*BY_NAME, CONTROL])}"
        )
    return named


def _rule(sub: SubCategory, truths: tuple[str, ...], variant_of: str, where: str, judged: bool) -> str:
    """How an item without options is labelled."""
    if sub.form == "confidence":
        raise RecordError(f"{where}: {sub.name} asks how sure a model is of options. Give `options` and `truth`.")
    if sub.form == "text":
        if not truths:
            raise RecordError(f"{where}: {sub.name} compares with how the text goes on. Give it as `truth`.")
        return "continued"
    if sub.form == "concept":
        if truths not in (("yes",), ("no",)):
            raise RecordError(f"{where}: {sub.name} tells prompts with something from others. `truth` is yes or no.")
        return "concept"
    if sub.form == "trigger":
        return _judge(judged, where, sub.name)
    if sub.form == "pair":
        if variant_of:
            return "kept" if truths else _judge(judged, where, sub.name) if sub.question else "same"
        return _judge(judged, where, sub.name) if truths == (REFUSE,) else "text" if truths else "base"
    return "text" if truths else _judge(judged and bool(sub.question), where, sub.name)


def _judge(judged: bool, where: str, name: str) -> str:
    if not judged:
        raise RecordError(
            f"{where}: an item of {name} has no options and no truth, so its answer needs a judge. "
            "Give `judge`, or `options` and `truth`, or `truth`."
        )
    return "judge"


def _optional(row: dict[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise RecordError(f"{where}: the column `{column}` is a text, not {str(value)[:60]!r}.")
    return str(value)


def _options(row: dict[str, Any], where: str) -> tuple[str, ...]:
    value = row.get("options")
    if value is None:
        return ()
    fits = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
    if not fits or not 2 <= len(value) <= len(LETTERS) or len(set(value)) < len(value):
        raise RecordError(
            f"{where}: `options` is a list of 2 to {len(LETTERS)} different texts, not {str(value)[:60]!r}."
        )
    return tuple(value)


def _right(row: dict[str, Any], options: Sequence[str], where: str) -> int:
    given = row.get("truth")
    if is_whole(given) and 0 <= int(given or 0) < len(options):
        return int(given or 0)
    if isinstance(given, str):
        if given in options:
            return options.index(given)
        letter = given.strip().strip("().").upper()
        if len(letter) == 1 and letter in LETTERS[: len(options)]:
            return LETTERS.index(letter)
    raise RecordError(
        f"{where}: `truth` is the right option's text, its letter, or its place from 0, not {str(given)[:60]!r}."
    )


def _truths(row: dict[str, Any], where: str) -> tuple[str, ...]:
    value = row.get("truth")
    if value is None:
        return ()
    several = value if isinstance(value, list) else [value]
    if not several or not all(isinstance(one, (str, int, float)) and str(one).strip() for one in several):
        raise RecordError(f"{where}: `truth` is a text that is not empty, or several, not {str(value)[:60]!r}.")
    # YAML reads a bare yes as true.
    return tuple(("yes" if one else "no") if isinstance(one, bool) else str(one) for one in several)
