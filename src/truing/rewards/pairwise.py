"""One verdict from two: a pair of answers judged in both orders."""

from __future__ import annotations

from typing import NamedTuple

from truing.contracts import require

_NAMES = {"first": "A", "second": "B", "tie": "tie"}


class Comparison(NamedTuple):
    """What a judge said of two answers, asked in both orders.

    Args:
        verdict: "first", "second", "tie" (also where the two orders do not agree), or None where a reply could not be
            read.
        forward: the verdict with the answers as given: "first" is the one that stood first.
        backward: with the second answer first: "first" is then the second answer.
    """

    verdict: str | None
    forward: str | None
    backward: str | None

    @property
    def consistent(self) -> bool | None:
        """Whether both orders say the same; None where one could not be read."""
        return consistent(self.forward, self.backward)


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


def compared(forward: str | None, backward: str | None) -> Comparison:
    """The verdicts of both orders as one."""
    if forward is None or backward is None:
        return Comparison(None, forward, backward)
    verdict, _ = two_order_verdict(_NAMES[forward], _NAMES[backward])
    return Comparison({"A": "first", "B": "second", "tie": "tie"}[verdict], forward, backward)


def turned(verdict: str | None) -> str | None:
    """A verdict with the places of the answers exchanged."""
    return {"first": "second", "second": "first"}.get(verdict, verdict) if verdict is not None else None


def pair_score(forward: str | None, backward: str | None) -> float | None:
    """1 where both orders prefer the answer given first, 0 where both prefer the other, 0.5 where they do not agree."""
    return {"first": 1.0, "second": 0.0, "tie": 0.5, None: None}[compared(forward, backward).verdict]


def consistent(forward: str | None, backward: str | None) -> bool | None:
    """Whether both orders say the same; None where one could not be read."""
    return None if forward is None or backward is None else forward == turned(backward)


def first_place(forward: str | None, backward: str | None) -> float | None:
    """How often the answer in the first place was taken, over the verdicts that took one."""
    taken = [verdict == "first" for verdict in (forward, backward) if verdict in ("first", "second")]
    return sum(taken) / len(taken) if taken else None
