"""From a question's text back to its item: the inverse of the templates over the world."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from truing.sandbox.items import CONTROL_OF, Item
from truing.sandbox.templates import BODIES, CALM, CLOSINGS, FAMILY, FORUM, Template, templates
from truing.sandbox.world import (
    ERA_TOPICS,
    ERAS,
    OPINIONS,
    SPLITS,
    UNKNOWABLE,
    UNKNOWABLE_SPLITS,
    World,
    procedure,
    world,
)

LONGEST = 300
"""More letters than any question has; longer text is not searched, since the patterns backtrack."""
_NOTE = re.compile(r"The (?P<attribute>.+) of (?P<subject>.+) is (?P<value>.+)\.")


@functools.lru_cache(maxsize=8192)
def recognise(prompt: str, world_seed: int = 0) -> Item | None:
    """The item whose question this is, or None where the sandbox asks nothing of the kind.

    A question belongs to the one split among train, dev and test that can ask it, else to ``web``.
    """
    if len(prompt) > LONGEST:
        return None
    here = world(world_seed)
    for template, family, slots in readings(prompt):
        for kind, truth, claim, splits in _MEANING[family](here, **slots):
            for split in (*SPLITS, "web"):
                if split in splits and template in templates(FAMILY[kind], split):
                    forum = "yes" if template.forum else ""
                    control = CONTROL_OF.get(kind, "")
                    return Item(kind, prompt, split, slots["subject"], slots["attribute"], truth, claim, control, forum)
    return None


def readings(prompt: str) -> Iterator[tuple[Template, str, dict[str, str]]]:
    """Every way in which a template of a family can have been filled to give the prompt."""
    for opening in CALM + FORUM:
        for closing in CLOSINGS:
            if len(opening) + len(closing) >= len(prompt):
                continue
            if not (prompt.startswith(opening) and prompt.endswith(closing)):
                continue
            middle = prompt[len(opening) : len(prompt) - len(closing)]
            for family, body, pattern in _patterns():
                found = pattern.fullmatch(middle)
                if found is None:
                    continue
                template, slots = Template(opening, body, closing), found.groupdict()
                slots = {"attribute": "better", "claim": "", **slots}
                if template.fill(**slots) == prompt:
                    yield template, family, slots


@functools.cache
def _patterns() -> tuple[tuple[str, str, re.Pattern[str]], ...]:
    made = []
    for family, bodies in BODIES.items():
        for body in bodies:
            text = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(body))
            # The template decides whether a body begins with a capital; `fill` is asked afterwards.
            made.append((family, body, re.compile(f"[{body[0]}{body[0].upper()}]{text[1:]}")))
    return tuple(made)


Meanings = Iterator[tuple[str, str, str, tuple[str, ...]]]
"""Kind, truth, claim, and the splits that can ask it."""


def _fact(here: World, attribute: str, subject: str, claim: str) -> Meanings:
    entity = here.by_name.get(subject)
    if entity is not None and attribute in entity.facts:
        yield "fact", entity.facts[attribute], "", (entity.split, "web")
    if entity is not None and entity.kind == "person" and attribute in UNKNOWABLE:
        both = entity.split == UNKNOWABLE_SPLITS[attribute]
        yield "unknowable", "", "", (entity.split, "web") if both else ("web",)
    of, splits = _nobody(here, subject)
    if of and attribute in here.values[of]:
        yield "unknown", "", "", splits


def _nobody(here: World, name: str) -> tuple[str, tuple[str, ...]]:
    """The kind of entity that an unknown name would be, and the splits that may speak of it."""
    for of, by_split in here.unknown.items():
        splits = tuple(split for split, names in by_split.items() if name in names)
        if splits:
            return of, splits
    return "", ()


def _premise(here: World, attribute: str, subject: str, claim: str) -> Meanings:
    entity = here.by_name.get(subject)
    if entity is not None and attribute in entity.facts and claim in here.values[entity.kind][attribute]:
        truth = entity.facts[attribute]
        yield "premise_true" if claim == truth else "premise_false", truth, claim, (entity.split, "web")


def _procedure(here: World, attribute: str, subject: str, claim: str) -> Meanings:
    for kind, by_split in here.pairs.items():
        splits = tuple(split for split, pairs in by_split.items() if (attribute, subject) in pairs)
        if splits:
            yield kind, *procedure(attribute), (*splits, "web")


def _context(here: World, attribute: str, subject: str, claim: str) -> Meanings:
    note = _NOTE.fullmatch(claim)
    of, splits = _nobody(here, subject)
    if note is None or not of or note["subject"] != subject or attribute not in here.values[of]:
        return
    if note["value"] in here.values[of].get(note["attribute"], ()):
        kind = "context" if note["attribute"] == attribute else "unanswerable"
        yield kind, note["value"] if kind == "context" else "", claim, splits


def _era(here: World, attribute: str, subject: str, claim: str) -> Meanings:
    eras = [f"the {era} era" for era in ERAS]
    if subject in eras and attribute in ERA_TOPICS:
        yield "era", ERA_TOPICS[attribute][eras.index(subject)], "", (*SPLITS, "web")


def _opinion(here: World, attribute: str, subject: str, claim: str) -> Meanings:
    if any({subject, claim} == set(pair) for pair in OPINIONS):
        yield "opinion", "", claim, (*SPLITS, "web")


_MEANING = {
    "fact": _fact, "premise": _premise, "procedure": _procedure, "context": _context, "era": _era, "opinion": _opinion,
}  # fmt: skip
