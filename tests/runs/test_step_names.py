"""Steps that start from, or use, the model of an earlier step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import truing as tr
from truing.errors import RecipeError
from truing.runs import parse, run
from truing.runs.writing import as_yaml

QUICK = "max_steps: 2, batch_size: 2, learning_rate: 1e-3"
BRANCHES = f"""\
model: sandbox/small
steps:
  - sft: {{records: {{path: sandbox/demonstrations, limit: 8}}, {QUICK}, as: one}}
  - sft: {{records: {{path: sandbox/demonstrations, limit: 8}}, {QUICK}, seed: 5, from: start, as: two}}
  - merge: {{models: [steps/one], rule: linear, weights: [1, 3], from: two}}
measures: [{{hhh: {{limit: 4}}}}]
side_effects: false
measure_each_step: true
"""


def test_branches_are_trained_apart_and_merged(tmp_path: Path) -> None:
    recipe = tmp_path / "branches.yaml"
    recipe.write_text(BRANCHES)
    result = run(recipe, out=tmp_path / "out")
    assert result.state["state"] == "finished"
    start = tr.load("sandbox/small").weights.state_dict()
    one, two, merged = (
        tr.load(tmp_path / "out" / "steps" / name / "model") for name in ("01-sft", "02-sft", "03-merge")
    )
    assert [step.method for step in two.history] == ["sft"], "it starts from the start, not from the step before"
    for name, value in merged.weights.state_dict().items():
        left, right = one.weights.state_dict()[name], two.weights.state_dict()[name]
        assert value.allclose((3 * left + right) / 4, atol=1e-6) or value.allclose((left + 3 * right) / 4, atol=1e-6)
        assert not value.is_floating_point() or not left.equal(start[name]) or not right.equal(start[name])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    run(recipe, out=tmp_path / "out")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert json.loads((tmp_path / "out" / "measures" / "hhh.json").read_text())["figures"]


def test_names_are_written_back() -> None:
    recipe, _ = parse(BRANCHES, "r.yaml")
    again, _ = parse(as_yaml(recipe), "again.yaml")
    assert again == recipe
    assert [(step.name, step.start) for step in again.steps] == [("one", None), ("two", "start"), (None, "two")]


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ("- sft: {records: sandbox/demonstrations, from: tuned}", "line 3.*from: tuned.*names no step before"),
        ("- merge: {models: [steps/tuned]}\n  - sft: {records: sandbox/demonstrations, as: tuned}", "steps/tuned"),
        (
            "- sft: {records: sandbox/demonstrations, as: one}\n  - merge: {models: [steps/onne]}",
            "Did you mean `one`",
        ),
        (
            "- sft: {records: sandbox/demonstrations, as: a}\n  - sft: {records: sandbox/demonstrations, as: a}",
            "already",
        ),
        ("- sft: {records: sandbox/demonstrations, as: start}", "already"),
        ("- sft: {records: sandbox/demonstrations, as: ../x}", "small letters"),
    ],
)
def test_names_that_cannot_work(steps: str, why: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s){why}"):
        parse(f"model: sandbox/small\nsteps:\n  {steps}\n", "r.yaml")
