"""Matches between answers, judged: what is settled without a judge, which answer comes first, what was unreadable."""

from __future__ import annotations

from typing import Any

import numpy as np

from truing.measures.arena_inputs import Entrants
from truing.measures.asking import Context
from truing.measures.brackets import Numbers
from truing.measures.judging import at_hand, compares, scores, verdicts_of
from truing.measures.ratings import Array

SCORES = {"first": 1.0, "second": 0.0, "tie": 0.5, None: np.nan}


class Judging:
    """Plays matches by a judge, or by a reward of each answer, and counts.

    Args:
        judge: has ``prefer``, or is a reward.
        entrants: who answered what.
        context: of the measure; verdicts are journaled, so that a match is never paid for twice.
        rng: draws which answer is shown first.
        both_orders: show both orders, and call a split a tie.
    """

    def __init__(
        self, judge: Any, entrants: Entrants, context: Context, rng: np.random.Generator, *, both_orders: bool = False
    ) -> None:
        self.judge, self.entrants, self.context = at_hand(judge, context), entrants, context
        self.rng, self.both_orders = rng, both_orders
        texts = [["" if text is None else text for text in row] for row in entrants.answers]
        self.lengths = np.array([[len(text) for text in row] for row in texts])
        self.empty = np.array([[not text.strip() for text in row] for row in texts])
        codes: dict[tuple[int, str], int] = {}
        self.same = np.array([[codes.setdefault((at, text.strip()), len(codes)) for text in row]
                              for at, row in enumerate(texts)])  # fmt: skip
        self.texts = texts
        self.compares = compares(judge)
        self.asked = self.lost = self.split = self.equal = self.unanswered = 0
        self.first: list[tuple[int, float]] = []
        self.shown: dict[tuple[int, int, int], str] = {}
        self._scores: Array | None = None

    def play(self, prompts: Numbers, a: Numbers, b: Numbers) -> Array:
        """The score of each match, [n]; see `brackets.Play`."""
        out = np.full(len(prompts), 0.5)
        none_a, none_b = self.empty[prompts, a], self.empty[prompts, b]
        out[none_b & ~none_a], out[none_a & ~none_b] = 1.0, 0.0
        equal = self.same[prompts, a] == self.same[prompts, b]
        self.unanswered += int((none_a | none_b).sum())
        self.equal += int((equal & ~none_a).sum())
        open_ = np.flatnonzero(~(none_a | none_b | equal))
        if len(open_):
            out[open_] = self._judged(prompts[open_], a[open_], b[open_])
        return out

    def _judged(self, prompts: Numbers, a: Numbers, b: Numbers) -> Array:
        if not self.compares:
            rewards = self._rewards()
            gap = rewards[prompts, a] - rewards[prompts, b]
            self.lost += int(np.isnan(gap).sum())
            return np.asarray((np.sign(gap) + 1) / 2)
        turned = np.zeros(len(a), bool) if self.both_orders else self.rng.random(len(a)) < 0.5
        orders = ["both"] * len(a) if self.both_orders else np.where(turned, "b first", "a first").tolist()
        self.shown.update(zip(zip(prompts.tolist(), a.tolist(), b.tolist()), orders))
        there = self._verdicts(prompts, np.where(turned, b, a), np.where(turned, a, b))
        out = np.where(turned, 1 - there, there)
        if self.both_orders:
            back = 1 - self._verdicts(prompts, b, a)
            split = np.isfinite(out) & np.isfinite(back) & (out != back)
            self.split += int(split.sum())
            out = np.where(split, 0.5, np.where(np.isfinite(back), out, np.nan))
        self.lost += int(np.isnan(out).sum())
        return out

    def _verdicts(self, prompts: Numbers, first: Numbers, second: Numbers) -> Array:
        pairs = [
            (self.entrants.prompts[at], self.texts[at][one], self.texts[at][two])
            for at, one, two in zip(prompts, first, second)
        ]
        said = verdicts_of(self.judge, pairs, self.context)
        self.asked += len(said)
        found = np.array([SCORES[verdict] for verdict in said])
        self.first += [(int(at), float(score)) for at, score in zip(prompts, found) if np.isfinite(score)]
        return found

    def _rewards(self) -> Array:
        """The reward of every answer, computed once, [prompts, models]."""
        if self._scores is None:
            asked = [prompt for prompt, row in zip(self.entrants.prompts, self.texts) for _ in row]
            found = scores(self.judge, asked, [text for row in self.texts for text in row], self.context)
            self.asked = len(found)
            # A None, of a reply that could not be read, becomes NaN.
            self._scores = np.array(found, float).reshape(self.lengths.shape)
        return self._scores

    def notes(self) -> list[str]:
        """What a reader must know of the judging."""
        told = [
            (self.unanswered, "matches had an empty or failed answer, which lost, or tied with another such."),
            (self.equal, "matches were between equal answers, and tied."),
            (self.lost, "matches had a verdict that could not be read; they count for no rating."),
            (self.split, "matches got another verdict in the other order, and count as ties."),
        ]
        return [f"{count:,} {text}" for count, text in told if count]
