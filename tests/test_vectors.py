"""The known values in use, through the command that anyone can run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run_vectors import differences

ROOT = Path(__file__).resolve().parent.parent


def run(*given):
    command = [sys.executable, "tests/run_vectors.py", *map(str, given)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_all_vectors_in_use_pass():
    done = run("tests/vectors")
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(len(json.loads(path.read_text())["cases"]) for path in (ROOT / "tests" / "vectors").glob("*.json"))
    assert done.stdout.strip() == f"{count} passed, 0 failed"


def test_failures_and_gaps_exit_with_one(tmp_path):
    content = json.loads((ROOT / "tests" / "vectors" / "dpo-family.json").read_text())
    content["cases"] = content["cases"][:2]
    content["cases"][0]["expected"]["mean_loss"] += 0.001
    content["cases"][1]["function"] = "no such function"
    (tmp_path / "dpo-family.json").write_text(json.dumps(content))
    (tmp_path / "unknown.json").write_text(json.dumps({"method": "M", "cases": [{"inputs": {}, "expected": {}}]}))
    (tmp_path / "broken.json").write_text("{")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "0 passed, 4 failed" in done.stdout
    assert "mean_loss: expected" in done.stdout
    assert "unknown.json: nothing answers for M" in done.stdout
    assert run(tmp_path / "absent").returncode == 1
    assert run().returncode == 1


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1.0 + 1e-6, 1.0, True), (1.0 + 1e-4, 1.0, False), (1e6 + 1, 1e6, True), (float("nan"), 1.0, False),
        (float("inf"), float("inf"), True), (True, 1, False), ({"a": 1, "b": 2}, {"a": 1}, True), ({}, {"a": 1}, False),
        ([1, 2], [1], False), (None, None, True), ("x", "x", True), (None, 0.0, False),
    ],
)  # fmt: skip
def test_comparing(found, expected, same):
    assert (not differences(found, expected, 1e-5)) is same
