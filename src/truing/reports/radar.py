"""Figures from 0 to 100 % on spokes around a centre, as inline SVG: a grid's first column as one drawing."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from markupsafe import Markup

from truing.measures.result import Figure, Grid, Result
from truing.reports.svg import _picture
from truing.safe_text import visible

RADIUS = 205
RINGS = (0.25, 0.5, 0.75, 1.0)
Point = tuple[float, float]


def radar(result: Result, grid: Grid, width: int = 900, height: int = 520) -> Markup:
    """The grid's figures that are shares where more is better: outside is 100 %. Empty with fewer than three of them.

    Rows without figures part the circle into sectors. A spoke without a figure is dashed and breaks the outline. Bars
    are 95 % intervals; the hollow outline is the model compared with.
    """
    spokes: list[tuple[str, str]] = []
    sectors: list[tuple[str, int]] = []
    for label, names in grid.rows:
        if not names:
            sectors.append((label, len(spokes)))
        elif _fits(result, names[0]) or names[0] in grid.missing:
            spokes.append((label, names[0]))
    if sum(name in result.figures for _, name in spokes) < 3:
        return Markup("")
    middle = (width / 2, height / 2)
    turns = [2 * math.pi * at / len(spokes) for at in range(len(spokes))]
    parts = _web(spokes, sectors, turns, middle, result)
    sides: list[tuple[str, dict[str, Figure]]] = [("after", result.figures)]
    if result.against:
        sides.insert(0, ("before", result.against))
    for side, figures in sides:
        parts += _outline(side, [figures.get(name) for _, name in spokes], turns, middle)
    title = visible(grid.title, 100)
    return _picture(width, height, title, [f'<text class="title" x="6" y="15">{html.escape(title)}</text>', *parts])


def _fits(result: Result, name: str) -> bool:
    figure = result.figures.get(name)
    return figure is not None and figure.unit == "share" and figure.better == "higher"


def _at(middle: Point, turn: float, share: float, beyond: float = 0.0) -> Point:
    """The place of a share on a spoke; the first spoke points up, and the others follow clockwise."""
    reach = RADIUS * min(1.0, max(0.0, share)) + beyond
    return middle[0] + reach * math.sin(turn), middle[1] - reach * math.cos(turn)


def _web(
    spokes: Sequence[tuple[str, str]], sectors: Sequence[tuple[str, int]], turns: Sequence[float], middle: Point,
    result: Result,
) -> list[str]:  # fmt: skip
    x, y = middle
    parts = [f'<circle class="spoke" cx="{x}" cy="{y}" r="{RADIUS * ring:.1f}" fill="none"/>' for ring in RINGS]
    for at, ((label, name), turn) in enumerate(zip(spokes, turns)):
        end, word = _at(middle, turn, 1.0), _at(middle, turn, 1.0, 12)
        there = name in result.figures
        anchor = "middle" if abs(math.sin(turn)) < 0.02 else "start" if math.sin(turn) > 0 else "end"
        text = html.escape(visible(label, 40)) + ("" if there else " (–)")
        # Sectors by turns in bold, so that it is seen where one ends.
        bold = " strong" if sum(first <= at for _, first in sectors) % 2 else ""
        parts.append(
            f'<line class="spoke{"" if there else " open"}" x1="{x}" y1="{y}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
            f'<text class="name{bold}" x="{word[0]:.1f}" y="{word[1] + 3:.1f}" text-anchor="{anchor}">{text}</text>'
        )
    parts += [
        f'<text class="tick" x="{x + 3}" y="{y - RADIUS * ring - 2:.1f}">{100 * ring:.0f} %</text>'
        for ring in RINGS[:-1]
    ]
    if len(sectors) > 1 and turns:
        step = turns[1] if len(turns) > 1 else 0.0
        for _, first in sectors:
            if first < len(turns):
                end = _at(middle, turns[first] - step / 2, 1.0, 8)
                parts.append(f'<line class="axis bar" x1="{x}" y1="{y}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>')
    return parts


def _outline(side: str, figures: Sequence[Figure | None], turns: Sequence[float], middle: Point) -> list[str]:
    places = [None if figure is None else _at(middle, turn, figure.value) for figure, turn in zip(figures, turns)]
    parts = []
    if all(place is not None for place in places):
        points = " ".join(f"{place[0]:.1f},{place[1]:.1f}" for place in places if place is not None)
        parts.append(f'<polygon class="area {side}" points="{points}"/>')
    for one, other in zip(places, [*places[1:], places[0]]):
        if one is not None and other is not None:
            parts.append(
                f'<line class="{side}" x1="{one[0]:.1f}" y1="{one[1]:.1f}" x2="{other[0]:.1f}" y2="{other[1]:.1f}"/>'
            )
    for figure, turn, place in zip(figures, turns, places):
        if figure is None or place is None:
            continue
        low, high = _at(middle, turn, figure.low), _at(middle, turn, figure.high)
        if side == "after":
            parts.append(
                f'<line class="{side} bar" x1="{low[0]:.1f}" y1="{low[1]:.1f}" x2="{high[0]:.1f}" y2="{high[1]:.1f}"/>'
            )
        parts.append(f'<circle class="{side} dot" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="3.5"/>')
    return parts
