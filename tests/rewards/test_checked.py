from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from truing import Combined, Keyword
from truing.errors import RewardError, SettingsError
from truing.rewards import checked, name_of, reward_from

PROMPTS, ANSWERS = ["a", "b", "c"], ["one", "two", "three"]


def length(prompts, responses):
    return [len(text) for text in responses]


def giving(value):
    def reward(prompts, responses):
        return value

    return reward


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        torch.tensor([1, 2, 3], dtype=torch.bfloat16), [np.float32(1), 2, torch.tensor(3.0)],
    ],
)  # fmt: skip
def test_n_numbers_in_any_form_are_float64(value) -> None:
    got = checked(giving(value), PROMPTS, ANSWERS)
    assert got.dtype == np.float64
    assert got.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, float("nan"), float("inf")], r"gave nan for row 1, whose answer is 'two'"),
        ([1.0, 2.0, -np.inf], r"gave -inf for row 2"),
        ([1.0, 2.0], r"shape \[2\] for 3 answers"),
        ([[1.0], [2.0], [3.0]], r"shape \[3, 1\] for 3 answers"),
        (5.0, r"shape \[\] for 3 answers"),
        (None, "gave None"),
        ([1.0, None, 2.0], "gave None for row 1"),
        (["1", "2", "3"], "gave '1' for row 0"),
        ("123", "gave '123'"),
        ([1.0, [2.0], 3.0], r"gave \[2.0\] for row 1"),
        ({"a": 1}, "gave {'a': 1}"),
        ([1j, 0, 0], "gave 1j for row 0"),
    ],
)
def test_anything_else_is_one_clear_error(value, message: str) -> None:
    with pytest.raises(RewardError, match=message) as raised:
        checked(giving(value), PROMPTS, ANSWERS)
    assert "giving.<locals>.reward" in str(raised.value)


def test_what_a_reward_raises_keeps_its_cause() -> None:
    def broken(prompts, responses):
        return [1 / (len(text) - 3) for text in responses]

    with pytest.raises(RewardError, match="broken raised ZeroDivisionError over 3 answers") as raised:
        checked(broken, PROMPTS, ANSWERS)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(SettingsError, match="words is a list"):
        checked(Keyword(words=[]), PROMPTS, ANSWERS)


def test_prompts_and_responses_must_match() -> None:
    with pytest.raises(RewardError, match="3 prompts and 1 responses"):
        checked(length, PROMPTS, ["one"])
    with pytest.raises(RewardError, match="was given a string"):
        checked(length, "a", ["one"])
    with pytest.raises(RewardError, match="response 1 is None"):
        checked(length, ["a", "b"], ["one", None])
    with pytest.raises(RewardError, match="response 0 is 3"):
        Keyword(words=["a"])(["a"], [3])


def test_nothing_to_score_calls_nothing() -> None:
    def never(prompts, responses):
        raise AssertionError("called")

    assert checked(never, [], []).shape == (0,)
    assert Keyword(words=["a"])([], []).shape == (0,)


def test_names_of_rewards() -> None:
    assert name_of(Keyword(words=["a"])) == "Keyword"
    assert name_of(length) == "length"
    assert name_of(functools.partial(length)) == "partial"


def test_a_reward_from_its_name() -> None:
    assert reward_from({"keyword": {"words": ["a"]}}) == Keyword(words=["a"])
    assert reward_from("sandbox-grade").grade == "score"
    assert reward_from(length) is length
    with pytest.raises(SettingsError, match="Did you mean `keyword`"):
        reward_from({"keywrd": {"words": ["a"]}})
    with pytest.raises(SettingsError, match=r"`keyword` cannot be made from \{\}.*words"):
        reward_from("keyword")
    with pytest.raises(SettingsError, match=r"no setting `word`\. Did you mean `words`"):
        reward_from({"keyword": {"word": ["a"]}})
    with pytest.raises(SettingsError, match="A reward is a function"):
        reward_from(3)
    with pytest.raises(SettingsError, match="words is a list"):
        reward_from(Keyword(words=[]))


def test_a_weighted_sum_by_hand() -> None:
    both = Combined(rewards=[length, {"keyword": {"words": ["two", "three"]}}], weights=[0.5, -2.0])
    assert both(PROMPTS, ANSWERS).tolist() == [1.5, 0.5, 1.5]
    assert Combined(rewards=[length, "sandbox_grade"]).weights is None
    nested = Combined(rewards=[{"combined": {"rewards": [both, length], "weights": [2.0, 1.0]}}])
    assert nested(PROMPTS, ANSWERS).tolist() == [6.0, 4.0, 8.0]
    # One reward of weight 1 is that reward.
    assert Combined(rewards=[length])(PROMPTS, ANSWERS).tolist() == [3.0, 3.0, 5.0]


def test_a_sum_checks_its_parts() -> None:
    with pytest.raises(RewardError, match="reward gave nan for row 0"):
        Combined(rewards=[length, giving([float("nan")] * 3)])(PROMPTS, ANSWERS)
    for bad, message in [
        ({"rewards": []}, "at least one reward"),
        ({"rewards": length}, "list of at least one"),
        ({"rewards": [length], "weights": [1.0, 2.0]}, "one number for each of 1 rewards"),
        ({"rewards": [length], "weights": [float("nan")]}, "one number for each"),
        ({"rewards": [{"keyword": {"words": "please"}}]}, "words is a list"),
        ({"rewards": [Combined(rewards=["no_such"])]}, "no reward `no_such`"),
    ]:
        with pytest.raises(SettingsError, match=message):
            Combined(**bad)(PROMPTS, ANSWERS)


def test_rewards_named_in_a_sum_are_made_once() -> None:
    both = Combined(rewards=[{"keyword": {"words": ["two"]}}])
    first = both._parts()[0]
    both(PROMPTS, ANSWERS)
    assert both._parts()[0] is first
    both.rewards = [{"keyword": {"words": ["three"]}}]
    assert both(PROMPTS, ANSWERS).tolist() == [0.0, 0.0, 1.0]
    assert both.clone() == both
