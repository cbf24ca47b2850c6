"""The radar plot of a grid."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from truing.measures.result import Figure, Grid, Result
from truing.reports.radar import RADIUS, radar

NAMES = ["a", "b", "c", "d"]
ROWS: list[tuple[str, list[str]]] = [
    ("One", []), ("A & b", ["a"]), ("B", ["b"]), ("Two", []), ("C", ["c"]), ("D", ["d"]),
]  # fmt: skip
GRID = Grid("T <x>", ["", "good"], ROWS, radar=True, missing={"d": "not measured"})


def figures(values: dict[str, float], better: str = "higher") -> dict[str, Figure]:
    return {
        name: Figure(value, max(0, value - 0.1), min(1, value + 0.1), 9, "m", better=better)
        for name, value in values.items()
    }


def test_figures_lie_on_their_spokes() -> None:
    drawn = str(radar(Result("m", {}, figures({"a": 1.0, "b": 0.5, "c": 0.0})), GRID))
    ElementTree.fromstring(drawn)
    dots = [(float(x), float(y)) for x, y in re.findall(r'class="after dot" cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    middle = (450.0, 260.0)
    reach = [math.hypot(x - middle[0], y - middle[1]) for x, y in dots]
    assert [round(one / RADIUS, 2) for one in reach] == [1.0, 0.5, 0.0]
    assert dots[0][0] == middle[0], "the first spoke points up"
    assert dots[1][0] > middle[0], "the next follows clockwise"
    assert "A &amp; b" in drawn
    assert "T &lt;x&gt;" in drawn
    assert "D (–)" in drawn
    assert "spoke open" in drawn
    assert "<polygon" not in drawn, "an outline with a gap has no area"


def test_both_models_are_drawn() -> None:
    grid = Grid("T", ["", "good"], GRID.rows, radar=True)
    values = {"a": 1.0, "b": 0.5, "c": 0.2, "d": 0.9}
    result = Result("m", {}, figures(values), against=figures(dict.fromkeys(values, 0.3)), differences={})
    drawn = str(radar(result, grid))
    assert drawn.count("before dot") == 4
    assert drawn.count("<polygon") == 2


def test_what_no_radar_can_show() -> None:
    assert radar(Result("m", {}, figures({"a": 1.0, "b": 0.5})), GRID) == ""
    lower = Grid("T", ["", "x"], GRID.rows, radar=True)
    assert radar(Result("m", {}, figures({"a": 1.0, "b": 0.5, "c": 0.2}, "lower")), lower) == ""


def test_the_report_holds_the_drawing_and_reads_from_right_to_left(tmp_path) -> None:
    from truing.runs import run

    path = tmp_path / "r.yaml"
    path.write_text(
        "model: sandbox/small\nsteps: [{system_message: {text: Be kind.}}]\nside_effects: false\n"
        "measures: [{suite: {path: persian, limit: 14, max_new_tokens: 8}}, "
        "{trustworthiness: {subset: [Social norm], limit: 12}}]\nreport: report.html\n"
    )
    page = run(path, out=tmp_path / "run").report.read_text(encoding="utf-8")
    assert page.count('class="plot" viewBox="0 0 900 520"') == 2
    assert "<summary><bdi>ایمنی: گفت‌وگوی آزماینده</bdi>" in page
    assert "user: \u2068سلام. با همکارم بحثم شده.\u2069" in page
    assert "not asked for" in page
    assert 'colspan="3"' in page
