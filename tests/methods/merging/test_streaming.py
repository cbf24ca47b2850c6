"""Merging folders on disk: what comes out, how much memory it takes, and what is refused before a file is made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from truing import progress
from truing.errors import ModelError, SettingsError
from truing.methods.merging import streaming
from truing.methods.merging.streaming import INDEX, SINGLE, TensorFolder, merge_folders
from truing.methods.merging.tensor_merge import NEEDS_BASE, USES, TensorMerge
from truing.models import load

CONFIG = {"model_type": "made-up", "num_attention_heads": 4, "tie_word_embeddings": False}


def made_up(folder: Path, seed: int, config=CONFIG, shards: int = 1, dtype=torch.float16, **changes) -> Path:
    """A folder of random tensors of several kinds; no model that transformers knows."""
    random = torch.Generator().manual_seed(seed)
    tensors = {
        "embed_tokens.weight": torch.randn(11, 6, generator=random).to(dtype),
        "layer.mask": torch.ones(3, dtype=torch.bool) * (seed % 2 == 0),
        "layer.weight": torch.randn(6, 5, generator=random),
        "layer.scale": torch.randn((), generator=random).to(torch.bfloat16),
        "lm_head.weight": torch.randn(11, 6, generator=random).to(dtype),
        **changes,
    }
    tensors = {name: value for name, value in tensors.items() if value is not None}
    folder.mkdir()
    names = list(tensors)
    files = [f"part-{at}.safetensors" if shards > 1 else SINGLE for at in range(shards)]
    for at, file in enumerate(files):
        save_file({name: tensors[name] for name in names[at::shards]}, folder / file)
    if shards > 1:
        where = {name: file for at, file in enumerate(files) for name in names[at::shards]}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


@pytest.fixture
def folders(tmp_path):
    return [made_up(tmp_path / name, seed, shards=shards) for seed, (name, shards) in enumerate((("a", 1), ("b", 3)))]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of transformers and their base, with tokenizers."""
    place = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b")):
        tiny.network(seed=seed).save_pretrained(place / name)
        tiny.tokenizer().save_pretrained(place / name)
    return place


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_shard", ["2GB", "100B"])
@pytest.mark.parametrize("rule", USES)
def test_every_tensor_is_what_the_rule_gives(rule, max_shard, folders, tmp_path):
    base = made_up(tmp_path / "base", 7) if rule in NEEDS_BASE else None
    out = merge_folders(folders, tmp_path / "new" / "out", rule=rule, base=base, max_shard=max_shard)
    merge = TensorMerge(rule=rule, count=2, based=base is not None)
    first, second = (tensors_of(folder) for folder in folders)
    origin = tensors_of(base) if base else {}
    found = tensors_of(out)
    assert set(found) == set(first)
    for name, value in found.items():
        assert value.dtype == first[name].dtype
        if name == "layer.mask":
            assert torch.equal(value, first[name])
        else:
            assert torch.equal(value, merge(name, [first[name], second[name]], origin.get(name)))
    assert json.loads((out / "config.json").read_text()) == CONFIG
    if max_shard == "2GB":
        assert sorted(file.name for file in out.iterdir()) == ["config.json", SINGLE]
        return
    index = json.loads((out / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in first.values())
    assert {name: out / file for name, file in index["weight_map"].items()} == TensorFolder(out).files
    assert len(set(index["weight_map"].values())) > 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("rule", USES)
def test_merging_a_folder_with_itself_gives_it_again(rule, folders, tmp_path):
    base = folders[0] if rule in NEEDS_BASE else None
    out = merge_folders([folders[1], folders[1]], tmp_path / "out", rule=rule, base=base)
    before, after = tensors_of(folders[1]), tensors_of(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_merged_model_loads_with_the_first_ones_tokenizer(models, tmp_path):
    (models / "a" / "notes.json").write_text("{}")
    out = merge_folders([models / "a", models / "b"], tmp_path / "out", max_shard="20KB")
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2
    merged, a, b = load(out), load(models / "a"), load(models / "b")
    pairs = zip(merged.weights.parameters(), a.weights.parameters(), b.weights.parameters(), strict=True)
    assert all(torch.equal(m, ((x.double() + y.double()) / 2).float()) for m, x, y in pairs)
    assert merged.tokenizer.get_vocab() == a.tokenizer.get_vocab()
    assert merged.tokenizer.chat_template == a.tokenizer.chat_template
    assert merged.generate("the cat", max_new_tokens=4).texts
    assert (out / "notes.json").is_file()
    # Input folders are only read.
    assert {file.name for file in (models / "b").iterdir()} == {file.name for file in (models / "a").iterdir()} - {
        "notes.json"
    }


def test_tied_weights_are_merged_once(tmp_path):
    config = {**CONFIG, "tie_word_embeddings": True}
    a = made_up(tmp_path / "a", 0, config)
    b = made_up(tmp_path / "b", 1, config, **{"lm_head.weight": None})
    base = made_up(tmp_path / "base", 2, config)
    out = merge_folders([a, b], tmp_path / "out", rule="dare", base=base)
    assert set(tensors_of(out)) == {"embed_tokens.weight", "layer.mask", "layer.weight", "layer.scale"}


def test_warnings_are_told_once_with_their_count(folders, tmp_path, caplog):
    a, b = (tensors_of(folder) for folder in folders)
    middle = {name: ((a[name].double() + b[name].double()) / 2) for name in a if name != "layer.mask"}
    base = made_up(tmp_path / "base", 3, **middle)
    merge_folders(folders, tmp_path / "out", rule="model_stock", base=base, on_degenerate="linear")
    assert "in 4 of 4 tensors the offsets cancel out" in caplog.text
    with pytest.raises(ModelError, match=r"The tensor \S+ cannot be merged by model_stock: the offsets cancel out"):
        merge_folders(folders, tmp_path / "none", rule="model_stock", base=base)
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.glob(".none*"))


def test_progress_counts_tensors(folders, tmp_path):
    class Listener(progress.SilentListener):
        def task(self, label, total):
            told.append((label, total))
            return super().task(label, total)

    told: list[tuple[str, float | None]] = []
    with progress.listening(Listener()):
        merge_folders(folders, tmp_path / "out")
    assert told == [("merging 2 models", 5)]


# --- memory ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, torch
from pathlib import Path
from truing.methods.merging.streaming import merge_folders

def high():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

place = Path(sys.argv[1])
torch.set_num_threads(1)
for rule, base in (("linear", None), ("model_stock", "base")):
    # Once on little, so that the code itself is in memory.
    bits = [place / "a-bit", place / "b-bit"]
    merge_folders(bits, place / f"bit-{rule}", rule=rule, base=base and place / "base-bit")
    open("/proc/self/clear_refs", "w").write("5")
    before = high()
    merge_folders([place / "a", place / "b"], place / rule, rule=rule, base=base and place / base)
    print(high() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peak memory as Linux tells it")
def test_memory_stays_at_one_tensor_of_each_model(tmp_path):
    """A process of its own, its peak reset before each merge: `ru_maxrss` would begin at the peak of the tests."""
    size, count = 2, 32  # MB of a tensor, tensors
    noise = torch.rand(size << 19).half()
    for seed, name in enumerate(("base", "a", "b")):
        whole = {f"t{at:02d}": noise.roll(997 * at + seed) for at in range(count)}
        for folder, tensors in ((name, whole), (f"{name}-bit", {"t": whole["t00"][:4096].clone()})):
            (tmp_path / folder).mkdir()
            save_file(tensors, tmp_path / folder / SINGLE)
            (tmp_path / folder / "config.json").write_text(json.dumps(CONFIG))
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
    extra = [float(line) for line in done.stdout.split()]
    # One tensor of each model, the result, and 40 MB of blocks and mapped pages; two whole models are 128 MB.
    assert len(extra) == 2
    assert max(extra) < 4 * size + 40, extra


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_overwritten(folders, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        merge_folders(folders, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_merge_that_breaks_off_leaves_nothing(folders, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streaming, "_write_tensor", full)
    with pytest.raises(ModelError, match=r"No space left on device\. Nothing was kept"):
        merge_folders(folders, tmp_path / "out")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "b"]


def _damage(folder: Path, how: str) -> None:
    if how == "truncated":
        file = folder / SINGLE
        file.write_bytes(file.read_bytes()[:-7])
    elif how == "no weights":
        (folder / SINGLE).rename(folder / "pytorch_model.bin")
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif how == "quantised":
        (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": {"bits": 4}}))
    elif how == "index outside":
        (folder / SINGLE).unlink()
        (folder / INDEX).write_text(json.dumps({"weight_map": {"layer.weight": "../a/model.safetensors"}}))
    elif how == "index lies":
        (folder / SINGLE).rename(folder / "part.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": {"no.such": "part.safetensors"}}))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("truncated", "cannot be read"),
        ("no weights", "lacks model.safetensors"),
        ("no config", "no config.json"),
        ("adapter", "holds an adapter"),
        ("quantised", "is quantised"),
        ("index outside", "is damaged"),
        ("index lies", "lacks 1 tensors that its index lists, 'no.such'"),
    ],
)
def test_a_folder_that_is_no_whole_model(how, expected, tmp_path):
    a, b = made_up(tmp_path / "a", 0), made_up(tmp_path / "b", 1)
    _damage(b, how)
    with pytest.raises(ModelError, match=expected):
        merge_folders([a, b], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="There is no folder"):
        merge_folders([a, tmp_path / "nowhere"], tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "config", "expected"),
    [
        ({"lm_head.weight": None}, {}, "1 tensors are in one of them only, 'lm_head.weight' of"),
        ({"layer.weight": torch.zeros(6, 4)}, {}, r"layer.weight has the shape \[6, 5\] and \[6, 4\]"),
        ({"embed_tokens.weight": torch.zeros(13, 6)}, {}, "vocabularies differ, 11 tokens and 13"),
        ({}, {"num_attention_heads": 2}, "`num_attention_heads` is 4 in the one and 2"),
        ({}, {"model_type": "other"}, "`model_type` is 'made-up' in the one and 'other'"),
        ({}, {"tie_word_embeddings": True}, "`tie_word_embeddings`"),
        ({"layer.weight": torch.zeros(6, 5, dtype=torch.int8)}, {}, "layer.weight is of int8 in one of the models"),
    ],
)
def test_models_that_do_not_fit(changes, config, expected, tmp_path):
    a, b = made_up(tmp_path / "a", 0), made_up(tmp_path / "b", 1, {**CONFIG, **config}, **changes)
    with pytest.raises(ModelError, match=expected):
        merge_folders([a, b], tmp_path / "out")
    with pytest.raises(ModelError, match=expected):
        merge_folders([a, a], tmp_path / "out", rule="ties", base=b)


def test_rope_is_compared_however_it_is_written(tmp_path):
    a = made_up(tmp_path / "a", 0, {**CONFIG, "rope_theta": 1e4})
    b = made_up(tmp_path / "b", 1, {**CONFIG, "rope_parameters": {"rope_theta": 1e6}})
    same = made_up(tmp_path / "c", 1, {**CONFIG, "rope_parameters": {"rope_theta": 1e4}})
    with pytest.raises(ModelError, match=r"`rope_theta` is 10000\.0 in the one and 1000000\.0"):
        merge_folders([a, b], tmp_path / "out")
    assert merge_folders([a, same], tmp_path / "out").is_dir()


def test_another_vocabulary_is_named(models, tmp_path):
    shutil.copytree(models / "b", tmp_path / "b")
    swapped = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    vocabulary = swapped["model"]["vocab"]
    vocabulary["!"], vocabulary["#"] = vocabulary["#"], vocabulary["!"]
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(swapped))
    with pytest.raises(ModelError, match="vocabularies differ in 2 tokens; '!' is "):
        merge_folders([models / "a", tmp_path / "b"], tmp_path / "out")


@pytest.mark.parametrize("given", ["", "2 parsecs", "0", 0, -3, True, None])
def test_sizes_that_are_none(given, folders, tmp_path):
    with pytest.raises(SettingsError, match="max_shard"):
        merge_folders(folders, tmp_path / "out", max_shard=given)


def test_settings_are_checked_first(folders, tmp_path):
    with pytest.raises(SettingsError, match="common ancestor"):
        merge_folders(folders, tmp_path / "out", rule="ties")
    with pytest.raises(SettingsError, match="list of folders"):
        merge_folders(str(folders[0]), tmp_path / "out")
