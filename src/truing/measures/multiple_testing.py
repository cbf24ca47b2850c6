"""p-values of many tests, corrected so that chance alone rarely makes one of them look like a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from truing.contracts import require


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: rejecting those up to alpha makes one wrong rejection or more with probability alpha at most.

    It holds however the tests depend on each other. With p-values in rising order p_(1) <= ... <= p_(m) the adjusted
    one is the largest of (m - j + 1) p_(j) over j <= i, at most 1.

    Source: Holm 1979.
    """
    _check(p_values)
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[at]))
        adjusted[at] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: of those up to alpha a share of alpha at most is wrong, on average.

    It holds for tests that are independent or depend positively. The adjusted one is the smallest of m p_(j) / j over
    j >= i, at most 1.

    Source: Benjamini and Hochberg 1995.
    """
    _check(p_values)
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted = [0.0] * len(p_values)
    smallest = 1.0
    for place in range(len(order), 0, -1):
        at = order[place - 1]
        smallest = min(smallest, len(p_values) * p_values[at] / place)
        adjusted[at] = smallest
    return adjusted


def uncorrected(p_values: Sequence[float]) -> list[float]:
    """The p-values as they are."""
    _check(p_values)
    return list(p_values)


CORRECTIONS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "holm": holm,
    "benjamini-hochberg": benjamini_hochberg,
    "none": uncorrected,
}


def _check(p_values: Sequence[float]) -> None:
    for p in p_values:
        require(0 <= p <= 1, f"A p-value is from 0 to 1, not {p!r}. Leave out tests that could not be made.")
