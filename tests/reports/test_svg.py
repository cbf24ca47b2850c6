"""Axes of curves are marked at round numbers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from truing.measures.result import Curve, Figure
from truing.reports.svg import figure_curve, figure_curves, standalone


def ticks(*values: float) -> list[str]:
    points = [(float(at), Figure(value, value, value, 10, "bootstrap", "")) for at, value in enumerate(values)]
    drawn = figure_curve(Curve("behaviour", "strength", points))
    return re.findall(r'<text class="tick" x="48"[^>]*>([^<]*)</text>', drawn)


def test_ticks_are_rounded_to_the_distance_they_span():
    assert ticks(-0.985, 0.0, 0.991) == ["-1", "0", "1"]
    assert ticks(0.0041, 0.0088) == ["0.0041", "0.0064", "0.0088"]
    assert ticks(0.5, 0.5) == ["0.5", "0.5", "0.5"]


def test_several_curves_in_one_drawing():
    def line(name: str, low: float) -> Curve:
        points = [
            (float(x), Figure(low + at / 10, low, low + at / 5, 9, "", "")) for at, x in enumerate((10, 100, 1000))
        ]
        return Curve(name, "judg<ments", points)

    drawn = figure_curves("a & b", [line("one", 0.1), line("two", 0.4), Curve("alone", "x", [])], log=True)
    assert drawn.count("<polyline") == 2
    assert drawn.count("bar") == 6
    assert "judg&lt;ments" in drawn
    # On a logarithmic axis equal factors are equal distances.
    at = [float(x) for x in re.findall(r'class="after dot" cx="([0-9.]+)"', drawn)][:3]
    assert abs((at[1] - at[0]) - (at[2] - at[1])) < 0.2
    assert figure_curves("none", [Curve("alone", "x", [])]) == ""
    whole = standalone(drawn)
    assert ElementTree.fromstring(whole).tag == "{http://www.w3.org/2000/svg}svg"
