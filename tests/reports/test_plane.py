"""A plane of points: drawn within its frame, with names escaped."""

from __future__ import annotations

import re

from truing.measures.result import Figure, Plane
from truing.reports.plane import plane


def test_points_stay_in_the_frame_and_names_are_text() -> None:
    mean = Figure(1.0, -30.0, 3.0, 4, "x", "of 10")
    drawn = plane(
        Plane(
            "<b>",
            ("left", "right"),
            ("low", "high"),
            {"<script>": [(0.0, 0.0), (99.0, -99.0)]},
            {"<script>": (mean, mean)},
        )
    )
    assert "<script>" not in drawn
    assert "&lt;script&gt; (2)" in drawn
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn):
        assert 0 <= float(x) <= 520
        assert 0 <= float(y) <= 390


def test_nothing_is_drawn_of_nothing() -> None:
    assert plane(Plane("x", ("", ""), ("", ""), {"a": [(float("nan"), 0.0)]}, {})) == ""
