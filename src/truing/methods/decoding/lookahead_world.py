"""What a look-ahead rule asks and what it is told: beginnings of answers, how they go on, and the world that knows.

The rules themselves are in `lookahead_rule` and `deal_segments`; models answer them in `lookahead_search`, and plain
functions in `Table`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from truing.errors import ModelError

Tokens = tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Rollout:
    """How a beginning goes on.

    Args:
        start: the answer's tokens so far, the candidate among them.
        number: which of the rollouts it is.
        length: most tokens.

    ``tokens`` are those that are known yet; ``done``, whether that is all; ``ended``, whether the answer has ended;
    ``settled``, its reward where that is known before its end; ``at`` is the world's own.
    """

    start: Tokens
    number: int
    length: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    done: bool = False
    ended: bool = False
    settled: float | None = None
    at: Any = None

    @property
    def whole(self) -> Tokens:
        """The beginning and how it goes on."""
        return (*self.start, *self.tokens)


@dataclasses.dataclass(eq=False)
class Candidate:
    """A beginning of an answer that may be kept.

    Args:
        tokens: of the answer so far.
        logprobs: of each of them.
        total: log-probability that counts in the score.
        order: among the candidates of a step.
        finished: whether the answer has ended.
        shift: added to the score when choosing: noise, where a token is drawn.

    ``value`` and ``score`` stay None where the candidate was left out.
    """

    tokens: Tokens
    logprobs: tuple[float, ...]
    total: float
    order: int = 0
    finished: bool = False
    shift: float = 0.0
    rollouts: list[Rollout] = dataclasses.field(default_factory=list)
    low: float = -math.inf
    high: float = math.inf
    value: float | None = None
    score: float | None = None


@dataclasses.dataclass
class Step:
    """One step: its candidates in order, and the beginnings that were kept, best first."""

    candidates: list[Candidate]
    kept: list[Candidate]


@dataclasses.dataclass
class Found:
    """The best answer, and how it was found."""

    best: Candidate
    steps: list[Step]


@dataclasses.dataclass
class Read:
    """Asks for one forward pass: candidates after beginnings, or rollouts that are to go on.

    Args:
        beginnings: answer tokens.
        rollouts: those that are needed.
        ahead: those that may be needed soon.
    """

    beginnings: Sequence[Tokens] = ()
    rollouts: Sequence[Rollout] = ()
    ahead: Sequence[Rollout] = ()


@dataclasses.dataclass
class Score:
    """Asks for rewards of answer tokens, each with whether the answer has ended; is sent the list of them.

    With ``baseline`` a pair for each, the second of them what the baseline reward says.
    """

    answers: Sequence[tuple[Tokens, bool]]
    baseline: bool = False
    rollouts: Sequence[Rollout] = ()


Asking = Generator[Read | Score, Any, Found]


class World(Protocol):
    """What a rule knows without asking.

    ``ahead`` is for how many steps it may guess, ``span`` the difference between the highest and the lowest reward, and
    ``lazy``, whether values that change nothing may be left out.
    """

    lazy: bool
    ahead: int
    span: float

    def candidates(self, tokens: Tokens) -> list[tuple[int, float]] | None:
        """The likeliest next tokens with log-probabilities, best first; None where that was not read."""

    def ended(self, tokens: Tokens) -> bool:
        """Whether these tokens are a whole answer."""

    def follow(self, rollout: Rollout) -> None:
        """Lengthen a rollout by what is known."""

    def reach(self, rollouts: Sequence[Rollout]) -> list[tuple[float, float]] | None:
        """The rewards that each can still come to; None where there is no telling."""

    def likely(self, tokens: Tokens, candidates: Sequence[int]) -> Tokens:
        """A beginning with the candidate that is most likely to be kept; a guess."""

    def keep(self, beginnings: Sequence[Tokens]) -> None:
        """All else may be forgotten."""


@dataclasses.dataclass
class Table:
    """A world of plain functions, in which everything is computed, for known values and small worlds.

    Args:
        after: scores of the next tokens after answer tokens, largest first.
        goes_on: the next token of a rollout, after answer tokens, by its number.
        is_whole: whether answer tokens are a whole answer.
    """

    after: Callable[[Tokens], list[tuple[int, float]]]
    goes_on: Callable[[Tokens, int], int]
    is_whole: Callable[[Tokens], bool] = lambda tokens: False
    lazy: bool = False
    ahead: int = 0
    span: float = math.inf

    def candidates(self, tokens: Tokens) -> list[tuple[int, float]]:
        """See `World`."""
        return self.after(tokens)

    def ended(self, tokens: Tokens) -> bool:
        """See `World`."""
        return self.is_whole(tokens)

    def follow(self, rollout: Rollout) -> None:
        """All of it."""
        while len(rollout.tokens) < rollout.length and not rollout.ended:
            rollout.tokens.append(self.goes_on(rollout.whole, rollout.number))
            rollout.ended = self.is_whole(rollout.whole)
        rollout.done = True

    def reach(self, rollouts: Sequence[Rollout]) -> None:
        """No telling."""

    def likely(self, tokens: Tokens, candidates: Sequence[int]) -> Tokens:
        """The first."""
        return (*tokens, candidates[0])

    def keep(self, beginnings: Sequence[Tokens]) -> None:
        """Nothing is held."""


def answered(asking: Asking, reward: Callable[[Tokens], Any]) -> Found:
    """Run a rule on a `Table` and a function that gives the reward of answer tokens, or a pair with the baseline's."""
    try:
        question = next(asking)
        while True:
            if not isinstance(question, Score):
                raise ModelError("A table knows all that comes next, and was asked to read.")
            values = [reward(tokens) for tokens, _ in question.answers]
            question = asking.send([value if isinstance(value, tuple) else (value, 0.0) for value in values])
    except StopIteration as end:
        found: Found = end.value
        return found
