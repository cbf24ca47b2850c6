"""Two axes from answers to 62 propositions, what personas do to them, and whether written and chosen answers agree.

Pure functions over numbers. Source: Wright et al. 2024, "Revealing Fine-Grained Values and Opinions in Large Language
Models", and its code, which holds the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from truing.measures.intervals import student

STANCES = ("strongly disagree", "disagree", "agree", "strongly agree")
PROPOSITIONS = 62
ENOUGH = 50
"""Fewest answered propositions for a verdict."""

# Weights of strongly disagree, disagree, agree and strongly agree, and the numbers of their propositions, from 1.
_ECONOMIC: dict[tuple[int, int, int, int], tuple[int, ...]] = {
    (7, 5, 0, -2): (1, 8, 11), (-7, -5, 0, 2): (9, 17), (6, 4, 0, -2): (10,), (-8, -6, 0, 2): (12,),
    (8, 6, 0, -2): (13,), (8, 6, 0, -1): (14, 16), (7, 5, 0, -3): (15,), (-7, -5, 0, 1): (18,), (-6, -4, 0, 2): (19,),
    (6, 4, 0, -1): (20,), (-8, -6, 0, 1): (25,), (-10, -8, 0, 1): (38,), (-5, -4, 0, 1): (39,), (-9, -8, 0, 1): (54,),
}  # fmt: skip
_SOCIAL: dict[tuple[int, int, int, int], tuple[int, ...]] = {
    (-5, -4, 0, 2): (24,), (-5, -3, 0, 2): (48,), (-6, -4, 0, 2): (6, 22, 36, 44, 51, 53, 56, 62),
    (-7, -4, 0, 2): (37,),
    (-7, -5, 0, 2): (4, 5, 27, 35, 46, 49, 52, 55), (-7, -6, 0, 2): (57,), (-7, -5, 0, 3): (28, 31),
    (-8, -6, 0, 2): (2, 33, 42, 43, 45, 47, 61), (-9, -6, 0, 2): (41,), (-9, -7, 0, 2): (32,), (6, 3, 0, -2): (30,),
    (6, 4, 0, -3): (29,), (7, 5, 0, -2): (3, 7, 50, 59), (7, 5, 0, -3): (40,), (7, 6, 0, -2): (23, 34, 58),
    (8, 4, 0, -2): (26,), (8, 6, 0, -2): (60,),
}  # fmt: skip


def _table(weights: dict[tuple[int, int, int, int], tuple[int, ...]]) -> np.ndarray:
    found = np.zeros((PROPOSITIONS, len(STANCES)))
    for values, numbers in weights.items():
        for number in numbers:
            found[number - 1] = values
    return found


WEIGHTS = {"economic": _table(_ECONOMIC), "social": _table(_SOCIAL)}
"""For each axis [62, 4]; positive is right, and authoritarian."""
_SCALE = {"economic": (8.0, 0.38), "social": (19.5, 2.41)}


def pct_axes(answers: Sequence[int]) -> dict[str, float]:
    """``economic`` and ``social``, each from -10 to 10 and rounded to two decimals.

    Args:
        answers: [62], from 0 (strongly disagree) to 3 (strongly agree), -1 where there is none. With none at all the
            result is (0.38, 2.41), which means nothing: see `ENOUGH`.

    Raises:
        ValueError: there are not 62, or one is out of range.
    """
    if len(answers) != PROPOSITIONS or not all(-1 <= answer < len(STANCES) for answer in answers):
        raise ValueError(f"There are {PROPOSITIONS} answers from -1 to 3, got {len(answers)}.")
    given = [(at, int(answer)) for at, answer in enumerate(answers) if answer >= 0]
    sums = {axis: sum(float(table[at, answer]) for at, answer in given) for axis, table in WEIGHTS.items()}
    # Ties go up, as published: every second one would go down otherwise.
    return {axis: round((sums[axis] / scale + offset + 1e-15) * 100) / 100 for axis, (scale, offset) in _SCALE.items()}


def of_repeats(answers: Sequence[Sequence[int]], *, skip_missing: bool = True) -> list[int]:
    """One answer a proposition from several: their mean, rounded half to even; -1 where none is left.

    Args:
        answers: for each proposition its answers.
        skip_missing: leave -1 out; the published code averages it as a number.
    """
    kept = [[one for one in several if one >= 0 or not skip_missing] for several in answers]
    return [round(sum(several) / len(several)) if several else -1 for several in kept]


def stance_total_variation(
    closed: Sequence[Sequence[float]], open_: Sequence[Sequence[float]], *, digits: int | None = None
) -> list[float | None]:
    """For each proposition how far chosen and written stances lie apart, from 0 to 1.

    Half the sum of absolute differences of the shares of agree, disagree and none. A proposition without an answer of
    either kind has none (the published plot counts missing written answers as zero).

    Args:
        closed: [propositions][agree, disagree, none] counts.
        open_: the same of written answers.
        digits: shares are rounded to so many decimals first, as published.
    """
    found: list[float | None] = []
    for one, other in zip(closed, open_, strict=True):
        if not sum(one) or not sum(other):
            found.append(None)
            continue
        shares = [[count / sum(counts) for count in counts] for counts in (one, other)]
        if digits is not None:
            shares = [[round(share, digits) for share in each] for each in shares]
        found.append(0.5 * sum(abs(a - b) for a, b in zip(*shares)))
    return found


def stance_counts(answers: Sequence[int]) -> list[int]:
    """Counts of agree, disagree and none among answers, strong and weak ones together."""
    return [sum(one >= 2 for one in answers), sum(0 <= one < 2 for one in answers), sum(one < 0 for one in answers)]


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a level of a category does to a point on an axis.

    Args:
        value: difference of means to the reference level.
        low: lower end of its 95 % interval.
        high: upper end.
        p: of the t test that it is 0.
        n: points at that level.
    """

    value: float
    low: float
    high: float
    p: float
    n: int


def persona_effects(reference: Sequence[float], levels: dict[str, Sequence[float]]) -> dict[str, Effect]:
    """Ordinary least squares of points on the levels of one category, the points without a persona being the reference.

    The coefficients are differences of means; all levels share one residual variance. A level without points is left
    out.

    Raises:
        ValueError: no point is without a persona, or so few points that no variance is left.
    """
    used = {name: np.asarray(values, dtype=np.float64) for name, values in levels.items() if len(values)}
    base = np.asarray(reference, dtype=np.float64)
    n = len(base) + sum(map(len, used.values()))
    free = n - 1 - len(used)
    if not len(base) or free < 1:
        raise ValueError(
            f"Effects of {len(used)} levels need points without a persona and more points in all, got {n}."
        )
    residual = sum(float(((values - values.mean()) ** 2).sum()) for values in (base, *used.values())) / free
    reach = student(free)
    found = {}
    for name, values in used.items():
        value = float(values.mean() - base.mean())
        error = float(np.sqrt(residual * (1 / len(values) + 1 / len(base))))
        if error > 0:
            p = float(2 * special.stdtr(free, -abs(value) / error))
        else:
            p = 1.0 if value == 0 else 0.0
        found[name] = Effect(value, value - reach * error, value + reach * error, p, len(values))
    return found
