"""Confidence against hits: known values, limits, and what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from truing.errors import SettingsError
from truing.measures import statistics
from truing.measures.calibration import (
    calibration,
    confidence_gap,
    ece_values,
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
        values = ece_values(sure, hits.astype(float))
        assert values.mean() == pytest.approx(calibration(sure, hits.astype(float))["ece"])
        ece.append(values.mean())
        spread.append(values.std(ddof=1) / np.sqrt(len(values)))
    assert np.mean(spread) == pytest.approx(np.std(ece), rel=0.15)


def test_intervals_of_a_miscalibrated_model_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for run in range(200):
        sure = rng.uniform(0.5, 1, 150)
        found = statistics.mean(ece_values(sure, (rng.random(150) < sure - 0.25).astype(float)), seed=run)
        assert found is not None
        held += found.low <= 0.25 <= found.high
    assert held >= 184


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
