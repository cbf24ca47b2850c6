"""Nudging over token ids: the rule of one answer, as a generator that asks two models for one next token at a time.

A rule does not know how it is answered: by plain functions, one call a question, or by `draft_verify.drive`, which
answers many rows at once from caches and asks ahead. So the fast way decides exactly as the plain way does.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from truing.methods.decoding.nudging_rules import (
    CHUNK,
    SameWords,
    is_uncertain,
    repetition_stop,
    without_spaces,
    words,
)
from truing.models.answers import Draft

UNFINISHED = "\ufffd"  # how the first bytes of a character decode
WAIT = 3  # a character has four bytes at most


class Top(NamedTuple):
    """The token a model would write next, and the largest probability of its whole distribution."""

    token: int
    probability: float


class Twin(NamedTuple):
    """Where the guide stands when the base is asked, for whoever lets it write ahead.

    Args:
        tokens: the answer so far in the guide's ids.
        room: most answer tokens that the guide can read.
        ends: tokens after which nothing is written ahead.
        back: from tokens that the guide wrote after these to those of the base.
    """

    tokens: list[int]
    room: int
    ends: frozenset[int]
    back: Callable[[list[int]], list[int]]


class Ask(NamedTuple):
    """A question: what does ``who`` write after these answer tokens?

    Args:
        who: "base" or "guide".
        tokens: ids of the one who is asked.
        ahead: tokens likely to follow.
        twin: where the guide stands, where drafts are of use.
    """

    who: str
    tokens: list[int]
    ahead: Sequence[int] = ()
    twin: Callable[[], Twin] | None = None


Turns = Generator[Ask, Top, str]
"""A rule at work: asks, is sent the answers, and returns why it stopped."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What both rules share.

    Args:
        gamma: the base is unsure below this top probability.
        lookahead: tokens that the guide proposes in a round.
        rounds: most rounds.
        chunk: tokens that the base writes between two looks for repetition; None never looks.
        equal_is_sure: a top probability equal to gamma is sure. The paper's text says so; its token-level code differs.
    """

    gamma: float = 0.4
    lookahead: int = 16
    rounds: int = 150
    chunk: int | None = CHUNK
    equal_is_sure: bool = True

    def sure(self, probability: float) -> bool:
        """Whether the base is sure at this top probability."""
        return not is_uncertain(probability, self.gamma) if self.equal_is_sure else probability > self.gamma


@dataclasses.dataclass(frozen=True)
class Side:
    """How one of the two models reads and writes.

    Args:
        text: from token ids to text without special tokens.
        encode: from text that continues an answer to token ids.
        ends: end tokens.
        room: most answer tokens that it can read.
        end: the end token that it would write; None where it has none.
    """

    text: Callable[[Sequence[int]], str]
    encode: Callable[[str], list[int]]
    ends: frozenset[int]
    room: int
    end: int | None = None

    def added(self, before: Sequence[int], new: Sequence[int]) -> str:
        """The text that new tokens add to the ones before, of which the last few suffice for spaces and bytes."""
        near = list(before[-8:])
        start = self.text(near).rstrip(UNFINISHED)
        whole = self.text([*near, *new])
        return whole[len(start) :] if whole.startswith(start) else self.text(new)


class Answer:
    """An answer in the making, and who wrote which tokens of it.

    Args:
        draft: knows the room and the stop strings.
        room: most tokens.
    """

    def __init__(self, draft: Draft, room: int) -> None:
        self.draft, self.room = draft, room
        self.pieces: list[tuple[str, int]] = []

    @property
    def tokens(self) -> list[int]:
        """Token ids so far; the base's own."""
        return self.draft.tokens

    def write(self, who: str, tokens: Sequence[int]) -> bool:
        """Add tokens until one of them ends the answer; True when one did. A guide's call is a piece of its own."""
        start = len(self.tokens)
        for token in tokens:
            if self.draft.push(token):
                break
        count = len(self.tokens) - start
        if who == "base" and self.pieces and self.pieces[-1][0] == "base":
            count += self.pieces.pop()[1]
        if count:
            self.pieces.append((who, count))
        return self.draft.reason is not None

    def why(self, ends: frozenset[int]) -> str:
        """Why it ended, in the words of `Completion.trace`."""
        if self.draft.reason == "length":
            return "length"
        return "guide stopped" if self.tokens and self.tokens[-1] in ends else "stop string"


def nudge_by_token(
    answer: Answer, settings: Settings, base: Side, guide: Side, starts_word: Callable[[int], bool]
) -> Turns:
    """Both models share one vocabulary: the guide's words are its tokens from one word start to before the next.

    In each round the guide proposes ``lookahead`` tokens. The base takes over before the first of them, the very first
    apart, that starts a word and where the base is sure; without such a one all are accepted. Then the base writes
    while it is sure. A guide that ends within its proposal ends the answer; the base never does.
    """
    ends = base.ends | guide.ends
    base = dataclasses.replace(base, ends=ends)
    room, same = min(base.room, guide.room), SameWords()

    def twin(tokens: list[int]) -> Twin:
        return Twin(tokens, room, ends, lambda drafted: drafted)

    for _ in range(settings.rounds):
        proposal: list[int] = []
        while len(proposal) < settings.lookahead and len(answer.tokens) + len(proposal) < room:
            proposal.append((yield Ask("guide", answer.tokens + proposal)).token)
            if proposal[-1] in ends:
                answer.write("guide", proposal)
                return answer.why(ends)
        taken = len(proposal)
        for at in range(1, len(proposal)):
            if starts_word(proposal[at]):
                top = yield Ask("base", answer.tokens + proposal[:at], proposal[at:])
                if settings.sure(top.probability):
                    taken = at
                    break
        if settings.chunk and same.again(base.text(proposal[:taken])):
            return "repeated nudging words"
        if answer.write("guide", proposal[:taken]):
            return answer.why(ends)
        yield from _base_turn(answer, settings, base, None, twin)
        if answer.draft.reason:
            return answer.why(ends)
    return "rounds"


def nudge_by_word(answer: Answer, settings: Settings, base: Side, guide: Side) -> Turns:
    """Two tokenizers: the models meet in text, word by word, each over its own ids.

    As `nudging_rules.nudging_decode`, with two differences. A chunk of the base is looked at for repetition only as far
    as it is accepted, since what lies past an interruption is never computed. And no model hands over in the middle of
    a character: the base goes on, for three tokens at most, and the guide's last tokens are left out.

    Ids are kept where they are: each model's own tokens as it wrote them, the other's words as they were encoded when
    they arrived, one by one for the base, so that one forward pass over all of a proposal's words tests every one.
    """
    same = SameWords()
    read: list[int] = []  # the answer in the guide's ids
    for _ in range(settings.rounds):
        proposal: list[int] = []
        finished = False
        while len(proposal) < settings.lookahead and len(read) + len(proposal) < guide.room and not finished:
            top = yield Ask("guide", read + proposal)
            finished = top.token in guide.ends
            proposal += [] if finished else [top.token]
        if not proposal and not finished:
            return "length"  # the guide can read no more
        if not finished:
            proposal = _whole(guide, read, proposal)
        text = guide.added(read, proposal)
        parts = words(text)
        encoded = [base.encode(part) for part in parts]
        if finished:
            end = [base.end] if base.end is not None else []
            answer.write("guide", [token for part in encoded for token in part] + end)
            return answer.why(frozenset(end)) if answer.draft.reason else "guide stopped"
        taken, first = max(1, len(parts) - 1), None
        for at in range(1, len(parts)):
            before = [token for part in encoded[:at] for token in part]
            if not parts[at].strip(" ") or len(answer.tokens) + len(before) > base.room:
                continue
            ahead = [token for part in encoded[at:] for token in part][: base.room - len(answer.tokens) - len(before)]
            top = yield Ask("base", answer.tokens + before, ahead)
            piece = base.added(answer.tokens + before, [top.token])
            if top.token in base.ends or (piece and parts[at].startswith(piece)) or settings.sure(top.probability):
                taken, first = at, top.token
                break
        nudged = "".join(parts[:taken])
        if settings.chunk and same.again(nudged):
            return "repeated nudging words"
        if answer.write("guide", [token for part in encoded[:taken] for token in part]):
            return answer.why(frozenset())
        kept = next(n for n in range(len(proposal), -1, -1) if nudged.startswith(guide.added(read, proposal[:n])))
        reading = _Reading(
            base, guide, read + proposal[:kept], nudged[len(guide.added(read, proposal[:kept])) :], len(answer.tokens)
        )
        if first is not None and first not in base.ends:
            yield from _base_turn(answer, settings, base, first, reading.twin)
            if answer.draft.reason:
                return answer.why(frozenset())
        read = reading.tokens(answer.tokens)
    return "rounds"


class _Reading(NamedTuple):
    """How the guide reads a turn of the base: its own ids up to there, and the text since then encoded at once."""

    base: Side
    guide: Side
    before: list[int]
    text: str
    start: int

    def tokens(self, written: list[int]) -> list[int]:
        """The guide's ids of an answer in the base's."""
        return self.before + self.guide.encode(
            self.text + self.base.added(written[: self.start], written[self.start :])
        )

    def twin(self, written: list[int]) -> Twin:
        """Where the guide stands after an answer in the base's ids."""
        tokens, room = self.tokens(written), self.base.room - len(written)
        return Twin(
            tokens, self.guide.room, self.guide.ends,
            lambda drafted: self.base.encode(self.guide.added(tokens, drafted))[:room],
        )  # fmt: skip


def _base_turn(
    answer: Answer, settings: Settings, base: Side, first: int | None, twin: Callable[[list[int]], Twin]
) -> Generator[Ask, Top, None]:
    """The base writes while it is sure, until it would end, or goes in circles.

    Args:
        answer: is written to, in chunks that are looked at for repetition.
        settings: of the rule.
        base: how the base reads and writes.
        first: a token accepted as it is, by word; None where tokens may be handed over at any place.
        twin: where the guide stands after answer tokens.
    """
    start, chunk, waited = len(answer.tokens), list[int](), 0
    size = settings.chunk or math.inf
    if first is not None:
        size -= 1
        if answer.write("base", [first]):
            return
    while True:
        written = answer.tokens + chunk
        top = yield Ask("base", written, (), functools.partial(twin, written))
        over = top.token in base.ends
        unsure = not over and not settings.sure(top.probability)
        if unsure and first is not None and waited < WAIT and base.text(written[-4:]).endswith(UNFINISHED):
            unsure, waited = False, waited + 1
        if not over and not unsure:
            chunk.append(top.token)
        full = len(answer.tokens) + len(chunk) >= answer.room
        if over or unsure or full or len(chunk) >= size:
            if settings.chunk and chunk:
                new = base.added(answer.tokens, chunk)
                if not unsure and not full and new in base.text(answer.tokens[start:]):
                    return
                if repetition_stop(new, base.text(answer.tokens)):
                    return
            if answer.write("base", chunk) or over or unsure:
                return
            chunk, size = [], settings.chunk or math.inf


def _whole(side: Side, before: Sequence[int], new: list[int]) -> list[int]:
    """New tokens without those at the end that are part of a character; all of them where nothing else is left."""
    for count in range(len(new), max(0, len(new) - WAIT - 1), -1):
        if not side.added(before, new[:count]).endswith(UNFINISHED):
            return new[:count]
    return new


def word_starts(convert: Callable[[int], str | None], text: Callable[[Sequence[int]], str]) -> Callable[[int], bool]:
    """Whether a token starts a word: it carries the space before it, or belongs to a script without spaces.

    Args:
        convert: from a token id to the tokenizer's own spelling of it, which shows the space.
        text: from token ids to text.
    """
    known: dict[int, bool] = {}

    def starts(token: int) -> bool:
        if token not in known:
            plain = text([token])
            known[token] = (convert(token) or "").startswith((" ", "\u2581", "\u0120")) or (
                plain != "" and without_spaces(plain[0])
            )
        return known[token]

    return starts


def answered(turns: Turns, ask: dict[str, Callable[[list[int]], Top]]) -> str:
    """Run a rule on plain functions, one call a question; why it stopped."""
    try:
        question = next(turns)
        while True:
            question = turns.send(ask[question.who](question.tokens))
    except StopIteration as end:
        return str(end.value)


@dataclasses.dataclass(frozen=True)
class NudgedTokens:
    """Token ids of an answer, who wrote them as (who, how many), and why it stopped."""

    tokens: list[int]
    pieces: list[tuple[str, int]]
    stopped: str


def token_level_nudging(
    base: Callable[[list[int]], Top], guide: Callable[[list[int]], Top], starts_word: Callable[[int], bool], *,
    gamma: float = 0.4, lookahead: int = 16, max_new_tokens: int = 512, ends: frozenset[int] = frozenset(),
    equal_is_sure: bool = True,
) -> NudgedTokens:  # fmt: skip
    """Nudging over one vocabulary without caches or repetition rules.

    Args:
        base: what the base writes after answer tokens.
        guide: the same of the guide.
        starts_word: whether a token starts a word.
        gamma: the base is unsure below this top probability.
        lookahead: tokens that the guide proposes in a round.
        max_new_tokens: room of the answer.
        ends: end tokens of both.
        equal_is_sure: whether a top probability equal to gamma is sure.
    """

    def blank(tokens: Sequence[int]) -> str:
        return ""

    side = Side(blank, lambda text: [], ends, max_new_tokens + lookahead)
    answer = Answer(Draft(blank, ends, max_new_tokens), max_new_tokens)
    settings = Settings(gamma, lookahead, max_new_tokens, None, equal_is_sure)
    stopped = answered(nudge_by_token(answer, settings, side, side, starts_word), {"base": base, "guide": guide})
    return NudgedTokens(answer.tokens, answer.pieces, stopped)
