"""Advice before measuring: how many items show a difference, with a pilot result and without."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from truing.contracts import is_number, require
from truing.errors import SettingsError
from truing.measures import power as sizes
from truing.measures.comparison import other_result
from truing.measures.result import Column, Figure, Result
from truing.measures.show import number
from truing.measures.statistics import Z, clopper_pearson

DISCORDANCES = (0.05, 0.1, 0.2, 0.5)
"""Shares of items on which two models may disagree, where no pilot says how often they do."""
SAME = "the same items"
OTHER = "different items"


@dataclasses.dataclass(frozen=True)
class Advice:
    """Items that one design needs.

    Args:
        figure: which figure; "a share" where no pilot names one.
        items: whether the models answer the same items or different ones; or what one model is compared with.
        assumes: what the number rests on, in words.
        needed: items a model, or None where the difference cannot be that of two such figures.
        unit: of the figure.
        sees: the smallest difference that the pilot's own number of items shows; None without a pilot.
    """

    figure: str
    items: str
    assumes: str
    needed: int | None
    unit: str = "share"
    sees: float | None = None


def advice(difference: float, pilot: Result | None = None, *, power: float = sizes.POWER) -> list[Advice]:
    """How many items show a difference with the power asked for, at the two-sided 5 % level.

    Without a pilot only shares can be planned, under several disagreements of the models. A pilot says how often they
    disagree, or how far the items' values spread; where its items come in clusters, the spread of its interval holds
    them.

    Args:
        difference: in the figure's unit; of a share from 0 to 1.
        pilot: a result of the same measure; one with ``against`` says most.
        power: chance to see the difference where it is there.

    Raises:
        SettingsError: no figure can differ by so much.
    """
    require(is_number(difference) and difference > 0, f"A difference to see is above 0, not {difference!r}.")
    if pilot is None:
        require(difference < 1, f"Without a pilot, shares are planned: a difference is below 1, not {difference!r}.")
        return _of_shares("a share", difference, 0.5, "the share is near 50 %, which needs most", power)
    found = [row for name in pilot.listed for row in _of_figure(name, pilot, difference, power)]
    if not found:
        raise SettingsError("The pilot holds no figure. Measure a few dozen items first.")
    return found


def _of_figure(name: str, pilot: Result, difference: float, power: float) -> list[Advice]:
    figure, column = pilot.figures[name], pilot.columns.get(name)
    change = (pilot.differences or {}).get(name)
    if column is not None and column.null is not None:
        return [_by_spread(name, f"against {number(column.null, figure.unit)}", figure, difference, power)]
    plain = _is_share(column, figure) and not _clustered(pilot)
    unpaired = (
        _try(name, OTHER, f"one share is {number(figure.value, 'share')}, as in the pilot", figure,
             lambda d: sizes.shares_unpaired(d, figure.value, power=power), difference)
        if plain
        else _by_spread(name, OTHER, figure, difference, power)
    )  # fmt: skip
    if change is None:
        guesses = _of_shares(name, difference, None, "", power) if plain else []
        return [*guesses, unpaired]
    if not plain:
        return [_by_spread(name, SAME, change, difference, power), unpaired]
    return [*_of_pairs(name, pilot, column, figure, difference, power), unpaired]


def _of_pairs(
    name: str, pilot: Result, column: Column | None, figure: Figure, difference: float, power: float
) -> list[Advice]:
    """Two rows: with the pilot's own disagreement, and with the upper end of its interval, for a pilot is small."""
    from truing.measures.run import paired_values

    other = other_result(pilot)
    found = None if column is None or other is None else paired_values(column, pilot.samples, other.samples)
    if found is None:
        return []
    _, _, (one, _), (two, _) = found
    apart = sum(a != b for a, b in zip(one, two))
    rows = []
    for share, words in (
        (apart / len(one), "as in the pilot"),
        (clopper_pearson(apart, len(one))[1], "the most that the pilot allows"),
    ):
        assumed = max(share, difference)
        said = f"the models disagree on {number(assumed, 'share')} of them, {words}"
        if assumed > share:
            said = f"the models disagree on {number(assumed, 'share')} of them, the least for such a difference"

        def size(d: float, share: float = share) -> int:
            return sizes.shares_paired(d, min(1.0, max(share, d)), power=power)

        rows.append(_try(name, SAME, said, figure, size, difference, len(one)))
    return rows[:1] if rows[0].assumes == rows[1].assumes else rows


def _of_shares(name: str, difference: float, share: float | None, said: str, power: float) -> list[Advice]:
    rows = [
        Advice(name, SAME, f"the models disagree on {number(apart, 'share')} of them",
               sizes.shares_paired(difference, apart, power=power))
        for apart in DISCORDANCES
        if apart >= difference
    ]  # fmt: skip
    if not rows and difference <= 1:
        rows = [
            Advice(name, SAME, f"the models disagree on {number(difference, 'share')} of them, the least for such a "
                   "difference", sizes.shares_paired(difference, difference, power=power))
        ]  # fmt: skip
    if share is not None:
        centre = share if difference <= 0.5 else 0.0
        words = said if difference <= 0.5 else "the one share is 0"
        rows.append(Advice(name, OTHER, words, sizes.shares_unpaired(difference, centre, power=power)))
    return rows


def _by_spread(name: str, items: str, figure: Figure, difference: float, power: float) -> Advice:
    """From the spread that an interval shows: its half is z standard errors, and these shrink with the root of n."""
    spread = (figure.high - figure.low) / 2 / Z * math.sqrt(figure.n)
    size = sizes.means_unpaired if items == OTHER else sizes.means_paired
    said = f"values spread by {number(spread, '')}, as in the pilot"
    return _try(name, items, said, figure, lambda d: size(d, spread, power=power), difference)


def _try(
    name: str, items: str, said: str, figure: Figure, size: Callable[[float], int], difference: float,
    n: int | None = None,
) -> Advice:  # fmt: skip
    """An answer, or none where no two such figures differ by so much."""
    try:
        needed: int | None = size(difference)
    except SettingsError as error:
        needed, said = None, str(error)
    # A difference of means may be as large as it likes; more than this no pilot fails to see.
    most = 1.0 if figure.unit == "share" else (figure.high - figure.low) * math.sqrt(figure.n)
    sees = sizes.detectable(size, n or figure.n, most) if most > 0 else None
    return Advice(name, items, said, needed, figure.unit, sees)


def _is_share(column: Column | None, figure: Figure) -> bool:
    if figure.unit != "share" or column is None:
        return False
    return column.statistic in ("share", "stratified_share") and column.minus is None


def _clustered(pilot: Result) -> bool:
    keys = [row["cluster"] for row in pilot.samples if row.get("cluster") is not None]
    return len(set(map(str, keys))) < len(keys)
