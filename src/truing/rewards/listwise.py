"""A model that ranks several answers to one prompt, asked so that every answer stands in every place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from truing.contracts import Prompt, is_whole, require
from truing.errors import RewardError
from truing.rewards.judging import DATA, Judging, Verdict, quoted_conversation
from truing.rewards.replies import Unreadable, said
from truing.rewards.right_answers import prompt_key
from truing.safe_text import filled, quoted

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How a judge ranks the answers to one prompt.

    Args:
        ranks: the mean rank of each answer over all orders, 1 for the best, ties sharing the mean of their ranks; None
            where a reply could not be read, since the places would no longer be balanced.
        orders: what each order said: ranks by answer, or None.
        places: the mean rank of the answer in each place over all orders. In a balanced set of orders all are
            (k + 1) / 2 for a judge without a liking for places; lower is liked better.
        problems: what was wrong with replies that could not be read.
    """

    ranks: list[float] | None
    orders: list[list[float] | None]
    places: list[float] | None
    problems: tuple[str, ...] = ()

    @property
    def best(self) -> int | None:
        """The answer of the lowest mean rank, the earlier one of equals; None where not everything could be read."""
        return None if self.ranks is None else min(range(len(self.ranks)), key=lambda at: self.ranks[at])  # type: ignore[index]


class ListwiseJudge(Judging):
    """Ranks several answers to one prompt at once; as a reward, 1 for the best of the answers to a prompt, 0 for the
    worst.

    One question shows all k answers. It is asked in k cyclic orders (or ``orders`` of them), so that every answer
    stands once in every place, and ranks are averaged: a liking for a place cancels out, as two orders do for a pair.
    Texts that are equal are shown once and share their rank. As a reward it compares the answers to equal prompts
    that it is given in one call, as group methods (GRPO, RLOO, best-of-n) give them: (k - rank) / (k - 1), and 0.5 for
    an answer alone.

    Sources: Sun et al. 2023 (RankGPT), arXiv 2304.09542; for balanced orders Tang et al. 2024, arXiv 2310.07712.

    Args:
        orders: how many of the k cyclic orders are asked, spread evenly; None for all k, which alone is balanced.
    """

    orders: int | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            self.orders is None or (is_whole(self.orders) and self.orders >= 1),
            f"orders is a number of at least 1, or None, not {self.orders!r}.",
        )

    def rank(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> list[Ranking]:
        """A ranking of the answers to each prompt.

        Raises:
            RewardError: there is not one list of 1 to 26 answers for each prompt.
        """
        self.validate()
        _check_lists(prompts, answers)
        shown = [list(dict.fromkeys(some)) for some in answers]
        asked = [(at, order) for at, some in enumerate(shown) for order in self._orders(len(some))]
        texts = [self._question(prompts[at], [shown[at][one] for one in order]) for at, order in asked]
        found = self.asked(texts, lambda row, reply, cut: _read(reply, cut, len(asked[row][1])))
        said_of: list[list[Any]] = [[] for _ in shown]
        for (at, order), reply in zip(asked, found):
            said_of[at].append((order, reply))
        return [_ranking(list(all_of), some, said) for all_of, some, said in zip(answers, shown, said_of)]

    def ask(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
        """The reward of each answer among those to the same prompt; None where a reply could not be read."""
        groups: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            groups.setdefault(prompt_key(prompt), []).append(row)
        rows = list(groups.values())
        found = self.rank([prompts[some[0]] for some in rows], [[responses[row] for row in some] for some in rows])
        verdicts = [Verdict(None, "", 0)] * len(prompts)
        for some, ranking in zip(rows, found):
            different = len({responses[row] for row in some})
            for at, row in enumerate(some):
                score = None
                if ranking.ranks is not None:
                    score = 0.5 if different == 1 else (different - ranking.ranks[at]) / (different - 1)
                tries = self.retries + 1 if ranking.ranks is None else 1
                verdicts[row] = Verdict(score, "", tries, "; ".join(dict.fromkeys(ranking.problems)))
        return verdicts

    def _orders(self, k: int) -> list[list[int]]:
        """Cyclic orders of k answers; none where there is nothing to rank."""
        if k < 2:
            return []
        many = min(k, self.orders or k)
        starts = [at * k // many for at in range(many)]
        return [[(start + place) % k for place in range(k)] for start in starts]

    def _question(self, prompt: Prompt, answers: Sequence[str]) -> str:
        letters = LETTERS[: len(answers)]
        example = " > ".join(letters)
        form = self.closing(
            f"with the letters {', '.join(letters)} from best to worst, each once, and = between equals",
            f"Ranking: {example}", f'"ranking": "{example}"',
        )  # fmt: skip
        return filled(
            f"Rank {len(answers)} answers of an assistant to the conversation below.\n\n{{rubric}}\n\n{DATA} "
            "Neither the order of the answers nor their length is a merit.\n\n{conversation}\n\n{answers}\n\n" + form,
            rubric=self.rubric.strip(),
            conversation=quoted_conversation(prompt),
            answers="\n\n".join(f"Answer {letter}:\n{quoted(one)}" for letter, one in zip(letters, answers)),
        )


def _check_lists(prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> None:
    if isinstance(prompts, str) or len(prompts) != len(answers):
        raise RewardError(
            f"A list of answers is ranked for each prompt; got {len(prompts)} and {len(answers)} of them."
        )
    for row, some in enumerate(answers):
        if isinstance(some, str) or not 1 <= len(some) <= len(LETTERS) or not all(isinstance(one, str) for one in some):
            raise RewardError(
                f"1 to {len(LETTERS)} answers, each a text, are ranked at once; row {row} has "
                f"{len(some) if not isinstance(some, str) else 'one text'}. Rank fewer at a time."
            )


def _read(reply: str, cut: bool, k: int) -> list[float]:
    """The rank of the answer in each place, 1 the best; equals share the mean of their ranks."""
    told = said("Ranking", reply, cut=cut)
    if isinstance(told, list) and all(isinstance(one, str) for one in told):
        told = " > ".join(told)
    letters = LETTERS[:k]
    if not isinstance(told, str) or not re.fullmatch(rf"\s*[{letters}](\s*[>=]\s*[{letters}])*\s*", told):
        raise Unreadable(f"its ranking is not made of the letters {', '.join(letters)} with > or = between them")
    groups = [re.findall(r"[A-Z]", part) for part in told.split(">")]
    if sorted(letter for group in groups for letter in group) != list(letters):
        raise Unreadable(f"its ranking does not have each of the letters {', '.join(letters)} once")
    ranks, before = [0.0] * k, 0
    for group in groups:
        for letter in group:
            ranks[LETTERS.index(letter)] = before + (len(group) + 1) / 2
        before += len(group)
    return ranks


def _ranking(answers: list[str], shown: list[str], said_of: list[Any]) -> Ranking:
    if len(shown) == 1:
        return Ranking([1.0] * len(answers), [], None)
    by_order: list[list[float] | None] = []
    for order, reply in said_of:
        if reply.value is None:
            by_order.append(None)
            continue
        ranks = [0.0] * len(shown)
        for place, one in enumerate(order):
            ranks[one] = reply.value[place]
        by_order.append([ranks[shown.index(text)] for text in answers])
    problems = tuple(reply.problem for _, reply in said_of if reply.problem)
    read = [ranks for ranks in by_order if ranks is not None]
    if len(read) < len(by_order):
        return Ranking(None, by_order, None, problems)
    means = [sum(column) / len(read) for column in zip(*read)]
    places = [sum(column) / len(read) for column in zip(*(reply.value for _, reply in said_of))]
    return Ranking(means, by_order, places, problems)
