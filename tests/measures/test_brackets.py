"""Brackets, the choice of further matches, and simulated judges."""

from __future__ import annotations

import numpy as np
import pytest

from truing.measures import arena_simulation as simulation
from truing.measures import brackets, ratings
from truing.measures.arena_report import rated

SKILL = {"a": 4, "b": 3, "c": 2, "d": 1}


def better(one: str, two: str) -> float:
    return float(SKILL[one] > SKILL[two])


def by_skill(prompts: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a > b).astype(float)


def test_small_brackets() -> None:
    assert brackets.single_elimination("abcd", better) == (
        "a", [["a", "b", "a"], ["c", "d", "c"], ["a", "c", "a"]],
    )  # fmt: skip
    assert brackets.single_elimination("cab", better) == ("a", [["a", "b", "a"], ["c", "a", "a"]])
    assert brackets.single_elimination("a", better) == ("a", [])
    assert brackets.single_elimination("ab", lambda one, two: 0.5)[0] == "a", "in a tie the left one goes on"


@pytest.mark.parametrize("models", [2, 3, 5, 8, 13])
def test_matches_and_champions(models: int) -> None:
    calls = []

    def play(prompts: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        calls.append(len(a))
        return by_skill(prompts, a, b)

    found = brackets.knock_out(brackets.shuffled(30, models, np.random.default_rng(0)), play)
    assert len(found) == 30 * (models - 1)
    assert len(calls) == int(np.ceil(np.log2(models))), "a batch a round"
    for prompt in range(30):
        own = found.prompt == prompt
        # The best model wins every bracket, and everyone else loses once.
        lost = np.where(found.score == 1, found.b, found.a)[own]
        assert sorted(lost) == list(range(models - 1))
        assert (found.a[own] == models - 1).sum() + (found.b[own] == models - 1).sum() <= np.ceil(np.log2(models))


def test_chosen_matches_are_between_those_that_are_close_and_met_once() -> None:
    rng = np.random.default_rng(0)
    first = brackets.knock_out(brackets.shuffled(20, 4, rng), by_skill)
    found = brackets.play_more(first, 4, np.arange(20), 30, by_skill, rng, prior=0.1, batch=7)
    assert len(found) == len(first) + 30
    assert (found.round[len(first) :] == 0).all()
    met = list(zip(found.prompt, np.minimum(found.a, found.b), np.maximum(found.a, found.b)))
    assert len(set(met)) == len(met)
    everything = brackets.play_more(first, 4, np.arange(20), 10_000, by_skill, rng, prior=0.1)
    assert len(everything) == 20 * 6


def test_the_pair_that_tells_most() -> None:
    # Two pairs of neighbours, one of which has hardly met; the far ones are no question.
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = 50
    wins[2, 3] = wins[3, 2] = 2
    wins[0, 2], wins[2, 0] = 60, 1
    wins[1, 3], wins[3, 1] = 60, 1
    assert brackets.next_pairs(wins, 1, 0.1) == [(2, 3)]
    assert len(set(brackets.next_pairs(wins, 40, 0.1))) == 1
    assert set(brackets.next_pairs(wins, 200, 0.1)) == {(0, 1), (2, 3)}, "until it is known as well as the other"
    left = np.zeros((4, 4))
    left[0, 1] = 3
    assert brackets.next_pairs(wins, 9, 0.1, left) == [(0, 1)] * 3


def test_anchored_comparison() -> None:
    found = brackets.anchored(4, 2, np.arange(5), by_skill)
    assert len(found) == 15
    assert set(found.b) == {2}
    assert found.score.sum() == 5


PAGE = [
    (20, 1.0, 100, 0.92, 0.85), (20, 1.0, 250, 0.96, 0.94), (20, 0.8, 100, 0.81, 0.73), (20, 0.8, 500, 0.96, 0.92),
    (8, 1.0, 50, 0.91, 0.83), (8, 1.0, 100, 0.94, 0.88), (8, 1.0, 500, 1.00, 0.98),
]  # fmt: skip


@pytest.mark.parametrize(("models", "accuracy", "prompts", "tournament", "anchored"), PAGE)
def test_the_simulation_of_the_page(
    models: int, accuracy: float, prompts: int, tournament: float, anchored: float
) -> None:
    true = np.linspace(1110, 1290, models)
    strengths = np.tile((true - 1186) / ratings.PER_NAT, (prompts, 1))
    for design, wanted in (("tournament", tournament), ("anchored", anchored)):
        found = simulation.agreements(strengths, true, prompts, design, draws=180, accuracy=accuracy)
        assert np.median(found) == pytest.approx(wanted, abs=0.04)


def test_strengths_follow_the_odds_against_the_reference() -> None:
    strengths = simulation.strengths_of(np.array([[0.5, 0.9, 0.0, 1.0, np.nan]]))
    assert strengths[0, :2] == pytest.approx([0, np.log(9)])
    assert np.isfinite(strengths[0, 2:4]).all()
    play = simulation.simulated(strengths, 1.0, np.random.default_rng(0))
    many = np.zeros(4000, np.int64)
    assert play(many, many + 1, many).mean() == pytest.approx(0.9, abs=0.02)
    half = simulation.simulated(strengths, 0.5, np.random.default_rng(0))
    assert half(many, many + 1, many).mean() == pytest.approx(0.5, abs=0.03)
    assert np.isnan(play(many, many + 4, many)).all()


def test_active_choice_spends_the_same_matches_and_ranks() -> None:
    true = np.linspace(900, 1100, 6)
    strengths = np.tile((true - 1000) / ratings.PER_NAT, (30, 1))
    found = simulation.agreements(strengths, true, 30, "active", draws=10)
    assert found.shape == (10,)
    assert np.median(found) > 0.5


def test_intervals_cover_and_have_a_width() -> None:
    true = np.linspace(1000, 1150, 5)
    strengths = np.tile((true - true.mean()) / ratings.PER_NAT, (60, 1))
    rng = np.random.default_rng(1)
    held = []
    for at in range(60):
        played = brackets.knock_out(brackets.shuffled(60, 5, rng), simulation.simulated(strengths, 1.0, rng))
        found = rated(played, 5, resamples=200, seed=at)
        held.append((found.low <= true - true.mean() + 1000) & (true - true.mean() + 1000 <= found.high))
    assert 0.9 < np.mean(held) < 0.99
    sure = rated(brackets.knock_out(brackets.shuffled(9, 2, rng), by_skill), 2)
    assert (sure.high - sure.low > 50).all(), "nine wins in nine still leave room"
