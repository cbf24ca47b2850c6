"""Kappas against hand-worked tables and closed forms; what sways a judge, where it is known; coverage of intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from truing.measures import statistics
from truing.measures.agreement import cohen, cohen_kappa, fleiss, fleiss_kappa, sway, table
from truing.measures.length_control import length_controlled, length_terms
from truing.measures.logistic import fit

# Fleiss 1971 in its usual small form: 10 items, 14 raters, 5 categories; the kappa worked by hand is 0.210.
RATED = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_cohens_kappa_of_a_table_by_hand() -> None:
    # Agreement 35/50 = 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    assert cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    # Three categories: 0.75 observed, 0.34 by chance.
    counts = np.array([[30, 5, 5], [3, 25, 2], [7, 3, 20]])
    chance = (40 * 40 + 30 * 33 + 30 * 27) / 100**2
    assert cohen_kappa(counts) == pytest.approx((0.75 - chance) / (1 - chance))


def test_limits_of_cohens_kappa() -> None:
    assert cohen_kappa(np.diag([5, 7])) == 1
    assert cohen_kappa(np.outer([0.3, 0.7], [0.6, 0.4])) == pytest.approx(0), "independent raters"
    assert cohen_kappa(np.array([[0, 5], [5, 0]])) == pytest.approx(-1)
    assert math.isnan(cohen_kappa(np.array([[9, 0], [0, 0]])))


def test_fleiss_kappa_of_the_classical_example() -> None:
    assert fleiss_kappa(np.array(RATED)) == pytest.approx(0.20993, abs=1e-5)


def test_fleiss_of_two_raters_is_scotts_pi() -> None:
    first, second = [0, 0, 1, 1, 2, 0], [0, 1, 1, 1, 2, 2]
    counts = np.array([np.bincount([a, b], minlength=3) for a, b in zip(first, second)])
    shares = np.bincount(first + second, minlength=3) / 12
    chance = float((shares**2).sum())
    assert fleiss_kappa(counts) == pytest.approx((4 / 6 - chance) / (1 - chance))
    assert fleiss_kappa(np.array([[3, 0], [0, 4]])) == 1, "items may have different numbers of raters"
    assert math.isnan(fleiss_kappa(np.array([[3, 0], [4, 0]])))
    with pytest.raises(ValueError, match="at least 2 ratings"):
        fleiss_kappa(np.array([[1, 0], [2, 1]]))


def test_tables() -> None:
    assert table(["a", "b", "a"], ["a", "a", "b"], "ab").tolist() == [[1, 1], [1, 0]]
    with pytest.raises(ValueError, match="No category c"):
        table(["a"], ["c"], "ab")
    with pytest.raises(ValueError, match="not 1 and 2"):
        table(["a"], ["a", "b"], "ab")


def test_mirrored_pairs_do_not_hang_on_the_order_of_the_file() -> None:
    mirror = {"a": "b", "b": "a", "tie": "tie"}
    verdicts = ["a"] * 30 + ["b"] * 6 + ["tie"] * 4
    found = cohen(["a"] * 40, verdicts, ("a", "b", "tie"), mirror=mirror)
    # Truth is a or b in equal shares; the judge says each in 36/80 and tie in 4/40: chance is 0.5 * 0.9.
    assert found.value == pytest.approx((30 / 40 - 0.45) / (1 - 0.45))
    turned = cohen(
        ["a"] * 20 + ["b"] * 20,
        verdicts[:20] + [mirror[one] for one in verdicts[20:]],
        ("a", "b", "tie"),
        mirror=mirror,
    )
    assert turned[:3] == found[:3]
    assert cohen(["a"] * 40, verdicts, ("a", "b", "tie")).value == 0, "without it, one verdict for all is chance"


def test_intervals_of_raters_who_always_agree_have_a_width() -> None:
    found = cohen(["a", "b"] * 10, ["a", "b"] * 10, ("a", "b"))
    low = statistics.clopper_pearson(20, 20)[0]
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx((low - 0.5) / 0.5)
    assert fleiss(np.array([[2, 0], [0, 2]] * 10)).low == pytest.approx((low - 0.5) / 0.5)
    never = cohen(["a", "b"] * 10, ["b", "a"] * 10, ("a", "b"))
    assert never.low <= never.value == -1 < never.high < 0
    assert cohen(["a"], ["a"], ("a", "b")) is None
    assert cohen(["a"] * 9, ["a"] * 9, ("a", "b")) is None


def test_clusters_widen_an_interval() -> None:
    first, second = ["a", "b"] * 20, ["a", "b", "b", "b"] * 10
    alone = cohen(first, second, ("a", "b"))
    twice = cohen(first * 2, second * 2, ("a", "b"), clusters=list(range(40)) * 2)
    assert twice.value == pytest.approx(alone.value)
    assert twice.high - twice.low == pytest.approx(alone.high - alone.low, rel=0.02)
    assert twice.method == "clustered bootstrap"


@pytest.mark.parametrize(("right", "n"), [(0.85, 100), (0.7, 60)])
def test_coverage_of_kappas(right: float, n: int, monkeypatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 800)
    rng = np.random.default_rng(3)
    # Balanced truth, symmetric errors: kappa is 2 * right - 1, and so is Scott's pi.
    hits = np.zeros(2)
    times = 500
    for _ in range(times):
        truth = rng.random(n) < 0.5
        said = np.where(rng.random(n) < right, truth, ~truth)
        for at, found in enumerate(
            (
                cohen(truth.tolist(), said.tolist(), (True, False)),
                fleiss(np.stack([truth.astype(int) + said, 2 - truth.astype(int) - said], axis=1)),
            )
        ):
            hits[at] += found.low <= 2 * right - 1 <= found.high
    assert ((hits / times >= 0.925) & (hits / times <= 0.975)).all(), hits / times


# --- logistic regression ---------------------------------------------------------------------------------------------


def test_one_coefficient_has_a_closed_form() -> None:
    found = fit(np.ones((10, 1)), np.array([1] * 8 + [0] * 2))
    assert found.coefficients[0] == pytest.approx(math.log(4))
    assert found.curvature[0, 0] == pytest.approx(1 / (10 * 0.8 * 0.2))
    assert found.covariance[0, 0] == pytest.approx(1 / (9 * 0.8 * 0.2))
    half = fit(np.ones((10, 1)), np.array([1] * 7 + [0.5] * 2 + [0]))
    assert half.coefficients[0] == pytest.approx(math.log(4)), "a tie is half a win"
    assert fit(np.ones((3, 1)), np.ones(3)) is None, "all won: there is no maximum"
    assert fit(np.ones((3, 2)), np.array([0, 1, 1])) is None, "two equal features"


def test_a_group_and_its_difference() -> None:
    x = np.repeat([[1.0, 0.0], [1.0, 1.0]], 20, axis=0)
    y = np.array([1] * 10 + [0] * 10 + [1] * 15 + [0] * 5, dtype=float)
    found = fit(x, y)
    assert found.coefficients == pytest.approx([0, math.log(3)], abs=1e-9)
    assert found.curvature[1, 1] == pytest.approx(1 / 5 + 1 / (20 * 0.75 * 0.25))
    doubled = fit(np.repeat(x, 2, axis=0), np.repeat(y, 2), clusters=np.repeat(np.arange(40), 2).tolist())
    assert np.allclose(doubled.covariance, found.covariance)
    assert doubled.units == 40


# --- length ----------------------------------------------------------------------------------------------------------


def test_length_terms() -> None:
    assert length_terms([1, 2, 3], [1, 2, 3]).tolist() == [0, 0, 0]
    assert length_terms([5, 1], [1, 5]) == pytest.approx([math.tanh(1), -math.tanh(1)])


def test_a_win_rate_at_equal_length_by_hand() -> None:
    # Longer and shorter by as much in turn, won in 90 % and 50 % of the cases: without length, half way in log-odds.
    wins = [1] * 90 + [0] * 10 + [1] * 50 + [0] * 50
    found = length_controlled(wins, [30] * 100 + [10] * 100, [20] * 200)
    theta, phi = math.log(9) / 2, math.log(9) / 2 / math.tanh(1)
    assert found.effect.value == pytest.approx(phi, rel=0.02)
    assert found.win_rate.value == pytest.approx(special.expit(theta), rel=0.01)
    assert found.win_rate.low < found.win_rate.value < found.win_rate.high


def test_limits_of_length_control() -> None:
    wins = [1, 0, 1, 1] * 25
    assert length_controlled(wins, [7] * 100, [7] * 100).win_rate.value == pytest.approx(0.75)
    everything = length_controlled([1] * 30, range(30), [0] * 30)
    assert everything.win_rate[:3] == statistics.share([1] * 30)[:3]
    assert not math.isfinite(everything.effect.low)
    decided = length_controlled([1, 0] * 50, [9, 1] * 50, [5] * 100)
    assert decided.win_rate.value == pytest.approx(0.5)
    assert decided.effect.value > 3, "length alone decides, and the figure stays finite"
    assert length_controlled([1], [1], [2]) is None
    hard = np.tile([-2.0, 2.0], 50)
    found = length_controlled((hard > 0).astype(float) * 0.8 + 0.1, [1] * 100, [1] * 100, difficulty=hard.tolist())
    assert found.win_rate.value == pytest.approx(0.5)


@pytest.mark.parametrize("theta", [0.0, 1.0])
def test_coverage_of_length_control(theta: float) -> None:
    rng = np.random.default_rng(5)
    hits, times = np.zeros(2), 1000
    for _ in range(times):
        ahead = rng.normal(40, 100, 200)
        won = rng.random(200) < special.expit(theta + 1.2 * np.tanh(ahead / ahead.std()))
        found = length_controlled(won.astype(float), ahead, np.zeros(200))
        hits += [
            found.win_rate.low <= special.expit(theta) <= found.win_rate.high,
            found.effect.low <= 1.2 <= found.effect.high,
        ]
    assert ((hits / times >= 0.93) & (hits / times <= 0.97)).all(), hits / times


# --- what sways a judge ----------------------------------------------------------------------------------------------


def verdicts(rng, n: int, truth: float, length: float, place: float):
    """Verdicts of both orders on n pairs in which what is right is longer more often than not."""
    ahead = rng.normal(0.5, 1, n)
    terms = np.tanh(np.concatenate([ahead, -ahead]))
    right = np.repeat([1.0, -1.0], n)
    taken = rng.random(2 * n) < special.expit(truth * right + length * terms + place)
    return taken.astype(float), right, terms, list(range(n)) * 2


def test_what_was_planted_is_found_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for length, place in ((0.0, 0.0), (1.5, 0.0), (0.0, 1.0), (1.0, 1.0)):
        taken, right, terms, pairs = verdicts(rng, 1000, 1.5, length, place)
        found = sway(taken, right, terms, clusters=pairs)
        # Within four standard errors; how often 95 % intervals hold the truth is tested below.
        for estimate, true in ((found.truth, 1.5), (found.length, length), (found.accuracy, special.expit(1.5))):
            assert abs(estimate.value - true) < estimate.high - estimate.low
        assert (found.length.low > 0) == (length > 0)


def test_coverage_of_the_length_effect() -> None:
    rng = np.random.default_rng(11)
    hits, times = np.zeros(2), 600
    for _ in range(times):
        taken, right, terms, pairs = verdicts(rng, 150, 1.5, 0.8, 0.5)
        found = sway(taken, right, terms, clusters=pairs)
        hits += [found.length.low <= 0.8 <= found.length.high, found.truth.low <= 1.5 <= found.truth.high]
    assert ((hits / times >= 0.93) & (hits / times <= 0.975)).all(), hits / times


def test_a_judge_without_mistakes_shows_no_leaning() -> None:
    right = np.array([1.0, -1.0] * 20)
    assert sway((right > 0).astype(float), right, right * 2) is None
    assert sway([1, 0, 0, 0], [1, 1, -1, -1], [0, 0, 0, 0]) is None, "lengths all alike"
    few = (right > 0).astype(float)
    few[0] = 0
    found = sway(few, right, np.linspace(-1, 1, 40))
    assert found.length.high - found.length.low > 2, "one mistake tells little"


def test_label_verdicts_have_no_place() -> None:
    rng = np.random.default_rng(2)
    right, terms = rng.choice([-1.0, 1.0], 4000), np.tanh(rng.normal(0, 1, 4000))
    taken = rng.random(4000) < special.expit(1.0 + 1.2 * right)
    found = sway(taken.astype(float), right, terms, ordered=False)
    # A lenient judge is right in the mean over good and bad answers, not as an unleaning one would be.
    assert found.accuracy.value == pytest.approx((special.expit(2.2) + special.expit(0.2)) / 2, abs=0.02)
    assert found.length.low < 0 < found.length.high
