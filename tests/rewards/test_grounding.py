"""Grounding functions: values of whole and of unfinished text."""

from __future__ import annotations

import math

import numpy as np
import pytest

import truing as tr
from truing.errors import RewardError, SettingsError
from truing.rewards.grounding import pixel_affordance, squash
from truing.rewards.partial import bounds, half_letter, observed, readable, score_partial

SKILLS = {"pick up pepsi.": 0.9, "pick up the pen.": 0.2, "place it.": 0.0, "café.": 0.4}


def test_a_beginning_is_worth_the_best_skill_that_starts_so():
    can = tr.Affordance(skills=SKILLS)
    texts = ["", " ", "p", "pick up ", "pick up pep", "pick up the", " pick", "pla", "go", "pick up pepsi. And", "  p"]
    found = score_partial(can, ["p"] * len(texts), texts)
    assert found.tolist() == [0.9, 0.9, 0.9, 0.9, 0.9, 0.2, 0.9, 1e-6, 1e-6, 1e-6, 1e-6]


def test_along_a_skill_values_fall_and_end_at_its_own():
    can = tr.Affordance(skills=SKILLS)
    for skill, value in SKILLS.items():
        along = score_partial(can, ["p"] * (len(skill) + 1), [skill[:end] for end in range(len(skill) + 1)])
        assert (np.diff(along) <= 0).all()
        assert along[-1] == max(value, 1e-6) == can(["p"], [skill])[0]
    assert can(["p"] * 2, ["pick up", " café."]).tolist() == [1e-6, 0.4]


def test_half_a_letter_fits_the_letters_it_can_become():
    can = tr.Affordance(skills=SKILLS)
    halves = ["caf" + "é".encode()[:1].decode(errors="surrogateescape"), "caf\udcc4", "pick\udcc3"]
    assert score_partial(can, ["p"] * 3, halves).tolist() == [0.4, 1e-6, 1e-6]
    assert [half_letter(text) for text in (halves[0], "caf", "")] == ["\udcc3", "", ""]
    assert readable(halves[0]) == "caf\ufffd"
    assert readable("café") == "café"


def test_what_is_forced_and_what_may_follow():
    can = tr.Affordance(skills=SKILLS)
    texts = ["pick up ", "pick up t", "c", "pl", "pick up pepsi.", "caf"]
    assert can.forced(["p"] * 6, texts) == [None, "he pen.", "afé.", None, "", "é."]
    assert [set(each) for each in can.follows(["p"] * 3, ["", "pick up ", "caf"])] == [
        {"p", "c", " "}, {"p", "t"}, {"é", "\ufffd"}
    ]  # fmt: skip


def test_values_of_a_reward_are_asked_once_for_each_conversation():
    calls = []

    def value(prompts, responses):
        calls.append(list(zip(prompts, responses)))
        return [0.8 if skill.startswith(prompt[0]["content"]) else 0.1 for prompt, skill in zip(prompts, responses)]

    can = tr.Affordance(skills=["go.", "stay."], value=value)
    asked = [[{"role": "user", "content": text}] for text in ("go", "stay", "go")]
    seen = observed(can, asked)
    assert len(calls) == 1
    assert len(calls[0]) == 4
    assert score_partial(seen, asked, ["g", "g", "g"]).tolist() == [0.8, 0.1, 0.8]
    assert seen(asked, ["stay."] * 3).tolist() == [0.1, 0.8, 0.1]
    assert len(calls) == 1
    assert can(asked[:1], ["go."]).tolist() == [0.8]  # outside of a generation the world is asked each time
    assert len(calls) == 2
    assert can.values(asked).tolist() == [[0.8, 0.1], [0.1, 0.8], [0.8, 0.1]]


def test_skills_without_values_are_all_worth_one():
    assert tr.Affordance(skills=["go.", "stay."]).partial(["p"] * 2, ["st", "x"]).tolist() == [1.0, 1e-6]


def test_avoid_counts_whole_words():
    avoid = tr.Avoid(words=["red", "hot iron"])
    texts = ["scared", "red", "the Red one", "hot  iron", "hot irons", ""]
    assert avoid(["p"] * 6, texts).tolist() == [1.0, 1e-6, 1e-6, 1e-6, 1.0, 1.0]
    assert bounds(avoid) == (1e-6, 1.0)
    assert tr.Avoid(words=["red"], whole_words=False, epsilon=0.1)(["p"], ["scared"]).tolist() == [0.1]


def test_prefer():
    prefer = tr.Prefer(words=["apple", "pear"])
    assert prefer(["p"] * 2, ["an apple", "apples"]).tolist() == [0.5, 0.1]
    assert bounds(prefer) == (0.1, 0.5)


def test_any_reward_tempered():
    tempered = tr.Tempered(reward={"keyword": {"words": ["a", "b"]}}, tau=0.5)
    assert bounds(tempered) == (pytest.approx(math.exp(-2)), 1.0)
    np.testing.assert_allclose(tempered(["p"] * 3, ["a b", "a", ""]), [1, math.exp(-1), math.exp(-2)])
    np.testing.assert_allclose(np.log(score_partial(tempered, ["p"], ["a"])), [(0.5 - 1) / 0.5])

    def letters(prompts, responses):
        return [float(len(text)) for text in responses]

    with pytest.raises(SettingsError, match="tau is a temperature"):
        tr.Tempered(reward=letters, tau=10**400)(["p"], ["abc"])
    with pytest.raises(SettingsError, match="letters declares no highest value"):
        tr.Tempered(reward=letters)(["p"], ["abc"])
    assert tr.Tempered(reward=letters, high=3.0)(["p"], ["ab"])[0] == pytest.approx(math.exp(-1))
    with pytest.raises(RewardError, match=r"letters gave 4\.0 for 'abcd', above the highest of 3\.0"):
        tr.Tempered(reward=letters, high=3.0)(["p"], ["abcd"])
    known = tr.Tempered(reward=tr.Verifiable(), high=1.0).bind([{"prompt": "q", "answers": "6"}])
    np.testing.assert_allclose(known(["q", "q"], ["so 6", "so 5"]), [1, math.exp(-1)])
    inner = observed(tr.Tempered(reward=tr.Affordance(skills=SKILLS)), ["p"])
    assert score_partial(inner, ["p"], ["pick up the"])[0] == pytest.approx(math.exp(0.2 - 1))


def test_pixels():
    assert pixel_affordance([[0.1, -2.0], [0.4, 0.0]], [[1.0, 3.0], [-1.0, 0.2]]) == pytest.approx(1.1)
    with pytest.raises(RewardError, match="same pixels"):
        pixel_affordance([[1.0]], [[1.0, 2.0]])
    np.testing.assert_allclose(squash([0.0, 1000.0, -1000.0]), [0.5, 1.0, 0.0])
    np.testing.assert_allclose(squash([1.0, 1.0 + math.log(3)], "softmax"), [0.25, 0.75])
    with pytest.raises(SettingsError, match="sigmoid or softmax"):
        squash([0.0], "tanh")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tr.Affordance(skills={}), "at least one text"), (lambda: tr.Affordance(skills=["a", 3]), "not 3"),
        (lambda: tr.Affordance(skills={"a": -0.1}), "from 0 to 1"),
        (lambda: tr.Affordance(skills=["a"], floor=0), "floor"),
        (lambda: tr.Affordance(skills={"a": True}), "from 0 to 1"),
        (lambda: tr.Avoid(words="knife"), "words is a list"),
        (lambda: tr.Avoid(words=["a"], epsilon=0.0), "epsilon"),
        (lambda: tr.Prefer(words=["a"], absent=0.6), "absent < present"),
        (lambda: tr.Prefer(words=[]), "words is a list"),
        (lambda: tr.Tempered(reward="keyword", tau=0), "tau"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(make, message):
    with pytest.raises(SettingsError, match=message):
        make()(["p"], ["a"])


def test_the_household_s_feasibility():
    from truing.sandbox.skills import SKILLS as ALL
    from truing.sandbox.skills import Household

    homes = [Household(seed) for seed in range(3)]
    feasible = tr.SandboxFeasible()
    for home in homes:
        asked = [home.conversation()] * len(ALL)
        assert feasible(asked, list(ALL)).tolist() == [float(home.feasible(skill)) for skill in ALL]
    with pytest.raises(RewardError, match="carries none"):
        feasible([[{"role": "user", "content": "hi"}]], ["go."])
    with pytest.raises(SettingsError, match="no state of a household"):
        feasible([[{"role": "user", "content": "hi", "state": {"room": "attic"}}]], ["go."])
