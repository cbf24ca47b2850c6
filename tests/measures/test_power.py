from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from truing.errors import SettingsError
from truing.measures import power, statistics
from truing.measures.power import (
    detectable,
    mcnemar_power,
    means_paired,
    means_unpaired,
    more_items,
    shares_paired,
    shares_unpaired,
)

Z = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2


def test_known_sizes_of_t_tests() -> None:
    # R: power.t.test(delta = d, power = 0.8) gives 393.4, 63.8 and 25.5; paired 33.4 for 0.5.
    assert [means_unpaired(d, 1.0) for d in (0.2, 0.5, 0.8)] == [394, 64, 26]
    assert means_paired(0.5, 1.0) == 34
    assert means_paired(1.0, 2.0) == 34
    assert means_paired(0.01, 1.0) == pytest.approx(Z / 0.01**2, rel=1e-3)
    assert means_unpaired(0.01, 1.0) == pytest.approx(2 * Z / 0.01**2, rel=1e-3)
    assert means_paired(0.3, 0.0) == 2


def test_the_step_to_the_normal_curve_is_smooth() -> None:
    d = math.sqrt(Z / 10_000)
    exact, normal = means_paired(d * 1.0001, 1.0), means_paired(d * 0.9999, 1.0)
    assert 0 <= normal - exact < 8


def test_known_sizes_of_shares() -> None:
    # R: power.prop.test(p1 = 0.6, p2 = 0.5, power = 0.8) gives 387.3; 408 with the correction for continuity.
    plain = (
        stats.norm.ppf(0.975) * math.sqrt(2 * 0.55 * 0.45) + stats.norm.ppf(0.8) * math.sqrt(0.6 * 0.4 + 0.25)
    ) ** 2 / 0.01
    assert plain == pytest.approx(387.3, abs=0.1)
    assert shares_unpaired(0.1, 0.6) == 408 == math.ceil(plain / 4 * (1 + math.sqrt(1 + 4 / (plain * 0.1))) ** 2)
    assert shares_unpaired(0.1, 0.9) < shares_unpaired(0.1, 0.5)
    assert shares_unpaired(0.02, 0.5) == pytest.approx(2 * 0.25 * Z / 0.02**2, rel=0.02)


def enumerated(n: int, difference: float, discordance: float) -> float:
    total = 0.0
    share = (discordance + difference) / (2 * discordance)
    for m in range(n + 1):
        k = np.arange(m + 1)
        p = np.minimum(1, 2 * stats.binom.cdf(np.minimum(k, m - k), m, 0.5))
        total += stats.binom.pmf(m, n, discordance) * stats.binom.pmf(k, m, share)[p <= 0.05].sum()
    return total


@pytest.mark.parametrize(
    ("n", "difference", "discordance"),
    [(5, 0.5, 0.5), (7, 0.9, 1.0), (20, 0.3, 0.5), (50, 0.1, 0.3), (133, 0.2, 0.2), (60, 0.05, 0.9)],
)
def test_mcnemars_power_is_exact(n: int, difference: float, discordance: float) -> None:
    assert mcnemar_power(n, difference, discordance) == pytest.approx(enumerated(n, difference, discordance), abs=1e-9)


@pytest.mark.parametrize(
    ("difference", "discordance"), [(0.02, 0.1), (0.1, 0.3), (0.2, 0.2), (0.5, 0.5), (0.05, 1.0), (0.9, 0.95)]
)
def test_paired_shares_are_the_fewest_items_that_do(difference: float, discordance: float) -> None:
    n = shares_paired(difference, discordance)
    assert mcnemar_power(n, difference, discordance) >= 0.8 > mcnemar_power(n - 1, difference, discordance)
    root = math.sqrt(discordance - difference**2)
    connor = (stats.norm.ppf(0.975) * math.sqrt(discordance) + stats.norm.ppf(0.8) * root) ** 2 / difference**2
    # The formula is for the test without continuity correction; the exact one needs about 1 / difference more.
    assert connor - 1 <= n <= connor + 2.5 / difference + 2


def test_no_difference_leaves_the_level_of_the_test() -> None:
    assert mcnemar_power(400, 1e-9, 0.3) <= 0.05
    assert mcnemar_power(20_000, 1e-9, 0.3) == pytest.approx(0.05, abs=0.004)


def test_the_tests_that_are_made_have_the_power_that_was_promised() -> None:
    rng = np.random.default_rng(5)
    n, better = shares_paired(0.1, 0.3), (0.3 + 0.1) / 2
    seen = 0
    for _ in range(1500):
        u = rng.random(n)
        one, two = (u < better).astype(float), ((u >= better) & (u < 0.3)).astype(float)
        seen += statistics.mcnemar(one, two) <= 0.05
    assert seen / 1500 == pytest.approx(0.8, abs=0.035)

    n, seen = means_paired(0.5, 1.5), 0
    for seed in range(400):
        found = statistics.difference_of_means(rng.normal(0.5, 1.5, n), np.zeros(n), seed=seed, test=True)
        seen += found is not None and found.p is not None and found.p <= 0.05
    assert seen / 400 == pytest.approx(0.8, abs=0.06)


def test_what_a_pilot_can_see() -> None:
    assert detectable(lambda d: means_paired(d, 1.0), 34, 10.0) == pytest.approx(0.5, abs=0.01)
    assert detectable(shares_unpaired, shares_unpaired(0.1)) == pytest.approx(0.1, abs=0.001)
    assert detectable(shares_unpaired, 3) is None
    assert detectable(lambda d: shares_paired(d, max(d, 0.2)), 4) is None


def test_more_items_until_an_interval_leaves_a_limit_out() -> None:
    # The interval 0.5 +- 0.1 of 100 items: half as wide with four times as many.
    assert more_items(0.5, 0.4, 0.6, 0.45, 100) == pytest.approx(400, abs=1)
    assert more_items(0.5, 0.45, 0.7, 0.6, 100) == pytest.approx(400, abs=1)
    assert more_items(0.5, 0.4, 0.6, 0.5, 100) is None
    found = statistics.share([1.0] * 20)
    needed = more_items(found.value, found.low, found.high, 0.95, found.n, exact=True)
    assert needed is not None
    # All right: 1 - 0.025 ** (1 / n) must be below 0.05.
    assert needed == pytest.approx(math.log(0.025) / math.log(0.95), abs=1.5)
    assert statistics.share([1.0] * needed).low >= 0.95 > statistics.share([1.0] * (needed - 2)).low


@pytest.mark.parametrize(
    "ask",
    [
        lambda: shares_unpaired(0.0), lambda: shares_unpaired(1.0), lambda: shares_unpaired(0.9, 0.5),
        lambda: shares_unpaired(0.1, 1.5), lambda: shares_paired(0.3, 0.2), lambda: shares_paired(0.3, 1.1),
        lambda: shares_paired(-0.1, 0.2), lambda: means_paired(float("nan"), 1.0), lambda: means_paired(0.1, -1.0),
        lambda: means_paired(1e-9, 1.0), lambda: shares_paired(1e-9, 0.5), lambda: means_paired(0.1, 1.0, power=0.01),
        lambda: means_paired(True, 1.0),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused(ask) -> None:
    with pytest.raises(SettingsError):
        ask()


def test_a_million_items_are_planned_quickly() -> None:
    assert shares_paired(0.002, 0.1) == pytest.approx(power._connor(0.002, 0.1, 0.8, 0.05), rel=0.01)
