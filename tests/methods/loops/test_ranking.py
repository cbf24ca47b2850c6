"""Selection by reward: the published rules, ties, discards, and what best-of-K is worth."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from truing.methods.loops.ranking import (
    clean_text,
    expected_best_of,
    is_discarded,
    kl_penalised,
    select_global,
    select_local,
)

NAN = math.nan


def test_local_selection_ties_discards_and_gaps():
    assert select_local([[0.2, 1.5, 1.5], [-2.0, -5.0], [NAN, 1.0], [NAN, -math.inf], []]) == [1, 0, 1, None, None]
    assert select_local([[3.0, 1.0]], keep=[[False, True]]) == [1]
    assert select_local([[3.0, 1.0]], keep=[[False, False]]) == [None]
    assert select_local([[1.0, 2.0, 2.0]], ended=[[True, False, True]]) == [2]
    assert select_local([[1.0, 2.0, 2.0]], ended=[[True, False, False]]) == [1]
    assert select_local([[1.0, 1.0], [1.0, 1.2], [5.0]], min_gap=0.1) == [None, 1, None]
    assert select_local([[7.0], [-7.0]]) == [0, 0]  # K = 1 keeps every sample


def test_global_selection():
    rewards = [0.3, 2.2, -1.0, 4.1, NAN, 4.1, -0.2, 1.1, 0.05, 2.9]
    assert select_global(rewards, 0.3) == [3, 5, 9]
    assert select_global(rewards, 0.19) == [3]
    assert select_global(rewards, 1.0)[-1] == 2
    assert len(select_global(rewards, 1.0)) == 9
    assert select_global(rewards, 0.1, keep=[at != 3 for at in range(10)]) == [5]
    assert len(select_global([0.0] * 100, 0.29)) == 29
    assert select_global([], 0.5) == []
    with pytest.raises(ValueError, match="from 0 to 1"):
        select_global(rewards, 1.5)


rows = st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=6), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(rows, st.floats(-5, 5))
def test_selection_is_at_least_the_mean_and_ignores_a_prompts_constant(rewards, constant):
    chosen = select_local(rewards)
    for values, at in zip(rewards, chosen):
        assert values[at] == max(values)
        assert values[at] >= np.mean(values) - 1e-9
    quarters = [[round(4 * value) / 4 for value in values] for values in rewards]  # sums that are exact
    moved = [[value + round(constant) for value in values] for values in quarters]
    assert select_local(moved) == select_local(quarters)


def test_penalty_changes_the_ranking_alone():
    scores = kl_penalised([1.2, 0.9, 1.3], [-20.0, -14.0, -31.0], [-22.0, -14.5, -24.0], 0.1)
    assert scores.tolist() == pytest.approx([1.0, 0.85, 2.0])
    assert kl_penalised([1.0, NAN], [-math.inf, 0.0], [0.0, 0.0], 0.0)[0] == 1.0
    heavy = kl_penalised([9.0, 0.0], [-5.0, -5.0], [-9.0, -4.0], 1e6)
    assert select_local([heavy.tolist()]) == [1]  # the one that the policy has made less likely


def test_texts():
    assert clean_text("hello there ###Human: more") == "hello there"
    assert clean_text("plain #") == "plain "
    assert clean_text("###Human: again") == ""
    assert clean_text("a <|user|> b", role_mark="<|user|>") == "a"
    assert [is_discarded(text) for text in ("", "x", "ok", "a # b")] == [True, True, False, True]
    assert is_discarded("yes\nUser: no", forbidden=("User:",))


def test_expected_best_of():
    values, shares = [0.0, 1.0, 2.0], [0.5, 0.3, 0.2]
    found = [expected_best_of(values, shares, k) for k in (1, 2, 4, 8)]
    assert found == pytest.approx([0.7, 1.11, 1.5279, 1.828322], abs=1e-6)
    assert expected_best_of([2.0, 0.0, 1.0, 0.0], [0.2, 0.25, 0.3, 0.25], 4) == pytest.approx(1.5279)
    with pytest.raises(ValueError, match="sum to 1"):
        expected_best_of(values, [0.5, 0.3, 0.3], 2)
    with pytest.raises(ValueError, match="at least one draw"):
        expected_best_of(values, shares, 0)


def test_rounds_of_selection_never_lower_the_mean_reward():
    """A table policy that is fitted exactly to the best of four in each round."""
    values, p = np.arange(4.0), np.array([0.4, 0.3, 0.2, 0.1])
    means = []
    for _ in range(5):
        means.append(float(p @ values))
        p = np.diff(np.append(0.0, np.cumsum(p)) ** 4)
    assert means == pytest.approx([1.0, 2.0782, 2.8114, 2.9988, 3.0], abs=1e-4)
    assert means[1] == pytest.approx(expected_best_of(values, [0.4, 0.3, 0.2, 0.1], 4))


def test_selection_reaches_the_expected_value():
    random = np.random.default_rng(0)
    rewards = random.choice([0.0, 1.0, 2.0], p=[0.5, 0.3, 0.2], size=(20000, 4))
    chosen = select_local(rewards.tolist())
    kept = rewards[np.arange(len(rewards)), chosen]
    assert kept.mean() == pytest.approx(1.5279, abs=4 * kept.std() / math.sqrt(len(kept)))
