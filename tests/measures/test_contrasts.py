from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from truing.measures.contrasts import paired_test, unpaired_test
from truing.measures.result import Column, Figure
from truing.measures.statistics import difference_of_means


def chance(one: Any, two: Any, seed: int = 0) -> float | None:
    found = difference_of_means(one, two, seed=seed, test=True)
    return None if found is None else found.p


def rows(values: Any, **more: Any) -> list[dict[str, Any]]:
    found = [{"id": at, "x": None if value is None else float(value)} for at, value in enumerate(values)]
    for key, column in more.items():
        for row, value in zip(found, column):
            row[key] = value
    return found


def test_shares_are_tested_with_mcnemars_test() -> None:
    one, two = [1] * 9 + [0] * 2 + [1] * 30, [0] * 9 + [1] * 2 + [1] * 30
    found = paired_test(Column("x"), rows(one), rows(two))
    assert found is not None
    figure, test = found
    assert test == "McNemar, exact"
    assert figure.p == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert figure.value == pytest.approx(7 / 41)
    assert figure.n == 41
    assert figure.low < 7 / 41 < figure.high


def test_ties_and_clusters_follow_the_interval_that_is_shown() -> None:
    rng = np.random.default_rng(1)
    for trial in range(40):
        one = rng.choice([0.0, 0.5, 1.0], 40, p=[0.2, 0.1, 0.7])
        two = rng.choice([0.0, 0.5, 1.0], 40, p=[0.45, 0.1, 0.45])
        clusters = [at // 2 for at in range(40)] if trial % 2 else list(range(40))
        found = paired_test(Column("x"), rows(one, cluster=clusters), rows(two, cluster=clusters))
        assert found is not None
        assert found[1] == "paired, from the interval"
        assert (found[0].p <= 0.05) == (found[0].low >= 0 or found[0].high <= 0)


@pytest.mark.parametrize("statistic", ["mean", "exp_mean", "ratio"])
def test_means_follow_the_interval_that_is_shown(statistic: str) -> None:
    rng = np.random.default_rng(2)
    column = Column("x", "words", "neither", statistic, weight=None if statistic == "mean" else "w")
    answers = set()
    for trial in range(60):
        two = rng.gamma(2.0, 1.0, 30)
        one = two + rng.normal(0.25, 0.7, 30)
        weight = rng.integers(1, 9, 30)
        found = paired_test(column, rows(one, w=weight), rows(two, w=weight), seed=trial)
        assert found is not None
        assert found[1] == "paired bootstrap"
        assert (found[0].p < 0.05) == (not found[0].low <= 0 <= found[0].high)
        answers.add(found[0].p < 0.05)
    assert answers == {True, False}


def test_a_large_sample_gives_students_p() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(0.05, 1.0, 2000)
    expected = stats.ttest_1samp(differences, 0.0).pvalue
    assert chance(differences, np.zeros(2000)) == pytest.approx(expected, rel=0.25)


def test_equal_differences() -> None:
    assert chance([1.0, 2, 3], [1.0, 2, 3]) == 1.0
    assert chance([2.0, 3, 4, 5, 6, 7], [1.0, 2, 3, 4, 5, 6]) == pytest.approx(2 * 0.5**6)
    assert chance([1.0], [2.0]) is None


def test_nothing_shared_nothing_finite() -> None:
    column = Column("x", statistic="mean")
    assert paired_test(column, rows([1, 2]), [{"id": "other", "x": 1.0}]) is None
    assert paired_test(column, rows([1, float("nan")]), rows([1, 2])) is None
    assert paired_test(column, rows([1]), rows([2])) is None


def test_a_false_alarm_is_as_rare_as_it_should_be() -> None:
    rng = np.random.default_rng(4)
    alarms = 0
    for seed in range(600):
        two = rng.exponential(1.0, 40)
        one = two + rng.exponential(1.0, 40) - 1.0
        found = chance(one, two, seed=seed)
        alarms += found is not None and found <= 0.05
    assert 0.02 <= alarms / 600 <= 0.085


def test_unpaired_figures_with_even_intervals_give_the_z_test() -> None:
    z = stats.norm.ppf(0.975)
    one, two = (
        Figure(value, value - z * se, value + z * se, 50, "bootstrap", "words") for value, se in ((5, 3), (12, 4))
    )
    found, test = unpaired_test(one, two)
    assert test == "from both intervals"
    assert found.value == -7
    assert (found.low, found.high) == (pytest.approx(-7 - z * 5), pytest.approx(-7 + z * 5))
    assert found.p == pytest.approx(2 * stats.norm.sf(7 / 5))


def test_unpaired_shares_by_hand() -> None:
    # Newcombe 1998, method 10, on its table of 56/70 against 48/80: 0.0524 to 0.3339.
    def wilson(k: int, n: int) -> Figure:
        ends = stats.binomtest(k, n).proportion_ci(method="wilson")
        return Figure(k / n, ends.low, ends.high, n, "Wilson")

    found, _ = unpaired_test(wilson(56, 70), wilson(48, 80))
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    assert found.p is not None
    assert found.p < 0.05


def test_unpaired_limits() -> None:
    exact = Figure(1.0, 1.0, 1.0, 5, "by definition")
    assert unpaired_test(exact, exact)[0].p == 1.0
    assert unpaired_test(exact, Figure(0.5, 0.5, 0.5, 5, "by definition"))[0].p == 0.0
    assert math.isclose(unpaired_test(exact, Figure(0.5, 0.2, 0.8, 9, "x"))[0].high, 0.8)
