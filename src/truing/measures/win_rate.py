"""How often a judge prefers the model's answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from truing.contracts import Reward, require
from truing.errors import SettingsError
from truing.measures.asking import Context, ask, cut_note
from truing.measures.hhh import KINDS
from truing.measures.journal import key_of
from truing.measures.judging import both_orders, compares, unread_notes
from truing.measures.labelled import Judged
from truing.measures.length_control import length_controlled
from truing.measures.result import Column, Figure, Outcome
from truing.rewards.pairwise import first_place, pair_score
from truing.rewards.pairwise import two_order_verdict as two_order_verdict

if TYPE_CHECKING:
    from truing.models import AnyModel

GRADES = {1.0: "won", 0.5: "tie", 0.0: "lost", None: "not read"}


class WinRate(Judged):
    """How often a judge prefers the model's answers to those of the model it is compared with.

    The judge sees each pair in both orders, so that its liking for a place cancels out. Verdicts that agree decide; if
    they do not, the pair is a tie, which counts half. ``win_minus_lose`` is the share of pairs won less that of pairs
    lost, from -100 to 100 %, as Li et al. 2025 (arXiv 2409.01552) report win rates. A pair with a verdict that cannot
    be read counts for nothing; a note says how many there were. ``first_place`` is how often the judge took the answer
    that came first, which is 50 % for one without a liking. Pairs that share a prompt are one cluster.

    With ``length_controlled`` there is also the win rate that a logistic model with a length term expects of answers of
    one length, and ``length_effect``, the log-odds that length moves (Dubois et al. 2024, arXiv 2404.04475).

    Args:
        judge: a `Judge`, or any reward: then the answer with the higher reward wins.
        length_controlled: add the figures at equal length.
        records: prompts of your own instead of questions of all kinds of the sandbox.
        max_new_tokens: most tokens an answer may have.
    """

    gives: ClassVar[tuple[str, ...]] = (
        "win_rate", "win_minus_lose", "first_place", "length_controlled", "length_effect", "win_rate_corrected",
        "win_rate_judge_error",
    )  # fmt: skip
    judge: Reward
    length_controlled: bool = False
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
        forward, backward = both_orders(self.judge, pairs, context)
        rows = []
        for row, (prompt, one, two), there, back in zip(questions, pairs, forward, backward):
            score = pair_score(there, back)
            rows.append(
                {
                    "id": row["id"], "kind": row["kind"], "prompt": prompt, "cluster": key_of(prompt),
                    "answer": one, "against_answer": two, "verdict_first": there, "verdict_second": back,
                    "win_rate": score, "win_minus_lose": None if score is None else 2 * score - 1,
                    "first_place": first_place(there, back),
                    "grade": GRADES[score], "against_grade": GRADES[None if score is None else 1 - score],
                }
            )  # fmt: skip
        columns = {
            "win_rate": Column("win_rate", null=0.5),
            "win_minus_lose": Column("win_minus_lose", statistic="mean", null=0.0),
        }
        if any(row["first_place"] is not None for row in rows) and compares(self.judge):
            columns["first_place"] = Column("first_place", better="neither", null=0.5)
        outcome = Outcome(rows, columns, [*notes, *unread_notes(forward, backward)])
        if self.length_controlled:
            self._control(outcome)
        return self.corrected(outcome, "win_rate", {"win_rate": (0.0, 1.0)}, context)

    @staticmethod
    def _control(outcome: Outcome) -> None:
        """Add the win rate at equal length, and what length does."""
        read = [row for row in outcome.rows if row["win_rate"] is not None]
        found = length_controlled(
            [row["win_rate"] for row in read], [len(row["answer"]) for row in read],
            [len(row["against_answer"]) for row in read], clusters=[row["cluster"] for row in read],
        )  # fmt: skip
        if found is None:
            outcome.notes.append("`length_controlled` is not shown: too few pairs count, or lengths decide all.")
            return
        rate, effect = found
        outcome.figures["length_controlled"] = Figure(*rate[:5])
        if math.isfinite(effect.low):
            outcome.figures["length_effect"] = Figure(*effect[:5], unit="log-odds", better="neither")
        else:
            outcome.notes.append("`length_effect` is not shown: no pair went the other way.")


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
