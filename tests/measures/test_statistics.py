from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from truing.measures import statistics


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (199, 200), (333, 1000)])
def test_a_share_is_exact(hits: int, n: int) -> None:
    found = statistics.share([1.0] * hits + [0.0] * (n - hits))
    exact = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert (found.value, found.n, found.method) == (hits / n, n, "Clopper-Pearson")
    assert found.low == pytest.approx(exact.low, abs=1e-9)
    assert found.high == pytest.approx(exact.high, abs=1e-9)


def test_a_share_by_hand() -> None:
    found = statistics.share([0.0] * 10)
    assert (found.low, found.high) == (0.0, pytest.approx(1 - 0.025**0.1))


def test_one_kind_is_the_plain_share_and_equal_kinds_nearly_so() -> None:
    values = [1.0] * 17 + [0.0] * 3
    assert statistics.stratified_share(values, ["a"] * 20)[:4] == pytest.approx(statistics.share(values)[:4])
    kinds = ["a", "b", "c", "d"] * 10
    all_right = statistics.stratified_share([1.0] * 40, kinds)
    assert all_right.low == pytest.approx(0.025 ** (1 / 40), abs=1e-6)
    assert all_right.high == 1.0


def test_each_kind_has_the_same_weight() -> None:
    found = statistics.stratified_share([1.0, 0.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b", "b"])
    assert found.value == 0.5
    assert found.low < 0.1
    assert found.high > 0.9


def test_clusters_widen_and_lone_ones_change_nothing() -> None:
    values = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 4
    alone, together = statistics.share(values), statistics.share(values, [at // 4 for at in range(32)])
    assert together.value == alone.value
    assert together.low < alone.low
    assert together.high > alone.high
    assert statistics.share(values, list(range(32))) == alone
    # All samples of a cluster alike, and all clusters too: as many samples as clusters.
    certain = statistics.share([1.0] * 32, [at // 4 for at in range(32)])
    assert certain.low == pytest.approx(0.025 ** (1 / 8), abs=0.05)


def test_paired_shares_by_hand() -> None:
    first, second = [1.0, 1, 1, 1, 0, 0, 1, 0], [0.0, 0, 0, 1, 0, 1, 1, 0]
    found = statistics.difference_of_shares(first, second)
    # Bonett and Price 2012: (3 + 1) / 10 and (1 + 1) / 10.
    half = 1.959964 * math.sqrt((0.4 + 0.2 - 0.2**2) / 10)
    assert found.value == 0.25
    assert (found.low, found.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert found.p == pytest.approx(stats.binomtest(3, 4).pvalue)


@pytest.mark.parametrize(("ahead", "behind"), [(0, 0), (1, 0), (5, 5), (9, 1), (0, 12)])
def test_mcnemar_and_sign_test_are_exact(ahead: int, behind: int) -> None:
    first = [1.0] * ahead + [0.0] * behind + [1.0, 0.0]
    second = [0.0] * ahead + [1.0] * behind + [1.0, 0.0]
    exact = stats.binomtest(ahead, ahead + behind).pvalue if ahead + behind else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(exact)
    assert statistics.sign_test(np.subtract(first, second)) == pytest.approx(exact)


@pytest.mark.parametrize("n", [1, 5, 20, 500])
def test_pairs_that_all_agree_leave_a_width(n: int) -> None:
    same = [float(at % 2) for at in range(n)]
    found = statistics.difference_of_shares(same, same)
    assert found.value == 0
    assert found.low < 0 < found.high
    assert found.high < 8 / n
    strata = [at % 3 for at in range(n)]
    assert statistics.difference_of_shares(same, same, strata).high > 0


def test_the_bootstrap_of_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).gamma(2.0, 3.0, 200)
    found = statistics.mean(values)
    other = stats.bootstrap((values,), np.mean, n_resamples=9000, method="percentile", random_state=1)
    assert found is not None
    assert found.value == pytest.approx(values.mean())
    width = other.confidence_interval.high - other.confidence_interval.low
    assert found.low == pytest.approx(other.confidence_interval.low, abs=0.06 * width)
    assert found.high == pytest.approx(other.confidence_interval.high, abs=0.06 * width)


def test_a_weighted_mean_is_a_ratio_of_sums_and_exp_its_exponential() -> None:
    rng = np.random.default_rng(0)
    nll, tokens = rng.normal(2, 0.3, 50), rng.integers(5, 60, 50).astype(float)
    plain, shaped = statistics.mean(nll, tokens), statistics.mean(nll, tokens, exp=True)
    ratio = statistics.ratio(nll * tokens, tokens)
    assert plain is not None
    assert shaped is not None
    assert ratio is not None
    assert plain.value == pytest.approx((nll * tokens).sum() / tokens.sum())
    assert shaped.value == pytest.approx(math.exp(plain.value))
    assert ratio[:3] == pytest.approx(plain[:3])
    assert shaped.low < shaped.value < shaped.high


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [1.0, 5.0, 2.0, 8.0, 9.0, 4.0]
    assert statistics.mean(values, seed=4) == statistics.mean(values, seed=4)
    assert statistics.mean(values, seed=4) != statistics.mean(values, seed=5)


def test_one_sample_or_one_cluster_gives_no_interval() -> None:
    assert statistics.mean([3.0]) is None
    assert statistics.mean([3.0, 4.0], clusters=["a", "a"]) is None
    assert statistics.difference_of_means([3.0], [4.0]) is None


def test_equal_samples_leave_a_width() -> None:
    found = statistics.mean([6.0] * 10)
    assert found is not None
    assert found.low < 6 < found.high
    zero = statistics.mean([0.0] * 10)
    assert zero is not None
    assert (zero.low, zero.high) == (0, 0)


def test_equal_pairs_leave_a_width_of_the_values_own_spread() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    found = statistics.difference_of_means(values, values)
    assert found is not None
    assert found.value == 0
    assert found.high == pytest.approx((1 - 0.025 ** (1 / 8)) * np.std(values))
    assert found.low == -found.high
    assert found.p is None


def test_pairing_takes_the_items_own_spread_away() -> None:
    rng = np.random.default_rng(2)
    item = rng.normal(0, 10, 60)
    first, second = item + 1 + rng.normal(0, 0.1, 60), item
    found = statistics.difference_of_means(first, second)
    assert found is not None
    assert found.low > 0.9
    assert found.high < 1.1


def test_differences_of_weighted_means_use_each_models_weights() -> None:
    nll, tokens = [1.0, 2.0, 3.0, 1.5], [10.0, 20.0, 30.0, 10.0]
    other, others = [1.5, 2.0, 2.0, 1.0], [12.0, 18.0, 30.0, 9.0]
    found = statistics.difference_of_means(nll, other, tokens, others, exp=True)
    assert found is not None
    expected = math.exp(np.average(nll, weights=tokens)) - math.exp(np.average(other, weights=others))
    assert found.value == pytest.approx(expected)


def test_jackknife_values_of_a_mean_are_the_samples() -> None:
    values = np.array([3.0, 9.0, 4.0, 7.0])
    without = [(values.sum() - value) / 3 for value in values]
    assert statistics.jackknife(float(values.mean()), without) == pytest.approx(values)


def test_perplexities_whose_squares_are_too_large_have_finite_intervals() -> None:
    nats = np.array([430.0, 440.0, 450.0, 460.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = statistics.mean(nats, exp=True)
        change = statistics.difference_of_means(list(nats), [1.0, 2.0, 3.0, 4.0], exp=True)
    small = statistics.mean(nats - 400, exp=True)
    assert found is not None
    assert change is not None
    assert small is not None
    assert found[:3] == pytest.approx([end * math.exp(400) for end in small[:3]], rel=1e-9)
    assert math.isfinite(change.low)
    assert math.isfinite(change.high)


def test_bounded_means_end_at_their_bounds_and_never_have_width_0() -> None:
    few = statistics.mean([0.0, 1.0, 1.0])
    assert few is not None
    assert few.low < 0
    ended = statistics.bounded(few, (0.0, 1.0), 3)
    assert (ended.value, ended.low, ended.high) == (few.value, 0.0, 1.0)
    for value in (0.0, 1.0, 0.3):
        flat = statistics.mean([value] * 10)
        assert flat is not None
        found = statistics.bounded(flat, (0.0, 1.0), 10)
        assert 0 <= found.low <= value <= found.high <= 1
        assert found.high - found.low > 0.1
    zero = statistics.bounded(statistics.Estimate(0.0, 0.0, 0.0, 10, ""), (0.0, 1.0), 10)
    assert zero.high == pytest.approx(1 - 0.025 ** (1 / 10))


@pytest.mark.parametrize("shape", ["normal", "lognormal", "rare", "pareto"])
def test_many_units_are_resampled_as_if_one_by_one(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    n = statistics._MANY + 900
    values = {
        "normal": rng.normal(size=n),
        "lognormal": rng.lognormal(0, 2, n),
        "rare": (rng.random(n) < 0.004).astype(float),
        "pareto": rng.pareto(1.5, n),
    }[shape]
    columns = np.stack([values, rng.lognormal(0, 1, n) + values], axis=1)
    fast = statistics.resampled_means(columns, seed=1)
    monkeypatch.setattr(statistics, "_MANY", n)
    plain = statistics.resampled_means(columns, seed=2)
    # Two sets of 4,000 resamples of one kind differ by this much.
    spread = plain.std(axis=0)
    assert np.abs((fast.mean(axis=0) - plain.mean(axis=0)) / spread).max() < 0.1
    ends, wanted = (np.quantile(draws, [0.025, 0.975], axis=0) for draws in (fast, plain))
    assert np.abs((ends - wanted) / spread).max() < 0.2
    assert np.corrcoef(fast.T)[0, 1] == pytest.approx(np.corrcoef(plain.T)[0, 1], abs=0.08)


def test_resamples_of_many_equal_units_have_no_spread() -> None:
    assert np.ptp(statistics.resampled_means(np.full((5000, 2), 3.0)), axis=0) == pytest.approx(0, abs=1e-9)
