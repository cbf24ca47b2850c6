"""SayCan: fixed skills, scored by probability times value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.conformance.examples import PROMPTS
from tests.conformance.examples import model as tiny_model
from truing import SayCan, load
from truing.errors import RecordError, RewardError, SettingsError, UnsupportedError
from truing.methods.decoding.saycan import skill_scores

SKILLS = {"the cat sat.": 0.9, "the bird.": 0.5, "look at the stone.": 0.05, "it is grey.": 0.7}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_scores_are_log_probability_plus_log_value(model):
    found = SayCan(skills=SKILLS).align(model).generate(PROMPTS)
    logprobs = [model.logprobs([prompt] * len(SKILLS), list(SKILLS)) for prompt in PROMPTS]
    for answer, own in zip(found, logprobs):
        shown = {each["skill"]: each for each in answer.trace["skills"]}
        for (skill, value), logprob in zip(SKILLS.items(), own):
            assert shown[skill]["logprob"] == pytest.approx(logprob, abs=1e-4)
            assert shown[skill]["score"] == pytest.approx(logprob + math.log(value), abs=1e-4)
        assert answer.text == max(shown, key=lambda skill: shown[skill]["score"])
        assert [each["score"] for each in answer.trace["skills"]] == sorted(
            (each["score"] for each in shown.values()), reverse=True
        )
        assert (answer.trace["chosen"], answer.finish_reason) == (0, "stop")
    assert found.usage.calls == {"model": 2, "grounding": 1}


def test_what_ends_a_skill(model):
    told = SayCan(skills=SKILLS, terminal=["."]).align(model).generate(PROMPTS[0])[0]
    whole = SayCan(skills=SKILLS).align(model).generate(PROMPTS[0])[0]
    eos = model.tokenizer.eos_token_id
    assert told.tokens[-1] != eos
    assert whole.tokens[-1] == eos
    best = told.trace["skills"][0]
    other = next(each for each in whole.trace["skills"] if each["skill"] == best["skill"])
    assert other["logprob"] < best["logprob"]


def test_an_answer_that_goes_on_is_parted_by_a_space(model):
    asked = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "the cat sat."}]
    found = SayCan(skills=SKILLS, terminal=["."]).align(model).generate([asked])[0]
    assert found.text[0] == " "
    assert found.text[1:] in SKILLS


def test_values_overturn_the_model_and_strength_says_how_much(model):
    likely = SayCan(skills=list(SKILLS)).align(model).generate(PROMPTS).texts
    assert SayCan(skills=SKILLS, strength=0).align(model).generate(PROMPTS).texts == likely
    against = {skill: 1e-3 if skill == likely[0] else 1.0 for skill in SKILLS}
    aligned = SayCan(skills=against, strength=50.0).align(model)
    assert aligned.generate(PROMPTS[0]).texts[0] != likely[0]
    assert aligned.with_strength(0).generate(PROMPTS).texts == likely


def test_the_world_is_asked_for_each_generation_and_prompt(model):
    def value(prompts, responses):
        return [float(skill.startswith(prompt[-1]["state"])) for prompt, skill in zip(prompts, responses)]

    aligned = SayCan(skills=list(SKILLS), value=value).align(model)
    asked = [[{"role": "user", "content": "what?", "state": start}] for start in ("it", "look", "it")]
    assert aligned.generate(asked).texts == ["it is grey.", "look at the stone.", "it is grey."]


def test_samples_follow_the_scores(model):
    aligned = SayCan(skills=SKILLS).align(model)
    scores = np.array([each["score"] for each in aligned.generate(PROMPTS[0])[0].trace["skills"]])
    drawn = aligned.generate(PROMPTS[0], temperature=20.0, n=400, seed=1)
    chances = np.exp(scores / 20 - (scores / 20).max())
    chances /= chances.sum()
    counts = np.bincount([each.trace["chosen"] for each in drawn], minlength=len(SKILLS)) / 400
    assert (np.abs(counts - chances) < 4 * np.sqrt(chances * (1 - chances) / 400) + 1e-9).all()
    assert [each.text for each in aligned.generate(PROMPTS, n=2)][::2] == aligned.generate(PROMPTS).texts


def test_no_length_normalisation():
    np.testing.assert_allclose(skill_scores(np.array([-2.0, -4.0]), np.array([0.5, 1.0])), [-2 - math.log(2), -4])
    assert skill_scores(np.array([-2.0]), np.array([0.5]), strength=2.0)[0] == pytest.approx(-2 - 2 * math.log(2))


def test_saved_with_a_value_by_name(model, tmp_path):
    from truing.sandbox.skills import SKILLS as ALL
    from truing.sandbox.skills import Household

    aligned = SayCan(skills=list(ALL), value="sandbox_feasible", terminal=["."]).align(model)
    aligned.save(tmp_path / "model")
    again, homes = load(tmp_path / "model"), [Household(seed) for seed in range(6)]
    asked = [home.conversation() for home in homes]
    assert again.generate(asked).texts == aligned.generate(asked).texts
    assert all(home.feasible(text) for home, text in zip(homes, again.generate(asked).texts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skills": []}, "at least one text"), ({"skills": "go"}, "at least one text"),
        ({"skills": ["go", ""]}, "can be said"),
        ({"skills": ["go", " go"]}, "'go' is named twice"), ({"skills": {"go": 2.0}}, "from 0 to 1"),
        ({"skills": {"go": 1.0}, "value": "sandbox_feasible"}, "has values already"),
        ({"skills": ["go"], "value": "feasibel"}, "no reward"), ({"strength": -1}, "at least 0"),
        ({"terminal": "."}, "terminal is a list"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(model, settings, message):
    with pytest.raises(SettingsError, match=message):
        SayCan(**{"skills": SKILLS, **settings}).align(model)


def test_calls_that_cannot_work(model):
    with pytest.raises(RewardError, match=r"4 skills has a value of 0 for 'the cat'.*always be carried out"):
        SayCan(skills=dict.fromkeys(SKILLS, 0.0)).align(model).generate("the cat")
    with pytest.raises(RewardError, match=r"gave 3\.0 for the skill 'the cat sat\.'"):
        SayCan(skills=list(SKILLS), value=lambda prompts, responses: [3.0] * len(responses)).align(model).generate("a")
    with pytest.raises(RecordError, match=r"'the cat sat\.' has \d tokens.*max_new_tokens"):
        SayCan(skills=SKILLS).align(model).generate("a", max_new_tokens=2)
    from truing import RemoteModel

    with pytest.raises(UnsupportedError, match="logits"):
        SayCan(skills=SKILLS).align(RemoteModel("m", base_url="http://127.0.0.1:9/v1", api_key="none"))
