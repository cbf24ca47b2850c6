"""A model's stack of modifiers: dials turned, modifiers taken out."""

from __future__ import annotations

import pytest
import torch

from tests.conformance import examples
from truing.errors import SettingsError
from truing.methods.prompting.system_message import SystemMessageModifier
from truing.methods.steering.modifier import SteeringModifier


@pytest.fixture
def steered():
    model = examples.model()
    width = model.weights.config.hidden_size
    for at, strength in ((0, 1.0), (1, 2.0)):
        model = model.with_modifier(SteeringModifier(vectors=torch.ones(1, width), at=[at], strength=strength))
    return model.with_modifier(SystemMessageModifier(text="look at the mat"))


def test_a_dial_is_turned_on_a_copy(steered):
    turned = steered.with_strength(0.0)
    assert [m.strength for m in turned.modifiers[:2]] == [1.0, 0.0]
    assert [m.strength for m in steered.modifiers[:2]] == [1.0, 2.0]
    assert [m.strength for m in steered.with_strength(3.0, 0).modifiers[:2]] == [3.0, 2.0]
    both = steered.with_strength(0.0).with_strength(0.0, 0)
    plain = steered.without(0).without("steering")
    assert [type(m).__name__ for m in plain.modifiers] == ["SystemMessageModifier"]
    prompt = examples.PROMPTS[0]
    assert both.generate(prompt, max_new_tokens=8)[0].tokens == plain.generate(prompt, max_new_tokens=8)[0].tokens


def test_what_cannot_be_turned_or_taken_out_says_what_is_there(steered):
    with pytest.raises(SettingsError, match=r"no modifier 'nudging'.*steering, steering, system_message"):
        steered.without("nudging")
    with pytest.raises(SettingsError, match="has no strength"):
        steered.with_strength(1.0, "system_message")
    with pytest.raises(SettingsError, match="finite number"):
        steered.with_strength(float("nan"))
    with pytest.raises(SettingsError, match=r"no modifier with a strength. It carries: none"):
        examples.model().with_strength(1.0)
