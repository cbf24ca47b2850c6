"""Several look-ahead searches side by side, answered by one or two models and a reward.

Whatever the searches want next is read in one forward pass over branched caches, and scored in one call. What was read
is not read again: the rollout that wins is the beginning of the next step's, its scores are those of the next step, and
guesses at how rollouts go on are verified several tokens at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from truing.contracts import Prompt, Reward
from truing.methods.decoding.lookahead_rule import Choice
from truing.methods.decoding.lookahead_tree import Trees, Want
from truing.methods.decoding.lookahead_values import SelfNormalised
from truing.methods.decoding.lookahead_world import Asking, Found, Read, Rollout, Score, Tokens
from truing.methods.decoding.two_models import least
from truing.models.engine import Engine
from truing.models.sampling import noise_stream, pick
from truing.models.types import Completion, Row, Sampling
from truing.rewards.partial import bounds, observed, reach, score_texts

if TYPE_CHECKING:
    from truing.methods.decoding.lookahead import LookaheadModifier

ROWS = 256  # rows of a pass up to which rollouts of later steps are read along
GUESS = 16  # most tokens guessed ahead in a rollout
POSITION = 0.005  # cost of one more position in a pass, in passes; decides how far to guess, never what comes out
ENTER = 4  # the part of all searches at a time that has to be free before others enter
SHOWN = 4096  # most candidates in a trace


class Searches:
    """Several searches side by side.

    Args:
        modifier: the rule, the reward, and how rollouts are drawn.
        engine: of the model that proposes candidates.
        second: of the model that rolls out, if that is another one.
        rows: the prompt of each search.
        streams: its noise.
        sampling: see `Sampling`.
        most: rows of a pass that there is room for; those that are needed are read in any case.
        flights: most searches at a time; others enter as these end.
    """

    def __init__(
        self, modifier: LookaheadModifier, engine: Engine, second: Engine | None, rows: Sequence[Row],
        streams: Sequence[int], sampling: Sampling, most: int, flights: int,
    ) -> None:  # fmt: skip
        self.modifier, self.engine, self.sampling = modifier, engine, sampling
        self.rule, self.rows, self.most = modifier.rule(), rows, min(most, ROWS)
        self.ends = engine.ends | (second.ends if second is not None else frozenset())
        how = modifier.rollout_sampling(sampling)
        # Each rollout has a noise of its own, shared by all candidates: differences between them are then theirs.
        noise = [
            [noise_stream((*row.tokens, -1 - number), stream) for number in range(self.rule.rollouts)]
            for row, stream in zip(rows, streams)
        ]

        def choose(scores: Any, flights: list[int], numbers: list[int], steps: list[int]) -> list[int]:
            drawn = pick(scores, how, [noise[flight][number] for flight, number in zip(flights, numbers)], steps)
            chosen: list[int] = drawn.tolist()
            return chosen

        rolls = self.rule.lookahead > 0
        conversations = [row.prompt for row in rows]
        given = modifier.baseline()
        self.base = Trees(engine, self.rule.k, choose if second is None and rolls else None, self.rule.rollouts)
        self.roll = self.base
        prompts: list[Sequence[Sequence[int]]] = [[row.tokens for row in rows]]
        if second is not None:
            self.roll = Trees(second, 0, choose, self.rule.rollouts, record=given == "implicit")
            prompts.append([second.model.encode_prompt(prompt) for prompt in conversations])
        self.trees = [self.base] if second is None else [self.base, self.roll]
        self.scorer = Scorer(observed(modifier.reward, conversations))
        self.baseline = None if given is None or isinstance(given, str) else Scorer(observed(given, conversations))
        self._prompts, self._streams, self._most_flights = prompts, streams, flights
        self.flights: list[Flight] = []
        self.asking: list[Asking | None] = []
        self.asks: dict[int, Read | Score] = {}
        self.found: dict[int, Completion] = {}

    def run(self) -> list[Completion]:
        """All answers."""
        self._enter()
        while self.asks:
            scores = {flight: ask for flight, ask in self.asks.items() if isinstance(ask, Score)}
            if scores:
                self._score(scores)
            else:
                self._read({flight: ask for flight, ask in self.asks.items() if isinstance(ask, Read)})
            self._enter()
        return [self.found[flight] for flight in range(len(self.rows))]

    def _enter(self) -> None:
        """Begin more searches where others have ended; several at once, since that takes a pass of each model."""
        while True:
            begun = len(self.flights)
            left, free = len(self.rows) - begun, self._most_flights - len(self.asks)
            if not left or free < min(left, max(1, self._most_flights // ENTER)):
                return
            new = range(begun, begun + min(left, free))
            for trees, prompts in zip(self.trees, self._prompts):
                trees.enter(prompts[new.start : new.stop])
            for at in new:
                row = self.rows[at]
                self.flights.append(Flight(self, at, row))
                choice = Choice(self.sampling, self._streams[at])
                self.asking.append(self.modifier.asking(self.flights[at], self.engine.room(row, self.sampling), choice))
            for at in new:
                self._advance(at, None)

    def _advance(self, flight: int, value: Any) -> None:
        asking = self.asking[flight]
        assert asking is not None
        try:
            self.asks[flight] = asking.send(value)
        except StopIteration as end:
            self.asks.pop(flight, None)
            self.found[flight] = self._completion(flight, end.value)
            self.asking[flight] = None
            for trees in self.trees:
                trees.drop(flight)
            for scorer in (self.scorer, self.baseline):
                if scorer is not None:
                    scorer.forget(flight)

    def _read(self, asks: dict[int, Read]) -> None:
        """One pass of one model; the one that rolls out first, so that the other has more to read at once."""
        two = self.roll is not self.base
        rolling = [flight for flight, ask in asks.items() if ask.rollouts] if two else []
        ahead = max(0, self.most // (len(asks) * self.rule.width) - 1)
        for flight in asks:
            self.flights[flight].ahead = ahead
        who, moved = (self.roll, rolling) if rolling else (self.base, list(asks))
        wants, going = dict[int, Want](), dict[int, Rollout]()
        for flight in moved:
            ask = asks[flight]
            for tokens in ask.beginnings if who is self.base else ():
                node = who.find(flight, tokens)
                wants[id(node)] = Want(flight, node, set(range(self.rule.rollouts)) if self.rule.lookahead else set())
                if two:
                    self._along(wants[id(node)])
            for rollout in (*ask.rollouts, *ask.ahead) if who is self.roll else ():
                node = rollout.at
                want = wants.setdefault(id(node), Want(flight, node, set()))
                want.rollouts.add(rollout.number)
                going[id(node)] = rollout
        self._guess(who, list(wants.values()), going)
        who.read(list(wants.values()))
        for flight in moved:
            self._advance(flight, None)

    def _along(self, want: Want) -> None:
        """What the first rollout of a beginning says comes next, read by the other model in the same pass."""
        node = self.roll.find(want.flight, want.node.path())
        room = self.base.room(want.flight)
        most = GUESS if room is None else min(GUESS, room - node.depth)
        while len(want.ahead) < most and (token := node.following.get(0)) is not None and token not in self.ends:
            want.ahead.append(token)
            node = node.child(token)
        want.certain = True

    def _guess(self, who: Trees, wants: Sequence[Want], rollouts: dict[int, Rollout]) -> None:
        """Let rollouts guess ahead as far as it pays: the more rows a pass has, the less."""
        share = min(who.agreed / who.tried, 0.98)
        cost = POSITION * len(wants)
        most = max(range(GUESS + 1), key=lambda m: (1 - share ** (m + 1)) / (1 - share) / (1 + cost * (m + 1)))
        for want in wants:
            rollout = rollouts.get(id(want.node))
            if rollout is None or want.certain or len(want.rollouts) != 1:
                continue
            left = rollout.length - len(rollout.tokens) - 1  # the last token of a rollout is not read
            room = who.room(want.flight)
            left = left if room is None else min(left, room - want.node.depth)
            want.ahead = who.guess(want.flight, want.node, min(most, left)) if left > 0 else []

    def _score(self, asks: dict[int, Score]) -> None:
        """One call of the reward for all that wait for it."""
        if self.baseline is None and self.roll is not self.base:
            self._teach([(flight, each) for flight, ask in asks.items() if ask.baseline for each in ask.rollouts])
        texts = [
            (self.rows[flight].prompt, flight, self.flights[flight].text(tokens), ended)
            for flight, ask in asks.items() for tokens, ended in ask.answers
        ]  # fmt: skip
        values = iter(self.scorer(texts))
        others = iter(self.baseline(texts) if self.baseline is not None else [])
        for flight, ask in asks.items():
            pairs = []
            for at, _ in enumerate(ask.answers):
                value = next(values)
                if not ask.baseline:
                    pairs.append((value, 0.0))
                elif self.baseline is not None:
                    pairs.append((value, next(others)))
                else:
                    pairs.append((value, self._log_ratio(flight, ask.rollouts[at])))
            self._advance(flight, pairs)

    def _teach(self, rollouts: Sequence[tuple[int, Rollout]]) -> None:
        """Let the base read rollouts, for how likely they are to it."""
        wants: dict[tuple[int, Tokens], Want] = {}
        for flight, rollout in rollouts:
            node, tokens = self.base.find(flight, rollout.start), list(rollout.tokens)
            while tokens and tokens[0] in node.logprobs:
                node = node.child(tokens.pop(0))
            if tokens:
                wants[id(node), tuple(tokens)] = Want(flight, node, set(), tokens[:-1], certain=True)
                for token in tokens:
                    node = node.child(token)
        if wants:
            self.base.read(list(wants.values()))

    def _log_ratio(self, flight: int, rollout: Rollout) -> float:
        """The reward that a model tuned by DPO stands for: beta times the log of how much likelier a rollout became."""
        if self.roll is self.base or not isinstance(self.rule.estimate, SelfNormalised):
            return 0.0
        total = 0.0
        mine, base = self.roll.find(flight, rollout.start), self.base.find(flight, rollout.start)
        for token in rollout.tokens:
            total += mine.logprobs[token] - base.logprobs[token]
            mine, base = mine.child(token), base.child(token)
        return self.rule.estimate.beta * total

    def _completion(self, flight: int, found: Found) -> Completion:
        best, row = found.best, self.rows[flight]
        draft = self.engine.draft(row, self.sampling)
        for token, logprob in zip(best.tokens, best.logprobs):
            draft.push(token, logprob)
        steps, shown = [], 0
        for step in found.steps:
            shown += len(step.candidates)
            if shown <= SHOWN:
                steps.append([[each.tokens[-1], each.logprobs[-1], each.value, each.score] for each in step.candidates])
        rewarded = self.scorer.asked.get(flight, 0)
        reason = "stop" if best.finished else None
        return draft.completion(reason, steps=steps, score=best.score, value=best.value, rewarded=rewarded)


class Flight:
    """What one search knows without asking: a `World`."""

    def __init__(self, searches: Searches, at: int, row: Row) -> None:
        self._all, self._at, self._row = searches, at, row
        self.lazy, self.ahead = True, 0
        self.span = searches.scorer.high - searches.scorer.low
        self._room = least(searches.roll.room(at), searches.base.room(at) if searches.baseline is None else None)

    def candidates(self, tokens: Tokens) -> list[tuple[int, float]] | None:
        """The likeliest next tokens, if these were read."""
        return self._all.base.find(self._at, tokens).top

    def text(self, tokens: Tokens) -> str:
        """Answer tokens as the reward reads them: without an end token, and up to a stop string."""
        if tokens and tokens[-1] in self._all.ends:
            tokens = tokens[:-1]
        text = self._all.engine.text(tokens)
        return text[: min((at for at in map(text.find, self._all.sampling.stop) if at >= 0), default=None)]

    def ended(self, tokens: Tokens) -> bool:
        """Whether an end token or a stop string ends these tokens."""
        if tokens[-1] in self._all.ends:
            return True
        stop = self._all.sampling.stop
        text = self._all.engine.text(tokens) if stop else ""
        return any(each in text for each in stop)

    def follow(self, rollout: Rollout) -> None:
        """Lengthen a rollout by what was read."""
        if rollout.at is None:
            rollout.at = self._all.roll.find(self._at, rollout.start)
            if self._room is not None:
                rollout.length = min(rollout.length, self._room - len(rollout.start))
        node = rollout.at
        while len(rollout.tokens) < rollout.length and not rollout.ended:
            token = node.following.get(rollout.number)
            if token is None:
                break
            rollout.tokens.append(token)
            node = node.child(token)
            rollout.ended = self.ended(rollout.whole)
        rollout.at = node
        rollout.done = rollout.ended or len(rollout.tokens) >= rollout.length

    def reach(self, rollouts: Sequence[Rollout]) -> list[tuple[float, float]] | None:
        """What the reward can still say of them."""
        scorer = self._all.scorer
        if scorer.reaches and not self._all.sampling.stop:  # a stop string takes back the letters that it begins with
            return scorer.reach(self._row.prompt, [self.text(rollout.whole) for rollout in rollouts])
        if math.isinf(scorer.low) and math.isinf(scorer.high):
            return None
        return [(scorer.low, scorer.high)] * len(rollouts)

    def likely(self, tokens: Tokens, candidates: Sequence[int]) -> Tokens:
        """With what the model that rolls out would write, if that is a candidate; else with the first one."""
        token = self._all.roll.find(self._at, tokens).following.get(0)
        return (*tokens, token if token is not None and token in candidates else candidates[0])

    def keep(self, beginnings: Sequence[Tokens]) -> None:
        """Forget all else."""
        for trees in self._all.trees:
            trees.keep(self._at, [trees.find(self._at, tokens) for tokens in beginnings])


class Scorer:
    """A reward that is asked about each text once.

    Args:
        reward: what is wanted.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self.low, self.high = bounds(reward)
        self.reaches = hasattr(reward, "reach")
        # Whether an answer has ended matters to rewards that value beginnings in a way of their own.
        self._tells = hasattr(reward, "partial")
        self._known: dict[int, dict[tuple[str, bool], float]] = {}
        self.asked: dict[int, int] = {}

    def __call__(self, texts: Sequence[tuple[Prompt, int, str, bool]]) -> list[float]:
        """The reward of each text: its prompt, the search it is of, the text, and whether the answer has ended."""
        keys = [(flight, (text, ended and self._tells)) for _, flight, text, ended in texts]
        new = {key: at for at, key in reversed(list(enumerate(keys))) if key[1] not in self._known.get(key[0], ())}
        if new:
            fresh = [texts[at] for at in new.values()]
            values = score_texts(
                self._reward, [each[0] for each in fresh], [each[2] for each in fresh], [each[3] for each in fresh]
            )
            for (flight, text), value in zip(new, values.tolist()):
                self._known.setdefault(flight, {})[text] = value
                self.asked[flight] = self.asked.get(flight, 0) + 1
        return [self._known[flight][text] for flight, text in keys]

    def forget(self, flight: int) -> None:
        """Let go of the texts of a search that is finished."""
        self._known.pop(flight, None)

    def reach(self, prompt: Prompt, texts: Sequence[str]) -> list[tuple[float, float]]:
        """The lowest and the highest value each can still come to."""
        # The last letters may be half of a character.
        ends = reach(self._reward, [prompt] * len(texts), [text.rstrip("\ufffd") for text in texts])
        return [(low, high) for low, high in ends.tolist()]
