"""Bases of 4 and 8 bits: they answer, train with an adapter, and say what they cannot do."""

from __future__ import annotations

import numpy as np
import pytest

import truing as tr
from truing import DPO, KTO, SFT
from truing.errors import MissingExtraError, ModelError, UnsupportedError
from truing.models import loading

ROWS = [{"prompt": f"What is {n}?", "chosen": "It is grey.", "rejected": "Who cares?"} for n in range(8)]
HOW = {"learning_rate": 1e-3, "max_steps": 4, "batch_size": 4, "beta": 0.5, "adapter": "lora"}


@pytest.mark.parametrize("dtype", ["4bit", "8bit"])
def test_an_adapter_trains_on_a_quantised_base(dtype, tmp_path):
    pytest.importorskip("bitsandbytes")
    plain, base = tr.load("sandbox/base"), tr.load("sandbox/base", dtype=dtype)
    assert base.weights.is_quantized
    pair = (["What is 3?"], ["It is grey."])
    before = base.logprobs(*pair)
    np.testing.assert_allclose(before, plain.logprobs(*pair), rtol=0.15)
    aligned = DPO(**HOW).align(base, ROWS, out=tmp_path / "run")
    assert aligned.logprobs(*pair) > before
    # On a CPU bitsandbytes rounds anew whenever somebody asks for the state of a model that has answered.
    np.testing.assert_allclose(base.logprobs(*pair), before, rtol=5e-3)
    aligned.save(tmp_path / "aligned")
    assert (tmp_path / "aligned" / "adapter_config.json").is_file()
    again = tr.load(tmp_path / "aligned", dtype=dtype)
    np.testing.assert_allclose(again.logprobs(*pair), aligned.logprobs(*pair), rtol=5e-3)
    with pytest.raises(UnsupportedError, match="adapter='lora'"):
        SFT(max_steps=1).align(base, [{"prompt": "a", "completion": "b"}])


def test_thumbs_train_an_adapter_on_a_quantised_base():
    pytest.importorskip("bitsandbytes")
    base = tr.load("sandbox/base", dtype="4bit")
    thumbs = [{"prompt": f"What is {n}?", "completion": "It is grey.", "label": n % 2 == 0} for n in range(8)]
    aligned = KTO(**HOW).align(base, thumbs)
    assert aligned.logprobs(["What is 3?"], ["It is grey."]) != base.logprobs(["What is 3?"], ["It is grey."])
    with pytest.raises(UnsupportedError, match="adapter='lora'"):
        KTO(max_steps=1).align(base, thumbs)


def test_without_bitsandbytes_the_remedy_is_named(monkeypatch):
    def missing(name):
        assert name == "bitsandbytes"
        return None

    monkeypatch.setattr(loading.importlib.util, "find_spec", missing)
    with pytest.raises(MissingExtraError, match=r"truing\[quantised\]"):
        tr.load("sandbox/base", dtype="4bit")
    with pytest.raises(ModelError, match="4bit"):
        tr.load("sandbox/base", dtype="3bit")
