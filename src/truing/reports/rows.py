"""The figures of a run as lines that the table, the report and the model card share."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from truing.measures.show import change as change
from truing.measures.show import interval as interval
from truing.measures.show import number as number
from truing.measures.show import setting
from truing.measures.show import unit_words as unit_words

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

ROUNDING = 1e-5
"""Two equal models may differ by this much, relatively: float32 log-probabilities repeat no better in other batches."""


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
        rounding = ROUNDING * max(1.0, abs(self.after.value))
        if self.difference.low <= 0 <= self.difference.high or abs(self.difference.value) <= rounding:
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
    counts = collections.Counter(name for result in results.values() for name in result.listed)
    found = []
    for label, result in results.items():
        for name, figure in result.listed.items():
            # A name that several measures give, or a lone figure that is not called as its measure, says whose it is.
            alone = name == label or (len(result.figures) > 1 and counts[name] == 1)
            shown = name if alone else label if name == result.name else f"{label}: {name}"
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


def told_apart(results: Mapping[str, Result]) -> list[str]:
    """For measures that a run carries out several times, what each of them has set otherwise."""
    same: dict[str, list[str]] = {}
    for label, result in results.items():
        same.setdefault(result.name, []).append(label)
    said = []
    for labels in same.values():
        settings = [results[label].settings for label in labels]
        keys = [key for key in settings[0] if any(one.get(key) != settings[0][key] for one in settings)]
        for label, one in zip(labels, settings):
            set_to = ", ".join(f"{key} {setting(one.get(key))}" for key in keys) or "as the others of its kind"
            said += [f"{label.replace('_', ' ')}: {set_to}."] if len(labels) > 1 else []
    return said
