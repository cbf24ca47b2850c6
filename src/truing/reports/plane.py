"""Points on two axes as inline SVG, each group around its mean with the 95 % intervals of both coordinates."""

from __future__ import annotations

import html
import math

from markupsafe import Markup

from truing.measures.result import Plane
from truing.reports.svg import _picture
from truing.safe_text import visible

COLOURS = 6
LEFT, TOP, SIDE = 34, 40, 300


def plane(drawn: Plane, width: int = 520, height: int = 390) -> Markup:
    """The plane with its groups; the key stands on its right. Empty where no group has a point."""
    groups = {
        name: [point for point in points if all(map(math.isfinite, point))] for name, points in drawn.groups.items()
    }
    if not any(groups.values()):
        return Markup("")

    def across(value: float) -> float:
        return LEFT + SIDE * (min(max(value, -drawn.reach), drawn.reach) + drawn.reach) / (2 * drawn.reach)

    def up(value: float) -> float:
        return TOP + SIDE - (across(value) - LEFT)

    middle_x, middle_y, right, bottom = across(0), up(0), LEFT + SIDE, TOP + SIDE
    parts = [f'<text class="title" x="6" y="13">{html.escape(visible(drawn.title, 80))}</text>']
    parts += [
        f'<line class="grid" x1="{LEFT}" y1="{up(value):.1f}" x2="{right}" y2="{up(value):.1f}"/>'
        f'<line class="grid" x1="{across(value):.1f}" y1="{TOP}" x2="{across(value):.1f}" y2="{bottom}"/>'
        for value in (-drawn.reach, -drawn.reach / 2, drawn.reach / 2, drawn.reach)
    ]
    parts.append(
        f'<line class="axis bar" x1="{LEFT}" y1="{middle_y:.1f}" x2="{right}" y2="{middle_y:.1f}"/>'
        f'<line class="axis bar" x1="{middle_x:.1f}" y1="{TOP}" x2="{middle_x:.1f}" y2="{bottom}"/>'
    )
    for value in (-drawn.reach, 0.0, drawn.reach):
        parts.append(
            f'<text class="tick" x="{LEFT - 5}" y="{up(value) + 3:.1f}" text-anchor="end">{value:g}</text>'
            f'<text class="tick" x="{across(value):.1f}" y="{bottom + 12}" text-anchor="middle">{value:g}</text>'
        )
    ends = [
        (drawn.x[0], LEFT, bottom + 27, "start"), (drawn.x[1], right, bottom + 27, "end"),
        (drawn.y[1], middle_x, TOP - 8, "middle"), (drawn.y[0], middle_x, bottom + 27, "middle"),
    ]  # fmt: skip
    parts += [
        f'<text class="name" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(visible(word, 30))}</text>'
        for word, x, y, anchor in ends
    ]
    for at, (name, points) in enumerate(groups.items()):
        colour = f"g{min(at, COLOURS - 1)}"
        parts += [f'<circle class="{colour} faint" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"/>' for x, y in points]
        if name in drawn.means:
            x, y = drawn.means[name]
            parts.append(
                f'<line class="cross {colour}" x1="{across(x.low):.1f}" y1="{up(y.value):.1f}" '
                f'x2="{across(x.high):.1f}" y2="{up(y.value):.1f}"/>'
                f'<line class="cross {colour}" x1="{across(x.value):.1f}" y1="{up(y.low):.1f}" '
                f'x2="{across(x.value):.1f}" y2="{up(y.high):.1f}"/>'
                f'<circle class="{colour}" cx="{across(x.value):.1f}" cy="{up(y.value):.1f}" r="5"/>'
            )
        place = TOP + 10 + 17 * at
        parts.append(
            f'<circle class="{colour}" cx="{right + 16}" cy="{place - 4}" r="4"/>'
            f'<text class="name" x="{right + 25}" y="{place}">{html.escape(visible(name, 24))} ({len(points)})</text>'
        )
    return _picture(width, height, visible(drawn.title, 80), parts)
