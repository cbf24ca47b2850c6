"""Loading: each way to name a model, types and devices, and one clear error for whatever is damaged or absent."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import textwrap
import time

import peft
import pytest
import torch

from tests import tiny
from tests.conformance import examples
from tests.models import parts
from truing import catalogue
from truing.errors import ModelError
from truing.models import RemoteModel, load
from truing.models.types import Step


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(catalogue, "_REGISTERED", list(parts.ENTRIES))


@pytest.fixture
def folder(tmp_path):
    examples.model().with_modifier(parts.Bans(scores=torch.zeros(320))).save(tmp_path / "m")
    return tmp_path / "m"


def texts(model):
    return model.generate(examples.PROMPTS, max_new_tokens=8).texts


def rewrite(folder, **changes):
    held = json.loads((folder / "truing.json").read_text())
    (folder / "truing.json").write_text(json.dumps({**held, **changes}))


# --- ways to name a model --------------------------------------------------------------------------------------------


def test_a_plain_folder_of_transformers(tmp_path, monkeypatch):
    model = examples.model()
    model.weights.save_pretrained(tmp_path / "m")
    model.tokenizer.save_pretrained(tmp_path / "m")
    again = load(tmp_path / "m")
    assert texts(again) == texts(model)
    assert (again.history, again.modifiers) == ((), ())
    monkeypatch.chdir(tmp_path)
    assert load("m").source == "m"
    assert load("./m").name == "m"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts(load("~/m")) == texts(model)


def test_a_sandbox_name(folder, monkeypatch):
    monkeypatch.setattr("truing.sandbox.checkpoint", lambda name: folder)
    assert load("sandbox/base").source == "sandbox/base"
    assert load("sandbox/base").name == "sandbox/base"


def test_a_remote_name(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    remote = load("openai/some/model:tag")
    assert isinstance(remote, RemoteModel)
    assert (remote.model, remote.url, remote.source) == (
        "some/model:tag", "http://127.0.0.1:9/v1", "openai/some/model:tag"
    )  # fmt: skip


HUB = """
    import sys, os
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from truing.models import load, provenance
    plain = load("owner/plain")
    assert provenance.name_of(plain.weights, plain.tokenizer) == "owner/plain" == plain.source
    adapter = load("owner/adapter")
    assert provenance.name_of(adapter.weights.get_base_model()) == "owner/plain"
    saved = load("owner/saved")
    assert [step.method for step in saved.history] == ["sft"] and saved.source == "owner/saved"
    adapter.save("here")
    assert {{"README.md", "adapter_config.json", "adapter_model.safetensors"}} <= set(os.listdir("here"))
    assert "model.safetensors" not in os.listdir("here")
    how = dict(max_new_tokens=8)
    print([model.generate(["the cat"], **how).texts for model in (plain, adapter, saved, load("here"))])
    try:
        load("owner/absent")
    except Exception as error:
        assert type(error).__name__ == "ModelError" and "hub" in str(error), repr(error)
    else:
        raise SystemExit("found what is absent")
"""


def test_hub_names_offline_from_the_cache(tmp_path):
    """Weights, an adapter and a saved model, in the layout of the hub's cache, without any network."""
    model, other = examples.model(), examples.model(seed=5)

    def place(name):
        root = tmp_path / "hub" / f"models--owner--{name}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("0" * 40)
        (root / "snapshots").mkdir()
        return root / "snapshots" / ("0" * 40)

    plain = place("plain")
    model.weights.save_pretrained(plain)
    model.tokenizer.save_pretrained(plain)
    wrapped = peft.get_peft_model(examples.model().weights, peft.LoraConfig(init_lora_weights=False))
    wrapped.peft_config["default"].base_model_name_or_path = "owner/plain"
    wrapped.save_pretrained(place("adapter"), save_embedding_layers=False)
    dataclasses.replace(other, history=(Step("sft", {}),)).save(place("saved"))
    code = textwrap.dedent(HUB).format(root=os.getcwd())
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    with_adapter = dataclasses.replace(model, weights=wrapped.eval())
    told = [one.generate(["the cat"], max_new_tokens=8).texts for one in (model, with_adapter, other, with_adapter)]
    assert ran.stdout.strip() == str(told)
    assert told[0] != told[1] != told[2]


# --- adapters of PEFT ------------------------------------------------------------------------------------------------


def adapter_of(tmp_path, base, **lora):
    model = examples.model()
    model.weights.save_pretrained(tmp_path / "base")
    model.tokenizer.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(model.weights, peft.LoraConfig(init_lora_weights=False, **lora)).eval()
    wrapped.peft_config["default"].base_model_name_or_path = base
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return dataclasses.replace(model, weights=wrapped)


@pytest.mark.parametrize("base", ["../base", "base", "{}/base"])
def test_an_adapter_finds_its_base_from_its_own_folder_too(base, tmp_path, monkeypatch):
    model = adapter_of(tmp_path, base.format(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load(tmp_path / "adapter")
    assert texts(again) == texts(model)
    again.save("whole")
    shutil.rmtree(tmp_path / "base")
    assert texts(load("whole")) == texts(model)


def test_an_adapter_that_brings_its_own_tokenizer(tmp_path):
    adapter_of(tmp_path, "../base")
    own = tiny.tokenizer(chat=False)
    own.save_pretrained(tmp_path / "adapter")
    assert load(tmp_path / "adapter").tokenizer.chat_template is None
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ModelError, match=r"base '\.\./base'.*no such folder"):
        load(tmp_path / "adapter")


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_damaged_adapters(tmp_path):
    adapter_of(tmp_path, "../base")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    first = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, path)
    with pytest.raises(ModelError, match="lacks 1 tensors"):
        load(tmp_path / "adapter")
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path / "adapter")
    torch.save(tensors, tmp_path / "adapter" / "adapter_model.bin")
    path.unlink()
    with pytest.raises(ModelError, match="safetensors only"):
        load(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="names no base"):
        load(tmp_path / "adapter")


# --- types and devices -----------------------------------------------------------------------------------------------


def test_the_type_of_the_weights(tmp_path):
    model = examples.model()
    model.weights.half()
    model.save(tmp_path / "half")
    if not torch.cuda.is_available():
        assert load(tmp_path / "half").weights.dtype == torch.float32
    assert load(tmp_path / "half", dtype="bfloat16").weights.dtype == torch.bfloat16
    assert load(tmp_path / "half", dtype="fp16", device="cpu").weights.dtype == torch.float16
    assert load(tmp_path / "half", dtype=torch.float16).weights.dtype == torch.float16
    assert load(tmp_path / "half", dtype="torch.float32").weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"dtype": "float8"}, "`dtype` is one of"),
        ({"dtype": 16}, "`dtype` is one of"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used"),
        ({"device": ""}, "device '' cannot be used"),
    ],
)
def test_types_and_devices_that_are_not_there(how, match, folder):
    with pytest.raises(ModelError, match=match):
        load(folder, **how)


def test_padding(tmp_path):
    model = examples.model()
    model.tokenizer.pad_token = None
    model.save(tmp_path / "m")
    assert load(tmp_path / "m").tokenizer.pad_token == "<|end|>"
    model.tokenizer.eos_token = None
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.tokenizer.pad_token is None
    with pytest.raises(ModelError, match="no end token"):
        again.logprobs(["the cat"], ["sat"])
    assert len(again.generate(examples.PROMPTS, max_new_tokens=3)) == len(examples.PROMPTS)


# --- what is not there, or not whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("no/such/folder", "no folder no/such/folder"),
        ("./nothing", "no folder"),
        ("/nothing/here", "no folder"),
        ("~/nothing", "no folder"),
        ("../..x", "no folder"),
        ("sandbox/bass", "sandbox/base"),
        ("sandbox/../../etc", "no model"),
        ("sandbox/", "no model"),
        ("", "no folder|holds no model"),
        ("a b", "no folder"),
    ],
)
def test_names_of_nothing(name, match, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ModelError, match=match):
        load(name)


def test_a_misspelt_sandbox_name_is_guessed():
    from truing.models.loading import _hint

    assert _hint("sandbox/bases") == " Did you mean sandbox/base?"
    assert _hint("base") == " Did you mean sandbox/base?"
    assert _hint("snadbox/guide") == " Did you mean sandbox/guide?"
    assert _hint("meta-llama/Llama-3.1-8B") == ""


def test_a_hub_that_cannot_be_reached_is_noticed_at_once(monkeypatch):
    def unknown(*args, **how):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"no such folder, the hub cannot be reached.*Did you mean sandbox/guide"):
        load("guide")
    with pytest.raises(ModelError, match="cache holds no such model"):
        load("owner/absent")
    assert time.monotonic() - began < 10


def test_folders_without_a_model(tmp_path, folder):
    (tmp_path / "run" / "steps" / "01-sft").mkdir(parents=True)
    shutil.move(folder, tmp_path / "run" / "steps" / "01-sft" / "model")
    with pytest.raises(ModelError, match=r"holds no model.*There is one in .*01-sft/model"):
        load(tmp_path / "run")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(ModelError, match="is a file"):
        load(tmp_path / "note.txt")


class Trap:
    def __reduce__(self):
        return (os.system, ("touch " + os.environ["TRAP"],))


def test_pickles_are_never_opened(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="safetensors"):
        load(folder)
    assert not (tmp_path / "sprung").exists()


def test_code_that_comes_with_a_model_is_not_run_and_nobody_is_asked(folder, tmp_path, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="of_its_own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *text: pytest.fail("somebody was asked"))
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        load(folder)
    assert not (tmp_path / "sprung").exists()


def test_attention_from_the_hub_is_code_too(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "somebody/kernels"}))
    with pytest.raises(ModelError, match="code from the hub"):
        load(folder)


def test_weights_that_are_not_whole(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if "layers.1.mlp" not in k}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 3 of the tensors"):
        load(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_a_folder_without_a_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


STEP = {"method": "sft", "settings": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "one"}, {"format": 0}, {"format": None}, {"kind": "else"}, {"kind": ["full"]}, {"history": None},
        {"history": [3]}, {"history": [{"settings": {}}]}, {"history": [{**STEP, "settings": 3}]},
        {"history": [{**STEP, "data": "x"}]}, {"history": [{**STEP, "date": 5}]}, {"modifiers": {}},
        {"modifiers": ["says"]}, {"kind": "adapter"}, {"kind": "adapter", "base": 3}, {"kind": "remote"},
        {"kind": "remote", "remote": []},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_notes(changes, folder):
    rewrite(folder, **changes)
    with pytest.raises(ModelError, match="damaged"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "[" * 100_000, "\x00"])
def test_notes_that_are_no_notes(text, folder):
    (folder / "truing.json").write_text(text)
    with pytest.raises(ModelError, match="damaged"):
        load(folder)


def test_notes_of_a_newer_format(folder):
    rewrite(folder, format=2)
    with pytest.raises(ModelError, match="Update truing"):
        load(folder)


def bans(scores):
    return {"modifiers": [{"$": "modifier", "name": "bans", "settings": {"scores": scores}}]}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (bans({"$": "tensor", "key": "absent"}), "tensor 'absent' of a modifier is missing"),
        (bans({"$": "tensor"}), "cannot be read"),
        (bans({"$": "tensor", "key": []}), "cannot be read"),
        (bans({"$": "spell"}), "kind that is not known"),
        (bans({"$": ["tensor"]}), "not known|cannot be read"),
        (bans({"$": "model", "saved": "../../m"}), "outside of its folder"),
        (bans({"$": "model", "saved": "/etc"}), "outside of its folder"),
        (bans({"$": "model", "saved": "absent"}), "is missing"),
        (bans({"$": "model", "name": "../m"}), "no name of a model"),
        (bans({"$": "model", "name": "/etc"}), "no name of a model"),
        (bans({"$": "model", "name": "sandbox/nothing"}), "no model"),
        (bans({"$": "model"}), "cannot be read"),
        (bans({"$": "set", "items": [[1]]}), "cannot be read"),
        (bans({"$": "float", "value": "x"}), "cannot be read"),
        (bans({"$": "reward", "name": "absent", "settings": {}}), "no reward `absent`"),
        (bans({"$": "reward", "name": "words", "settings": []}), "cannot be read"),
        ({"modifiers": [{"$": "modifier", "name": "absent", "settings": {}}]}, "no modifier `absent`"),
        ({"modifiers": [{"$": "modifier", "name": "bans", "settings": {}}]}, "scores"),
        ({"modifiers": [{"$": "modifier", "name": "bans", "settings": {"scores": 1, "more": 2}}]}, "no setting `more`"),
        ({"modifiers": [{"$": "reward", "name": "words", "settings": {}}]}, "no modifier"),
        ({"modifiers": [{}]}, "no modifier"),
        ({"kind": "adapter", "base": "../base"}, "no name of a model"),
        ({"kind": "adapter", "base": "/etc"}, "no name of a model"),
        ({"kind": "adapter", "base": "a/../.."}, "no name of a model"),
    ],
)
def test_modifiers_that_cannot_be_made_again(changes, match, folder):
    rewrite(folder, **changes)
    with pytest.raises(ModelError, match=match):
        load(folder)


def test_missing_and_damaged_tensors_of_a_modifier(folder):
    path = folder / "modifiers" / "01-bans.safetensors"
    path.write_bytes(b"none")
    with pytest.raises(ModelError, match=r"01-bans\.safetensors cannot be read"):
        load(folder)
    path.unlink()
    with pytest.raises(ModelError, match="missing"):
        load(folder)
