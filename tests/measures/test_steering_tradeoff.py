"""The sweep: equal to one strength at a time, on every architecture; figures, dials, resumption, and bad input."""

import json

import numpy as np
import pytest
import torch

from tests import tiny
from tests.conformance.examples import ROWS, like_the_cat
from tests.conformance.examples import model as tiny_model
from truing import BestOfN, RemoteModel, RepresentationSteering, SystemMessage, load, measure
from truing.contracts import require
from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.measures.result import Result
from truing.measures.steering_tradeoff import SteeringTradeoff, TradeoffResult
from truing.measures.sweeping import Choice, option_logprobs
from truing.methods.steering.modifier import SteeringModifier
from truing.models import LogitsModifier
from truing.models.types import Usage
from truing.reports.svg import figure_curve

STRENGTHS = [-2.0, -0.5, 0.0, 1.0, 3.0]
CONTRASTS = [
    {"prompt": f"{row['prompt']} {word}", "positive": row["positive"], "negative": row["negative"]}
    for row in ROWS["contrast"]
    for word in ("", "now", "then", "the cat", "look at the mat")
]
QUESTIONS = [
    {"prompt": f"the {word}?", "answers": ["red", "small and red"], "choices": ["red", "grey", "the mat", "cat"]}
    for word in ("bird", "cat", "stone", "mat and the bird")
]
CHOICES = [
    Choice((5, 6, 7, 8), 3, ((20,), (21,), (22, 23))),
    Choice((9,), 1, ((24, 25, 26), (27,))),
    Choice((10, 11), 2, ((28,),)),
]


def vector(seed=0):
    return torch.randn(1, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("choices", [CHOICES, CHOICES[:1]], ids=["batch", "single"])
def test_a_sweep_with_shared_states_is_one_strength_at_a_time(architecture, choices):
    model = tiny_model(architecture).with_weights(tiny.network(architecture, num_hidden_layers=4))
    stacks = [
        [SteeringModifier(vectors=vector(), at=[1])],
        [SteeringModifier(vectors=torch.cat([vector(), vector(1)]), at=[0, 2], operator="project_out_then_add")],
        [SteeringModifier(vectors=vector(), at=[3], positions="answer", keep_norm=True)],
        # Others below, at and above the edited layers, before and after it in the stack.
        [
            SteeringModifier(vectors=vector(2), at=[1], positions="last"),
            SteeringModifier(vectors=vector(), at=[1]),
            SteeringModifier(vectors=torch.cat([vector(3)] * 4), at=[0, 1, 2, 3], operator="project_out"),
        ],
    ]
    for stack in stacks:
        which = len(stack) // 2
        one = model
        for modifier in stack:
            one = one.with_modifier(modifier)
        found = option_logprobs(one, which, STRENGTHS, choices)
        for at, strength in enumerate(STRENGTHS):
            turned = one.with_strength(strength, which)
            for choice, values in zip(choices, found):
                scored = turned._score([(list(choice.prefix), list(option)) for option in choice.options], None)
                if choice.prompt == len(choice.prefix):
                    np.testing.assert_allclose(values[at], [part.sum() for part in scored], rtol=0, atol=5e-5)


def test_the_prompt_ends_where_the_choice_says():
    model = tiny_model().with_modifier(SteeringModifier(vectors=vector(), at=[1], strength=1.0, positions="prompt"))
    behind, whole = (Choice((5, 6, 7, 8), prompt, ((20,),)) for prompt in (3, 4))
    found, other = option_logprobs(model, 0, [0.0, 3.0], [behind, whole])
    assert found[0, 0] == pytest.approx(found[1, 0], abs=1e-6)
    assert abs(other[0, 0] - other[1, 0]) > 1e-3


def test_shared_states_save_positions():
    model = tiny_model().with_weights(tiny.network(num_hidden_layers=4))
    costs = []
    for layer in (0, 3):
        usage = Usage()
        steered = model.with_modifier(SteeringModifier(vectors=vector(), at=[layer]))
        option_logprobs(steered, 0, STRENGTHS, [CHOICES[0]], usage)
        costs.append(usage.positions["model"])
    rows = 4 + 5  # one row for the options of one token, and one for that of two
    assert costs == [round(rows * (1 + 5 * 3) / 4), rows]


class Lean(LogitsModifier):
    """Adds to the score of one token."""

    dial = "by"
    by: float = 1.0

    def validate(self):
        require(self.by >= 0, f"by is 0 or more, not {self.by}.")

    def adjust(self, logits, prefixes, session):
        out = logits.clone()
        out[:, 20] += self.by
        return out


def test_logits_modifiers_are_swept_one_strength_at_a_time():
    model = tiny_model().with_modifier(Lean())
    found = option_logprobs(model, 0, [0.0, 2.0], [Choice((5, 6), 2, ((20,), (21,)))])[0]
    assert found[1, 0] - found[1, 1] - (found[0, 0] - found[0, 1]) == pytest.approx(2, abs=1e-5)


def test_strengths_that_a_modifier_refuses_are_left_out():
    model = tiny_model().with_modifier(Lean(by=0.5))
    found = SteeringTradeoff(behaviour=CONTRASTS, ability=QUESTIONS).measure(model)
    assert [x for x, _ in found.curves[0].points] == [at / 4 for at in range(9)]
    assert any(note.startswith("8 strengths were left out, -2 first: by is 0 or more") for note in found.notes)
    assert any("loss_exponent" in note for note in found.notes)
    with pytest.raises(SettingsError, match="by is 0 or more"):
        SteeringTradeoff(behaviour=CONTRASTS, ability=QUESTIONS, strengths=[-1.0, 0.0, 1.0]).measure(model)


def test_figures_follow_from_the_curves_and_a_result_keeps_them(tmp_path):
    steered = RepresentationSteering(layers=[-1]).align(load("sandbox/base"), "sandbox/contrasts")
    result = measure("steering_tradeoff", steered, split="dev", limit=40, loss=0.05)
    assert isinstance(result, TradeoffResult)
    by_name = {curve.name: dict(curve.points) for curve in result.curves}
    behaviour, ability = by_name["behaviour"], by_name["ability"]
    strengths = sorted(behaviour)
    assert strengths == [at / 2 for at in range(-8, 9)]
    # Page 50's claims: linear gain, quadratic loss.
    assert np.diff([behaviour[x].value for x in strengths]).min() > 0
    assert result.figures["behaviour_slope"].low > 0
    assert result.figures["ability_quadratic_loss"].low > 0
    assert result.figures["loss_exponent"].value == pytest.approx(2, abs=0.2)
    best = result.best(0.05)
    assert best == result.figures["best_strength"].value > 0
    assert ability[best].value >= 0.95 * ability[0.0].value
    assert ability[best + 0.5].value < 0.95 * ability[0.0].value
    assert result.best(0.001) <= best <= result.best(0.5)
    for figure in result.figures.values():
        assert figure.low <= figure.value <= figure.high
    # At strength 0 the model is the one without the modifier.
    plain = load("sandbox/base").with_modifier(steered.modifiers[0].clone(strength=0.0))
    rows = [row for row in result.samples if row["kind"] == "behaviour"]
    zero = measure("steering_tradeoff", plain, split="dev", limit=40, strengths=[-1.0, 0.0, 1.0])
    assert zero.samples[0]["behaviour"][1] == pytest.approx(rows[0]["behaviour"][8], abs=1e-5)
    # Kept in JSON, shown as a table, drawn.
    result.save(tmp_path / "result.json")
    again = Result.load(tmp_path / "result.json")
    assert again.curves == result.curves
    assert json.loads((tmp_path / "result.json").read_text())["curves"][0]["x"] == "strength"
    assert "strength  behaviour" in str(again)
    drawn = figure_curve(again.curves[1])
    assert drawn.count("<circle") == 17
    assert "polyline" in drawn


def test_a_measure_that_was_killed_repeats_nothing(tmp_path):
    model = tiny_model().with_modifier(SteeringModifier(vectors=vector(), at=[1]))
    tradeoff = SteeringTradeoff(behaviour=CONTRASTS, ability=QUESTIONS, strengths=STRENGTHS)
    first = tradeoff.measure(model, out=tmp_path)
    again = tradeoff.measure(model, out=tmp_path)
    assert first.usage["calls"]
    assert not again.usage["calls"]
    assert again.figures == first.figures


def test_own_records_by_first_token_and_whole():
    model = tiny_model().with_modifier(SteeringModifier(vectors=vector(), at=[1]))
    how = {"behaviour": CONTRASTS, "ability": QUESTIONS, "strengths": STRENGTHS}
    whole = SteeringTradeoff(read="whole", **how).measure(model)
    row = whole.samples[0]
    prompts, answers = [CONTRASTS[0]["prompt"]] * 2, [CONTRASTS[0]["positive"], CONTRASTS[0]["negative"]]
    for at, strength in enumerate(STRENGTHS):
        good, bad = model.with_strength(strength).logprobs(prompts, answers)
        assert row["behaviour"][at] == pytest.approx(np.tanh((good - bad) / 2), abs=1e-4)
    first = SteeringTradeoff(**how).measure(model)
    assert first.samples[0]["behaviour"] != row["behaviour"]
    assert {"behaviour", "ability", "relative"} == {curve.name for curve in first.curves}
    # Four choices everywhere: fitted by the form that ends at a quarter.
    assert {"relative_fit_a", "relative_fit_b"} <= set(first.figures)
    assert next(curve for curve in first.curves if curve.name == "relative").formula.startswith("1/4")
    led = SteeringTradeoff(lead="the answer is", **how).measure(model)
    assert led.samples[-1]["ability"] != first.samples[-1]["ability"]
    no_choice = [{"prompt": row["prompt"], "answers": row["answers"]} for row in QUESTIONS]
    bare = SteeringTradeoff(**{**how, "ability": no_choice}).measure(model)
    assert {curve.name for curve in bare.curves} == {"behaviour", "ability"}
    assert bare.samples[-1]["ability"] == pytest.approx(first.samples[-1]["ability"], abs=1e-6)


def test_answers_are_graded_where_there_are_no_probabilities():
    steered = RepresentationSteering(layers=[-1], strength=3.0).align(load("sandbox/base"), "sandbox/contrasts")
    found = SteeringTradeoff(read="answers", split="dev", limit=12, strengths=[-3.0, 0.0, 3.0]).measure(steered)
    behaviour = dict(next(curve for curve in found.curves if curve.name == "behaviour").points)
    assert behaviour[3.0].value > behaviour[-3.0].value
    searching = BestOfN(reward=like_the_cat, n=2).align(steered)
    with pytest.raises(UnsupportedError, match='read="answers"'):
        SteeringTradeoff(limit=4).measure(searching)
    graded = SteeringTradeoff(read="answers", reward=like_the_cat, limit=3, strengths=[0.0, 1.0, 2.0], max_new_tokens=4)
    assert graded.measure(searching).figures["best_strength"].value in (0.0, 1.0, 2.0)


def test_an_other_modifier_is_swept_by_name():
    model = tiny_model().with_modifier(SteeringModifier(vectors=vector(), at=[1]))
    spoken = SystemMessage(text="look").align(model)
    how = {"behaviour": CONTRASTS, "ability": QUESTIONS, "strengths": STRENGTHS}
    assert SteeringTradeoff(modifier="steering", **how).measure(spoken).figures
    with pytest.raises(SettingsError, match="no modifier 'nudging'"):
        SteeringTradeoff(modifier="nudging", **how).measure(spoken)
    with pytest.raises(SettingsError, match="no modifier with a strength"):
        SteeringTradeoff(**how).measure(tiny_model())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strengths": [0.0, 1.0]}, "3 numbers"), ({"strengths": ["a", 1, 2]}, "3 numbers"),
        ({"read": "last"}, "read is one of"), ({"loss": 0.0}, "loss is a share"), ({"within": -1.0}, "within"),
        ({"reward": like_the_cat}, 'read="answers"'), ({"limit": 0}, "limit"), ({"seed": -1}, "seed"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(SettingsError, match=message):
        SteeringTradeoff(**settings).measure(tiny_model())


def test_records_that_cannot_work():
    model = tiny_model().with_modifier(SteeringModifier(vectors=vector(), at=[1]))
    same = [{"prompt": "a", "positive": "b", "negative": "b"}] * 2
    for settings, message in (
        ({"behaviour": same, "ability": QUESTIONS}, "are equal"),
        ({"behaviour": CONTRASTS[:1], "ability": QUESTIONS}, "2 records at least to tell behaviour"),
        ({"behaviour": CONTRASTS, "ability": QUESTIONS[:1]}, "2 records at least to tell ability"),
        ({"behaviour": QUESTIONS, "ability": QUESTIONS}, "contrast"),
    ):
        with pytest.raises(RecordError, match=message):
            SteeringTradeoff(strengths=STRENGTHS, **settings).measure(model)
    loud = SteeringTradeoff(
        read="answers", reward=_ten, behaviour=CONTRASTS, ability=QUESTIONS, max_new_tokens=2, strengths=STRENGTHS
    )
    with pytest.raises(SettingsError, match="_ten gave 10"):
        loud.measure(model)
    remote = RemoteModel("nobody", base_url="http://127.0.0.1:9/v1", api_key="none")
    with pytest.raises(UnsupportedError, match="activations"):
        RepresentationSteering().align(remote, CONTRASTS)


def _ten(prompts, responses):
    return np.full(len(prompts), 10.0)
