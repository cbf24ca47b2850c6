from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.reports.examples import NASTY, run_result
from truing.reports.html import duration, render, write_report


class Tags(HTMLParser):
    """Which elements and attributes a page really has, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_text_of_models_makes_no_elements(tmp_path: Path) -> None:
    tags = parsed(render(run_result(tmp_path)))
    assert "script" not in tags.tags
    assert "img" not in tags.tags
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    text = "".join(tags.text)
    assert NASTY[0] in text
    assert "مرحبا" in text
    assert "{{ 7 * 7 }}" in text
    assert "line⟨U+2028⟩separator and ⟨U+202E⟩override" in text
    assert "nul⟨U+0000⟩ and a lone surrogate ⟨U+D800⟩" in text


def test_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    page = render(run_result(tmp_path))
    tags = parsed(page)
    assert not [
        name for name, _ in tags.attributes if name in ("src", "href", "action", "srcset", "xlink:href", "data")
    ]
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page
    assert len(page.encode()) < 2_000_000


def test_figures_intervals_and_verdicts_are_shown(tmp_path: Path) -> None:
    result = run_result(tmp_path)
    page = render(result)
    text = " ".join("".join(parsed(page).text).split())
    assert "81.0 % [76.0, 86.0]" in text
    assert "+39.0 pp [+33.0, +45.0]" in text
    assert "▲ better: helpful, harmless" in text
    assert "▼ worse: perplexity, over refusal" in text
    assert "no clear change: honest" in text
    assert "Side effects, measured in every run" in text
    # A drawing for each figure, for each measured path, and for each training curve.
    assert page.count("<svg") == 7 + 3 + 3 + 5
    assert "model 812, guide 90" in text
    assert "started 2 times" in text
    assert result.state["command"] in text


def test_no_comparison_and_no_steps_still_makes_a_page(tmp_path: Path) -> None:
    result = run_result(tmp_path, by_step=False)
    result.state["steps"] = []
    for one in result.results.values():
        one.against = one.differences = None
        for row in one.samples:
            row.pop("against_answer", None)
            row.pop("against_grade", None)
    text = " ".join("".join(parsed(render(result)).text).split())
    assert "Value" in text
    assert "Difference" not in text
    assert "Words that differ" in text


@pytest.mark.parametrize(("seconds", "shown"), [(0.44, "0.4 s"), (125.0, "2 min 5 s"), (4800.0, "1 h 20 min")])
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.browser
def test_a_browser_runs_nothing_of_it(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    result = run_result(tmp_path)
    path = tmp_path / "report.html"
    write_report(result, path)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-sync",
        "--no-first-run",
    ]

    def opened(page: Path) -> str:
        return subprocess.run(
            [
                chromium,
                *flags,
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=2000",
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        ).stdout

    control = tmp_path / "control.html"
    control.write_text("<!doctype html><title>x</title><body>" + NASTY[0])
    assert "<title>owned</title>" in opened(control)
    page = opened(path)
    assert "<title>owned</title>" not in page
    assert "<title>example &lt;b&gt; · truing</title>" in page
    assert "<script" not in page
    assert "How to repeat it" in page
