"""DeAL by segments: whole pieces of text are proposed, and the best by reward alone are kept."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

from truing.methods.decoding.lookahead_rule import Choice, Rule
from truing.methods.decoding.lookahead_world import Asking, Candidate, Found, Read, Score, Step, World

Beam = list[tuple[Candidate, int]]


def by_segments(rule: Rule, world: World, room: int, choice: Choice | None = None) -> Asking:
    """Write an answer of at most ``room`` tokens, ``rule.lookahead`` of them at a time.

    Each beginning is continued by the ``rule.k`` likeliest segments that a beam search of that width finds. The
    ``rule.beam`` best of all by reward are kept, log-probability does not count, and the best ever seen is the answer,
    which may be an unfinished one.
    """
    kept, steps = [Candidate((), (), 0.0)], list[Step]()
    best: Candidate | None = None
    while live := [each for each in kept if not each.finished and len(each.tokens) < room]:
        proposed: list[Candidate] = []
        for beginning in live:
            proposed += yield from _segments(rule, world, beginning, min(rule.lookahead, room - len(beginning.tokens)))
        for order, each in enumerate(proposed):
            each.order = order
        rewards = yield Score([(each.tokens, each.finished) for each in proposed])
        for each, (reward, _) in zip(proposed, rewards):
            each.value = each.score = reward
        kept = sorted(proposed, key=lambda each: (-(each.score or 0.0), each.order))[: rule.beam]
        if best is None or (kept[0].score or 0.0) > (best.score or 0.0):
            best = kept[0]
        steps.append(Step(proposed, kept))
        world.keep([each.tokens for each in kept])
    assert best is not None
    return Found(best, steps)


def _segments(rule: Rule, world: World, beginning: Candidate, length: int) -> Generator[Read, Any, list[Candidate]]:
    """The likeliest ``rule.k`` segments; one that ends early keeps its place at its log-probability."""
    beams = [Candidate(beginning.tokens, beginning.logprobs, 0.0)]
    for _ in range(length):
        live = [each for each in beams if not each.finished]
        if not live:
            break
        while unknown := [each.tokens for each in live if world.candidates(each.tokens) is None]:
            yield Read(beginnings=unknown)
        pool = [each for each in beams if each.finished]
        for each in live:
            for token, logprob in (world.candidates(each.tokens) or [])[: rule.k]:
                if logprob > -math.inf:
                    tokens = (*each.tokens, token)
                    made = Candidate(tokens, (*each.logprobs, logprob), each.total + logprob, 0, world.ended(tokens))
                    pool.append(made)
        beams = sorted(pool, key=lambda each: -each.total)[: rule.k]
    return beams
