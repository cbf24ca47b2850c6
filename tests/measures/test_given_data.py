"""Measures of data that their settings give, which ask no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import truing as tr
from truing.contracts import Measure
from truing.errors import RecipeError, SettingsError
from truing.measures.result import Column, Outcome
from truing.runs import run


class Marks(Measure):
    """The mean of given marks.

    Args:
        marks: numbers.
    """

    marks: list[float]

    @property
    def needs_model(self) -> bool:
        return False

    def _measure(self, model: Any, context: Any) -> Outcome:
        assert model is None
        rows = [{"id": str(at), "mark": mark} for at, mark in enumerate(self.marks)]
        return Outcome(rows, {"mark": Column("mark", unit="points", statistic="mean")})


def test_given_data_need_no_model() -> None:
    result = Marks(marks=[1.0, 2.0, 3.0]).measure()
    assert result.figures["mark"].value == 2.0
    assert str(result).startswith("marks\n")
    assert tr.Result.from_json(result.to_json()).model == {}


def test_a_model_is_asked_for_or_refused() -> None:
    with pytest.raises(SettingsError, match="`marks` measures the data that its settings give, and asks no model"):
        Marks(marks=[1.0, 2.0]).measure(tr.load("sandbox/small"))
    with pytest.raises(SettingsError, match="`hhh` measures a model"):
        tr.HHH().measure()


def test_a_recipe_without_a_model_names_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("measures: [hhh]\n")
    with pytest.raises(RecipeError, match="names no `model`"):
        run(path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
