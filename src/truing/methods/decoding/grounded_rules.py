"""The rule of grounded decoding, over any source of next-token scores: which tokens come next, exactly, with few calls.

Every token of the vocabulary is a candidate. Since no grounding function exceeds its bound, tokens are visited in the
order of what they could reach at best, and the visit ends where no further token can come in: the same tokens as by
scoring the whole vocabulary, ties included.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from truing.contracts import Prompt
from truing.errors import RewardError
from truing.methods.decoding.grounded_scorers import Grounding
from truing.rewards.partial import half_letter, readable

HEAD = 64  # most likely tokens that are sorted first; the whole vocabulary only where they do not decide


class Scores(Protocol):
    """Where next-token scores come from; rows are numbered as in the last call."""

    def start(self) -> list[torch.Tensor]:
        """Scores [vocabulary] after each prompt."""

    def advance(self, rows: Sequence[int], blocks: Sequence[list[int]], keep: Sequence[int]) -> Sequence[torch.Tensor]:
        """New rows: old ones cut to their first ``keep[i]`` answer tokens, each with a block behind it.

        Gives the scores after each token of each block, [tokens of the block, vocabulary].
        """


class Language(Protocol):
    """How tokens become text, and which of them end an answer."""

    def text(self, before: str, tokens: Sequence[int], token: int) -> tuple[str, str | None]:
        """The answer with one more token, and "stop" where that ends it; see `truing.rewards.partial.half_letter`."""

    def silent(self, token: int) -> bool:
        """Whether a token is no text and ends nothing, so that no grounding function could judge it."""

    def beginning(self, letters: frozenset[str], count: int) -> torch.Tensor:
        """Which of so many tokens may begin with one of these letters or end an answer, bool [count]."""

    def draft(self, text: str, rest: str, room: int) -> list[int]:
        """Tokens that an answer may go on with to say the rest."""


@dataclasses.dataclass
class Hypothesis:
    """An answer being written.

    Args:
        tokens: its token ids.
        text: what they say.
        logprob: the language model's, in nats.
        grounding: sum of the logarithms of grounding functions, as they are accumulated.
        closed: their part from spans that are over, by scorer.
        spans: number of those.
        steps: what the trace shows of each token.
        reason: why it ended, or None.
        row: its row in the source of scores.
        scores: of the next token; None where they are to be computed.
        ahead: tokens read ahead, and the scores after each.
    """

    tokens: list[int]
    text: str
    logprob: float
    grounding: float
    closed: np.ndarray
    row: int = 0
    spans: int = 0
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    reason: str | None = None
    scores: torch.Tensor | None = None
    ahead: list[tuple[int, torch.Tensor]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Group:
    """One answer that is asked for: its hypotheses compete with each other.

    Args:
        prompt: the conversation.
        language: of its answer.
        live: hypotheses that go on.
        keys: from next-token scores and the number of the token in the answer to what tokens are chosen by, float64
            [vocabulary]: log-probabilities, or those with the noise of sampling. Minus infinity takes a token out.
        scale: what the logarithm of a grounding function weighs among the keys.
        room: most tokens.
        wanted: how many answers are to be found.
        over: those that ended, the best first once all have.
        texts: texts that were judged for it.
    """

    prompt: Prompt
    language: Language
    live: list[Hypothesis]
    keys: Callable[[torch.Tensor, int], torch.Tensor]
    scale: float
    room: int
    wanted: int = 1
    over: list[Hypothesis] = dataclasses.field(default_factory=list)
    texts: int = 0


@dataclasses.dataclass
class Rule:
    """What is chosen.

    Args:
        width: hypotheses kept of each group.
        every_prefix: accumulate the grounding of every prefix, as the paper's product does, and not that of the text as
            it stands, as its derivation does.
        strength: weight of the logarithms of grounding functions.
        floor: least value of a grounding function.
        strict: a candidate at the floor is taken out, and so is one that says nothing.
        brackets: grounding acts between these two only; None for the whole answer.
    """

    width: int = 1
    every_prefix: bool = True
    strength: float = 1.0
    floor: float = 1e-6
    strict: bool = True
    brackets: tuple[str, str] | None = None

    def total(self, one: Hypothesis) -> float:
        """What hypotheses are ranked by."""
        return one.logprob + self.strength * one.grounding

    def judged(self, text: str, ended: bool) -> list[tuple[str, bool]]:
        """The spans of an answer on which grounding acts, each with whether it is over."""
        if self.brackets is None:
            return [(text, ended)]
        spans: list[tuple[str, bool]] = []
        at = 0
        while (start := text.find(self.brackets[0], at)) >= 0:
            start += len(self.brackets[0])
            end = text.find(self.brackets[1], start)
            if end < 0:
                return [*spans, (text[start:], ended)]
            spans.append((text[start:end], True))
            at = end + len(self.brackets[1])
        return spans


def decode(groups: Sequence[Group], source: Scores, grounding: Grounding, rule: Rule) -> None:
    """Write the answers of all groups to their ends; they are then in ``over``, the best first.

    One pass over the source for all hypotheses of all groups at a time. Where grounding leaves one way to go on, a
    group of one hypothesis reads that ahead in the same pass, and keeps what the rule then chooses.

    Raises:
        RewardError: a grounding function failed, or no candidate of a group is above the floor.
    """
    first = source.start()
    for group in groups:
        for one in group.live:
            one.scores = first[one.row]
    while any(group.live for group in groups):
        ready = [group for group in groups if group.live and all(one.scores is not None for one in group.live)]
        if ready:
            widen(ready, grounding, rule)
            continue
        live = [one for group in groups for one in group.live]
        blocks = []
        for group in groups:
            for one in group.live:
                ahead: list[int] = []
                rest = grounding.forced(group.prompt, one.text) if rule.width == 1 and not rule.brackets else None
                if rest is not None:
                    ahead = group.language.draft(one.text, rest, group.room - len(one.tokens))
                blocks.append([one.tokens[-1], *ahead])
        found = source.advance([one.row for one in live], blocks, [len(one.tokens) - 1 for one in live])
        for row, (one, block, scores) in enumerate(zip(live, blocks, found)):
            one.row, one.scores = row, scores[0]
            one.ahead = list(zip(block[1:], scores[1:]))
    for group in groups:
        group.over.sort(key=lambda one: -rule.total(one))  # stable, so that of equals the first found stays first


@dataclasses.dataclass
class _Found:
    """A candidate: one hypothesis and one token more."""

    rank: float
    parent: int
    token: int
    logprob: float
    text: str
    reason: str | None
    spans: list[tuple[str, bool]]
    logs: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    closed: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    low: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=bool))
    ground: float = 0.0


class _Visit:
    """The candidates of one group, found in the order of what they could reach at best."""

    def __init__(self, group: Group, grounding: Grounding, rule: Rule) -> None:
        self.group, self.rule, self.grounding = group, rule, grounding
        self.hard = rule.strict and rule.strength > 0
        self.top = rule.strength * grounding.top * group.scale if rule.brackets is None else 0.0
        self.found: list[_Found] = []
        self.floored: list[_Found] = []
        ended = group.over if rule.width > 1 else []
        self.ranks = sorted((rule.total(one) for one in ended), reverse=True)[: rule.width]
        self._fronts = [self._front(at, one) for at, one in enumerate(group.live)]
        self._next = [next(front, None) for front in self._fronts]

    def _base(self, one: Hypothesis) -> float:
        """What a hypothesis brings to the rank of those that continue it, apart from the new token."""
        if self.rule.width == 1:
            return 0.0
        kept = one.grounding if self.rule.every_prefix else float(one.closed.sum())
        return one.logprob + self.rule.strength * kept

    def _front(self, at: int, one: Hypothesis) -> Iterator[tuple[float, int, float]]:
        """What each token could reach, the token, and its log-probability, the best first."""
        assert one.scores is not None
        logprobs = one.scores.double().log_softmax(0)
        keys = self.group.keys(one.scores, len(one.tokens))
        base = self._base(one)
        head = keys.topk(min(HEAD, len(keys)))
        # Ties at the edge of the head are left to the whole order, in which lower ids go first.
        sure = head.values > head.values[-1] if len(keys) > HEAD else torch.ones_like(head.values, dtype=torch.bool)
        done: set[int] = set()
        for values, ids in ((head.values[sure], head.indices[sure]), (None, None)):
            if values is None or ids is None:
                if len(done) == len(keys):
                    return
                if self.hard and self.rule.brackets is None:
                    letters = self.grounding.follows(self.group.prompt, one.text)
                    if letters is not None:  # what begins otherwise is at the floor
                        keys = keys.where(self.group.language.beginning(letters, len(keys)), -math.inf)
                values, ids = keys.sort(descending=True, stable=True)
            for value, token, logprob in zip(values.tolist(), ids.tolist(), logprobs[ids].tolist()):
                if value == -math.inf:
                    return
                if token not in done:
                    done.add(token)
                    yield base + value, token, logprob

    @property
    def least(self) -> float:
        """What a further candidate has to reach."""
        return self.ranks[self.rule.width - 1] if len(self.ranks) >= self.rule.width else -math.inf

    def ask(self, most: int) -> list[_Found]:
        """The next candidates of each hypothesis that may still come in."""
        out = []
        for at, one in enumerate(self.group.live):
            left = most
            while left and (ahead := self._next[at]) is not None and ahead[0] + self.top >= self.least:
                rank, token, logprob = ahead
                self._next[at] = next(self._fronts[at], None)
                if self.hard and self.group.language.silent(token):
                    continue
                left -= 1
                text, reason = self.group.language.text(one.text, one.tokens, token)
                if reason is None and len(one.tokens) + 1 >= self.group.room:
                    reason = "length"
                spans = self.rule.judged(text, reason == "stop")[one.spans :]
                out.append(_Found(rank, at, token, logprob, text, reason, spans))
        return out

    def offer(self, one: _Found, logs: np.ndarray, floor: float) -> None:
        """Take a candidate whose spans are judged, [spans, scorers]."""
        rule, parent = self.rule, self.group.live[one.parent]
        self.group.texts += len(one.spans)
        one.logs = logs.sum(0)
        over = np.array([ended for _, ended in one.spans], dtype=bool)
        one.closed = parent.closed + logs[over].sum(0)
        now = float(one.logs.sum())
        one.ground = parent.grounding + now if rule.every_prefix else float(parent.closed.sum()) + now
        one.rank += rule.strength * now * self.group.scale
        one.low = np.asarray((logs <= math.log(floor)).any(axis=0))
        if self.hard and one.low.any():
            self.floored.append(one)
            return
        self.found.append(one)
        self.ranks = sorted([*self.ranks, one.rank], reverse=True)[: rule.width]

    def settle(self) -> None:
        """Replace the hypotheses of the group by the best of all."""
        group, rule = self.group, self.rule
        if not self.found and not group.over:
            raise self._stuck()
        places: list[tuple[float, int, int, _Found | Hypothesis]] = [
            (-one.rank, one.parent, one.token, one) for one in self.found
        ]
        if rule.width > 1:
            places += [(-rule.total(one), -1, at, one) for at, one in enumerate(group.over)]
        before, group.live, group.over = group.live, [], [] if rule.width > 1 else group.over
        for *_, one in sorted(places, key=lambda place: place[:3])[: rule.width]:
            made = one if isinstance(one, Hypothesis) else self._grown(before[one.parent], one)
            (group.live if made.reason is None else group.over).append(made)
        if group.live and len(group.over) >= group.wanted:
            # No grounding function adds to a score, so these can only be overtaken by what leads them now.
            best = max(one.logprob + (rule.strength * one.grounding if rule.every_prefix else 0) for one in group.live)
            if sorted(map(rule.total, group.over), reverse=True)[group.wanted - 1] >= best:
                group.live = []

    def _grown(self, parent: Hypothesis, one: _Found) -> Hypothesis:
        step = {
            "token": _letters(one.text)[len(_letters(parent.text)) :],
            "logprob": one.logprob,
            "grounding": one.logs.tolist(),
            "score": one.logprob + self.rule.strength * float(one.logs.sum()),
        }
        made = Hypothesis(
            tokens=[*parent.tokens, one.token], text=one.text, logprob=parent.logprob + one.logprob,
            grounding=one.ground, closed=one.closed, row=parent.row,
            spans=parent.spans + sum(ended for _, ended in one.spans),
            steps=[*parent.steps, step], reason=one.reason,
        )  # fmt: skip
        if parent.ahead and parent.ahead[0][0] == one.token:
            made.scores, made.ahead = parent.ahead[0][1], parent.ahead[1:]
        return made

    def _stuck(self) -> RewardError:
        text, grounding = readable(self.group.live[0].text), self.grounding
        low = {name for one in self.floored for name, log in zip(grounding.names, one.low) if log}
        names = ", ".join(name for name in dict.fromkeys(grounding.names) if name in low) or "a grounding function"
        return RewardError(
            f"After {text[-200:]!r} every token that could follow is at the floor of {names} ({grounding.floor:g}), "
            "so grounding leaves nothing to say. Allow more: more skills or fewer hazards, a `terminal` where skills "
            "end, a higher top_p or top_k; or set strict=False, and the most likely is said all the same."
        )


def _letters(text: str) -> str:
    return text.removesuffix(half_letter(text))


def widen(groups: Sequence[Group], grounding: Grounding, rule: Rule) -> None:
    """One token more in each group, whose hypotheses have their scores.

    Grounding functions are asked for all groups together; a round asks for four times as many candidates as the one
    before, so that few rounds decide and few texts are judged in vain.

    Raises:
        RewardError: a grounding function failed, or no candidate of a group is above the floor.
    """
    visits = [_Visit(group, grounding, rule) for group in groups]
    size, open_ = rule.width, visits
    while open_:
        asked = [(visit, visit.ask(size)) for visit in open_]
        flat = [(visit, one) for visit, found in asked for one in found]
        spans = [(visit.group.prompt, *span) for visit, one in flat for span in one.spans]
        logs = grounding.logs(*map(list, zip(*spans))) if spans else np.zeros((0, len(grounding.scorers)))
        at = 0
        for visit, one in flat:
            visit.offer(one, logs[at : at + len(one.spans)], grounding.floor)
            at += len(one.spans)
        open_ = [visit for visit, found in asked if found]
        size *= 4
    for visit in visits:
        visit.settle()


def grounded_scores(logits: Any, grounding: Any) -> tuple[np.ndarray, np.ndarray]:
    """One step over all candidates at once: scores and their posterior.

    Args:
        logits: the language model's over the candidates, [candidates].
        grounding: values of each grounding function, from 0 to 1 (0 excluded), [functions, candidates].

    Returns:
        ``log p + sum_i log g_i`` in nats, [candidates], and the softmax of that.
    """
    scores = torch.as_tensor(logits, dtype=torch.float64).log_softmax(0)
    for values in grounding:
        scores = scores + torch.as_tensor(values, dtype=torch.float64).log()
    return scores.numpy(), scores.softmax(0).numpy()
