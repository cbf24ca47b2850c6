"""Pairs of grounded reports of the sandbox: what was written and what is true, with the verdict on every phrase."""

from __future__ import annotations

import random
from typing import Any

from truing.sandbox.consistency import FORMS, Fact, contradicting, note
from truing.sandbox.corpus import statement
from truing.sandbox.world import World, world

ERRORS = {"right": 60, "wrong": 15, "made up": 10, "left out": 15}
MOVED = 0.3
BOXED = 0.6


def reports(split: str = "test", n: int = 60, seed: int = 0, *, world_seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of reports, each a list of phrases ``{"text", "boxes", "entailed", "evidence"}``.

    Of what is true, some is told in other words, some wrong, some left out, and something is made up. Most phrases have
    a box; one in three boxes of what is told right lies elsewhere. ``entailed`` and ``evidence`` (numbers of phrases of
    the other report) are exact.

    Args:
        split: ``train``, ``dev`` or ``test``.
        n: pairs.
        seed: of the sample.
        world_seed: of the world.

    Returns:
        Rows with ``id``, ``candidate``, ``reference`` and ``planted``, how many phrases of each kind there are.
    """
    here, rng = world(world_seed), random.Random(f"reports {split} {seed}")
    return [_pair(here, split, rng, f"report-{at + 1}") for at in range(n)]


def _pair(here: World, split: str, rng: random.Random, name: str) -> dict[str, Any]:
    said, unsaid = note(here, split, rng, rng.choice((2, 3)))
    true = [(fact, _box(rng) if rng.random() < BOXED else None) for fact in said]
    written: list[tuple[Fact, Any]] = []
    planted = dict.fromkeys(ERRORS, 0)
    for fact, place in true:
        box: Any = place
        kind = rng.choices(list(ERRORS), list(ERRORS.values()))[0]
        planted[kind] += 1
        if kind == "left out":
            continue
        if kind == "wrong":
            fact = contradicting(here, fact, said, rng)
        elif kind == "made up":
            fact = rng.choice(unsaid)
        elif box is not None:
            box = _box(rng) if rng.random() < MOVED else _near(box, rng)
        written.append((fact, box))
    rng.shuffle(written)
    sides = {"candidate": written, "reference": true}
    out: dict[str, Any] = {"id": name}
    for side, other in (("candidate", "reference"), ("reference", "candidate")):
        phrases = []
        for fact, box in sides[side]:
            evidence = [at for at, (same, _) in enumerate(sides[other]) if same == fact]
            subject, attribute, value = fact
            text = statement(attribute, subject, value, rng.randrange(FORMS))
            phrases.append(
                {"text": text, "boxes": box and [list(box)], "entailed": bool(evidence), "evidence": evidence}
            )
        out[side] = phrases
    return {**out, "planted": planted}


def _box(rng: random.Random) -> tuple[float, float, float, float]:
    x, y = rng.randrange(60) / 100, rng.randrange(60) / 100
    return x, y, round(x + 0.2 + rng.randrange(20) / 100, 2), round(y + 0.2 + rng.randrange(20) / 100, 2)


def _near(box: tuple[float, ...], rng: random.Random) -> tuple[float, ...]:
    """The box moved by at most 0.03 each way, inside of the image: still covered by more than half."""
    by = rng.randrange(-3, 4) / 100
    return tuple(round(min(1.0, max(0.0, value + by)), 2) for value in box)
