"""Look-ahead decoding, as a rule: which beginnings are asked for, scored and kept. What answers it is elsewhere.

At each step the likeliest next tokens are candidates. Each is continued by rollouts, a reward says what it thinks of
where these lead, and the candidates with the best ``log-probability + weight * value`` are kept. DeAL, ARGS, controlled
decoding and Transfer Q* differ in the model that rolls out, in how far, in the value, and in what is kept.

What need not be known is not asked for, and never changes what is kept: a candidate whose best case loses against the
worst cases of enough others, and a rollout whose reward is settled. Sampling is the largest of scores with Gumbel noise
that is known beforehand, so that there, too, nothing is approximate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence
from typing import Any

import torch

from truing.errors import ModelError, SettingsError
from truing.methods.decoding.lookahead_values import Estimate, Mean
from truing.methods.decoding.lookahead_world import Asking, Candidate, Found, Read, Rollout, Score, Step, World
from truing.models.sampling import check_sampling, truncate, uniform
from truing.models.types import Sampling

GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Rule:
    """What the methods differ in.

    Args:
        k: candidates at each step.
        lookahead: most tokens of a rollout; 0 scores what is written.
        weight: of the value against log-probability.
        beam: beginnings kept at each step.
        cumulative: count the log-probability of the whole beginning, and not of its last token alone. They differ
            between beginnings, so only in a beam.
        rollouts: for each candidate.
        estimate: the value from their rewards.
    """

    k: int
    lookahead: int
    weight: float
    beam: int = 1
    cumulative: bool = True
    rollouts: int = 1
    estimate: Estimate = dataclasses.field(default_factory=Mean)

    @property
    def width(self) -> int:
        """Most rollouts of a step."""
        return self.k * self.rollouts * self.beam


@dataclasses.dataclass(frozen=True)
class Choice:
    """How candidates are chosen by score: the largest, or one drawn from the softmax of their scores.

    Args:
        sampling: temperature 0 takes the largest. Top-k and top-p act among the candidates.
        stream: of the noise; see `truing.models.sampling`.
    """

    sampling: Sampling = GREEDY
    stream: int = 0

    @property
    def cuts(self) -> bool:
        """Whether which candidates may be drawn depends on all scores."""
        return self.sampling.temperature > 0 and (self.sampling.top_k > 0 or self.sampling.top_p < 1)

    def shifts(self, step: int, tokens: Sequence[int]) -> list[float]:
        """The noise of each candidate."""
        if self.sampling.temperature == 0:
            return [0.0] * len(tokens)
        ids = torch.tensor([list(tokens)])
        noise = uniform(1, len(tokens), self.sampling.seed, [self.stream], step, ids)
        drawn: list[float] = noise.log_().neg_().log_().neg_()[0].tolist()
        return drawn

    def key(self, score: float, candidate: Candidate) -> tuple[float, float, int]:
        """What is largest for the one to keep; of equal scores the likelier, then the first."""
        return score / (self.sampling.temperature or 1.0) + candidate.shift, candidate.total, -candidate.order

    def ranked(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those with a score, best first."""
        scored = [each for each in candidates if each.score is not None]
        scores = [float(each.score) for each in scored if each.score is not None]
        if self.cuts:
            cut = truncate(torch.tensor([scores]), self.sampling)[0]
            left = [(at, float(value)) for at, value in enumerate(cut.tolist()) if value > -math.inf]
            keys = {at: (value + scored[at].shift, scored[at].total, -at) for at, value in left}
            return [scored[at] for at in sorted(keys, key=keys.__getitem__, reverse=True)]
        keyed = [(self.key(score, each), each) for score, each in zip(scores, scored)]
        return [each for _, each in sorted(keyed, key=lambda pair: pair[0], reverse=True)]


def look_ahead(rule: Rule, world: World, room: int, choice: Choice | None = None) -> Asking:
    """Write an answer of at most ``room`` tokens.

    Rollouts may lead past ``room``: what an answer would have become says most about its beginning.
    """
    choice = choice or Choice()
    kept, steps = [Candidate((), (), 0.0)], list[Step]()
    for at in range(room):
        live = [each for each in kept if not each.finished]
        if not live:
            break
        while unknown := [each.tokens for each in live if world.candidates(each.tokens) is None]:
            yield Read(beginnings=unknown)
        opened = _opened(rule, world, live)
        for candidate, shift in zip(opened, choice.shifts(at, [each.tokens[-1] for each in opened])):
            candidate.shift = shift
        done = [each for each in kept if each.finished]
        only = yield from _evaluate(rule, world, choice, done, opened)
        kept = [only] if only is not None else choice.ranked([*done, *opened])[: rule.beam]
        steps.append(Step(opened, kept))
        world.keep([each.tokens for each in kept])
    return Found(kept[0], steps)


def _opened(rule: Rule, world: World, live: Sequence[Candidate]) -> list[Candidate]:
    opened: list[Candidate] = []
    for parent in live:
        for token, logprob in (world.candidates(parent.tokens) or [])[: rule.k]:
            if logprob == -math.inf:
                continue
            tokens = (*parent.tokens, token)
            total = (parent.total if rule.cumulative else 0.0) + logprob
            made = Candidate(tokens, (*parent.logprobs, logprob), total, len(opened), world.ended(tokens))
            length, count = (0, 1) if made.finished else (rule.lookahead, rule.rollouts if rule.lookahead else 1)
            made.rollouts = [Rollout(tokens, number, length) for number in range(count)]
            for rollout in made.rollouts:
                rollout.ended, rollout.done = made.finished, length == 0
            opened.append(made)
    if not opened:
        raise ModelError(
            "The next-token scores of all candidates are -inf, so no token can be chosen. "
            "Check the logits modifiers that act on the model, and the weights."
        )
    return opened


def _evaluate(
    rule: Rule, world: World, choice: Choice, done: Sequence[Candidate], opened: Sequence[Candidate]
) -> Generator[Read | Score, Any, Candidate | None]:
    """Find the scores of all candidates that may be kept; the one that is left, if one of them is certain without."""
    alive = list(opened)
    while waiting := [each for each in alive if each.value is None]:
        for each in waiting:
            for rollout in each.rollouts:
                if not rollout.done:
                    world.follow(rollout)
        bounded = not choice.cuts and _narrow(rule, world, waiting)
        if bounded:
            alive = _left(rule, choice, [*done, *opened], alive)
            if rule.beam == 1 and len(alive) == 1:
                return alive[0]
            waiting = [each for each in alive if each.value is None]
        for each in waiting:
            if not rule.estimate.baseline and all(rollout.settled is not None for rollout in each.rollouts):
                _value(rule, each, [(rollout.settled or 0.0, 0.0) for rollout in each.rollouts])
        waiting = [each for each in waiting if each.value is None]
        ready = [each for each in waiting if all(rollout.done for rollout in each.rollouts)]
        if ready and (bounded or len(ready) == len(waiting)):
            rollouts = [rollout for each in ready for rollout in each.rollouts]
            asked = Score([(rollout.whole, rollout.ended) for rollout in rollouts], rule.estimate.baseline, rollouts)
            rewards = iter((yield asked))
            for each in ready:
                _value(rule, each, [next(rewards) for _ in each.rollouts])
        elif waiting:
            needed = [rollout for each in waiting for rollout in each.rollouts if not rollout.done]
            yield Read(rollouts=needed, ahead=_guesses(rule, world, opened) if rule.beam == 1 else ())
    return None


def _value(rule: Rule, candidate: Candidate, rewards: Sequence[tuple[float, float]]) -> None:
    values, baselines = zip(*rewards)
    candidate.value = candidate.low = candidate.high = rule.estimate.value(values, baselines)
    candidate.score = candidate.total + rule.weight * candidate.value


def _narrow(rule: Rule, world: World, waiting: Sequence[Candidate]) -> bool:
    """Note where the values of candidates can lie; False where that is no help."""
    if not world.lazy:
        return False
    if rule.weight == 0:
        for each in waiting:
            each.low = each.high = 0.0
        return True
    rollouts = [rollout for each in waiting for rollout in each.rollouts]
    ends = world.reach(rollouts)
    if ends is None:
        return False
    pairs = iter(ends)
    for each in waiting:
        mine = [next(pairs) for _ in each.rollouts]
        for rollout, (low, high) in zip(each.rollouts, mine):
            if low == high:
                rollout.settled = low
        each.low, each.high = rule.estimate.interval([low for low, _ in mine], [high for _, high in mine])
    return any(each.high < math.inf for each in waiting)


def _left(rule: Rule, choice: Choice, pool: Sequence[Candidate], alive: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that may still be kept: whose best case is not below the worst cases of ``beam`` others.

    Scores are sums of the same terms in the same order, and rounding keeps order, so this is exact to the last bit.
    """
    if len(pool) <= rule.beam:
        return list(alive)

    def case(each: Candidate, value: float) -> tuple[float, float, int]:
        return choice.key(each.total + rule.weight * value if each.score is None else each.score, each)

    least = sorted((case(each, each.low) for each in pool), reverse=True)[rule.beam - 1]
    return [each for each in alive if case(each, each.high) >= least]


def _guesses(rule: Rule, world: World, opened: Sequence[Candidate]) -> list[Rollout]:
    """Rollouts of the next steps, if the candidate is kept that is most likely to be, and so on after it."""
    out: list[Rollout] = []
    path, steps = world.likely(opened[0].tokens[:-1], [each.tokens[-1] for each in opened]), 0
    span = rule.weight * world.span
    for _ in range(rule.lookahead):
        tops = world.candidates(path)
        if steps >= world.ahead or tops is None or world.ended(path):
            break
        more = []
        for token, logprob in tops[: rule.k]:
            # A lead that no value can make up for: the next step will not look ahead.
            if tops[0][1] - logprob > span or world.ended((*path, token)):
                continue
            for number in range(rule.rollouts):
                rollout = Rollout((*path, token), number, rule.lookahead)
                world.follow(rollout)
                if not rollout.done:
                    more.append(rollout)
        steps += bool(more)
        out += more
        path = world.likely(path, [token for token, _ in tops[: rule.k]])
    return out


def check_choice(sampling: Sampling, beam: int) -> None:
    """Raise for a sampling that a beam cannot do."""
    check_sampling(sampling)
    if beam > 1 and sampling.temperature > 0:
        raise SettingsError(
            f"A beam of {beam} keeps the best beginnings and draws none: ask with temperature=0, or set beam=1."
        )
