"""A gate as JUnit XML, which systems for continuous integration show as tests."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from truing.runs.gate import FAILED, PASSED, Check, Gate
from truing.safe_text import visible

_NOT_XML = re.compile("[\ufffe\uffff]")


def junit(name: str, gate: Gate, *, seconds: float = 0.0, when: str = "") -> str:
    """The gate as one suite: a test case for each condition.

    What failed is a failure; what is not decided or not measured is an error, so that neither looks like a success.

    Args:
        name: of the suite.
        gate: what was tested.
        seconds: that measuring took.
        when: it was measured, as ISO 8601.
    """
    failures = sum(check.status == FAILED for check in gate.checks)
    errors = sum(check.status not in (FAILED, PASSED) for check in gate.checks)
    counts = {"tests": str(len(gate.checks)), "failures": str(failures), "errors": str(errors)}
    root = ElementTree.Element("testsuites", {"name": "truing", **counts, "time": f"{seconds:.3f}"})
    times = {"time": f"{seconds:.3f}", **({"timestamp": _text(when)[:19]} if when else {})}
    suite = ElementTree.SubElement(root, "testsuite", {"name": _text(name), **counts, "skipped": "0", **times})
    for check in gate.checks:
        _case(suite, name, check)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _case(suite: ElementTree.Element, name: str, check: Check) -> None:
    about = {"classname": f"truing.{_text(name)}", "name": _text(f"{check.figure} {check.condition}"), "time": "0.000"}
    case = ElementTree.SubElement(suite, "testcase", about)
    if check.status != PASSED:
        kind = "failure" if check.status == FAILED else "error"
        said = ElementTree.SubElement(case, kind, {"message": _text(check.words()), "type": check.status})
        said.text = _text(f"{check.figure} {check.condition}: {check.status}. {check.words()}")
    else:
        ElementTree.SubElement(case, "system-out").text = _text(check.words())


def _text(value: str) -> str:
    """Text that XML may hold: control characters and halves of characters are written out."""
    return _NOT_XML.sub("\ufffd", visible(value))
