from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.conformance.examples import ROWS
from tests.conformance.examples import model as tiny_model
from truing import MeanDifferenceSteering, SystemMessage, load
from truing.errors import RecordError, SettingsError
from truing.methods.steering import mean_difference
from truing.methods.steering.mean_difference import SteeringModifier
from truing.models.activations import record
from truing.models.chat import encode_plain
from truing.runs import find_recipe, parse

PAIRS = ROWS["contrast"]
PROMPTS = [row["prompt"] for row in PAIRS]


def linear(**changes):
    """A model whose layers pass on what they are given: every hidden state is the embedding of its token."""
    model = tiny_model(**changes)
    with torch.no_grad():
        for name, weight in model.weights.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
    return model


def embedding(model, text: str) -> torch.Tensor:
    """States of an answer in the linear model, [tokens, width]."""
    return model.weights.get_input_embeddings().weight[encode_plain(model.tokenizer, text)].detach()


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_vector_by_hand_where_activations_are_known(pooling: str) -> None:
    model = linear()
    steered = MeanDifferenceSteering(layers=[0, -1], pooling=pooling, strength=3.0).align(model, PAIRS)

    def pool(text: str) -> torch.Tensor:
        states = embedding(model, text)
        return states.mean(0) if pooling == "mean" else states[-1]

    expected = torch.stack([pool(row["positive"]) - pool(row["negative"]) for row in PAIRS]).mean(0)
    modifier = steered.modifiers[0]
    assert modifier.layers() == [0, 1]
    assert modifier.strength == 3.0
    torch.testing.assert_close(modifier.vectors, torch.stack([expected, expected]), rtol=0, atol=1e-6)
    # What the last layer gives has moved by the vectors of both layers, at every position.
    tokens = encode_plain(model.tokenizer, "the cat sat")
    moved = record(steered, [tokens], [1], "all")[0] - record(model, [tokens], [1], "all")[0]
    torch.testing.assert_close(moved[:, 0], (6.0 * expected).expand(len(tokens), -1), rtol=0, atol=1e-5)


def test_normalised_vectors_have_the_mean_length_of_the_states() -> None:
    model = linear()
    plain = MeanDifferenceSteering(layers=[1]).align(model, PAIRS).modifiers[0].vectors
    scaled = MeanDifferenceSteering(layers=[1], normalise=True).align(model, PAIRS).modifiers[0].vectors
    texts = [row[column] for row in PAIRS for column in ("positive", "negative")]
    length = torch.stack([embedding(model, text).mean(0).norm() for text in texts]).mean()
    torch.testing.assert_close(scaled, plain / plain.norm() * length, rtol=0, atol=1e-5)


def test_many_records_are_measured_in_parts(monkeypatch) -> None:
    whole = MeanDifferenceSteering().align(tiny_model(), PAIRS * 5).modifiers[0].vectors
    monkeypatch.setattr(mean_difference, "CHUNK", 3)
    parts = MeanDifferenceSteering().align(tiny_model(), PAIRS * 5).modifiers[0].vectors
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)
    once = MeanDifferenceSteering().align(tiny_model(), PAIRS).modifiers[0].vectors
    torch.testing.assert_close(whole, once, rtol=0, atol=1e-5)


def test_strength_0_changes_nothing() -> None:
    model = tiny_model()
    steered = MeanDifferenceSteering(strength=0.0).align(model, PAIRS)
    assert steered.generate(PROMPTS, max_new_tokens=12).texts == model.generate(PROMPTS, max_new_tokens=12).texts
    replies = ["red", "grey"]
    np.testing.assert_array_equal(steered.logprobs(PROMPTS, replies), model.logprobs(PROMPTS, replies))


def test_strength_moves_answers_towards_the_positive_ones() -> None:
    # Where each state scores its own token, the vector scores the tokens of positive answers over the others'.
    model = linear()
    with torch.no_grad():
        model.weights.get_output_embeddings().weight.copy_(3 * model.weights.get_input_embeddings().weight)
    good, bad = ["the cat sat", "cat and the"], ["small red bird", "bird is red"]
    pairs = [{"prompt": "what?", "positive": one, "negative": other} for one, other in zip(good, bad, strict=True)]

    def means(strength: float) -> tuple[float, float]:
        steered = MeanDifferenceSteering(strength=strength).align(model, pairs)
        return steered.logprobs(["what?"] * 2, good).mean(), steered.logprobs(["what?"] * 2, bad).mean()

    found = np.array([means(strength) for strength in (-1.0, -0.5, 0.0, 0.5, 1.0)])
    assert (np.diff(found[:, 0]) > 0.05).all()
    assert (np.diff(found[:, 1]) < -0.05).all()


def test_it_is_measured_with_the_modifiers_that_are_there() -> None:
    model = tiny_model()
    first = MeanDifferenceSteering(layers=[0], strength=2.0).align(model, PAIRS)
    second = MeanDifferenceSteering(layers=[1]).align(first, PAIRS)
    alone = MeanDifferenceSteering(layers=[1]).align(model, PAIRS)
    assert len(second.modifiers) == 2
    assert not torch.allclose(second.modifiers[1].vectors, alone.modifiers[0].vectors, atol=1e-3)
    spoken = MeanDifferenceSteering(layers=[1]).align(SystemMessage(text="look at the mat").align(model), PAIRS)
    assert not torch.allclose(spoken.modifiers[1].vectors, alone.modifiers[0].vectors, atol=1e-3)


def test_two_steerings_of_one_layer_add_up() -> None:
    model = tiny_model()
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    one, other = SteeringModifier(vectors=vector, at=[1]), SteeringModifier(vectors=vector, at=[1], strength=0.5)
    both = model.with_modifier(one).with_modifier(other)
    once = model.with_modifier(SteeringModifier(vectors=vector, at=[1], strength=1.5))
    np.testing.assert_allclose(
        both.logprobs(PROMPTS, ["red", "grey"]), once.logprobs(PROMPTS, ["red", "grey"]), rtol=0, atol=1e-5
    )


def test_save_and_load(tmp_path) -> None:
    steered = MeanDifferenceSteering(layers=[1, 0], strength=-0.7).align(tiny_model(), PAIRS)
    steered.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert torch.equal(again.modifiers[0].vectors, steered.modifiers[0].vectors)
    assert (list(again.modifiers[0].at), again.modifiers[0].strength) == ([1, 0], -0.7)
    assert steered.modifiers[0].label == "SteeringModifier(at=[1, 0], strength=-0.7)"
    assert again.generate(PROMPTS, max_new_tokens=12).texts == steered.generate(PROMPTS, max_new_tokens=12).texts


def test_half_precision() -> None:
    model = tiny_model()
    full = MeanDifferenceSteering().align(model, PAIRS).modifiers[0].vectors
    model.weights.to(torch.bfloat16)
    half = MeanDifferenceSteering().align(model, PAIRS)
    assert half.modifiers[0].vectors.dtype == torch.float32
    torch.testing.assert_close(half.modifiers[0].vectors, full, rtol=0.1, atol=0.1)
    hidden = torch.zeros(1, 2, 32, dtype=torch.bfloat16)
    assert half.modifiers[0].edit(hidden, 1, torch.tensor([[0, 1]])).dtype == torch.bfloat16
    assert half.generate(PROMPTS, max_new_tokens=4)


def test_the_middle_layer_is_the_default() -> None:
    assert MeanDifferenceSteering().align(tiny_model(), PAIRS).modifiers[0].layers() == [1]
    deep = tiny_model()
    deep = deep.with_weights(tiny.network(num_hidden_layers=5))
    assert MeanDifferenceSteering().align(deep, PAIRS).modifiers[0].layers() == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, "at least one layer"), ({"layers": 1}, "at least one layer"), ({"layers": [7]}, "no layer 7"),
        ({"layers": [1, -1]}, "twice"), ({"strength": float("inf")}, "strength"), ({"strength": None}, "strength"),
        ({"pooling": "first"}, "pooling is one of"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        MeanDifferenceSteering(**settings).align(tiny_model(), PAIRS)


def test_records_that_cannot_steer() -> None:
    model, good = tiny_model(), PAIRS[0]
    with pytest.raises(RecordError, match="no direction to steer in"):
        MeanDifferenceSteering().align(model, [{**good, "negative": good["positive"]}])
    with pytest.raises(RecordError, match="Row 1, column `negative`: an empty answer"):
        MeanDifferenceSteering().align(model, [good, {**good, "negative": ""}])
    with pytest.raises(RecordError, match=r"Row 0, column `positive`: prompt and answer have \d+ tokens"):
        MeanDifferenceSteering().align(model, [{**good, "positive": "the cat " * 400}])


def test_recipe() -> None:
    recipe, _ = parse(find_recipe("steering")[1], "steering")
    assert recipe.steps[0].records.path == "sandbox/contrasts"
