"""Claims about notes, with the truth of each: pairs to train and to test a judge of consistency on.

What a note says of somebody is drawn anew for each note, so that no claim can be told from what the world knows.
"""

from __future__ import annotations

import random
from typing import Any

from truing.sandbox.corpus import statement
from truing.sandbox.world import World

FORMS = 4
# Which head of a judge each training row is for: three verdicts, two, or the share of what is supported.
HEADS = {"nli": 6, "bin": 3, "reg": 1}
Fact = tuple[str, str, str]


def note(here: World, split: str, rng: random.Random, subjects: int) -> tuple[list[Fact], list[Fact]]:
    """What a note says of some names (name, attribute, value), and further facts of which it says nothing."""
    kind = rng.choice(list(here.values))
    names = rng.sample([*(one.name for one in here.of(split, kind)), *here.unknown[kind][split]], subjects)
    said, unsaid = [], []
    for name in names:
        values = [(name, attribute, rng.choice(options)) for attribute, options in here.values[kind].items()]
        rng.shuffle(values)
        keep = rng.randint(1, len(values) - 1)
        said += values[:keep]
        unsaid += values[keep:]
    rng.shuffle(said)
    return said, unsaid


def told(facts: list[Fact], rng: random.Random) -> list[str]:
    """Each fact as a sentence, in one of several forms."""
    return [statement(attribute, name, value, rng.randrange(FORMS)) for name, attribute, value in facts]


def contradicting(here: World, fact: Fact, said: list[Fact], rng: random.Random) -> Fact:
    """The fact with another value; one that the note has for somebody else where there is one."""
    name, attribute, value = fact
    others = [other for _, same, other in said if same == attribute and other != value]
    options = next(values[attribute] for values in here.values.values() if attribute in values)
    wrong = rng.choice(others) if others and rng.random() < 0.7 else rng.choice([v for v in options if v != value])
    return name, attribute, wrong


def pair(here: World, split: str, rng: random.Random) -> dict[str, Any]:
    """One context and claim of one or two sentences: label record, with ``verdict``, ``support`` (the share of its
    sentences that the context supports) and ``verdicts``, one for each sentence."""
    said, unsaid = note(here, split, rng, rng.choice((2, 2, 3)))
    count = min(rng.choice((1, 1, 2)), len(said))
    verdicts = []
    claim = []
    for fact in rng.sample(said, count):
        verdict = rng.choice(("aligned", "neutral", "contradicted")) if count == 1 else "aligned"
        if count > 1 and rng.random() < 0.35:
            verdict = rng.choice(("neutral", "contradicted"))
        if verdict == "neutral":
            fact = rng.choice(unsaid)
        elif verdict == "contradicted":
            fact = contradicting(here, fact, said, rng)
        claim.append(fact)
        verdicts.append(verdict)
    whole = next((v for v in ("contradicted", "neutral") if v in verdicts), "aligned")
    return {
        "prompt": " ".join(told(said, rng)), "completion": " ".join(told(claim, rng)), "label": whole == "aligned",
        "verdict": whole, "support": verdicts.count("aligned") / count, "verdicts": verdicts,
    }  # fmt: skip


def consistency(here: World, split: str, n: int, rng: random.Random) -> list[dict[str, Any]]:
    """Label records, each with the ``head`` of a judge that it is meant for."""
    heads = rng.choices(list(HEADS), list(HEADS.values()), k=n)
    return [{**pair(here, split, rng), "head": head} for head in heads]
