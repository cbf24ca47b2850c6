"""Rewards on partial text: declared bounds, and values of unfinished texts."""

from __future__ import annotations

import math

import numpy as np
import pytest

import truing as tr
from truing.errors import RewardError
from truing.rewards.partial import bounds, score_partial


def test_a_plain_function_has_no_bounds_and_is_asked_as_it_is():
    def letters(prompts, responses):
        return np.array([float(len(text)) for text in responses])

    assert bounds(letters) == (-math.inf, math.inf)
    assert score_partial(letters, ["p", "p"], ["ab", ""]).tolist() == [2.0, 0.0]


def test_bounds_of_a_sum_are_those_of_its_parts_weighed():
    keyword, length = tr.Keyword(words=["cat"]), tr.AnswerLength(target=3)
    assert bounds(tr.Combined(rewards=[keyword, length], weights=[2.0, -0.5])) == (-0.5, 2.0)
    assert bounds(tr.Combined(rewards=[keyword, lambda prompts, responses: [0.0]], weights=[1.0, 0.0])) == (0.0, 1.0)
    assert bounds(tr.Combined(rewards=[keyword, lambda prompts, responses: [0.0]])) == (-math.inf, math.inf)


class Skills:
    """The value of the best skill that begins so."""

    values = {"pick up": 0.9, "put down": 0.2}
    bounds = (0.0, 1.0)

    def __call__(self, prompts, responses):
        return [self.values.get(text, 0.0) for text in responses]

    def partial(self, prompts, texts):
        return [max((v for skill, v in self.values.items() if skill.startswith(t)), default=0.0) for t in texts]


def test_a_reward_that_has_an_own_value_for_unfinished_texts_is_asked_for_it():
    skills = Skills()
    assert score_partial(skills, ["p"] * 3, ["p", "pu", "x"]).tolist() == [0.9, 0.2, 0.0]
    both = tr.Combined(rewards=[skills, tr.Keyword(words=["pu"], whole_words=False)])
    assert score_partial(both, ["p"], ["pu"]).tolist() == [1.2]


def test_values_outside_of_declared_bounds_are_an_error_with_name_and_text():
    skills = Skills()
    skills.bounds = (0.0, 0.5)
    with pytest.raises(RewardError, match=r"Skills declares values from 0\.0 to 0\.5 and gave 0\.9 for 'pick'"):
        score_partial(skills, ["p"], ["pick"])
    skills.bounds = (1.0, 0.0)
    with pytest.raises(RewardError, match="hold nothing"):
        bounds(skills)
