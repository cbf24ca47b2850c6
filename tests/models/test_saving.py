"""Saving and loading again: weights, adapters, modifiers with every kind of setting, history, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import peft
import pytest
import torch

from tests import tiny
from tests.conformance import examples
from tests.models import parts
from truing import SFT, catalogue
from truing.errors import ModelError, StackError
from truing.methods.training.policy import working_copy
from truing.models import Model, load, provenance
from truing.models.types import Step

PROMPTS = examples.PROMPTS


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(catalogue, "_REGISTERED", list(parts.ENTRIES))


def texts(model):
    return model.generate(PROMPTS, max_new_tokens=8).texts


def notes(folder):
    return json.loads((folder / "truing.json").read_text())


def rewrite(folder, **changes):
    (folder / "truing.json").write_text(json.dumps({**notes(folder), **changes}))


def test_a_saved_model_is_the_same_again_also_after_a_move(tmp_path):
    model = examples.model()
    trained = dataclasses.replace(model, history=(Step("sft", {"learning_rate": 1.0}, {"rows": 3}),))
    trained.save(tmp_path / "out" / "model")
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "model"]
    shutil.move(tmp_path / "out", tmp_path / "moved")
    again = load(tmp_path / "moved" / "model")
    assert texts(again) == texts(model)
    assert again.history == trained.history
    assert again.fingerprint == model.fingerprint
    assert repr(again) == f"Model('{tmp_path}/moved/model', sft)"
    files = list((tmp_path / "moved" / "model").iterdir())
    assert not [path for path in files if path.suffix == ".bin"]
    assert len({path.stat().st_mode for path in files}) == 1
    assert notes(tmp_path / "moved" / "model")["versions"].keys() == {"truing", "torch", "transformers"}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES[1:])
def test_fingerprints_survive_in_every_architecture(architecture, tmp_path):
    model = examples.model(architecture)
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").fingerprint == model.fingerprint


# --- modifiers -------------------------------------------------------------------------------------------------------

VALUES = [
    None, True, 3, 2.5, "text", [1, [2]], {"a": {"b": 1}}, (1, "x"), {3, 1, 2}, frozenset("ab"), {1: "int key"},
    {"$": "a key of ours"}, float("inf"),
    parts.Words(words=("cat", "mat")), [parts.Words(words=["cat"]), parts.letters],
    examples.like_the_cat,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=[str(at) for at in range(len(VALUES))])
def test_settings_of_every_kind_come_back(value, tmp_path):
    model = examples.model().with_modifier(parts.Says(text="look", value=value))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.modifiers == model.modifiers
    assert type(again.modifiers[0].value) is type(value)
    assert again.fingerprint == model.fingerprint


def test_nan_comes_back(tmp_path):
    examples.model().with_modifier(parts.Says(value=[float("nan"), np.float32(2), np.int64(3)])).save(tmp_path / "m")
    nan, two, three = load(tmp_path / "m").modifiers[0].value
    assert np.isnan(nan)
    assert (two, three) == (2.0, 3)


def test_tensors_arrays_and_order(tmp_path):
    scores = torch.zeros(320)
    scores[70:90] = -9.0
    half = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T
    value = {"a/../b": half, "a_.._b": np.arange(3.0), "big": np.array([1], ">i4")}
    model = (
        examples.model()
        .with_modifier(parts.Bans(scores=scores))
        .with_modifier(parts.Says(text="the mat", value=value))
        .with_modifier(parts.Bans(scores=scores * 2))
    )  # fmt: skip
    model.save(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model" / "modifiers").iterdir()} == {
        "01-bans.safetensors", "02-says.safetensors", "03-bans.safetensors"
    }  # fmt: skip
    again = load(tmp_path / "model")
    assert [type(modifier) for modifier in again.modifiers] == [parts.Bans, parts.Says, parts.Bans]
    assert torch.equal(again.modifiers[0].scores, scores)
    assert torch.equal(again.modifiers[2].scores, scores * 2)
    value = again.modifiers[1].value
    assert torch.equal(value["a/../b"], half)
    assert value["a/../b"].dtype == torch.bfloat16
    np.testing.assert_array_equal(value["a_.._b"], np.arange(3.0))
    assert value["big"].tolist() == [1]
    assert again.fingerprint == model.fingerprint
    assert texts(again) == texts(model) != texts(examples.model())


def test_models_within_modifiers_are_saved_unless_a_name_loads_them(tmp_path):
    guide = examples.model("qwen3", seed=7).with_modifier(parts.Bans(scores=torch.zeros(320)))
    named = examples.model("opt")
    provenance.remember(named.weights, "sandbox/guide", named.tokenizer)
    # Names of one's own making load nothing: this one is not known to have been loaded.
    own = dataclasses.replace(examples.model(seed=3), source="sandbox/base")
    value = {"guide": guide, "named": named, "own": [own]}
    model = examples.model().with_modifier(parts.Says(value=value))
    model.save(tmp_path / "model")
    packed = notes(tmp_path / "model")["modifiers"][0]["settings"]["value"]
    assert packed["named"] == {"$": "model", "name": "sandbox/guide"}
    assert {path.name for path in (tmp_path / "model" / "modifiers").iterdir()} == {
        packed["guide"]["saved"], packed["own"][0]["saved"]
    }  # fmt: skip
    rewrite(
        tmp_path / "model",
        modifiers=[{"$": "modifier", "name": "says", "settings": {"value": [packed["guide"], packed["own"][0]]}}],
    )
    shutil.move(tmp_path / "model", tmp_path / "moved")
    first, second = load(tmp_path / "moved").modifiers[0].value
    assert first.fingerprint == guide.fingerprint
    assert second.fingerprint == own.fingerprint


def test_a_changed_model_is_no_longer_what_its_name_loads():
    model = examples.model()
    provenance.remember(model.weights, "sandbox/base", model.tokenizer)
    assert provenance.name_of(model.weights, model.tokenizer) == "sandbox/base"
    other = tiny.tokenizer(chat=False)
    assert provenance.name_of(model.weights, other) is None
    with torch.no_grad():
        next(model.weights.parameters()).add_(1)
    assert provenance.name_of(model.weights, model.tokenizer) is None
    for change in (
        lambda w: w.half(),
        lambda w: setattr(w.lm_head, "weight", torch.nn.Parameter(torch.zeros(320, 32))),
    ):
        model = examples.model()
        provenance.remember(model.weights, "sandbox/base", model.tokenizer)
        change(model.weights)
        assert provenance.name_of(model.weights) is None


# --- functions and code ----------------------------------------------------------------------------------------------


def nested():
    def inner(prompts, responses):
        return np.zeros(len(responses))

    return inner


@pytest.mark.parametrize(
    "bad", [lambda prompts, responses: 0, nested(), np.sum, parts.Words().__call__, object(), len, Model, b"bytes"]
)
def test_what_cannot_be_saved_is_an_error_before_anything_is_written(bad, tmp_path):
    model = examples.model().with_modifier(parts.Says(value=[bad]))
    with pytest.raises(ModelError, match=r"01-says-value-0.*cannot be saved"):
        model.save(tmp_path / "out" / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_modifier_that_the_catalogue_does_not_know(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    with pytest.raises(ModelError, match=r"truing\.catalogue\.register"):
        examples.model().with_modifier(parts.Says()).save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def with_function(folder, name):
    examples.model().with_modifier(parts.Best(reward=parts.letters)).save(folder)
    packed = notes(folder)["modifiers"]
    packed[0]["settings"]["reward"]["name"] = name
    rewrite(folder, modifiers=packed)


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:call", "builtins:exec", "os:path.join", "tests.models.parts:np", "os", "", ":"]
)
def test_a_file_cannot_name_code_of_its_choice(name, tmp_path):
    with_function(tmp_path / "m", name)
    with pytest.raises(ModelError, match=r"Modifier 1.*functions=\["):
        load(tmp_path / "m")


def test_a_module_that_is_not_imported_stays_so(tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with_function(tmp_path / "m", "never_imported:reward")
    with pytest.raises(ModelError, match="import the module 'never_imported' first"):
        load(tmp_path / "m")


def test_a_function_without_the_shape_of_a_reward_is_given_by_hand(tmp_path):
    model = examples.model().with_modifier(parts.Best(reward=parts.shaped_otherwise))
    model.save(tmp_path / "m")
    with pytest.raises(ModelError, match="functions="):
        load(tmp_path / "m")
    assert texts(load(tmp_path / "m", functions=[parts.shaped_otherwise])) == texts(model)


# --- places ----------------------------------------------------------------------------------------------------------


def test_saving_over_a_saved_model_replaces_it(tmp_path):
    examples.model().with_modifier(parts.Bans(scores=torch.zeros(320))).save(tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("A model card.")
    other = examples.model("opt")
    other.save(tmp_path / "m")
    assert texts(load(tmp_path / "m")) == texts(other)
    assert not (tmp_path / "m" / "modifiers").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path):
    model = examples.model()
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match=r"thesis\.txt"):
        model.save(tmp_path)
    model.save(tmp_path / "m")
    (tmp_path / "m" / "thesis.txt").write_text("years of work")
    before = sorted((tmp_path / "m").iterdir())
    with pytest.raises(ModelError, match=r"thesis\.txt"):
        model.save(tmp_path / "m")
    assert sorted((tmp_path / "m").iterdir()) == before
    with pytest.raises(ModelError, match="is a file"):
        model.save(tmp_path / "thesis.txt")
    with pytest.raises(ModelError, match="cannot be written"):
        model.save(tmp_path / "thesis.txt" / "inside")
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    assert load(tmp_path / "empty").fingerprint == model.fingerprint


def test_a_failure_while_writing_leaves_the_old_model_whole(tmp_path, monkeypatch):
    old = examples.model()
    old.save(tmp_path / "m")
    broken = examples.model("opt").with_modifier(parts.Bans(scores=torch.zeros(3)))

    def full(*args, **how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("truing.models.saving.save_file", full)
    with pytest.raises(ModelError, match="No space left"):
        broken.save(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert load(tmp_path / "m").fingerprint == old.fingerprint


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_a_name(tmp_path, monkeypatch):
    """A model as loaded from `sandbox/base`, from a folder that stands in for the shipped one."""
    examples.model().save(tmp_path / "shipped")
    monkeypatch.setattr("truing.sandbox.checkpoint", lambda name: tmp_path / "shipped")
    return load("sandbox/base")


def sft(model, **changes):
    how = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-2, **changes}
    return SFT(**how).align(model, examples.ROWS["demonstration"])


def lora(model):
    """As a training with an adapter leaves a model."""
    weights = working_copy(model.weights, {"target_modules": "all-linear", "init_lora_weights": False}, seed=0)
    return dataclasses.replace(model, weights=weights.eval(), history=(*model.history, Step("sft", {})))


def test_an_adapter_is_saved_alone_where_its_base_loads_by_name(on_a_name, tmp_path):
    tuned = sft(on_a_name, adapter="lora")
    assert texts(tuned) != texts(on_a_name)
    tuned.save(tmp_path / "tuned")
    names = {path.name for path in (tmp_path / "tuned").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "1. **sft** on 4 demonstration records" in card
    assert "library_name: truing" in card
    assert notes(tmp_path / "tuned")["base"] == "sandbox/base"
    shutil.move(tmp_path / "tuned", tmp_path / "moved")
    again = load(tmp_path / "moved")
    assert texts(again) == texts(tuned)
    assert again.history == tuned.history
    replies = ["the cat", "red", "grey"]
    np.testing.assert_allclose(again.logprobs(PROMPTS, replies), tuned.logprobs(PROMPTS, replies), rtol=0, atol=1e-5)
    # What was loaded can be saved again, and trained on: then the weights are no longer those of the name.
    again.save(tmp_path / "moved")
    assert texts(load(tmp_path / "moved")) == texts(tuned)
    further = lora(again)
    further.save(tmp_path / "further")
    assert notes(tmp_path / "further")["kind"] == "full"
    assert texts(load(tmp_path / "further")) == texts(further)


def test_an_adapter_on_changed_or_nameless_weights_is_merged(on_a_name, tmp_path):
    full = on_a_name.with_weights(working_copy(on_a_name.weights, None, seed=0).eval())
    with torch.no_grad():
        full.weights.lm_head.weight.mul_(1.5)
    for start in (examples.model(), full, load(tmp_path / "shipped")):
        tuned = lora(start)
        tuned.save(tmp_path / "m")
        assert notes(tmp_path / "m")["kind"] == "full"
        again = load(tmp_path / "m")
        replies = ["the cat", "red", "grey"]
        np.testing.assert_allclose(
            again.logprobs(PROMPTS, replies), tuned.logprobs(PROMPTS, replies), rtol=0, atol=1e-4
        )
        assert hasattr(tuned.weights, "peft_config"), "saving leaves the model as it is"


def test_an_adapter_whose_base_was_changed_in_place_is_merged(on_a_name, tmp_path):
    tuned = lora(on_a_name)
    with torch.no_grad():
        on_a_name.weights.get_input_embeddings().weight.mul_(1.5)
    tuned.save(tmp_path / "m")
    assert notes(tmp_path / "m")["kind"] == "full"
    assert texts(load(tmp_path / "m")) == texts(tuned)


def test_an_adapter_that_cannot_be_merged(tmp_path):
    model = examples.model()
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ModelError, match="PROMPT_TUNING cannot be merged"):
        model.with_weights(peft.get_peft_model(model.weights, config)).save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# --- history and stacks ----------------------------------------------------------------------------------------------


def test_history_holds_catalogue_names_and_plain_values():
    tuned = sft(examples.model(), adapter="lora")
    step = tuned.history[-1]
    assert step.method == "sft"
    assert step.settings["adapter"] == "lora"
    assert json.loads(json.dumps(step.to_json(), allow_nan=False)) == step.to_json()
    assert Step.from_json({**step.to_json(), "of a later version": 1}) == step


def test_plain_settings_say_the_same_in_every_process():
    from truing.models.history import plain

    guide = examples.guide()
    told = plain({"s": {"b", "a", "c"}, "f": parts.letters, "g": guide, "r": parts.Words(words=("x",)), "o": object(),
                  "inf": float("inf"), "t": torch.zeros(2, 3), "n": np.float32(0.5)})  # fmt: skip
    assert told == {
        "s": ["a", "b", "c"], "f": {"function": "tests.models.parts:letters"}, "g": {"model": "tiny-qwen3"},
        "r": {"type": "Words", "settings": {"words": ["x"]}}, "o": "object", "inf": "inf",
        "t": "Tensor of shape [2, 3]", "n": 0.5,
    }  # fmt: skip


def test_unstacking_a_method_that_nobody_knows():
    model = dataclasses.replace(examples.model(), history=(Step("Unheard", {}),))
    with pytest.raises(StackError, match="Unheard"):
        model.unstack()
    with pytest.raises(StackError, match="no step"):
        examples.model().unstack()


# --- fingerprints ----------------------------------------------------------------------------------------------------


def same(value, other):
    model = examples.model()
    left, right = (model.with_modifier(parts.Says(value=item)).fingerprint for item in (value, other))
    return left == right


class Holder:
    def __init__(self, value):
        self.value = value


def closure(number):
    return lambda prompts, responses: number


def test_fingerprints_tell_settings_apart_and_nothing_else():
    assert same({"b", "a"}, {"a", "b"})
    assert same({"x": 1, "y": 2}, {"y": 2, "x": 1})
    assert same(Holder(1), Holder(1))
    assert same(closure(1), closure(1))
    assert same(parts.Words(words={"q", "r"}), parts.Words(words={"r", "q"}))
    assert same(examples.model("opt"), examples.model("opt"))
    assert same(torch.zeros(2), torch.zeros(2))
    ring: list = []
    ring.append(ring)
    assert same(ring, ring)
    assert not same(Holder(1), Holder(2))
    assert not same(closure(1), closure(2))
    assert not same(parts.letters, parts.shaped_otherwise)
    assert not same(parts.Words(words=["a"]), parts.Words(words=["b"]))
    assert not same(1, "1")
    assert not same(1, True)
    assert not same("a", b"a")
    assert not same(torch.zeros(2), torch.zeros(1, 2))
    assert not same(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    assert not same(np.zeros(2), np.ones(2))
    assert not same(examples.model("opt"), examples.model("opt", seed=1))
    assert not same(["a", "b"], ["a,b"])


def test_fingerprints_follow_weights_template_and_configuration():
    model = examples.model()
    start = model.fingerprint
    assert examples.model().fingerprint == start
    assert dataclasses.replace(model, source="elsewhere", history=(Step("sft", {}),)).fingerprint == start
    model.tokenizer.padding_side = "right"
    assert model.fingerprint == start
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert model.fingerprint != start
    model = examples.model()
    model.weights.config.rms_norm_eps = 0.1
    assert model.fingerprint != start
    model = examples.model()
    with torch.no_grad():
        list(model.weights.parameters())[-1].add_(1e-6)
    assert model.fingerprint != start
