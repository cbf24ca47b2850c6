"""The catalogue, the papers and the exports say what the classes say."""

from __future__ import annotations

import subprocess
import sys

import pytest

import truing
from truing.catalogue import ENTRIES, KINDS, entries, exports, find
from truing.contracts import Builder, Measure, Method
from truing.errors import SettingsError
from truing.measures.asking import AskAndGrade
from truing.papers import papers

BASES = {"method": Method, "builder": Builder, "measure": Measure}


def ids(entry):
    return f"{entry.kind}:{entry.name}"


@pytest.mark.parametrize("entry", ENTRIES, ids=ids)
def test_entry_agrees_with_its_class(entry):
    made = entry.load()
    assert entry.kind in KINDS
    assert made.__name__ == entry.export
    assert made.__doc__, "a public class needs a docstring"
    if entry.kind in BASES:
        assert issubclass(made, BASES[entry.kind])
        assert (made.paper,) == (entry.papers or (None,))
    if entry.kind == "method":
        assert made.record_kinds == entry.records
        assert entry.nature
    if entry.kind == "measure":
        assert (entry.nature == "asking") == issubclass(made, AskAndGrade)


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if hasattr(entry.load(), "describe")], ids=ids)
def test_every_setting_is_described(entry):
    silent = [name for name, text in entry.load().describe().items() if not text]
    assert not silent, f"{entry.export} says nothing of {silent}"


def test_names_are_unique_and_exported():
    keys = [ids(entry) for entry in ENTRIES]
    assert len(keys) == len(set(keys))
    for name in exports():
        assert getattr(truing, name).__name__ == name


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(SettingsError, match="Did you mean `nudging`"):
        find("nuding", kind="method")
    assert find("best-of-n", kind="method") is find("BestOfN", kind="method")


def test_papers_are_59_and_hold_to_the_catalogue():
    rows = papers()
    assert [row.number for row in rows] == list(range(1, 60))
    by_paper = {number for entry in entries() for number in entry.papers}
    for row in rows:
        if row.state == "works" and not any(name.startswith("coverage:") for name in row.entries):
            assert row.number in by_paper
        for name in row.entries:
            assert name.split(":")[0] in (*KINDS, "coverage")


def test_import_is_light():
    heavy = [
        "torch",
        "transformers",
        "numpy",
        "datasets",
        "scipy",
        "matplotlib",
        "openai",
        "pandas",
        "pydantic",
        "typer",
    ]
    code = f"import truing, sys; print([m for m in {heavy!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == "[]"
