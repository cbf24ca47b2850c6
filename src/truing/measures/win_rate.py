"""How often a judge prefers the model's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Reward, require
from truing.errors import RewardError, SettingsError
from truing.measures.asking import Asking, Context, ask, cut_note
from truing.measures.hhh import KINDS
from truing.measures.journal import identity, key_of
from truing.measures.result import Column, Outcome

if TYPE_CHECKING:
    from truing.models import AnyModel

GRADES = {1.0: "won", 0.5: "tie", 0.0: "lost", None: "not read"}
VERDICTS = ("first", "second", "tie", None)


class WinRate(Asking):
    """How often a judge prefers the model's answers to those of the model it is compared with.

    The judge sees each pair in both orders, so that its liking for a place cancels out. Verdicts that agree decide; if
    they do not, the pair is a tie, which counts half. ``win_minus_lose`` is the share of pairs won less that of pairs
    lost, from -100 to 100 %, as Li et al. 2025 (arXiv 2409.01552) report win rates. A pair with a verdict that cannot
    be read counts for nothing; a note says how many there were. ``first_place`` is how often the judge took the answer
    that came first, which is 50 % for one without a liking. Pairs that share a prompt are one cluster.

    Args:
        judge: a `Judge`, or any reward: then the answer with the higher reward wins.
        records: prompts of your own instead of questions of all kinds of the sandbox.
        max_new_tokens: most tokens an answer may have.
    """

    gives: ClassVar[tuple[str, ...]] = ("win_rate", "win_minus_lose", "first_place")
    judge: Reward
    max_new_tokens: int = 256

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            callable(self.judge) or hasattr(self.judge, "prefer"),
            f"`judge` is a Judge or another reward, got {self.judge!r}.",
        )

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        if context.against is None:
            raise SettingsError(
                "A win rate compares two models. Give the other one too: "
                'measure("win_rate", model, against=other, judge=judge).'
            )
        questions, sampling = self.rows(KINDS), self.sampling()
        prompts = [row["prompt"] for row in questions]
        mine, theirs = (ask(one, prompts, sampling, context) for one in (model, context.against))
        notes = cut_note(mine, sampling, model.name) + cut_note(theirs, sampling, context.against.name)
        pairs = [(prompt, one.text, two.text) for prompt, one, two in zip(prompts, mine, theirs)]
        forward, backward = self._verdicts(pairs, context)
        rows = []
        for row, (prompt, one, two), there, back in zip(questions, pairs, forward, backward):
            score = _score(there, back)
            rows.append(
                {
                    "id": row["id"], "kind": row["kind"], "prompt": prompt, "cluster": key_of(prompt),
                    "answer": one, "against_answer": two, "verdict_first": there, "verdict_second": back,
                    "win_rate": score, "win_minus_lose": None if score is None else 2 * score - 1,
                    "first_place": _first_place(there, back),
                    "grade": GRADES[score], "against_grade": GRADES[None if score is None else 1 - score],
                }
            )  # fmt: skip
        columns = {
            "win_rate": Column("win_rate", null=0.5),
            "win_minus_lose": Column("win_minus_lose", statistic="mean", null=0.0),
        }
        if any(row["first_place"] is not None for row in rows) and hasattr(self.judge, "prefer"):
            columns["first_place"] = Column("first_place", better="neither", null=0.5)
        return Outcome(rows, columns, [*notes, *_notes(forward, backward)])

    def _verdicts(
        self, pairs: Sequence[tuple[Any, str, str]], context: Context
    ) -> tuple[list[str | None], list[str | None]]:
        """Verdicts with the model's answer first, and with it second."""
        judge: Any = self.judge
        if hasattr(judge, "prefer") and isinstance(getattr(judge, "model", None), str):
            from truing.models import load

            # Loaded, so that the journal knows the judge by its weights and not by its name.
            judge = judge.clone(model=load(judge.model))

        def work(rows: list[int]) -> list[Any]:
            prompts = [asked[row][0] for row in rows]
            first, second = [asked[row][1] for row in rows], [asked[row][2] for row in rows]
            found = list(judge.prefer(prompts, first, second))
            if len(found) != len(rows) or any(verdict not in VERDICTS for verdict in found):
                raise RewardError(
                    f"{type(judge).__name__}.prefer gave {found[:3]} for {len(rows)} pairs. "
                    'It must give "first", "second", "tie" or None for each.'
                )
            return found

        if not hasattr(judge, "prefer"):
            verdicts = self._by_reward(pairs)
            return verdicts, [_turned(verdict) for verdict in verdicts]
        asked = [*pairs, *((prompt, two, one) for prompt, one, two in pairs)]
        found = context.compute(f"judge {identity(judge)}", [{"prefer": list(pair)} for pair in asked], work, "judge")
        return found[: len(pairs)], found[len(pairs) :]

    def _by_reward(self, pairs: Sequence[tuple[Any, str, str]]) -> list[str | None]:
        from truing.rewards import checked

        prompts = [prompt for prompt, _, _ in pairs]
        mine = checked(self.judge, prompts, [one for _, one, _ in pairs])
        theirs = checked(self.judge, prompts, [two for _, _, two in pairs])
        return ["tie" if a == b else "first" if a > b else "second" for a, b in zip(mine, theirs)]


def two_order_verdict(first_order: str, swapped_order: str) -> tuple[str, bool]:
    """One verdict from two, asked with the answers in either order, and whether the two agree.

    A verdict is "A" for the answer that stood first, "B" for the one that stood second, or "tie". Verdicts that do not
    agree, as of a judge that leans to a place, are a tie. A stricter rule than a single random order, which Li et al.
    2025 (arXiv 2409.01552) use.

    Args:
        first_order: with answers A, B.
        swapped_order: with answers B, A.

    Raises:
        SettingsError: a verdict is something else.
    """
    for verdict in (first_order, swapped_order):
        require(verdict in ("A", "B", "tie"), f"A verdict is A, B or tie, not {verdict!r}.")
    turned = {"A": "B", "B": "A", "tie": "tie"}[swapped_order]
    return (first_order, True) if first_order == turned else ("tie", False)


def win_rate(verdicts: Sequence[str]) -> dict[str, float]:
    """Verdicts "A", "B" and "tie" in percent: ``a_win``, ``b_win``, ``tie``, and ``win_rate_difference``, A's less B's.

    Raises:
        SettingsError: there is none, or one is something else.
    """
    require(len(verdicts) > 0, "A win rate needs one verdict at least.")
    for verdict in verdicts:
        require(verdict in ("A", "B", "tie"), f"A verdict is A, B or tie, not {verdict!r}.")
    shares = {name: 100.0 * sum(verdict == name for verdict in verdicts) / len(verdicts) for name in ("A", "B", "tie")}
    return {
        "a_win": shares["A"], "b_win": shares["B"], "tie": shares["tie"],
        "win_rate_difference": shares["A"] - shares["B"],
    }  # fmt: skip


def _turned(verdict: str | None) -> str | None:
    return {"first": "second", "second": "first"}.get(verdict, verdict) if verdict is not None else None


def _score(forward: str | None, backward: str | None) -> float | None:
    """1 where both orders prefer the model, 0 where both prefer the other, 0.5 where they do not agree."""
    if forward is None or backward is None:
        return None
    names = {"first": "A", "second": "B", "tie": "tie"}
    verdict, _ = two_order_verdict(names[forward], names[backward])
    return {"A": 1.0, "B": 0.0, "tie": 0.5}[verdict]


def _first_place(forward: str | None, backward: str | None) -> float | None:
    """How often the answer in the first place was taken, over the verdicts that took one."""
    taken = [verdict == "first" for verdict in (forward, backward) if verdict in ("first", "second")]
    return sum(taken) / len(taken) if taken else None


def _notes(forward: Sequence[str | None], backward: Sequence[str | None]) -> list[str]:
    notes = []
    both = [*forward, *backward]
    lost = Counter(both)[None]
    if lost:
        pairs = sum(a is None or b is None for a, b in zip(forward, backward))
        notes.append(
            f"{lost} of {len(both)} verdicts could not be read; the {pairs} pairs they belong to do not count."
        )
    split = sum(a is not None and b is not None and a != _turned(b) for a, b in zip(forward, backward))
    if split:
        notes.append(f"{split} of {len(forward)} pairs got another verdict in the other order and count as ties.")
    return notes
