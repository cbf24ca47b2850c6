"""`ModelMerge` on tiny models of six architectures: exact limits, adapters, folders, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil

import peft
import pytest
import torch

from tests import tiny
from tests.conformance import examples
from truing import RemoteModel, SystemMessage
from truing.errors import ModelError, RecordError, SettingsError, UnsupportedError
from truing.methods.merging.merge import ModelMerge
from truing.methods.merging.tensor_merge import NEEDS_BASE, USES, TensorMerge
from truing.methods.training.policy import working_copy
from truing.models import Model, load, provenance

PROMPTS = examples.PROMPTS


def model(architecture="llama", seed=0, **changes):
    return Model(tiny.network(architecture, seed=seed, **changes), tiny.tokenizer(), source=f"tiny-{architecture}")


def weights_of(one):
    return {name: value.clone() for name, value in one.weights.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def texts(one):
    return one.generate(PROMPTS, max_new_tokens=8).texts


def with_adapter(start, seed=0):
    weights = working_copy(start.weights, {"r": 2, "init_lora_weights": False}, seed).eval()
    return dataclasses.replace(start, weights=weights)


@pytest.fixture(scope="module")
def llamas():
    return [model(seed=seed) for seed in (1, 2, 3)]


@pytest.fixture
def folders(llamas, tmp_path):
    for one, name in zip(llamas, "abc", strict=True):
        one.save(tmp_path / name)
    return [tmp_path / name for name in "abc"]


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_merges_saves_and_loads(architecture, tmp_path):
    one, two = model(architecture, seed=1), model(architecture, seed=2)
    kept = weights_of(one), weights_of(two)
    merged = ModelMerge(models=[two], weights=[3.0, 1.0]).align(one)
    assert equal(weights_of(one), kept[0])
    assert equal(weights_of(two), kept[1])
    for name, value in merged.weights.named_parameters():
        mean = (3 * kept[0][name].double() + kept[1][name].double()) / 4
        torch.testing.assert_close(value.detach(), mean.float(), rtol=1e-6, atol=1e-8)
        assert value.requires_grad
    assert texts(merged) != texts(one)
    merged.save(tmp_path / "merged")
    again = load(tmp_path / "merged")
    assert texts(again) == texts(merged)
    assert again.history[-1].method in ("ModelMerge", "merge")
    assert again.history[-1].settings["models"] == [{"model": f"tiny-{architecture}"}]
    assert again.fingerprint == merged.fingerprint


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("rule", USES)
def test_merging_a_model_with_itself_returns_it_exactly(rule, architecture, caplog):
    one, base = model(architecture, seed=1), model(architecture, seed=2)
    for origin in (base, one) if rule in NEEDS_BASE else (None,):
        merged = ModelMerge(models=[one], rule=rule, base=origin).align(one)
        assert equal(weights_of(merged), weights_of(one))
        assert merged.weights is not one.weights
    assert texts(merged) == texts(one)
    assert caplog.messages == (
        ["No model differs from the base in any tensor, so the merged model is the base."] * bool(origin)
    )


def test_task_arithmetic_of_one_model_goes_from_its_ancestor_to_it(llamas):
    one, base, _ = llamas
    assert equal(weights_of(ModelMerge(rule="task_arithmetic", base=base, lam=1).align(one)), weights_of(one))
    assert equal(weights_of(ModelMerge(rule="task_arithmetic", base=base, lam=0).align(one)), weights_of(base))
    without = ModelMerge(rule="task_arithmetic", base=base, lam=-1).align(one)
    both = ModelMerge(models=[without], rule="task_arithmetic", base=base, weights=[1, 1]).align(one)
    for name, value in weights_of(base).items():
        torch.testing.assert_close(weights_of(both)[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", USES)
def test_same_seed_same_result_and_dare_alone_draws(rule, llamas):
    one, two, base = llamas
    how = {"models": [two], "rule": rule, "base": base if rule in NEEDS_BASE else None}
    first, second = (weights_of(ModelMerge(**how, seed=5).align(one)) for _ in range(2))
    assert equal(first, second)
    assert equal(first, weights_of(ModelMerge(**how, seed=6).align(one))) == (rule != "dare")
    assert not equal(first, weights_of(one))


@pytest.mark.parametrize("tied", [False, True])
def test_tied_weights_are_merged_once_and_stay_tied(tied):
    one, two, base = (model(seed=seed, tie_word_embeddings=tied) for seed in (1, 2, 3))
    merged = ModelMerge(models=[two], rule="dare", drop=0.5, base=base).align(one)
    embedding, head = merged.weights.get_input_embeddings().weight, merged.weights.get_output_embeddings().weight
    assert (head is embedding) == tied
    rule, name = TensorMerge(rule="dare", count=2, based=True, drop=0.5), "model.embed_tokens.weight"
    rows = [weights_of(each)[name] for each in (one, two, base)]
    assert torch.equal(embedding, rule(name, rows[:2], rows[2]))
    assert sum(1 for _ in merged.weights.parameters()) == sum(1 for _ in one.weights.parameters())


def test_dtype_and_buffers_are_those_of_the_model_that_comes_in():
    one, two = model(seed=1), model(seed=2)
    one = one.with_weights(one.weights.to(torch.bfloat16))
    one.weights.register_buffer("mark", torch.tensor([1.0, 2.0]))
    two.weights.register_buffer("mark", torch.tensor([5.0, 6.0]))
    merged = ModelMerge(models=[two]).align(one)
    assert {value.dtype for value in merged.weights.parameters()} == {torch.bfloat16}
    assert merged.weights.mark.tolist() == [1.0, 2.0]


def test_adapters_are_merged_into_copies_first(llamas):
    one, two, base = llamas
    adapted, kept = with_adapter(one), weights_of(one)
    whole = dataclasses.replace(one, weights=copy.deepcopy(adapted.weights).merge_and_unload())
    for left, right, same in ((adapted, two, (whole, two)), (two, adapted, (two, whole))):
        found = ModelMerge(models=[right], rule="ties", base=base).align(left)
        assert not hasattr(found.weights, "peft_config")
        assert equal(weights_of(found), weights_of(ModelMerge(models=[same[1]], rule="ties", base=base).align(same[0])))
    assert hasattr(adapted.weights, "peft_config")
    assert equal(weights_of(one), kept)


def test_modifiers_stay_and_those_of_others_are_told(llamas, caplog):
    spoken = SystemMessage(text="look at the mat").align(llamas[0])
    merged = ModelMerge(models=[SystemMessage(text="hush").align(llamas[1])]).align(spoken)
    assert merged.modifiers == spoken.modifiers
    assert merged.history[0].method == "system_message"
    assert len(merged.history) == 2
    assert caplog.messages == ["Merging takes the weights of tiny-llama alone; its 1 modifiers stay behind."]


def test_model_stock_with_fine_tuned_models_lies_between(llamas, caplog):
    base = llamas[0]
    tuned = []
    for seed in (1, 2):
        weights = copy.deepcopy(base.weights)
        with torch.no_grad():
            for at, value in enumerate(weights.parameters()):
                draw = torch.Generator().manual_seed(at)  # a common direction, and one of its own
                value.add_(0.03 * torch.randn(value.shape, generator=draw))
                value.add_(0.01 * torch.randn(value.shape, generator=draw.manual_seed(1000 * seed + at)))
        tuned.append(base.with_weights(weights))
    for filter_wise in (False, True):
        merged = ModelMerge(models=[tuned[1]], rule="model_stock", base=base, filter_wise=filter_wise).align(tuned[0])
        mean = ModelMerge(models=[tuned[1]]).align(tuned[0])
        far = {n: (v - weights_of(base)[n]).norm() for n, v in weights_of(merged).items()}
        farther = {n: (v - weights_of(base)[n]).norm() for n, v in weights_of(mean).items()}
        assert all(0 < far[n] < farther[n] for n in far if far[n].isfinite() and weights_of(base)[n].dim() == 2)
    # Nine tenths in common: cosines near 0.9 in every row, t never below 0.
    assert caplog.messages == []


# --- folders ---------------------------------------------------------------------------------------------------------


def test_folders_give_what_models_give(llamas, folders, monkeypatch):
    from truing.models import loading

    one, two, base = llamas
    expected = weights_of(ModelMerge(models=[two], rule="ties", base=base).align(one))
    monkeypatch.setattr(loading, "load", None)  # they are read tensor by tensor, never loaded
    found = ModelMerge(models=[str(folders[1])], rule="ties", base=folders[2]).align(one)
    assert equal(weights_of(found), expected)
    assert found.history[-1].settings["models"] == [str(folders[1])]


def test_folders_all_along_are_streamed(llamas, folders, tmp_path, monkeypatch):
    expected = weights_of(ModelMerge(models=[llamas[1]], rule="dare", base=llamas[2]).align(llamas[0]))
    SystemMessage(text="hush").align(llamas[1]).save(folders[1])
    merge = ModelMerge(models=[folders[1]], rule="dare", base=str(folders[2]))
    found = merge.align(folders[0], out=tmp_path / "work")
    assert equal(weights_of(found), expected)
    assert equal(weights_of(load(tmp_path / "work" / "merged")), expected)
    assert (found.source, len(found.history), found.modifiers) == (str(folders[0]), 1, ())
    with pytest.raises(ModelError, match="exists already"):
        merge.align(folders[0], out=tmp_path / "work")
    with pytest.raises(RecordError, match="reads no records"):
        merge.align(folders[0], [{"prompt": "a"}], out=tmp_path / "other")
    # Without `out`, and from a folder with modifiers, in memory.
    assert equal(weights_of(merge.align(folders[0])), expected)
    spoken = ModelMerge(models=[folders[0]]).align(folders[1], out=tmp_path / "more")
    assert spoken.history[0].method == "system_message"
    assert len(spoken.modifiers) == 1
    assert not (tmp_path / "more").exists()


def test_history_of_a_streamed_folder_goes_on(llamas, folders, tmp_path):
    ModelMerge(models=[llamas[1]]).align(llamas[0]).save(tmp_path / "first")
    found = ModelMerge(models=[folders[2]]).align(tmp_path / "first", out=tmp_path / "work")
    assert len(found.history) == 2


def test_adapter_folders_and_names_are_loaded(llamas, folders, tmp_path, caplog):
    base = load(folders[0])
    adapted = with_adapter(base)
    adapted.weights.save_pretrained(tmp_path / "adapter")
    text = (tmp_path / "adapter" / "adapter_config.json").read_text()
    named = re.sub(r'"base_model_name_or_path": [^,]*', f'"base_model_name_or_path": "{folders[0]}"', text)
    (tmp_path / "adapter" / "adapter_config.json").write_text(named)
    expected = weights_of(ModelMerge(models=[adapted]).align(llamas[1]))
    for found in (
        ModelMerge(models=[tmp_path / "adapter"]).align(llamas[1]),
        ModelMerge(models=[tmp_path / "adapter"]).align(folders[1], out=tmp_path / "work"),
    ):
        assert equal(weights_of(found), expected)
    small = load("sandbox/small")
    merged = ModelMerge(models=["sandbox/small"]).align(small)
    assert equal(weights_of(merged), weights_of(small))
    assert provenance.name_of(small.weights) == "sandbox/small"
    assert provenance.name_of(merged.weights) is None


# --- what is refused -------------------------------------------------------------------------------------------------


def test_models_that_do_not_fit(llamas, folders):
    one = llamas[0]
    other_words = dataclasses.replace(llamas[1], tokenizer=tiny.tokenizer(300))
    for given, expected in (
        (model("mistral"), "`model_type` is 'llama' in the one and 'mistral' in the other"),
        (model(seed=1, num_hidden_layers=1), "`num_hidden_layers` is 2 in the one and 1"),
        (model(seed=1, intermediate_size=48), r"mlp.\w+.weight has the shape \[64, 32\] and \[48, 32\]"),
        (model(seed=1, vocabulary=330), "vocabularies differ, 320 tokens and 330"),
        (model(seed=1, num_attention_heads=8, head_dim=4), "`num_attention_heads` is 4 in the one and 8"),
        (model(seed=1, tie_word_embeddings=True), "`tie_word_embeddings` is False in the one and True"),
        (other_words, r"vocabularies differ in \d+ tokens"),
    ):
        with pytest.raises(ModelError, match=expected):
            ModelMerge(models=[llamas[1], given]).align(one)
        with pytest.raises(ModelError, match=expected):
            ModelMerge(rule="task_arithmetic", base=given).align(one)
    model("mistral").save(folders[1])
    with pytest.raises(ModelError, match=r"/b cannot be merged: `model_type`"):
        ModelMerge(models=[folders[1]]).align(one)


def test_an_adapter_without_weights_to_merge(llamas):
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    prompted = llamas[1].with_weights(peft.get_peft_model(copy.deepcopy(llamas[1].weights), settings))
    with pytest.raises(ModelError, match="adapter of type PROMPT_TUNING"):
        ModelMerge(models=[prompted]).align(llamas[0])


def test_a_degenerate_tensor_is_named(llamas):
    base, one, _ = llamas
    pair = [m.with_weights(copy.deepcopy(m.weights).double()) for m in (base, one)]
    opposite = ModelMerge(rule="task_arithmetic", base=pair[0], lam=-1).align(pair[1])
    stock = ModelMerge(models=[opposite], rule="model_stock", base=pair[0])
    with pytest.raises(ModelError, match=r"The tensor model\.\S+ cannot be merged by model_stock: the offsets cancel"):
        stock.align(pair[1])
    fallen = stock.clone(on_degenerate="linear").align(pair[1])
    for name, value in weights_of(pair[0]).items():
        torch.testing.assert_close(weights_of(fallen)[name], value)


@pytest.mark.parametrize(
    ("settings", "error", "expected"),
    [
        ({}, SettingsError, "linear merges 2 models or more, got 1"),
        ({"models": "sandbox/small"}, SettingsError, "`models` is a list"),
        ({"models": [3]}, SettingsError, "`models` takes a model, a folder or a name, got 3"),
        ({"models": [""]}, SettingsError, "`models` takes"),
        ({"models": ["sandbox/small"], "base": 1.5, "rule": "ties"}, SettingsError, "`base` takes"),
        ({"models": ["sandbox/small"], "rule": "model_stock"}, SettingsError, "Give it as `base`"),
        ({"models": ["./no/such"]}, ModelError, "There is no folder ./no/such, named in `models`"),
        ({"models": ["sandbox/nothing"]}, ModelError, "no model `nothing`"),
        ({"models": ["openai/gpt"]}, UnsupportedError, "openai/gpt in `models` is a remote model"),
    ],
)
def test_settings_that_cannot_work(settings, error, expected, llamas):
    with pytest.raises(error, match=re.escape(expected)):
        ModelMerge(**settings).align(llamas[0])


def test_remote_models_are_refused(llamas):
    remote = RemoteModel("nobody", base_url="http://127.0.0.1:9/v1", api_key="none")
    with pytest.raises(UnsupportedError, match="remote"):
        ModelMerge(models=[remote]).align(llamas[0])
    with pytest.raises(UnsupportedError, match="local weights"):
        ModelMerge(models=[llamas[0]]).align(remote)
    with pytest.raises(UnsupportedError, match="remote"):
        ModelMerge(models=[llamas[0]]).align("openai/gpt")


def test_a_quantised_folder_is_refused(llamas, folders):
    config = folders[1] / "config.json"
    config.write_text(config.read_text().replace("{", '{"quantization_config": {"quant_method": "awq"},', 1))
    with pytest.raises(ModelError, match="is quantised"):
        ModelMerge(models=[folders[1]]).align(llamas[0])
    shutil.rmtree(folders[1])
