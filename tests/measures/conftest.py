"""Whatever a test measures, the figures are those that the measure declares."""

from __future__ import annotations

import pytest

from tests.conformance.figures import undeclared
from truing.measures import run


@pytest.fixture(autouse=True)
def declared_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measure of this package that a test carries out gives no figure that it did not name."""
    carried_out = run.run_measure

    def checked(measure, *given):
        result = carried_out(measure, *given)
        if type(measure).__module__.startswith("truing."):
            assert undeclared(measure, result) == []
        return result

    monkeypatch.setattr(run, "run_measure", checked)
