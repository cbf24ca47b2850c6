"""Confidence against hits: known values, limits, and what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from truing.errors import SettingsError
from truing.measures.calibration import (
    calibration,
    calibration_error,
    confidence_gap,
    error_values,
    option_probabilities,
    read_stated,
    stated_form,
)


def test_the_pages_examples() -> None:
    found = calibration([0.95, 0.85, 0.65, 0.55, 0.25], [1, 1, 0, 1, 0], 10)
    assert found["ece"] == pytest.approx(0.31)
    stated = [[[80, 20, 0], [90, 10, 0], [40, 60, 0], [70, 20, 10]], [[0, 0, 100]] * 4]
    assert confidence_gap(["AABA", "CCCC"], stated)["mean_abs_gap"] == pytest.approx(0.0166667, abs=1e-6)


def test_limits() -> None:
    assert calibration([1.0, 1.0], [1, 1]) == {"ece": 0.0, "mce": 0.0, "brier": 0.0}
    assert calibration([1.0, 0.0], [0, 1]) == {"ece": 1.0, "mce": 1.0, "brier": 1.0}
    # One bin: the distance of mean confidence and share of hits.
    assert calibration([0.9, 0.5], [1, 0], 1)["ece"] == pytest.approx(0.2)
    assert calibration([0.29], [0], 100)["ece"] == pytest.approx(0.29)


def test_values_have_the_ece_as_their_mean_and_its_error_as_their_spread() -> None:
    rng = np.random.default_rng(0)
    ece, spread = [], []
    for _ in range(200):
        sure = rng.uniform(0.5, 1, 200)
        hits = rng.random(200) < sure - 0.25
        values = error_values(sure, hits.astype(float))
        assert values.mean() == pytest.approx(calibration(sure, hits.astype(float))["ece"])
        ece.append(values.mean())
        spread.append(values.std(ddof=1) / np.sqrt(len(values)))
    assert np.mean(spread) == pytest.approx(np.std(ece), rel=0.15)


@pytest.mark.parametrize("off", [0.0, 0.25])
def test_intervals_hold_the_truth_also_where_there_is_no_error(off: float) -> None:
    rng = np.random.default_rng(1)
    held, values = 0, []
    for run in range(60):
        sure = rng.uniform(0.5, 1, 100)
        found = calibration_error(sure, (rng.random(100) < sure - off).astype(float), seed=run)
        assert found.low <= found.value <= found.high
        held += found.low <= off <= found.high
        values.append(found.value)
    assert held >= 51
    assert np.mean(values) == pytest.approx(off, abs=0.05)


def test_an_error_of_all_or_nothing() -> None:
    worst = calibration_error([1.0] * 20, [0.0] * 20)
    assert worst.value > 0.9
    none = calibration_error([1.0] * 20, [1.0] * 20)
    assert none.low == 0
    assert 0.05 < none.high < 0.3


@pytest.mark.parametrize(
    ("sure", "hits", "bins"),
    [([], [], 10), ([0.5], [1, 0], 10), ([1.5], [1], 10), ([float("nan")], [1], 10), ([0.5], [2], 10), ([0.5], [1], 0)],
)
def test_what_is_no_confidence(sure: list[float], hits: list[float], bins: int) -> None:
    with pytest.raises(SettingsError):
        calibration(sure, hits, bins)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ANS: B, A: 10%, B: 85.5%, C: 4.5%", ("B", [10.0, 85.5, 4.5])),
        ("ANS: [C] A: 0%, B: 0%, C: 100 %", ("C", [0.0, 0.0, 100.0])),
        ("ANS: D, A: 10%, B: 80%, C: 10%", None),
        ("ANS: A, A: 10%, B: 80%", None),
        ("ANS: A, ANS: B, A: 10%, B: 80%, C: 10%", None),
        ("ANS: A, A: 10%, A: 20%, B: 80%, C: 10%", None),
        ("ANS: A, A: 400%, B: 0%, C: 0%", None),
        ("I am sure.", None),
        ("", None),
    ],
)
def test_stated_confidence_is_read_or_not(text: str, found: Any) -> None:
    assert read_stated(text) == found
    assert "A: x%, B: x%, C: x%" in stated_form("ABC")


def test_a_question_without_answers_is_refused() -> None:
    with pytest.raises(SettingsError, match="needs an answer"):
        confidence_gap([""], [[[1, 2, 3]]])
    with pytest.raises(SettingsError, match="one question at least"):
        confidence_gap([], [])


def test_probabilities_behind_a_mark() -> None:
    assert option_probabilities([]) is None
    assert option_probabilities([{"ANS": 0.0}, {"x": 0.0}]) is None
    found = option_probabilities([{"ANS": 0.0}, {":": 0.0}, {"AB": 0.0}, {"a ": 0.0}])
    assert found == {"A": 1.0, "B": 0.0, "C": 0.0, "other": 1.0}
