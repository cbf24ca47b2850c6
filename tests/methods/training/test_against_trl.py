"""Our DPO and TRL's take the same steps."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from tests.methods.training import toy
from truing import DPO, SFT

trl = pytest.importorskip("trl")

COMMON = {
    "learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_steps": 3, "lr_scheduler_type": "constant",
    "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": False, "gradient_checkpointing": False, "logging_steps": 1,
    "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True,
    "max_length": 200, "train_sampling_strategy": "sequential",
}  # fmt: skip
OURS = {
    "learning_rate": 1e-3, "batch_size": 4, "max_steps": 3, "schedule": "constant", "warmup_ratio": 0.0,
    "shuffle": False,
    "max_length": 200,
}  # fmt: skip


def trl_losses(trainer):
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def our_rows(method, model, rows, folder):
    aligned = method.align(model, rows, out=folder)
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return aligned, [row for row in found if "step" in row]


def messages(rows, keys):
    def one(role, text):
        return [{"role": role, "content": text}]

    return [{"prompt": one("user", row["prompt"]), **{key: one("assistant", row[key]) for key in keys}} for row in rows]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"loss": "sigmoid"}, {"loss_type": ["sigmoid"]}),
        ({"loss": "ipo"}, {"loss_type": ["ipo"]}),
        ({"loss": {"sigmoid": 1.0, "sft": 0.5}}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ({"loss": "sigmoid", "ld_alpha": 0.5}, {"loss_type": ["sigmoid"], "ld_alpha": 0.5}),
        ({"loss": "sigmoid", "wpo": True}, {"loss_type": ["sigmoid"], "use_weighting": True}),
    ],
    ids=["sigmoid", "ipo", "rpo", "ld", "wpo"],
)
def test_dpo_steps_equal_those_of_trl(ours, theirs, tmp_path):
    rows, model = toy.preferences(12), toy.model()
    policy, reference = copy.deepcopy(model.weights), copy.deepcopy(model.weights)
    trainer = trl.DPOTrainer(
        model=policy, ref_model=reference, args=trl.DPOConfig(str(tmp_path), beta=0.5, **COMMON, **theirs),
        train_dataset=__import__("datasets").Dataset.from_list(messages(rows, ("chosen", "rejected"))),
        processing_class=model.tokenizer,
    )  # fmt: skip
    lengths = [len(trainer.train_dataset[at]["chosen_ids"]) for at in range(len(rows))]
    assert lengths == [len(model.encode_pair(row["prompt"], row["chosen"])[1]) for row in rows], "the same tokens"
    expected = trl_losses(trainer)
    aligned, found = our_rows(DPO(**OURS, beta=0.5, **ours), model, rows, tmp_path / "ours")
    assert len(found) == len(expected) == 3
    for mine, other in zip(found, expected):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen"):
            assert mine[name] == pytest.approx(other[name], abs=2e-3), name
    assert found[-1]["loss"] != pytest.approx(found[0]["loss"], abs=1e-3), "three steps that do something"
    for name, value in aligned.weights.state_dict().items():
        torch.testing.assert_close(value, policy.state_dict()[name], atol=5e-4, rtol=1e-2)


def test_sft_steps_equal_those_of_trl(tmp_path):
    rows, model = toy.demonstrations(12), toy.model()
    policy = copy.deepcopy(model.weights)
    trainer = trl.SFTTrainer(
        model=policy, args=trl.SFTConfig(str(tmp_path), **COMMON),
        train_dataset=__import__("datasets").Dataset.from_list(messages(rows, ("completion",))),
        processing_class=model.tokenizer,
    )  # fmt: skip
    expected = trl_losses(trainer)
    _, found = our_rows(SFT(**OURS), model, rows, tmp_path / "ours")
    for mine, other in zip(found, expected, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
