"""The figures of a run as lines that the table, the report and the model card share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truing.measures.result import Figure, Result

VERDICTS = {
    "better": ("▲", "better"),
    "worse": ("▼", "worse"),
    "changed": ("◆", "changed"),
    "unclear": ("·", "no clear change"),
    "": ("", ""),
}
"""Sign and words; the words carry the meaning where colours and signs do not."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One figure of one measure.

    Args:
        measure: the measure's label.
        name: what the figure is called.
        after: the figure of the model.
        before: that of the model it is compared with, or None.
        difference: paired difference, after minus before, or None.
        side_effect: measured though nobody asked for it.
    """

    measure: str
    name: str
    after: Figure
    before: Figure | None
    difference: Figure | None
    side_effect: bool = False

    @property
    def verdict(self) -> str:
        """Whether the interval of the difference leaves out 0, and if so whether that is for the better."""
        if self.difference is None:
            return ""
        if self.difference.low <= 0 <= self.difference.high:
            return "unclear"
        if self.after.better not in ("higher", "lower"):
            return "changed"
        return "better" if (self.difference.low > 0) == (self.after.better == "higher") else "worse"

    @property
    def sign(self) -> str:
        """▲ better, ▼ worse, ◆ changed, · no clear change."""
        return VERDICTS[self.verdict][0]

    @property
    def words(self) -> str:
        """The verdict in words."""
        return VERDICTS[self.verdict][1]

    @property
    def apart(self) -> bool:
        """Whether the two intervals do not overlap, which asks more than a paired difference that leaves out 0."""
        return self.before is not None and (self.before.high < self.after.low or self.after.high < self.before.low)


def lines(results: Mapping[str, Result], side_effects: frozenset[str] = frozenset()) -> list[Line]:
    """One line for each figure, in the order of the results."""
    found = []
    for label, result in results.items():
        for name, figure in result.figures.items():
            shown = name if name == label or len(result.figures) > 1 else f"{label}: {name}"
            if name == result.name and label != result.name:
                shown = label
            found.append(
                Line(
                    label,
                    shown.replace("_", " "),
                    figure,
                    (result.against or {}).get(name),
                    (result.differences or {}).get(name),
                    label in side_effects,
                )
            )
    return found


def number(value: float, unit: str) -> str:
    """A value for people: a share in percent, anything else with three significant digits."""
    if value != value:
        return "not defined"
    if unit == "share":
        return f"{100 * value:.1f} %"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def interval(figure: Figure) -> str:
    """``41.2 % [36.0, 46.6]``."""
    low, high = (number(value, figure.unit).removesuffix(" %") for value in (figure.low, figure.high))
    return f"{number(figure.value, figure.unit)} [{low}, {high}]"


def change(figure: Figure) -> str:
    """A difference with its sign and interval; differences of shares are in percentage points."""

    def signed(value: float) -> str:
        if figure.unit == "share":
            return f"{100 * value:+.1f}"
        text = number(abs(value), figure.unit)
        return ("−" if value < 0 else "+") + text if text != "0" else "0"

    unit = " pp" if figure.unit == "share" else ""
    shown = [signed(value).replace("-", "−") for value in (figure.value, figure.low, figure.high)]
    return f"{shown[0]}{unit} [{shown[1]}, {shown[2]}]"


def unit_words(unit: str) -> str:
    """The unit where a number does not carry it."""
    return "" if unit == "share" else unit
