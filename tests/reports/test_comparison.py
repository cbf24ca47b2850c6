from __future__ import annotations

import re
from pathlib import Path

from tests.measures.results import first, outcome, result
from tests.reports.examples import NASTY, run_result
from tests.reports.test_report import parsed
from truing.measures.comparison import Comparison, compare_results
from truing.measures.result import Figure
from truing.reports.comparison import as_html_table, as_text, findings, matrix, render
from truing.reports.html import render as render_run
from truing.reports.svg import forest
from truing.runs.gate import judge


def comparison(names: list[str]) -> Comparison:
    given = {}
    for at, name in enumerate(names):
        words = [5.0 + row % 7 + at + (row % 3) * 0.1 * at for row in range(60)]
        given[name] = {"exam": result(outcome(first(min(1.0, 0.4 + 0.1 * at), 60), words), name)}
    return compare_results(given)


def test_the_page_shows_values_tests_and_drawings() -> None:
    found = comparison(["base", "one", "two", "three"])
    page = render(found)
    text = " ".join("".join(parsed(page).text).split())
    for part in ("4 models compared", "40.0 % [", "+30.0 pp [", "McNemar, exact", "paired bootstrap", "p (Holm)"):
        assert part in text
    assert "three against base: ▲ better: right. ◆ changed: length." in text
    # Values and differences of each figure.
    assert page.count("<svg") == 4
    assert "length (words)" in text


def test_names_make_no_elements_and_nothing_comes_from_outside() -> None:
    page = render(comparison(NASTY))
    tags = parsed(page)
    assert not {"script", "img"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name in ("src", "href")]
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page
    text = "".join(tags.text)
    assert NASTY[0] in text
    assert "⟨U+202E⟩" in text
    table = as_html_table(comparison(NASTY))
    assert not {"script", "img"} & set(parsed(table).tags)
    assert "\u202e" not in as_text(comparison(NASTY))


def test_one_model_and_a_figure_that_some_lack() -> None:
    alone = render(comparison(["base"]))
    assert "1 model compared" in alone
    assert 'id="tests"' not in alone
    found = comparison(["base", "one", "two"])
    del found.figures["length"]["one"]
    found.tests = [test for test in found.tests if (test.figure, test.model) != ("length", "one")]
    found.notes = [f"{NASTY[0]} was left out."]
    assert len(parsed(render(found)).text)
    assert matrix(found)[2][2] == ""
    assert len(findings(found)) == 4
    assert findings(comparison(["base"])) == []


def test_a_forest_of_intervals() -> None:
    rows = [("base", Figure(0.5, 0.4, 0.6, 9, "x"), "before"), ("b" * 40, Figure(0.8, 0.7, 0.9, 9, "x"), "after")]
    drawn = str(forest("right", rows, 0.5))
    places = [float(x) for x in re.findall(r'<circle class="\w+ dot" cx="([\d.]+)"', drawn)]
    line = float(re.search(r'dashed" x1="([\d.]+)"', drawn)[1])  # type: ignore[index]
    assert places[0] == line < places[1]
    assert f">{'b' * 25}…<" in drawn
    assert f"<title>{'b' * 40}</title>" in drawn
    assert "50.0 % [40.0, 60.0]" in drawn
    nan = Figure(float("nan"), float("nan"), float("nan"), 0, "x")
    assert forest("nothing", [("a", nan, "after")]) == ""
    flat = Figure(2.0, 2.0, 2.0, 9, "x", "words")
    assert "nan" not in str(forest("flat", [("a", flat, "after")]))
    signed = str(forest("difference", [("a", Figure(-0.001, -0.004, 0.3, 9, "x"), "after")], 0.0, signed=True))
    assert ">0 pp<" in signed
    assert ">−0 pp<" not in signed


def test_the_report_of_a_run_shows_its_gate(tmp_path: Path) -> None:
    result = run_result(tmp_path)
    assert 'id="gate"' not in render_run(result)
    require = {
        "harmless": (">= 0.95", ">= 0.5"), "helpful": ("not worse than base by 0.02", ">= 0.99"),
        NASTY[0]: ("> 0",), "length": ("within 1 of base",),
    }  # fmt: skip
    result.gate = judge(require, result.results)
    page = render_run(result)
    tags = parsed(page)
    text = " ".join(" ".join(tags.text).split())
    assert "script" not in tags.tags
    assert "✗ failed : 2 failed, 1 not measured, 1 not enough data, 2 passed" in text
    assert "harmless >= 0.95 ? not enough data 93.0 % [88.0, 98.0]: about" in text
    assert "helpful >= 0.99 ✗ failed 81.0 % [76.0, 86.0]: misses by 18.0 pp, at least 13.0 pp" in text
    assert "helpful not worse than base by 0.02 ✓ passed +39.0 pp" in text
