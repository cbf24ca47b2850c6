"""Our KTO, CPO, SimPO and ORPO take the steps of TRL's; BCO left TRL before 1.16, and has `tests/vectors/bco.json`."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.methods.training import toy
from tests.methods.training.test_against_trl import COMMON, OURS, messages, our_rows, trl_losses
from truing.methods.training.kto import KTO
from truing.methods.training.preference_methods import CPO, ORPO, SimPO

trl = pytest.importorskip("trl")


def dataset(rows):
    return __import__("datasets").Dataset.from_list(rows)


def close(found, expected, names=()):
    assert len(found) == len(expected) == 3
    for mine, other in zip(found, expected):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        for name in names:
            assert mine[name] == pytest.approx(other[name], abs=2e-3), name
    assert found[-1]["loss"] != pytest.approx(found[0]["loss"], abs=1e-3), "three steps that do something"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"desirable_weight": 1.5, "undesirable_weight": 0.5}, {"desirable_weight": 1.5, "undesirable_weight": 0.5}),
        ({"loss": "apo_zero_unpaired"}, {"loss_type": "apo_zero_unpaired"}),
    ],
    ids=["kto", "weighted", "apo-zero"],
)
def test_kto_steps_equal_those_of_trl(ours, theirs, tmp_path):
    """Ours takes the mismatched answer from the row before it in the records, TRL's in the batch: one batch is both."""
    pairs, model = toy.preferences(10), toy.model()
    rows = [
        {"prompt": row["prompt"], "completion": row["chosen" if at % 3 else "rejected"], "label": at % 3 > 0}
        for at, row in enumerate(pairs)
    ]
    policy, reference = copy.deepcopy(model.weights), copy.deepcopy(model.weights)
    common = {**COMMON, "per_device_train_batch_size": 10, "learning_rate": 3e-3}
    trainer = trl.KTOTrainer(
        model=policy, ref_model=reference, args=trl.KTOConfig(str(tmp_path), beta=0.5, **common, **theirs),
        train_dataset=dataset(
            [{**one, "label": row["label"]} for one, row in zip(messages(rows, ("completion",)), rows)]
        ),
        processing_class=model.tokenizer,
    )  # fmt: skip
    expected = trl_losses(trainer)
    method = KTO(**{**OURS, "batch_size": 10, "learning_rate": 3e-3}, beta=0.5, **ours)
    aligned, found = our_rows(method, model, rows, tmp_path / "ours")
    names = [f"{what}/{side}" for what in ("rewards", "logps") for side in ("chosen", "rejected")]
    close(found, expected, names if "loss" in ours else [*names, "kl"])
    if "loss" not in ours:
        assert found[-1]["kl"] > 0.1, "a z that is not clamped"
    for name, value in aligned.weights.state_dict().items():
        torch.testing.assert_close(value, policy.state_dict()[name], atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (CPO(**OURS, beta=0.5), {"loss_type": "sigmoid", "beta": 0.5}),
        (CPO(**OURS, nll_weight=0.3, label_smoothing=0.1), {"cpo_alpha": 0.3, "label_smoothing": 0.1}),
        (SimPO(**OURS, beta=2.0, gamma=1.0), {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}),
        (ORPO(**OURS, beta=0.5, nll_of_prompt=True), {"beta": 0.5}),
    ],
    ids=["cpo", "cpo-smoothed", "simpo", "orpo"],
)
def test_steps_without_a_reference_equal_those_of_trl(ours, theirs, tmp_path):
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    made = (ORPOConfig, ORPOTrainer) if isinstance(ours, ORPO) else (CPOConfig, CPOTrainer)
    rows, model = toy.preferences(12), toy.model()
    policy = copy.deepcopy(model.weights)
    trainer = made[1](
        model=policy, args=made[0](str(tmp_path), **{**COMMON, "remove_unused_columns": False}, **theirs),
        train_dataset=dataset(messages(rows, ("chosen", "rejected"))), processing_class=model.tokenizer,
    )  # fmt: skip
    expected = trl_losses(trainer)
    aligned, found = our_rows(ours, model, rows, tmp_path / "ours")
    close(found, expected)
    for name, value in aligned.weights.state_dict().items():
        torch.testing.assert_close(value, policy.state_dict()[name], atol=2e-3, rtol=2e-2)
