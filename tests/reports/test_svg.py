"""Axes of curves are marked at round numbers."""

from __future__ import annotations

import re

from truing.measures.result import Curve, Figure
from truing.reports.svg import figure_curve


def ticks(*values: float) -> list[str]:
    points = [(float(at), Figure(value, value, value, 10, "bootstrap", "")) for at, value in enumerate(values)]
    drawn = figure_curve(Curve("behaviour", "strength", points))
    return re.findall(r'<text class="tick" x="48"[^>]*>([^<]*)</text>', drawn)


def test_ticks_are_rounded_to_the_distance_they_span():
    assert ticks(-0.985, 0.0, 0.991) == ["-1", "0", "1"]
    assert ticks(0.0041, 0.0088) == ["0.0041", "0.0064", "0.0088"]
    assert ticks(0.5, 0.5) == ["0.5", "0.5", "0.5"]
