"""Adapters of many kinds train, start at the model they are put on, save and load."""

from __future__ import annotations

import json

import numpy as np
import pytest

import truing as tr
from tests.methods.training import toy
from truing import DPO, SFT
from truing.errors import SettingsError

PAIR = (["what is the colour of the stone?"], ["it is grey, of course"])


@pytest.mark.parametrize("adapter", ["dora", "ia3", {"type": "loha", "r": 4}, {"type": "vera", "r": 8}, "oft", "hra"])
def test_an_adapter_trains_and_comes_back(adapter, tmp_path):
    start = toy.model()
    start.save(tmp_path / "base")
    start = tr.load(tmp_path / "base")
    aligned = DPO(adapter=adapter, learning_rate=1e-2, max_steps=4, batch_size=4, beta=0.5).align(
        start, toy.preferences(8), out=tmp_path / "run"
    )
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[1])
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-4), "an adapter starts as no change"
    assert sum(p.numel() for p in aligned.weights.parameters() if p.requires_grad) > 0
    assert not np.allclose(aligned.logprobs(*PAIR), start.logprobs(*PAIR), atol=1e-3)
    aligned.save(tmp_path / "aligned")
    np.testing.assert_allclose(tr.load(tmp_path / "aligned").logprobs(*PAIR), aligned.logprobs(*PAIR), atol=1e-4)


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        ("loar", "Did you mean 'lora'"), ("prefix_tuning", "no adapter"), ({"type": "lora", "rank": 3}, "LoraConfig"),
        (7, "kind of adapter"), ({"type": "c3a", "block_size": 7}, "peft refuses"), ("adalora", "no adapter"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_trained(adapter, why):
    with pytest.raises(SettingsError, match=why):
        SFT(adapter=adapter, max_steps=1).align(toy.model(), toy.demonstrations(2))
