from __future__ import annotations

from pathlib import Path

import pytest

import truing as tr
from tests.measures.results import first, outcome, result
from tests.reports.examples import run_result
from truing.errors import RunError, SettingsError
from truing.runs.comparing import compare, is_result


def saved(folder: Path, file: str, share: float, **more: object) -> Path:
    made = result(outcome(first(share, 60)), **more)  # type: ignore[arg-type]
    made.save(folder / file)
    return folder / file


def test_files_of_two_models(tmp_path: Path) -> None:
    a, b = saved(tmp_path, "a.json", 0.5, model="base"), saved(tmp_path, "b.json", 0.9, model="tuned")
    found = tr.compare(a, str(b))
    assert found.models == ["base", "tuned"]
    assert found.tests[0].verdict == "better"
    assert found.tests[0].paired
    assert compare(a, b, baseline="tuned").tests[0].verdict == "worse"


def test_results_of_one_model_are_put_together(tmp_path: Path) -> None:
    files = [
        saved(tmp_path, f"{model}-{name}.json", share, model=model, name=name)
        for model, share in (("base", 0.5), ("tuned", 0.8))
        for name in ("exam", "quiz")
    ]
    found = compare(*files)
    assert found.models == ["base", "tuned"]
    assert list(found.figures) == ["exam.right", "quiz.right"]
    # The same measure of one model twice is two models, say of two prompts.
    again = saved(tmp_path, "again.json", 0.7, model="base")
    assert compare(files[0], again).models == ["base", "base (again)"]


def test_models_of_one_name_from_other_places_are_two(tmp_path: Path) -> None:
    one, two = result(outcome(first(0.5, 60)), "dpo"), result(outcome(first(0.8, 60)), "dpo")
    two.model["source"] = "elsewhere/dpo"
    two.name = "quiz"
    assert len(compare(one, two).models) == 2


def test_the_model_before(tmp_path: Path) -> None:
    base = outcome(first(0.3, 60))
    a = saved(tmp_path, "a.json", 0.5, model="one", against=("base", base))
    b = saved(tmp_path, "b.json", 0.9, model="two")
    assert compare(a, b).models == ["one", "two"]
    found = compare(a, b, baseline="before")
    assert found.models == ["base", "one", "two"]
    assert found.test_of("right", "two").difference.value == pytest.approx(0.6)  # type: ignore[union-attr]
    assert compare(a).models == ["base", "one"]
    assert compare(b).models == ["two"]
    with pytest.raises(SettingsError, match="`before` names none"):
        compare(b, a, baseline="before")


def test_runs_and_results_of_given_data(tmp_path: Path) -> None:
    made = run_result(tmp_path)
    exam = result(outcome(first(0.5, 60)))
    exam.model = {}
    exam.save(tmp_path / "table.json")
    found = compare(made, tmp_path / "table.json")
    assert found.models == [tmp_path.name, "table"]
    assert {"helpful", "right"} <= set(found.figures)
    assert found.tests == []


def test_what_a_word_on_the_command_line_is(tmp_path: Path) -> None:
    assert is_result(tmp_path / "a.json")
    assert not is_result("sandbox/base")
    assert not is_result(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert is_result(tmp_path)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to compare"):
        compare()
    with pytest.raises(SettingsError, match="int is neither"):
        compare(3)
    with pytest.raises(RunError, match="no run folder and no result"):
        compare(tmp_path / "none.json")
    with pytest.raises(RunError, match="is no run folder"):
        compare(tmp_path)
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(RunError, match="holds no result"):
        compare(tmp_path / "bad.json")
