"""Rewards on partial text: declared bounds, and values of unfinished texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import truing as tr
from truing.errors import RewardError, SettingsError
from truing.rewards.partial import bounds, observed, reach, score_partial, score_texts


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


def test_what_holds_a_reward_observes_through_it():
    class World:
        def observe(self, prompts):
            return lambda asked, texts: [float(len(prompts))] * len(texts)

        def __call__(self, prompts, responses):
            raise AssertionError("asked without looking")

    both = tr.Combined(rewards=[tr.Squashed(reward=World(), center=2.0, how="clip"), World()], weights=[0.5, 2.0])
    assert observed(both, ["p", "q", "r"])(["p"], ["a"]).tolist() == [0.5 * 1.0 + 2.0 * 3.0]
    plain = tr.Squashed(reward=tr.Keyword(words=["cat"]))
    assert observed(plain, ["p"]) == plain


def test_values_outside_of_declared_bounds_are_an_error_with_name_and_text():
    skills = Skills()
    skills.bounds = (0.0, 0.5)
    with pytest.raises(RewardError, match=r"Skills declares values from 0\.0 to 0\.5 and gave 0\.9 for 'pick'"):
        score_partial(skills, ["p"], ["pick"])
    skills.bounds = (1.0, 0.0)
    with pytest.raises(RewardError, match="hold nothing"):
        bounds(skills)


WORDS = ["cat", "cats", "the cat", "mat", "Käse", "a", "b c"]
REACHING = [
    tr.Keyword(words=["cat", "the mat"]),
    tr.Keyword(words=["cat", "b c"], whole_words=False),
    tr.Keyword(words=["KÄSE"], case_sensitive=False),
    tr.AnswerLength(target=3, tolerance=2),
    tr.Combined(rewards=[tr.Keyword(words=["cat"]), tr.AnswerLength(target=2)], weights=[1.5, -2.0]),
    tr.Squashed(reward=tr.AnswerLength(target=3), center=0.5, scale=0.2, how="clip"),
    tr.Squashed(reward=tr.Keyword(words=["mat", "cat"])),
]


@pytest.mark.parametrize("reward", REACHING, ids=repr)
@given(st.lists(st.sampled_from([*WORDS, " ", "  ", ".", "s"]), max_size=8))
def test_no_continuation_leaves_what_a_text_can_reach(reward, pieces):
    whole = " ".join(pieces)
    values = reward(["p"] * (len(whole) + 1), [whole[:end] for end in range(len(whole) + 1)])
    ends = reach(reward, ["p"] * (len(whole) + 1), [whole[:end] for end in range(len(whole) + 1)])
    low, high = bounds(reward)
    assert (low <= values).all()
    assert (values <= high).all()
    for start in range(len(whole) + 1):
        assert (ends[start, 0] <= values[start:]).all()
        assert (values[start:] <= ends[start, 1]).all()


def test_outcomes_that_are_settled():
    coverage = tr.Keyword(words=["cat", "mat"])
    texts = ["", "the ca", "the cat", "the cat ", "a mat cat sat"]
    assert reach(coverage, ["p"] * 5, texts).tolist() == [[0, 1], [0, 1], [0, 1], [0.5, 1], [1, 1]]
    length = tr.AnswerLength(target=2)
    assert reach(length, ["p"] * 4, ["", "a b", "a b c", "a b c d"]).tolist() == [[0, 1], [0, 1], [0, 0.5], [0, 0]]
    assert reach(lambda prompts, texts: [0.0], ["p"], ["a"]).tolist() == [[-math.inf, math.inf]]
    assert reach(Skills(), ["p"], ["a"]).tolist() == [[0.0, 1.0]]


def test_a_reach_that_is_none_is_an_error():
    class Odd:
        def reach(self, prompts, texts):
            return [[1.0, 0.0]] * len(texts)

    with pytest.raises(RewardError, match="Odd said of 1 texts"):
        reach(Odd(), ["p"], ["a"])


def test_whole_answers_and_beginnings_are_asked_for_apart_and_failures_name_the_text():
    skills = Skills()
    assert score_texts(skills, ["p"] * 3, ["pick", "pick up", "put"], [True, True, False]).tolist() == [0.0, 0.9, 0.2]

    def moody(prompts, responses):
        if "no" in responses:
            raise ValueError("a mood")
        return [0.0] * len(responses)

    with pytest.raises(RewardError, match=r"moody raised ValueError over 1 answers: a mood.*The text was 'no'"):
        score_texts(moody, ["p"] * 3, ["a", "no", "b"], [True, False, False])


def test_squashing():
    def logit(prompts, responses):
        return [float(text) for text in responses]

    texts = ["-3", "1", "2", "9"]
    assert tr.Squashed(reward=logit, center=1.0, scale=2.0, how="clip")(["p"] * 4, texts).tolist() == [-1, 0, 0.5, 1]
    curve = tr.Squashed(reward=logit, center=1.0, scale=2.0)
    assert curve(["p"] * 4, texts).tolist() == pytest.approx([1 / (1 + math.exp(-(float(t) - 1) / 2)) for t in texts])
    assert bounds(curve) == (0.0, 1.0)
    assert tr.Squashed(reward={"keyword": {"words": ["a"]}})(["p"], ["a"]).tolist() == pytest.approx([0.731058579])
    for settings, message in (
        ({"scale": 0.0}, "scale divides"), ({"center": math.inf}, "center is a finite"),
        ({"how": "tanh"}, "how is one"), ({"reward": "keywrod"}, "Did you mean"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=message):
            tr.Squashed(**{"reward": logit, **settings})(["p"], ["1"])
