"""Trust-region DPO: a reference that follows the policy."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from tests.methods.training import toy
from truing import DPO
from truing.errors import SettingsError
from truing.methods.training.live_reference import LiveReference

HOW = {"learning_rate": 3e-3, "batch_size": 4, "max_steps": 6, "beta": 0.5, "warmup_ratio": 0.0, "save_every": 2}


def log_of(folder):
    return [row for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "step" in row]


def test_the_reference_moves_by_its_share_on_its_steps():
    weights = toy.model().weights
    live = LiveReference(weights, every=3, mix=0.6)
    start = copy.deepcopy(weights.state_dict())
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.add_(1.0)
    live.follow(weights, step=2)
    for name, value in live.weights.state_dict().items():
        torch.testing.assert_close(value, start[name])
    live.follow(weights, step=3)
    for name, value in live.weights.named_parameters():
        torch.testing.assert_close(value, start[name] + 0.6)
    live.follow(weights, step=3)
    for name, value in live.weights.named_parameters():
        torch.testing.assert_close(value, start[name] + 0.6, msg="a step counts once")


def test_a_reference_that_never_moves_is_plain_dpo(tmp_path):
    DPO(**HOW).align(toy.model(), toy.preferences(8), out=tmp_path / "plain")
    DPO(**HOW, reference_every=1000).align(toy.model(), toy.preferences(8), out=tmp_path / "live")
    for left, right in zip(log_of(tmp_path / "plain"), log_of(tmp_path / "live")):
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-4)


def test_a_reference_that_follows_at_once_leaves_no_margin(tmp_path):
    DPO(**HOW, reference_every=1, reference_mix=1.0).align(toy.model(), toy.preferences(8), out=tmp_path)
    assert all(abs(row["rewards/margins"]) < 1e-4 for row in log_of(tmp_path))


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_resumed_training_has_the_same_reference(adapter, tmp_path, monkeypatch):
    from truing.methods.training.trainer import ObjectiveTrainer

    method = DPO(**HOW, reference_every=2, adapter=adapter)
    whole = method.align(toy.model(), toy.preferences(8), out=tmp_path / "whole")
    plain = ObjectiveTrainer.training_step

    def broken(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectiveTrainer, "training_step", broken)
        with pytest.raises(KeyboardInterrupt):
            method.align(toy.model(), toy.preferences(8), out=tmp_path / "cut")
    resumed = method.align(toy.model(), toy.preferences(8), out=tmp_path / "cut")
    for name, value in whole.weights.state_dict().items():
        assert torch.equal(value, resumed.weights.state_dict()[name]), name


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"reference_every": 0}, "reference_every"), ({"reference_every": 2, "reference_mix": 1.5}, "reference_mix"),
        ({"reference_every": 2, "reference_free": True}, "leave out"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings, why):
    with pytest.raises(SettingsError, match=why):
        DPO(**settings).align(toy.model(), toy.preferences(2))


def test_steps_without_signal_are_told(caplog):
    rows = [{**row, "rejected": row["chosen"]} for row in toy.preferences(4)]
    DPO(batch_size=2, max_steps=2).align(toy.model(), rows)
    assert "2 of 2 steps there was nothing to learn" in caplog.text
