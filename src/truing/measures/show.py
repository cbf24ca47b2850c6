"""Figures as text for people: a share in percent, anything else with three significant digits, always with its
interval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truing.measures.result import Figure

LONGEST = 60
"""Letters of a setting that are shown."""
POINTS = "points"
"""Unit of a change of a share: percentage points, kept as a number from -1 to 1."""


def number(value: float, unit: str) -> str:
    """A value for people: a share in percent, a change of one in points, else three significant digits."""
    if value != value:
        return "not defined"
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == POINTS:
        return f"{100 * value:+.1f} pp".replace("-", "−")
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def interval(figure: Figure) -> str:
    """``41.2 % [36.0, 46.6]``."""
    low, high = (
        number(value, figure.unit).removesuffix(" %").removesuffix(" pp") for value in (figure.low, figure.high)
    )
    return f"{number(figure.value, figure.unit)} [{low}, {high}]"


def change(figure: Figure) -> str:
    """A difference with its sign and interval; differences of shares are in percentage points."""

    def signed(value: float) -> str:
        if figure.unit in ("share", POINTS):
            return f"{100 * value:+.1f}"
        text = number(abs(value), figure.unit)
        return ("−" if value < 0 else "+") + text if text != "0" else "0"

    unit = " pp" if figure.unit in ("share", POINTS) else ""
    shown = [signed(value).replace("-", "−") for value in (figure.value, figure.low, figure.high)]
    return f"{shown[0]}{unit} [{shown[1]}, {shown[2]}]"


def setting(value: object) -> str:
    """The value of a setting in a line of text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def unit_words(unit: str) -> str:
    """The unit where a number does not carry it."""
    return "" if unit in ("share", POINTS) else unit


def chance(p: float | None) -> str:
    """A p-value for people."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines of text, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def html_table(rows: Sequence[Sequence[str]], caption: str | None = None) -> str:
    """Cells as a table of HTML, the first row being its headings."""
    body = "".join(
        f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>"
        for row, tag in zip(rows, ["th", *["td"] * len(rows)])
    )
    return f"<table>{'' if caption is None else f'<caption>{escape(caption)}</caption>'}{body}</table>"
