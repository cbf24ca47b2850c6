"""What a recipe requires, in a real run: in its folder, its report and its cards, and again when it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.runs.recipes import write
from truing.errors import RunError
from truing.runs import compare, load, run

REQUIRE = {
    "hhh.helpful": ">= 0",
    "harmless": [">= 0.999", "not worse than base by 0.9"],
    "length": "within 1000 of base",
    "diversity.distinct_1": "> 0.99",
}


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("gated")
    steps = [{"system_message": {"text": "Answer briefly."}}, {"system_message": {"text": "Be kind."}}]
    recipe = write(folder, steps=steps, require=REQUIRE, measure_each_step=True)
    run(recipe, out=folder / "out")
    return recipe, folder / "out"


def test_the_run_holds_its_gate(gated: tuple[Path, Path]) -> None:
    _, out = gated
    result = load(out)
    assert [(check.figure, check.condition) for check in result.gate.checks] == [
        ("hhh.helpful", ">= 0"), ("harmless", ">= 0.999"), ("harmless", "not worse than base by 0.9"),
        ("length", "within 1000 of base"), ("diversity.distinct_1", "> 0.99"),
    ]  # fmt: skip
    status = [check.status for check in result.gate.checks]
    assert status[0] == status[3] == "passed"
    assert status[1] in ("not enough data", "failed")
    assert status[4] == "failed"
    assert json.loads((out / "gate.json").read_text()) == result.gate.to_json()
    assert "Gate" in (out / "report.html").read_text()
    last, first = (out / "steps" / name / "model" / "README.md" for name in ("02-system-message", "01-system-message"))
    assert "## Gate" in last.read_text()
    assert "## Gate" not in first.read_text()
    assert "failed: diversity.distinct_1 > 0.99" in str(result)


def test_what_is_required_may_change_without_measuring_anew(gated: tuple[Path, Path]) -> None:
    recipe, out = gated
    before = (out / "measures" / "hhh.json").stat().st_mtime_ns
    value = yaml.safe_load(recipe.read_text())
    try:
        changed = run(write(recipe.parent, "other.yaml", **{**value, "require": {"length": "< 1000"}}), out=out)
        assert [check.status for check in changed.gate.checks] == ["passed"]
        assert json.loads((out / "gate.json").read_text())["status"] == "passed"
        assert yaml.safe_load((out / "recipe.yaml").read_text())["require"] == {"length": "< 1000"}
        assert "within 1000" not in (out / "report.html").read_text()
        value.pop("require")
        assert run(write(recipe.parent, "none.yaml", **value), out=out).gate.checks == ()
        assert not (out / "gate.json").exists()
        assert 'id="gate"' not in (out / "report.html").read_text()
    finally:
        run(recipe, out=out)
    assert (out / "measures" / "hhh.json").stat().st_mtime_ns == before
    assert len(load(out).gate.checks) == 5


def test_a_state_that_was_changed_by_hand_is_one_error(gated: tuple[Path, Path]) -> None:
    _, out = gated
    kept = (out / "run.json").read_text()
    state = json.loads(kept)
    state["recipe"]["require"] = {"length": "soon"}
    (out / "run.json").write_text(json.dumps(state))
    try:
        with pytest.raises(RunError, match=r"`require` in run\.json cannot be read"):
            load(out)
    finally:
        (out / "run.json").write_text(kept)


def test_one_run_is_compared_with_its_start_and_its_steps(gated: tuple[Path, Path]) -> None:
    _, out = gated
    found = compare(out)
    assert found.models == ["sandbox/small", "01-system-message", "02-system-message"]
    result = load(out)
    hhh = result.results["hhh"]
    assert hhh.differences is not None
    assert hhh.against is not None
    for name in ("helpful", "honest"):
        test = found.test_of(name, "02-system-message")
        assert test is not None
        assert test.paired
        assert test.difference.value == pytest.approx(hhh.differences[name].value)
        assert (test.difference.low, test.difference.high) == (
            pytest.approx(hhh.differences[name].low), pytest.approx(hhh.differences[name].high),
        )  # fmt: skip
        assert found.figures[name][found.baseline].value == pytest.approx(hhh.against[name].value)
    assert any("`kl` is not tested" in note for note in found.notes)
