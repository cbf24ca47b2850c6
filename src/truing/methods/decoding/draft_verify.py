"""Draft and verify: rules that ask two models for next tokens, answered for many rows at once from caches.

The smaller model is asked ahead, and the larger one reads what it wrote in one forward pass; both remember what comes
after every token they have read, and go back to where a row left the path. Answers are those of asking one token at a
time, since each depends on the tokens before it alone. Shared by nudging, and by whatever else decides over two models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from truing.methods.decoding.nudging_turns import Ask, Top, Turns, Twin
from truing.models.engine import Engine

Choose = Callable[[torch.Tensor, list[int], list[int]], list[int]]
"""Token ids from scores [n, vocabulary], the row of each, and the index in its answer of the token to choose."""


def greedy(logits: torch.Tensor, rows: list[int], steps: list[int]) -> list[int]:
    """The most likely tokens."""
    return [int(token) for token in logits.argmax(1)]


class Reader:
    """Rows of one engine, led to whatever answer tokens are asked for; remembers what comes after each one read.

    Args:
        engine: of the model that reads.
        prompts: token ids of each row's prompt, as this model sees it.
        choose: the token it would write.
    """

    def __init__(self, engine: Engine, prompts: Sequence[Sequence[int]], choose: Choose = greedy) -> None:
        self._choose = choose
        self._starts = [len(prompt) for prompt in prompts]
        self._read: list[list[int]] = [[] for _ in prompts]
        self._tops: list[list[Top]] = [[] for _ in prompts]
        self._places = list(range(len(prompts)))  # the row at each place of the batch
        self._batch = engine.prefill(prompts)
        self._note(self._places, [1] * len(prompts), self._batch.logits)

    def known(self, row: int, tokens: list[int]) -> Top | None:
        """What comes after these answer tokens, if it was read."""
        read = self._read[row]
        if len(tokens) > len(read) or read[: len(tokens)] != tokens:
            return None
        return self._tops[row][len(tokens)]

    def lead(self, wanted: dict[int, Ask]) -> None:
        """Read answer tokens that some rows do not know yet, and those likely to follow, all by one forward pass."""
        blocks, keep = [], []
        for row in self._places:
            read, ask = self._read[row], wanted.get(row)
            tokens = None if ask is None else [*ask.tokens, *ask.ahead]
            shared = len(read) if tokens is None else _shared(read, tokens)
            keep.append(self._starts[row] + shared)
            blocks.append([] if tokens is None else tokens[shared:])
            del read[shared:], self._tops[row][shared + 1 :]
        scores = self._batch.extend(blocks, keep=keep)
        for row, block in zip(self._places, blocks):
            self._read[row] += block
        sizes = [len(block) for block in blocks]
        self._note(self._places, sizes, torch.cat(scores))

    def drop(self, rows: set[int]) -> None:
        """Forget rows that are finished."""
        kept = [at for at, row in enumerate(self._places) if row not in rows]
        if kept and len(kept) < len(self._places):
            self._batch = self._batch.select(kept)
            self._places = [self._places[at] for at in kept]

    def _note(self, rows: Sequence[int], counts: Sequence[int], scores: torch.Tensor) -> None:
        """Keep, of the scores after the last ``counts[i]`` tokens of each row, what rules ask for."""
        owners = [row for row, count in zip(rows, counts) for _ in range(count)]
        steps = [len(self._tops[row]) + at for row, count in zip(rows, counts) for at in range(count)]
        # Of the whole distribution: truncation and temperature are for choosing, and no test of sureness.
        tops = (scores.max(1).values - scores.logsumexp(1)).exp().tolist()
        for row, token, top in zip(owners, self._choose(scores, owners, steps), tops):
            self._tops[row].append(Top(token, top))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


class Drafts:
    """How far the guide writes ahead for the base: the length with the most tokens for the time it takes.

    Expected tokens of one base pass over k drafted ones are (1 - q**(k+1)) / (1 - q) at a share q of agreement, which
    is counted as it goes. The length decides cost alone, never an answer.

    Args:
        cost: of a pass of the guide, in passes of the base.
        most: longest draft.
    """

    def __init__(self, cost: float, most: int) -> None:
        self._cost, self._most = cost, most
        self._agreed, self._tried = 4.0, 5.0  # a guess that the first few tokens outweigh

    def count(self, agreed: int, tried: int) -> None:
        """Note how many of the tried tokens the base agreed with."""
        self._agreed += agreed
        self._tried += tried

    def length(self) -> int:
        """Tokens to draft."""
        q = min(self._agreed / self._tried, 0.999)
        return max(range(self._most + 1), key=lambda k: (1 - q ** (k + 1)) / (1 - q) / (1 + self._cost * k))


class Reads(Protocol):
    """What answers the questions of rules: a `Reader`, or what asks a server."""

    def known(self, row: int, tokens: list[int]) -> Top | None:
        """What comes after these answer tokens, if it was read."""

    def lead(self, wanted: dict[int, Ask]) -> None:
        """Find out what some rows ask; `known` tells it afterwards."""

    def drop(self, rows: set[int]) -> None:
        """Forget rows that are finished."""


def drive(rules: Sequence[Turns], base: Reads, guide: Reads, *, drafts: Drafts | None = None) -> list[str]:
    """Run one rule for each row to its end; why each stopped.

    Args:
        rules: one for each row, over answer token ids.
        base: answers what is asked of "base".
        guide: answers what is asked of "guide".
        drafts: how far the guide writes ahead of the base; None for not at all.
    """
    readers = {"base": base, "guide": guide}
    out = [""] * len(rules)
    asks: dict[int, Ask] = {}
    twins: dict[int, Twin] = {}  # of questions that wait

    def advance(row: int, top: Top | None) -> bool:
        """Send answers as long as they are known; False when the rule has stopped."""
        try:
            ask = next(rules[row]) if top is None else rules[row].send(top)
            while (known := readers[ask.who].known(row, ask.tokens)) is not None:
                ask = rules[row].send(known)
        except StopIteration as end:
            out[row] = str(end.value)
            return False
        asks[row] = ask
        twins.pop(row, None)
        return True

    def plan(row: int) -> Ask:
        """What is to be found out next for a row: what it asks, or what the guide would draft for the base to read."""
        ask = asks[row]
        if drafts is None or ask.twin is None or ask.ahead:
            return ask
        if row not in twins:
            twins[row] = ask.twin()
        twin = twins[row]
        tokens = list(twin.tokens)
        for _ in range(min(drafts.length(), twin.room - len(tokens))):
            top = guide.known(row, tokens)
            if top is None:
                return Ask("guide", tokens)
            if top.token in twin.ends:
                break
            tokens.append(top.token)
        return Ask("base", ask.tokens, twin.back(tokens[len(twin.tokens) :]))

    waiting = [row for row in range(len(rules)) if advance(row, None)]
    while waiting:
        wanted: dict[str, dict[int, Ask]] = {"base": {}, "guide": {}}
        for row in waiting:
            ask = plan(row)
            wanted[ask.who][row] = ask
        # The guide's passes are the cheap ones, so the base waits until all rows have something for it to read.
        who = "guide" if wanted["guide"] else "base"
        readers[who].lead(wanted[who])
        for row, ask in wanted["base"].items() if who == "base" else ():
            if drafts is not None and not asks[row].ahead:
                agreed = 0
                while agreed < len(ask.ahead):
                    top = base.known(row, [*ask.tokens, *ask.ahead[:agreed]])
                    if top is None or top.token != ask.ahead[agreed]:
                        break
                    agreed += 1
                drafts.count(agreed, min(agreed + 1, len(ask.ahead)))
        waiting, before = [], waiting
        for row in before:
            known = readers[asks[row].who].known(row, asks[row].tokens)
            if known is None or advance(row, known):
                waiting.append(row)
        gone = set(before) - set(waiting)
        if gone:
            base.drop(gone)
            guide.drop(gone)
    return out
