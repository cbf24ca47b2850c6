from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.cli.conftest import truing  # noqa: F401
from tests.conformance.examples import ROWS
from tests.conformance.examples import model as tiny_model
from truing import RepresentationSteering, SteeringTradeoff, SystemMessage, load
from truing.errors import ModelError, RecordError, SettingsError
from truing.methods.steering import reading
from truing.methods.steering.layer_search import contrastive_scores
from truing.methods.steering.modifier import SteeringModifier
from truing.methods.steering.vectors import SteeringVector
from truing.models import activations
from truing.models.activations import record
from truing.models.chat import encode_plain
from truing.runs import find_recipe, parse
from truing.sandbox import records

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
    steered = RepresentationSteering(layers=[0, -1], pooling=pooling, strength=3.0).align(model, PAIRS)

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
    plain = RepresentationSteering(layers=[1]).align(model, PAIRS).modifiers[0].vectors
    scaled = RepresentationSteering(layers=[1], length="states").align(model, PAIRS).modifiers[0].vectors
    texts = [row[column] for row in PAIRS for column in ("positive", "negative")]
    length = torch.stack([embedding(model, text).mean(0).norm() for text in texts]).mean()
    torch.testing.assert_close(scaled, plain / plain.norm() * length, rtol=0, atol=1e-5)


def test_many_records_are_measured_in_parts(monkeypatch) -> None:
    whole = RepresentationSteering().align(tiny_model(), PAIRS * 5).modifiers[0].vectors
    monkeypatch.setitem(activations.TOKENS, "cpu", 40)
    parts = RepresentationSteering().align(tiny_model(), PAIRS * 5).modifiers[0].vectors
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)
    once = RepresentationSteering().align(tiny_model(), PAIRS).modifiers[0].vectors
    torch.testing.assert_close(whole, once, rtol=0, atol=1e-5)


def test_strength_0_changes_nothing() -> None:
    model = tiny_model()
    steered = RepresentationSteering(strength=0.0).align(model, PAIRS)
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
        steered = RepresentationSteering(strength=strength).align(model, pairs)
        return steered.logprobs(["what?"] * 2, good).mean(), steered.logprobs(["what?"] * 2, bad).mean()

    found = np.array([means(strength) for strength in (-1.0, -0.5, 0.0, 0.5, 1.0)])
    assert (np.diff(found[:, 0]) > 0.05).all()
    assert (np.diff(found[:, 1]) < -0.05).all()


def test_it_is_measured_with_the_modifiers_that_are_there() -> None:
    model = tiny_model()
    first = RepresentationSteering(layers=[0], strength=2.0).align(model, PAIRS)
    second = RepresentationSteering(layers=[1]).align(first, PAIRS)
    alone = RepresentationSteering(layers=[1]).align(model, PAIRS)
    assert len(second.modifiers) == 2
    assert not torch.allclose(second.modifiers[1].vectors, alone.modifiers[0].vectors, atol=1e-3)
    spoken = RepresentationSteering(layers=[1]).align(SystemMessage(text="look at the mat").align(model), PAIRS)
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
    steered = RepresentationSteering(layers=[1, 0], strength=-0.7).align(tiny_model(), PAIRS)
    steered.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert torch.equal(again.modifiers[0].vectors, steered.modifiers[0].vectors)
    assert (list(again.modifiers[0].at), again.modifiers[0].strength) == ([0, 1], -0.7)
    assert steered.modifiers[0].label == "SteeringModifier(at=[0, 1], strength=-0.7)"
    assert again.generate(PROMPTS, max_new_tokens=12).texts == steered.generate(PROMPTS, max_new_tokens=12).texts


def test_half_precision() -> None:
    model = tiny_model()
    full = RepresentationSteering().align(model, PAIRS).modifiers[0].vectors
    model.weights.to(torch.bfloat16)
    half = RepresentationSteering().align(model, PAIRS)
    assert half.modifiers[0].vectors.dtype == torch.float32
    torch.testing.assert_close(half.modifiers[0].vectors, full, rtol=0.1, atol=0.1)
    hidden = torch.zeros(1, 2, 32, dtype=torch.bfloat16)
    assert half.modifiers[0].edit(hidden, 1, torch.tensor([[0, 1]])).dtype == torch.bfloat16
    assert half.generate(PROMPTS, max_new_tokens=4)


def test_the_middle_layer_is_the_default() -> None:
    assert RepresentationSteering().align(tiny_model(), PAIRS).modifiers[0].layers() == [1]
    deep = tiny_model()
    deep = deep.with_weights(tiny.network(num_hidden_layers=5))
    assert RepresentationSteering().align(deep, PAIRS).modifiers[0].layers() == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, "at least one layer"), ({"layers": 1}, "at least one layer"), ({"layers": [7]}, "no layer 7"),
        ({"layers": [1, -1]}, "twice"), ({"strength": float("inf")}, "strength"), ({"strength": None}, "strength"),
        ({"pooling": "first"}, "pooling is one of"), ({"layers": "best"}, "middle, probe, contrast"),
        ({"method": "lda"}, "method is one of mean"), ({"length": "long"}, "length is one of"),
        ({"operator": "subtract"}, "operator is one of add"), ({"positions": "first"}, "positions is one of all"),
        ({"depth": [0.5]}, "two shares"), ({"depth": [0.7, 0.2]}, "two shares"), ({"held_out": 1.0}, "held_out"),
        ({"strength": "auto"}, "name one by `ability`"), ({"score": "kl"}, "score is one of jsd"),
        ({"vectors": "v.bin"}, r"ends with \.safetensors or \.gguf"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RepresentationSteering(**settings).align(tiny_model(), None if "vectors" in settings else PAIRS)


def test_records_that_cannot_steer() -> None:
    model, good = tiny_model(), PAIRS[0]
    with pytest.raises(RecordError, match="no direction to steer in"):
        RepresentationSteering().align(model, [{**good, "negative": good["positive"]}])
    with pytest.raises(RecordError, match="Row 1, column `negative`: an empty answer"):
        RepresentationSteering().align(model, [good, {**good, "negative": ""}])
    with pytest.raises(RecordError, match=r"Row 0, column `positive`: prompt and answer have \d+ tokens"):
        RepresentationSteering().align(model, [{**good, "positive": "the cat " * 400}])


def test_records_or_vectors_and_not_both(tmp_path) -> None:
    model = tiny_model()
    with pytest.raises(RecordError, match="contrast records, or takes `vectors`"):
        RepresentationSteering().align(model)
    vector = RepresentationSteering().fit(model, PAIRS)
    with pytest.raises(RecordError, match="Leave one of them out"):
        RepresentationSteering(vectors=vector).align(model, PAIRS)
    with pytest.raises(ModelError, match="cannot be read"):
        RepresentationSteering(vectors=tmp_path / "none.gguf").align(model)


@pytest.mark.parametrize("method", ["mean", "pca_center", "pca", "probe"])
def test_every_method_reads_the_direction_that_is_there(method: str) -> None:
    # The linear model's states are embeddings; one unit of one token of an answer tells the sides apart.
    model = linear()
    with torch.no_grad():
        embeddings = model.weights.get_input_embeddings().weight
        embeddings.mul_(0.1)
        for text, side in ((" cat", 1.0), (" bird", -1.0)):
            embeddings[encode_plain(model.tokenizer, text)[-1]] += side * torch.eye(32)[3]
    ends = ("the", "sat", "mat", "looked", "small", "stone", "red", "grey")
    pairs = [{"prompt": "what?", "positive": f"{end} cat", "negative": f"{end} bird"} for end in ends]
    steering = RepresentationSteering(layers=[1], method=method)
    vector = steering.align(model, pairs).modifiers[0].vectors[0]
    assert torch.cosine_similarity(vector, torch.eye(32)[3], dim=0) > 0.95
    # Strength 1 moves as far as the two sides are apart along it.
    mean = steering.clone(method="mean").align(model, pairs).modifiers[0].vectors[0]
    assert vector.norm() == pytest.approx(float(mean @ vector / vector.norm()), rel=1e-4)
    unit = steering.clone(length="unit").align(model, pairs).modifiers[0].vectors[0]
    assert unit.norm() == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(unit * vector.norm(), vector)


def test_the_layer_is_looked_for_within_the_depth() -> None:
    model = tiny_model().with_weights(tiny.network(num_hidden_layers=6))
    pairs = [{**row, "prompt": f"{row['prompt']} {word}"} for row in PAIRS for word in ("now", "then", "here", "why")]
    at = list(range(1, 5))
    states = RepresentationSteering(layers=at)._states(model, _sides(model, pairs))[1]
    for score in ("jsd", "separation", "release"):
        expected = at[int(contrastive_scores(states[:, 0], states[:, 1], score).argmax())]
        steered = RepresentationSteering(layers="contrast", depth=(0.2, 0.8), score=score).align(model, pairs)
        assert steered.modifiers[0].layers() == [expected]
    found = RepresentationSteering(layers="probe", depth=(0.2, 0.8)).align(model, pairs).modifiers[0].layers()
    assert found == [at[reading.best_by_probe(reading.probe_scores(states))]]
    first = RepresentationSteering(layers="contrast", depth=(0.0, 0.1)).align(model, pairs)
    assert first.modifiers[0].layers() == [0]
    with pytest.raises(SettingsError, match="at least 2 pairs"):
        RepresentationSteering(layers="probe").align(model, PAIRS[:1])


def _sides(model, rows):
    from truing.methods.steering.representation import SIDES, _encoded

    return [[_encoded(model, at, row, side) for side in SIDES] for at, row in enumerate(rows)]


def test_auto_takes_the_strength_that_the_measure_names() -> None:
    model = load("sandbox/base")
    rows = records("contrasts", "train", 24)
    steering = RepresentationSteering(layers=[-1], strength="auto", ability="sandbox/questions:dev", loss=0.05)
    chosen = steering.align(model, rows)
    learn, test = reading.held_out(24, 0.25, 0)
    fixed = RepresentationSteering(layers=[-1]).align(model, [rows[at] for at in learn])
    assert torch.equal(chosen.modifiers[0].vectors, fixed.modifiers[0].vectors)
    measure = SteeringTradeoff(behaviour=[rows[at] for at in test], ability="sandbox/questions:dev")
    assert chosen.modifiers[0].strength == measure.measure(fixed).best(0.05) > 0


def test_vectors_from_a_file_steer_as_those_they_were_written_from(tmp_path) -> None:
    model = tiny_model()
    for name in ("v.gguf", "v.safetensors"):
        steered = RepresentationSteering(layers=[1, 0], strength=2.0, export=tmp_path / name).align(model, PAIRS)
        again = RepresentationSteering(vectors=str(tmp_path / name), strength=2.0).align(model)
        assert texts(again) == texts(steered)
        assert again.modifiers[0].layers() == [0, 1]
        only = RepresentationSteering(vectors=SteeringVector.load(tmp_path / name), layers=[-1]).align(model)
        assert only.modifiers[0].layers() == [1]
        with pytest.raises(SettingsError, match="layers of their own"):
            RepresentationSteering(vectors=tmp_path / name, layers="middle").align(model)
    assert again.history[-1].settings["vectors"].endswith("v.safetensors")


def texts(model):
    return model.generate(PROMPTS, max_new_tokens=12).texts


def test_command_line(tmp_path, truing) -> None:  # noqa: F811
    made = truing(
        "align", "steering", "--model", "sandbox/base", "--records", "sandbox/contrasts",
        "--layers", "-1", "--strength", "3", "--method", "pca_center", "--export", tmp_path / "polite.gguf",
        "--out", tmp_path / "model",
    )  # fmt: skip
    assert made.code == 0, made.err
    vector = SteeringVector.load(tmp_path / "polite.gguf")
    assert vector.layers == [3]
    again = truing(
        "align", "steering", "--model", "sandbox/base", "--vectors", tmp_path / "polite.gguf", "--strength", "3",
        "--out", tmp_path / "again",
    )  # fmt: skip
    assert again.code == 0, again.err
    first, second = (load(tmp_path / name) for name in ("model", "again"))
    torch.testing.assert_close(first.modifiers[0].vectors, second.modifiers[0].vectors)
    measured = truing(
        "measure", "steering_tradeoff", "--model", tmp_path / "model", "--limit", "10", "--strengths", "0,1.5,3",
        "--split", "dev",
    )  # fmt: skip
    assert measured.code == 0, measured.err
    assert "best strength" in measured.out
    assert "strength  behaviour" in measured.out


def test_recipe() -> None:
    recipe, _ = parse(find_recipe("steering")[1], "steering")
    assert recipe.steps[0].records.path == "sandbox/contrasts"
    auto, _ = parse(find_recipe("steering-auto")[1], "steering-auto")
    assert auto.steps[0].settings["strength"] == "auto"
    assert auto.measures[1].measure == "steering_tradeoff"
