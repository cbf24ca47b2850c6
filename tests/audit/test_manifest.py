from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.measures.models import Scripted, small
from truing.audit import Manifest, consistency, integrity, manifest
from truing.audit.canaries import deviations
from truing.errors import ModelError, SettingsError, UnsupportedError
from truing.measures.activation_attack_defences import WAYS, attached
from truing.methods.steering.modifier import SteeringModifier
from truing.models import Model


def scores(model: Any) -> torch.Tensor:
    from truing.models.engine import Engine

    return Engine(model).prefill([[5, 9, 30, 7], [8, 60]]).logits


def kinds(report: Any) -> set[str]:
    return {finding.kind for finding in report.findings}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_model_is_what_its_manifest_says(architecture: str, tmp_path: Path) -> None:
    model = Model(tiny.network(architecture), tiny.tokenizer(), source=architecture)
    made = manifest(model)
    made.save(tmp_path / "m.json")
    kept = Manifest.load(tmp_path / "m.json")
    assert kept == made
    model.generate(["what is the cat?"] * 3, max_new_tokens=3)
    again = Model(tiny.network(architecture), tiny.tokenizer(), source="elsewhere")
    for one in (model, again):
        assert integrity(one, kept).ok
        assert consistency(one, kept).ok
    other = Model(tiny.network(architecture, seed=1), tiny.tokenizer())
    assert kinds(integrity(other, kept)) == {"tensor"}
    assert kinds(consistency(other, kept)) == {"canary"}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_attach_a_vector_acts_and_is_found_and_leaves_nothing(way: str) -> None:
    model = small()
    kept, before, vector = manifest(model), scores(model), torch.linspace(-1, 1, 32)
    steered = scores(model.with_modifier(SteeringModifier(vectors=vector[None], at=[1])))
    with attached(model, 1, vector, way) as attacked:
        torch.testing.assert_close(scores(attacked), steered)
        report = integrity(attacked, kept, hashes=False)
        assert not report.ok
        assert not consistency(attacked, kept).ok
    assert kinds(report) <= {"hook", "patched forward", "module", "modifier", "tensor"}
    with pytest.raises(ZeroDivisionError), attached(model, 1, vector, way):
        raise ZeroDivisionError
    assert integrity(model, kept).ok
    assert torch.equal(scores(model), before)


def test_weights_buffers_and_stray_tensors_are_found() -> None:
    model = small()
    kept = manifest(model)
    quick = manifest(model, hashes=False)
    with torch.no_grad():
        model.weights.model.layers[0].mlp.down_proj.weight[0, 0] += 1e-3
    assert [f.where for f in integrity(model, kept).findings] == ["model.layers.0.mlp.down_proj.weight"]
    assert integrity(model, quick).ok
    model = small()
    model.weights.model.layers[1].register_buffer("push", torch.ones(32))
    model.weights.model.layers[0].push = torch.ones(32)
    model.weights.model.layers[0].mlp.down_proj.bias = torch.nn.Parameter(torch.zeros(32))
    found = {(f.kind, f.where) for f in integrity(model, kept).findings}
    assert found == {
        ("tensor", "model.layers.1.push"),
        ("tensor", "model.layers.0.mlp.down_proj.bias"),
        ("stray tensor", "model.layers.0.push"),
    }


def test_tied_weights_are_one_tensor_with_two_names() -> None:
    model = small(tie_word_embeddings=True)
    kept = manifest(model)
    assert kept.tensors["lm_head.weight"] == kept.tensors["model.embed_tokens.weight"]
    assert integrity(model, kept).ok


def test_modifiers_configuration_tokenizer_and_what_is_gone() -> None:
    model = small()
    steered = model.with_modifier(SteeringModifier(vectors=torch.ones(1, 32), at=[0]))
    stronger = model.with_modifier(SteeringModifier(vectors=torch.ones(1, 32), at=[0], strength=2.0))
    kept = manifest(steered)
    assert integrity(steered, kept).ok
    assert "has other values" in str(integrity(stronger, kept))
    assert "SteeringModifier is gone" in str(integrity(model, kept))
    model.weights.config.rms_norm_eps = 1e-3
    assert kinds(integrity(steered, kept)) == {"configuration"}
    model.weights.config.rms_norm_eps = 1e-6
    hook = model.weights.model.layers[0].register_forward_pre_hook(lambda module, args: None)
    hooked = manifest(steered)
    hook.remove()
    assert [f.what.split(" ", 1)[1] for f in integrity(steered, hooked).findings] == ["ran with it and is gone"]
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert kinds(integrity(steered, kept)) == {"tokenizer"}


def test_files_of_the_folder_are_compared(tmp_path: Path) -> None:
    model, folder = small(), tmp_path / "model"
    model.save(folder)
    kept = manifest(model, folder)
    assert integrity(model, kept, folder).ok
    (folder / "modeling_extra.py").write_text("print('hello')")
    with (folder / "truing.json").open("a") as file:
        file.write(" ")
    (folder / "README.md").unlink()
    found = {(f.where, f.what) for f in integrity(model, kept, folder).findings}
    assert found == {("modeling_extra.py", "was not there"), ("truing.json", "has changed"), ("README.md", "is gone")}
    with pytest.raises(ModelError, match="is no folder"):
        manifest(model, tmp_path / "absent")


def test_any_vector_moves_the_canaries_and_batches_do_not() -> None:
    model = small()
    kept = manifest(model, canaries=5, seed=3)
    assert len(kept.canaries) == 5
    assert kept.canaries == manifest(model, canaries=5, seed=3).canaries != manifest(model, canaries=5, seed=4).canaries
    assert max(deviations(model, kept)) <= kept.tolerance / 10 + 1e-6
    tiny_push = model.with_modifier(SteeringModifier(vectors=torch.linspace(-1, 1, 32)[None], at=[0], strength=0.01))
    assert min(deviations(tiny_push, kept)) > kept.tolerance
    smaller = Model(tiny.network(vocabulary=300), tiny.tokenizer(300))
    assert not consistency(smaller, kept).ok
    with pytest.raises(SettingsError, match="at least 1"):
        manifest(model, canaries=0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[:50], "not JSON"),
        (lambda text: "[1]", "is no manifest of this version"),
        (lambda text: text.replace('"truing_manifest": 1', '"truing_manifest": 9'), "is no manifest of this version"),
        (lambda text: json.dumps({**json.loads(text), "tolerance": "big"}), "`tolerance` is not what it should be"),
        (lambda text: json.dumps({**json.loads(text), "tensors": {"a": [1]}}), "`tensors` is not what"),
        (lambda text: json.dumps({**json.loads(text), "logprobs": []}), "`canaries` is not what"),
    ],
)
def test_what_is_no_manifest_is_one_clear_error(tmp_path: Path, change: Any, expected: str) -> None:
    place = tmp_path / "m.json"
    manifest(small(), canaries=2).save(place)
    place.write_text(change(place.read_text()))
    with pytest.raises(ModelError, match=expected):
        Manifest.load(place)
    with pytest.raises(ModelError, match="cannot be read"):
        Manifest.load(tmp_path / "absent.json")


def test_a_damaged_list_of_scores_is_an_alarm_and_no_crash() -> None:
    model = small()
    kept = manifest(model, canaries=2)
    odd = dataclasses.replace(kept, picked=[kept.picked[0], [1]])
    assert [f.kind for f in consistency(model, odd).findings] == ["canary"]


def test_a_remote_model_has_no_parts() -> None:
    model: Any = Scripted(str.upper)
    kept = manifest(small(), canaries=2)
    for ask in (lambda: manifest(model), lambda: integrity(model, kept), lambda: consistency(model, kept)):
        with pytest.raises(UnsupportedError, match="which scripted does not offer"):
            ask()
    assert model.asked == []


def test_a_report_steers_no_terminal() -> None:
    from truing.audit import Finding, Report

    report = Report((Finding("module", "\x1b[31mred", "was not there"),), {"modules": 3})
    assert "\x1b" not in str(report)
    assert report.to_json()["findings"][0]["kind"] == "module"
    assert str(Report((), {"modules": 3})) == "Nothing has changed: 3 modules compared."
