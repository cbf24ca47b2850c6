"""How often 95 % intervals hold the truth, in simulations. Exact ones hold it more often near 0 and 1, never less."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from truing.measures import calibration, statistics, value_orientation
from truing.measures.cultural_figures import Survey, plain_scores
from truing.measures.length_control import length_controlled
from truing.measures.pass_rate import pass_at
from truing.measures.prediction_powered import corrected_mean
from truing.measures.result import Figure, Outcome
from truing.measures.side_effects import distinct
from truing.measures.statistics import Estimate
from truing.measures.surveys import Item, mean_figure

LOWEST = 0.92


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same intervals, a little rougher, in a third of the time."""
    monkeypatch.setattr(statistics, "DRAWS", 1300)


def coverage(make: Callable[[np.random.Generator], Estimate | Figure | None], truth: float, times: int) -> float:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(times):
        found = make(rng)
        assert found is not None
        hits += found.low - 1e-12 <= truth <= found.high + 1e-12
    return hits / times


@pytest.mark.parametrize(
    ("shares", "n"),
    [((0.5,), 30), ((0.98,), 40), ((0.95, 0.99, 0.9, 0.8), 15), ((0.99,) * 4, 15), ((0.995, 0.99, 0.5, 0.98), 60),
     ((0.02, 0.9, 0.5, 0.98, 0.1, 0.3, 0.97), 8), ((1.0, 1.0, 1.0, 0.97), 20), ((0.5,) * 4, 1)],
)  # fmt: skip
def test_shares_over_kinds(shares: tuple[float, ...], n: int) -> None:
    each = np.repeat(shares, n)
    kinds = np.repeat(np.arange(len(shares)), n).tolist()

    def make(rng: np.random.Generator) -> Estimate:
        return statistics.stratified_share((rng.random(len(each)) < each).astype(float), kinds)

    assert coverage(make, float(np.mean(shares)), 1000) >= LOWEST


@pytest.mark.parametrize(
    ("share", "clusters", "each", "alike"), [(0.5, 20, 4, 0.5), (0.95, 20, 4, 0.5), (0.9, 30, 5, 0)]
)
def test_shares_in_clusters(share: float, clusters: int, each: int, alike: float) -> None:
    keys = np.repeat(np.arange(clusters), each).tolist()

    def make(rng: np.random.Generator) -> Estimate:
        rates = np.full(clusters, share)
        if alike:
            more = (1 - alike) / alike
            rates = rng.beta(share * more, (1 - share) * more, clusters)
        return statistics.share((rng.random((clusters, each)) < rates[:, None]).astype(float).ravel(), keys)

    assert coverage(make, share, 600) >= LOWEST


@pytest.mark.parametrize(
    ("ahead", "behind", "n"), [(0.02, 0.02, 20), (0.3, 0.05, 20), (0.5, 0.1, 8), (0.9, 0.01, 30), (0.2, 0.1, 200)]
)
def test_paired_shares(ahead: float, behind: float, n: int) -> None:
    def make(rng: np.random.Generator) -> Estimate:
        drawn = rng.random(n)
        first, second = drawn < ahead, (drawn >= ahead) & (drawn < ahead + behind)
        return statistics.difference_of_shares(first.astype(float), second.astype(float))

    assert coverage(make, ahead - behind, 1000) >= LOWEST


@pytest.mark.parametrize("n", [6, 60])
def test_paired_shares_over_kinds(n: int) -> None:
    rates = np.array([0.02, 0.5, 0.1, 0.0, 0.01, 0.3, 0.05])
    each, kinds = np.repeat(rates, n), np.repeat(np.arange(7), n).tolist()

    def make(rng: np.random.Generator) -> Estimate:
        drawn = rng.random(len(each))
        return statistics.difference_of_shares((drawn < each).astype(float), (drawn > 0.98).astype(float), kinds)

    assert coverage(make, float(rates.mean()) - 0.02, 1000) >= LOWEST


def test_paired_shares_in_clusters() -> None:
    keys = np.repeat(np.arange(40), 3).tolist()

    def make(rng: np.random.Generator) -> Estimate:
        rates = rng.uniform(0, 0.8, (40, 1))
        drawn = rng.random((40, 3))
        return statistics.difference_of_shares(
            (drawn < rates).astype(float).ravel(), (drawn > 0.9).astype(float).ravel(), None, keys
        )

    assert coverage(make, 0.3, 600) >= LOWEST


@pytest.mark.parametrize("shape", ["normal", "exponential", "counts"])
def test_means(shape: str) -> None:
    draw = {
        "normal": lambda rng: rng.normal(1, 1, 25),
        "exponential": lambda rng: rng.exponential(1, 40),
        "counts": lambda rng: rng.poisson(1, 25).astype(float),
    }[shape]
    assert coverage(lambda rng: statistics.mean(draw(rng)), 1.0, 250) >= 0.91


def test_means_reach_further_where_samples_lean() -> None:
    """Johnson's interval of a skew mean, on the quantiles of an exponential; of a symmetrical one it is Student's."""
    places = (np.arange(40) + 0.5) / 40
    for values, skew in ((-np.log(1 - places), 1.0), (np.log(1 - places), -1.0), (special.ndtri(places), 0.0)):
        found = statistics.mean(values, seed=1)
        assert found is not None
        half = float(special.stdtrit(39, 0.975) * values.std(ddof=1) / np.sqrt(40))
        above, below = (found.high - found.value) / half, (found.value - found.low) / half
        assert (above if skew >= 0 else below) == pytest.approx(1 + 0.2 * abs(skew), abs=0.1)
        assert (below if skew >= 0 else above) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("n", "hard"), [(20, 4.0), (100, 4.0), (50, 2.0)])
def test_means_near_a_bound(n: int, hard: float) -> None:
    """pass@4 of 8 tries, where nearly all questions pass: the few that do not are seldom in the sample."""
    truth = 1 - float(np.prod([k / (hard + k) for k in range(1, 5)]))

    def make(rng: np.random.Generator) -> Estimate | None:
        values = [pass_at(8, int(passed), 4) for passed in rng.binomial(8, rng.beta(hard, 1, n))]
        return statistics.mean(values, bounds=(0.0, 1.0))

    assert coverage(make, truth, 400) >= 0.93


@pytest.mark.parametrize("right", [0.85, 0.98])
def test_a_judges_mean_error(right: float) -> None:
    def make(rng: np.random.Generator) -> Estimate:
        true = (rng.random(50) < 0.7).astype(float)
        said = np.where(rng.random(50) < right, true, 1 - true)
        found = corrected_mean(true, said, said, bounds=(0, 1))
        assert found is not None
        return found.bias

    # Errors go down in 7 of 10, where there is most to be had.
    assert coverage(make, (1 - right) * (0.3 - 0.7), 600) >= 0.93


def test_win_rates_at_equal_length_with_few_defeats() -> None:
    def make(rng: np.random.Generator) -> Estimate:
        gap = rng.normal(0.3, 1, 40)
        won = (rng.random(40) < special.expit(2 + np.tanh(gap / gap.std()))).astype(float)
        found = length_controlled(won, gap, np.zeros(40))
        assert found is not None
        return found.win_rate

    assert coverage(make, float(special.expit(2)), 600) >= 0.95


def test_means_in_clusters_and_differences() -> None:
    keys = np.repeat(np.arange(20), 4).tolist()

    def make(rng: np.random.Generator) -> Estimate | None:
        together = rng.normal(0, 1, (20, 1))
        first = (together + rng.normal(1, 1, (20, 4))).ravel()
        second = (together * 0.5 + rng.normal(0, 1, (20, 4))).ravel()
        return statistics.difference_of_means(first, second, clusters=keys)

    assert coverage(make, 1.0, 300) >= LOWEST


def test_perplexity() -> None:
    def make(rng: np.random.Generator) -> Estimate | None:
        tokens = rng.integers(10, 60, 40).astype(float)
        return statistics.mean(rng.normal(2, 0.4, 40), tokens, exp=True)

    assert coverage(make, float(np.exp(2)), 300) >= LOWEST


def test_distinct_words() -> None:
    weights = 1 / np.arange(1, 200)
    weights /= weights.sum()

    def answers(rng: np.random.Generator) -> list[str]:
        return [" ".join(f"w{word}" for word in rng.choice(199, rng.integers(4, 12), p=weights)) for _ in range(40)]

    def values(rng: np.random.Generator) -> list[float]:
        found = distinct(answers(rng), 1)
        assert found is not None
        return found

    other = np.random.default_rng(1)
    truth = float(np.mean([np.mean(values(other)) for _ in range(300)]))
    assert coverage(lambda rng: statistics.mean(values(rng)), truth, 200) >= LOWEST


def test_calibration_errors_that_lie_all_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SIMULATED", 200)

    def make(rng: np.random.Generator) -> Estimate:
        sure = rng.uniform(0.55, 0.95, 100)
        hits = (rng.random(100) < sure - 0.1).astype(float)
        return calibration.calibration_error(sure, hits, seed=int(rng.integers(2**31)))

    assert coverage(make, 0.1, 250) >= LOWEST


def test_circles_of_values_with_few_portraits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the profiles of as many portraits show in the mean, where each value has four."""
    monkeypatch.setattr(value_orientation, "DRAWS", 400)
    names = [f"v{at}" for at in range(10)]
    means, groups = 3.5 + 0.8 * np.cos(2 * np.pi * np.arange(10) / 10), np.repeat(np.arange(10), 4)
    items = [Item(f"i{at}", "?", tuple("abcdef"), names[group]) for at, group in enumerate(groups)]

    def make(rng: np.random.Generator) -> Figure:
        ratings = (means[groups] + rng.normal(0, 0.5, 40))[:, None]
        outcome = Outcome([{"kind": item.group} for item in items], {}, [])
        value_orientation.ValueOrientation()._profile(outcome, items, names, ratings)
        return outcome.figures["circle"]

    truth = float(np.mean([make(np.random.default_rng(at)).value for at in range(60)]))
    assert coverage(make, truth, 120) >= LOWEST


def test_the_nearest_of_many_countries_is_partly_the_luckiest() -> None:
    rng = np.random.default_rng(0)
    items = [Item(f"q{at}", "?", ("a", "b")) for at in range(20)]
    levels = rng.random(20)
    alike = rng.random((40, 20))
    apart = np.vstack([np.clip(levels + rng.normal(0, 0.02, 20), 0, 1), np.tile(1 - levels.round(), (11, 1))])
    lower = []
    for human in (alike, apart):
        outcome = Outcome([], {}, [])
        plain_scores(outcome, Survey(items, [f"c{at}" for at in range(len(human))], human), ["form"], levels[None], 0)
        close = (1 - np.abs(human - levels)).tolist()
        plain = mean_figure(max(close, key=sum), "share", within=(0.0, 1.0))
        assert plain is not None
        lower.append(plain.low - outcome.figures["agreement: form"].low)
    assert lower[0] > 0.01
    assert lower[1] == pytest.approx(0, abs=0.005)
