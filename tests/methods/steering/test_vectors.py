"""Vectors as files and as numbers: round trips, arithmetic, the wrong model, and files that are not to be trusted."""

import contextlib
import logging
import struct

import numpy as np
import pytest
import torch

from tests import tiny
from tests.conformance.examples import ROWS
from tests.conformance.examples import model as tiny_model
from truing import RepresentationSteering, SteeringVector
from truing.errors import ModelError, SettingsError
from truing.methods.steering import gguf
from truing.models.fingerprint import checkpoint_mark

ONE = SteeringVector({1: torch.tensor([0.5, -0.25]), 3: torch.tensor([1.0, 2.0])}, "llama", "abc")


@pytest.mark.parametrize("name", ["v.gguf", "v.safetensors"])
def test_round_trip_and_arithmetic_on_files(tmp_path, name):
    ONE.save(tmp_path / name)
    (-ONE * 3).save(tmp_path / f"other-{name}")
    again, other = (SteeringVector.load(tmp_path / each) for each in (name, f"other-{name}"))
    assert (again.layers, again.width, again.hint, again.mark) == ([1, 3], 2, "llama", "abc")
    for layer in (1, 3):
        assert torch.equal(again.vectors[layer], ONE.vectors[layer])
        torch.testing.assert_close((2 * again + other * 0.5).vectors[layer], 0.5 * ONE.vectors[layer])
        assert not (again - again).vectors[layer].any()
    wider = ONE + SteeringVector({0: torch.ones(2)})
    assert wider.layers == [0, 1, 3]
    assert torch.equal(wider.vectors[0], torch.ones(2))


def test_gguf_metadata_and_layout(tmp_path):
    gguf.write(tmp_path / "v.gguf", {layer: row.numpy() for layer, row in ONE.vectors.items()}, "llama")
    metadata, rows = gguf.read(tmp_path / "v.gguf")
    assert metadata == {
        "general.architecture": ("STRING", "controlvector"), "controlvector.model_hint": ("STRING", "llama"),
        "controlvector.layer_count": ("UINT32", 2),
    }  # fmt: skip
    assert {layer: row.tolist() for layer, row in rows.items()} == {1: [0.5, -0.25], 3: [1.0, 2.0]}
    content = (tmp_path / "v.gguf").read_bytes()
    assert content[:24] == b"GGUF" + struct.pack("<IQQ", 3, 2, 3)
    # Values begin at a multiple of 32 and each takes one.
    assert len(content) % 32 == 0
    assert content[-64:-56] == np.array([0.5, -0.25], dtype="<f4").tobytes()
    assert content[-32:-24] == np.array([1.0, 2.0], dtype="<f4").tobytes()


def test_half_precision_of_other_writers_is_read(tmp_path):
    gguf.write(tmp_path / "v.gguf", {2: np.array([0.5, 2.0], dtype="f4")}, "llama")
    content = (tmp_path / "v.gguf").read_bytes()
    at = content.index(b"direction.2") + len(b"direction.2") + 12
    half = np.array([0.5, 2.0], dtype="<f2").tobytes()
    (tmp_path / "h.gguf").write_bytes(content[:at] + struct.pack("<I", 1) + content[at + 4 : -32] + half)
    assert gguf.read(tmp_path / "h.gguf")[1][2].tolist() == [0.5, 2.0]


def test_every_cut_and_every_changed_byte_of_the_head_is_an_error_or_a_vector(tmp_path):
    ONE.save(tmp_path / "v.gguf")
    content, place = (tmp_path / "v.gguf").read_bytes(), tmp_path / "bad.gguf"
    for at in range(0, len(content) - 64, 3):
        place.write_bytes(content[:at])
        with pytest.raises(ModelError):
            SteeringVector.load(place)
        for value in (0, 255):
            place.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
            with contextlib.suppress(ModelError):  # any other error fails the test
                assert SteeringVector.load(place).width <= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controlvector": "llama"}, "architecture is not"),
        ({"direction.1": "weights.9.1"[:11]}, "is no direction"),
        ({"direction.3": "direction.1"}, "stands there twice"),
    ],
)
def test_other_gguf_files_are_refused(tmp_path, changes, message):
    ONE.save(tmp_path / "v.gguf")
    content = (tmp_path / "v.gguf").read_bytes()
    for old, new in changes.items():
        size = struct.pack("<Q", len(old)) + old.encode()
        content = content.replace(size, struct.pack("<Q", len(new)) + new.encode() + b"\0" * (len(old) - len(new)))
    (tmp_path / "v.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=message if "llama" not in changes.values() else "no control vectors"):
        SteeringVector.load(tmp_path / "v.gguf")


def test_safetensors_that_hold_something_else(tmp_path):
    from safetensors.torch import save_file

    for rows, message in (
        ({"weight": torch.ones(2)}, "steering vectors are `direction.N`"),
        ({"direction.1": torch.ones(2, 2)}, "not one row"),
        ({"direction.1": torch.ones(2), "direction.2": torch.ones(3)}, "several widths"),
        ({"direction.1": torch.tensor([float("nan")])}, "finite"),
    ):
        save_file(rows, tmp_path / "v.safetensors")
        with pytest.raises(ModelError, match=message):
            SteeringVector.load(tmp_path / "v.safetensors")
    (tmp_path / "v.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="cannot be read"):
        SteeringVector.load(tmp_path / "v.safetensors")
    (tmp_path / "big.gguf").write_bytes(b"GGUF")
    with (tmp_path / "big.gguf").open("r+b") as file:
        file.truncate(gguf.MOST_BYTES + 1)
    with pytest.raises(ModelError, match="too many"):
        SteeringVector.load(tmp_path / "big.gguf")


def test_a_vector_of_another_model(caplog):
    model, rows = tiny_model(), ROWS["contrast"]
    vector = RepresentationSteering().fit(model, rows)
    assert vector.mark == checkpoint_mark(model)
    with caplog.at_level(logging.WARNING, "truing"):
        vector.align(model)
        assert not caplog.records
        vector.align(tiny_model(seed=3))
    assert "another checkpoint" in caplog.text
    with pytest.raises(SettingsError, match=r"32 numbers, and the states of .* 16"):
        vector.align(model.with_weights(tiny.network(hidden_size=16, num_attention_heads=4)))
    with pytest.raises(SettingsError, match="no layer 1"):
        vector.align(model.with_weights(tiny.network(num_hidden_layers=1)))
    with pytest.raises(SettingsError, match="width 32 and 2"):
        vector + ONE


def test_the_mark_holds_for_another_precision_and_not_for_other_weights():
    model = tiny_model()
    before = checkpoint_mark(model)
    assert before != checkpoint_mark(tiny_model(seed=1))
    assert checkpoint_mark(model.with_weights(model.weights.to(torch.bfloat16))) == before


def test_what_steers_a_model_can_be_taken_out_of_it():
    steered = RepresentationSteering(layers=[0, 1], strength=3.0).align(tiny_model(), ROWS["contrast"])
    found = SteeringVector.of(steered)
    assert found.layers == [0, 1]
    again = found.align(tiny_model(), strength=3.0)
    assert again.generate(["the cat"], max_new_tokens=8).texts == steered.generate(["the cat"], max_new_tokens=8).texts
    with pytest.raises(SettingsError, match="carries no steering"):
        SteeringVector.of(tiny_model())


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "at least one layer"), ({-1: torch.ones(2)}, "counted from 0"), ({True: torch.ones(2)}, "counted from 0"),
        ({1: torch.ones(2, 2)}, "not one row"),
    ],
)  # fmt: skip
def test_vectors_that_are_none(vectors, message):
    with pytest.raises(SettingsError, match=message):
        SteeringVector(vectors)
    with pytest.raises(SettingsError, match="ends with"):
        ONE.save("v.pt")
