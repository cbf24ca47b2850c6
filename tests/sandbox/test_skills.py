"""The household: what can be done, plans, and a planner that grounding helps."""

from __future__ import annotations

import json
import random

import pytest

from truing.errors import SettingsError
from truing.sandbox.skills import ROOMS, SKILLS, THINGS, Household, explore, planner, plans


def test_the_same_day_from_the_same_seed():
    assert Household(3).state() == Household(3).state()
    assert len({json.dumps(Household(seed).state()) for seed in range(20)}) > 15
    home = Household(4)
    before = home.state()
    assert home.reset(4) == home.goal == Household(4).goal
    assert home.state() == before
    assert Household.of(json.loads(json.dumps(before))).state() == before


def test_preconditions():
    home = Household.of(
        {
            "room": "hall", "doors": {"kitchen": "open", "cellar": "closed", "garden": "locked", "study": "open"},
            "things": {"apple": "kitchen", "cup": "kitchen", "book": "kitchen", "lamp": "cellar", "key": "study"},
            "errand": ["apple", "garden"],
        }
    )  # fmt: skip
    assert {skill for skill in SKILLS if home.feasible(skill)} == {
        "go to the kitchen.", "go to the study.", "open the cellar door."
    }  # fmt: skip
    assert not home.feasible("fly to the moon.")
    assert not home.feasible("")
    before = home.state()
    assert not home.step("go to the garden.")
    assert home.state() == before
    plan = [
        "go to the study.", "pick up the key.", "go to the hall.", "unlock the garden door.", "go to the kitchen.",
        "pick up the apple.",
    ]  # fmt: skip
    assert all(home.step(skill) for skill in plan)
    assert home.doors["garden"] == "closed"
    assert not home.feasible("pick up the cup."), "both hands are full"
    assert not home.feasible("go to the study."), "the kitchen opens onto the hall alone"
    assert "In your hands: apple, key." in home.observe()
    rest = ["go to the hall.", "open the garden door.", "go to the garden."]
    assert all(home.step(skill) for skill in rest)
    assert not home.done
    assert home.step("put down the apple.")
    assert home.done
    assert Household.of(before).shortest() is not None
    assert len(Household.of(before).shortest()) == len(plan) + 4


def test_shortest_plans_work_and_explorers_get_there():
    for seed in range(25):
        home = Household(seed)
        for skill in home.shortest():
            assert home.step(skill)
        assert home.done
    for document in plans(30, seed=5):
        steps = [f"{step}." for step in document[1]["content"].removesuffix(".").split(". ")]
        assert set(steps) <= set(SKILLS)
    home = Household(8)
    best = len(home.shortest())
    assert len(explore(home, random.Random(0))) >= best
    assert home.done


def test_an_errand_behind_the_key_s_own_lock_cannot_be_done():
    home = Household(2)
    for things, locked, possible in (
        ({"key": "study", "apple": "kitchen"}, ("study",), True),
        ({"key": "study", "apple": "study"}, ("study",), False),
        ({"key": "study", "apple": "kitchen"}, ("study", "garden"), False),
        ({"key": "hall", "apple": "study"}, ("study", "garden"), True),
    ):  # fmt: skip
        state = home.state()
        state["doors"] = {room: "locked" if room in locked else "closed" for room in ROOMS[1:]}
        state["things"].update(things)
        state["errand"] = ["apple", "garden"]
        day = Household.of(state)
        assert day.possible is possible
        assert (day.shortest() is not None) is possible


def test_conversations_carry_the_state_where_no_model_sees_it():
    home = Household(1)
    asked = home.conversation(["go to the kitchen.", "go to the hall."])
    assert asked[0]["content"] == home.goal
    assert asked[0]["state"] == home.state()
    assert asked[1] == {"role": "assistant", "content": "go to the kitchen. go to the hall."}
    assert len(home.conversation()) == 1
    for bad in ({}, {"room": "hall"}, {**home.state(), "things": {}}, {**home.state(), "errand": None}):
        with pytest.raises(SettingsError, match="no state of a household"):
            Household.of(bad)
    assert len(SKILLS) == len(set(SKILLS)) == 2 * len(THINGS) + 3 * len(ROOMS) - 2


def test_grounded_steps_can_always_be_carried_out():
    from truing import Affordance, GroundedDecoding, SayCan

    model = planner(0, 150)
    given = {"skills": list(SKILLS), "value": "sandbox_feasible"}
    grounded = GroundedDecoding(scorers=[Affordance(**given)], terminal=["."])
    for method in (grounded, grounded.clone(beam=3), SayCan(**given, terminal=["."])):
        homes, logs = [Household(seed) for seed in range(6)], [[] for _ in range(6)]
        aligned = method.align(model)
        for _ in range(4):
            asked = [home.conversation(steps) for home, steps in zip(homes, logs)]
            for home, steps, answer in zip(homes, logs, aligned.generate(asked, max_new_tokens=40)):
                steps.append(answer.text.strip())
                assert home.step(steps[-1])
    plain = model.generate([home.conversation() for home in homes], max_new_tokens=10, stop=["."])
    assert not all(home.feasible(answer.text.strip() + ".") for home, answer in zip(homes, plain))
