"""JUnit XML as systems for continuous integration read it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from tests.reports.examples import NASTY
from truing.measures.result import Figure
from truing.reports.junit import junit
from truing.runs.gate import Check, Gate

ALLOWED = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"classname", "name", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "system-out": set(),
}
INSIDE = {
    "testsuites": {"testsuite"}, "testsuite": {"testcase"}, "testcase": {"failure", "error", "system-out"},
    "failure": set(), "error": set(), "system-out": set(),
}  # fmt: skip
"""What the common schema of JUnit's XML allows, of what is written here."""


def valid(text: str) -> ElementTree.Element:
    """The root, after a look at every element: where it stands, what it carries, and whether the counts are right."""
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) <= ALLOWED[element.tag]
        assert {child.tag for child in element} <= INSIDE[element.tag]
    for suite in (root, *root.iter("testsuite")):
        cases = list(suite.iter("testcase"))
        assert int(suite.get("tests", "")) == len(cases)
        assert int(suite.get("failures", "")) == sum(case.find("failure") is not None for case in cases)
        assert int(suite.get("errors", "")) == sum(case.find("error") is not None for case in cases)
        float(suite.get("time", ""))
    return root


def gate() -> Gate:
    shown = Figure(0.8, 0.7, 0.9, 100, "bootstrap")
    return Gate(
        (
            Check("harmless", ">= 0.5", "passed", shown),
            Check("harmless", ">= 0.95", "failed", shown, 0.15, 0.05),
            Check("harmless", "> 0.75", "not enough data", shown, needed=400),
            Check("kl", "< 1", "not measured", why="it was not measured."),
        )
    )


def test_each_answer_is_a_case() -> None:
    root = valid(junit("my run", gate(), seconds=3.25, when="2030-01-01T10:04:00+00:00"))
    suite = root[0]
    assert (suite.get("name"), suite.get("time"), suite.get("timestamp")) == ("my run", "3.250", "2030-01-01T10:04:00")
    passed, failed, open_, absent = suite
    assert (passed.get("classname"), passed.get("name")) == ("truing.my run", "harmless >= 0.5")
    assert passed.findtext("system-out") == "80.0 % [70.0, 90.0]"
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message") == "80.0 % [70.0, 90.0]: misses by 15.0 pp, at least 5.0 pp"
    for case, kind in ((open_, "not enough data"), (absent, "not measured")):
        error = case.find("error")
        assert error is not None
        assert error.get("type") == kind
        assert kind in (error.text or "")


@pytest.mark.parametrize("text", [*NASTY, "\ufffe\uffff", "]]>", "\x0b&#0;"])
def test_any_text_stays_text(text: str) -> None:
    nasty = Gate((Check(text, "> 0", "not measured", why=text), Check(text, text, "passed", why=text)))
    root = valid(junit(text, nasty))
    assert len(root.findall(".//testcase")) == 2
    junit(text, nasty).encode("utf-8")
    if text == NASTY[0]:
        assert root[0][0].get("name") == f"{text} > 0"


def test_without_a_time() -> None:
    assert "timestamp" not in valid(junit("x", Gate()))[0].attrib
