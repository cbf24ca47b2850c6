"""Small drawings as inline SVG: they need no library, no script and no network, and follow the page's colours."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from truing.measures.result import Curve, Figure
from truing.reports.rows import Line, change, interval, number


def _scale(low: float, high: float, left: float, right: float) -> tuple[float, float]:
    span = high - low or 1.0
    factor = (right - left) / span
    return factor, left - low * factor


def _picture(width: int, height: int, label: str, parts: Sequence[str]) -> Markup:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return Markup(f'<svg class="plot" {size} role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>')


def interval_plot(line: Line, width: int = 230, height: int = 38) -> Markup:
    """Before (hollow) and after (filled), each a dot on its 95 % interval; shares on an axis from 0 to 100 %."""
    shown = [
        figure for figure in (line.before, line.after) if figure is not None and math.isfinite(figure.low + figure.high)
    ]
    if not shown:
        return Markup("")
    if line.after.unit == "share":
        low, high = 0.0, 1.0
    else:
        low, high = min(figure.low for figure in shown), max(figure.high for figure in shown)
        margin = 0.15 * (high - low) or abs(high) or 1.0
        low, high = (max(0.0, low - margin) if low >= 0 else low - margin), high + margin
    factor, offset = _scale(low, high, 8, width - 8)
    base = height - 12
    parts = [f'<line class="axis" x1="8" y1="{base}" x2="{width - 8}" y2="{base}"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = offset + factor * (low + share * (high - low))
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{base - 2}" x2="{x:.1f}" y2="{base + 2}"/>')
    ends = [(8, "start", low), (width - 8, "end", high)]
    parts += [
        f'<text class="tick" x="{x}" y="{height - 1}" text-anchor="{anchor}">{_tick(value, line.after.unit)}</text>'
        for x, anchor, value in ends
    ]
    places = [(line.before, "before", 7.0), (line.after, "after", 18.0)]
    for figure, name, y in places:
        if figure is None or not math.isfinite(figure.low + figure.high):
            continue
        x1, x, x2 = (offset + factor * value for value in (figure.low, figure.value, figure.high))
        parts.append(f'<line class="{name} bar" x1="{x1:.1f}" y1="{y}" x2="{x2:.1f}" y2="{y}"/>')
        parts += [f'<line class="{name}" x1="{end:.1f}" y1="{y - 3}" x2="{end:.1f}" y2="{y + 3}"/>' for end in (x1, x2)]
        parts.append(f'<circle class="{name} dot" cx="{x:.1f}" cy="{y}" r="4"/>')
    text = f"{line.name}: " + ", ".join(f"{name} {number(f.value, f.unit)}" for f, name, _ in places if f is not None)
    return _picture(width, height, text, parts)


def _tick(value: float, unit: str) -> str:
    return f"{100 * value:.0f} %" if unit == "share" else number(value, unit)


def path_plot(name: str, stages: Sequence[tuple[str, Figure]], width: int = 270, height: int = 150) -> Markup:
    """One figure after every step, with its intervals."""
    unit = stages[0][1].unit
    if unit == "share":
        low, high = 0.0, 1.0
    else:
        low, high = min(figure.low for _, figure in stages), max(figure.high for _, figure in stages)
        margin = 0.1 * (high - low) or 1.0
        low, high = (max(0.0, low - margin) if low >= 0 else low - margin), high + margin
    factor, offset = _scale(low, high, height - 28, 22)
    step = (width - 90) / max(1, len(stages) - 1)
    xs = [58 + index * step for index in range(len(stages))]
    ys = [offset + factor * figure.value for _, figure in stages]
    parts = [f'<text class="title" x="6" y="13">{html.escape(name)}</text>']
    parts += _rules(
        [(offset + factor * value, _tick(value, unit)) for value in (low, (low + high) / 2, high)], 46, width - 8
    )
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys))
    parts.append(f'<polyline class="after path" points="{points}"/>')
    for (stage, figure), x, y in zip(stages, xs, ys):
        top, bottom = offset + factor * figure.high, offset + factor * figure.low
        parts.append(f'<line class="after bar" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        parts.append(f'<circle class="after dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 10}" text-anchor="middle">{html.escape(stage)}</text>'
        )
    return _picture(width, height, name, parts)


def curve(name: str, points: Sequence[tuple[float, float]], width: int = 270, height: int = 150) -> Markup:
    """A training curve; at most 300 points are drawn, each the mean of its neighbours."""
    points = _thinned([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)], 300)
    if len(points) < 2:
        return Markup("")
    low, high = min(y for _, y in points), max(y for _, y in points)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    factor, offset = _scale(low, high, height - 28, 24)
    across, start = _scale(points[0][0], points[-1][0], 52, width - 10)
    parts = [f'<text class="title" x="6" y="13">{html.escape(name)}</text>']
    marks = [(offset + factor * value, number(value, "")) for value in _round_ticks(low, high)]
    parts += _rules(marks, 52, width - 10)
    drawn = " ".join(f"{start + across * x:.1f},{offset + factor * y:.1f}" for x, y in points)
    parts.append(f'<polyline class="after path" points="{drawn}"/>')
    parts += _ends([(start + across * x, x) for x, _ in (points[0], points[-1])], height - 10)
    parts.append(f'<text class="tick" x="{(52 + width) / 2:.0f}" y="{height - 10}" text-anchor="middle">step</text>')
    return _picture(width, height, name, parts)


LABEL = 26
"""Letters of a row's label that are drawn; the whole of it is its tooltip."""


def forest(
    name: str, rows: Sequence[tuple[str, Figure, str]], line: float | None = None, signed: bool = False,
    width: int = 550,
) -> Markup:  # fmt: skip
    """Intervals one below the other on one axis, each with its label and its numbers.

    Args:
        name: what is shown.
        rows: a label, the figure, and how it is drawn: "before" (hollow) or "after" (filled).
        line: where a dashed line stands: the baseline's value, or no difference.
        signed: the figures are differences.
        width: in pixels.
    """
    shown = [(label, figure, kind) for label, figure, kind in rows if math.isfinite(figure.low + figure.high)]
    if not shown:
        return Markup("")
    unit = shown[0][1].unit
    ends = [value for _, figure, _ in shown for value in (figure.low, figure.high)] + ([] if line is None else [line])
    low, high = min(ends), max(ends)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    left, right, height = 170, width - 185, 44 + 20 * len(shown)
    factor, offset = _scale(low, high, left + 6, right - 6)
    base = height - 18
    parts = [f'<text class="title" x="6" y="13">{html.escape(name)}</text>']
    parts.append(f'<line class="axis" x1="{left}" y1="{base}" x2="{right}" y2="{base}"/>')
    for value in _round_ticks(low, high):
        points = round(100 * value)
        said = f"{points:+d} pp".replace("-", "−") if points else "0 pp"
        text = said if signed and unit == "share" else _tick(value, unit)
        x = offset + factor * value
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{base - 2}" x2="{x:.1f}" y2="{base + 2}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 5}" text-anchor="middle">{text}</text>')
    if line is not None:
        x = offset + factor * line
        parts.append(f'<line class="grid dashed" x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{base}"/>')
    for place, (label, figure, kind) in enumerate(shown):
        y = 31 + 20 * place
        x1, x, x2 = (offset + factor * value for value in (figure.low, figure.value, figure.high))
        short = label if len(label) <= LABEL else label[: LABEL - 1] + "…"
        parts.append(
            f'<text class="label" x="6" y="{y + 4}"><title>{html.escape(label)}</title>{html.escape(short)}</text>'
        )
        parts.append(f'<line class="{kind} bar" x1="{x1:.1f}" y1="{y}" x2="{x2:.1f}" y2="{y}"/>')
        parts += [f'<line class="{kind}" x1="{end:.1f}" y1="{y - 3}" x2="{end:.1f}" y2="{y + 3}"/>' for end in (x1, x2)]
        parts.append(f'<circle class="{kind} dot" cx="{x:.1f}" cy="{y}" r="4"/>')
        said = change(figure) if signed else interval(figure)
        parts.append(f'<text class="label" x="{width - 4}" y="{y + 4}" text-anchor="end">{html.escape(said)}</text>')
    return _picture(width, height, name, parts)


def figure_curve(curve: Curve, width: int = 330, height: int = 190) -> Markup:
    """A figure that follows a number: points on their 95 % intervals, and the fitted curve through them."""
    points = [(x, figure) for x, figure in curve.points if math.isfinite(figure.low + figure.high)]
    if len(points) < 2:
        return Markup("")
    unit = points[0][1].unit
    low, high = min(figure.low for _, figure in points), max(figure.high for _, figure in points)
    margin = 0.08 * (high - low) or 0.5
    factor, offset = _scale(low - margin, high + margin, height - 40, 24)
    across, start = _scale(points[0][0], points[-1][0], 58, width - 12)
    title = curve.name.replace("_", " ")
    parts = [f'<text class="title" x="6" y="13">{html.escape(title)}</text>']
    marks = [(offset + factor * value, _tick(value, unit)) for value in _round_ticks(low, high)]
    parts += _rules(marks, 52, width - 8)
    if curve.fit:
        drawn = " ".join(f"{start + across * x:.1f},{offset + factor * y:.1f}" for x, y in curve.fit)
        parts.append(f'<polyline class="before path" points="{drawn}"/>')
    for x, figure in points:
        place, top, bottom = start + across * x, offset + factor * figure.high, offset + factor * figure.low
        parts.append(f'<line class="after bar" x1="{place:.1f}" y1="{top:.1f}" x2="{place:.1f}" y2="{bottom:.1f}"/>')
        middle = offset + factor * figure.value
        parts.append(f'<circle class="after dot" cx="{place:.1f}" cy="{middle:.1f}" r="3"/>')
    parts += _ends([(start + across * x, x) for x, _ in (points[0], points[-1])], height - 22)
    below = curve.x + (f"; line: {curve.formula}" if curve.formula else "")
    parts.append(
        f'<text class="tick" x="{width / 2:.0f}" y="{height - 6}" text-anchor="middle">{html.escape(below)}</text>'
    )
    return _picture(width, height, title, parts)


CLASSES = ("after", "before", "third")
"""How the curves of one drawing are told apart, in order."""

STYLE = (
    "svg.plot{background:#ffffff;font-family:system-ui,'Segoe UI',Roboto,sans-serif} .axis,.grid{stroke:#d9dfe7} "
    ".tick{font-size:9.5px;fill:#5b6675} .title{font-size:12px;font-weight:600;fill:#1c2430} "
    ".before{stroke:#b35c00;stroke-width:1.5} .after{stroke:#0b62a8;stroke-width:1.5} "
    ".third{stroke:#5b6675;stroke-width:1.5} .bar{stroke-width:1.5} .path{fill:none} .before.dot{fill:#ffffff} "
    ".after.dot{fill:#0b62a8} .third.dot{fill:#5b6675}"
)
"""Colours of a drawing that stands in a file of its own; a report has those of its page."""


def figure_curves(
    title: str, curves: Sequence[Curve], width: int = 560, height: int = 320, *, log: bool = False
) -> Markup:
    """Up to three figures that follow the same number, in one drawing: points on their 95 % intervals, joined.

    Args:
        title: stands above.
        curves: of one unit, with the same ``x``; those without two finite points are left out.
        width, height: in pixels.
        log: space the numbers by their logarithms, all being above 0.
    """
    drawn = [
        (curve, [(x, figure) for x, figure in curve.points if math.isfinite(figure.low + figure.high)])
        for curve in curves[: len(CLASSES)]
    ]
    drawn = [(curve, points) for curve, points in drawn if len(points) > 1]
    if not drawn:
        return Markup("")
    figures = [figure for _, points in drawn for _, figure in points]
    xs = sorted({x for _, points in drawn for x, _ in points})
    place: Any = math.log if log else float
    low, high = min(figure.low for figure in figures), max(figure.high for figure in figures)
    factor, offset = _scale(low, high, height - 44, 44)
    across, start = _scale(place(xs[0]), place(xs[-1]), 62, width - 20)
    parts = [f'<text class="title" x="6" y="14">{html.escape(title)}</text>']
    marks = [(offset + factor * value, _tick(value, figures[0].unit)) for value in _round_ticks(low, high)]
    parts += _rules(marks, 50, width - 8)
    for at, (curve, points) in enumerate(drawn):
        look, aside = CLASSES[at], 3.0 * (at - (len(drawn) - 1) / 2)
        where = [(start + across * place(x) + aside, figure) for x, figure in points]
        line = " ".join(f"{x:.1f},{offset + factor * figure.value:.1f}" for x, figure in where)
        parts.append(f'<polyline class="{look} path" points="{line}"/>')
        for x, figure in where:
            ends = (offset + factor * figure.high, offset + factor * figure.low)
            parts.append(f'<line class="{look} bar" x1="{x:.1f}" y1="{ends[0]:.1f}" x2="{x:.1f}" y2="{ends[1]:.1f}"/>')
            parts.append(f'<circle class="{look} dot" cx="{x:.1f}" cy="{offset + factor * figure.value:.1f}" r="3.5"/>')
        left = 62 + at * (width - 80) / len(drawn)
        parts.append(f'<circle class="{look} dot" cx="{left:.1f}" cy="28" r="4"/>')
        parts.append(f'<text class="tick" x="{left + 9:.1f}" y="31">{html.escape(curve.name.replace("_", " "))}</text>')
    shown, last = [], -math.inf
    for x in xs:
        at_x = start + across * place(x)
        if at_x - last > 34:
            shown.append(f'<text class="tick" x="{at_x:.1f}" y="{height - 28}" text-anchor="middle">{x:,g}</text>')
            last = at_x
    parts += shown
    parts.append(
        f'<text class="tick" x="{width / 2:.0f}" y="{height - 10}" text-anchor="middle">'
        f"{html.escape(drawn[0][0].x)}</text>"
    )
    return _picture(width, height, title, parts)


def standalone(picture: Markup) -> str:
    """A drawing as the content of an SVG file."""
    head = str(picture).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return head.replace(">", f"><style>{STYLE}</style>", 1) + "\n"


def _rules(marks: Sequence[tuple[float, str]], left: int, right: int) -> list[str]:
    """Lines across a drawing at some heights, each with its label."""
    return [
        f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{left - 4}" y="{y + 3:.1f}" text-anchor="end">{label}</text>'
        for y, label in marks
    ]


def _ends(places: Sequence[tuple[float, float]], y: int) -> list[str]:
    """Labels of the two ends of an axis: where they stand, and the numbers there."""
    return [
        f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{value:g}</text>'
        for (x, value), anchor in zip(places, ("start", "end"))
    ]


def _round_ticks(low: float, high: float) -> list[float]:
    """Both ends and the middle, to two digits of the distance between them."""
    values = (low, (low + high) / 2, high)
    if not high > low:
        return list(values)
    unit = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    return [round(round(value / unit) * unit, 12) for value in values]


def _thinned(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
