"""The race's entry runs the trainer itself, and hands over each step's loss."""

from __future__ import annotations

import argparse
import json

import pytest
from benchmarks.training import challenger

from tests.methods.training import toy
from truing import DPO
from truing.methods.training import reference, trainer
from truing.models import Model

ARGS = argparse.Namespace(lr=1e-3, batch=4, steps=3, seed=0)


def test_losses_are_those_of_dpo(tmp_path):
    rows, start = toy.preferences(12), toy.model()
    before = trainer.ObjectiveTrainer.log, reference.reference_logps
    found = [step["loss"] for step in challenger(start.weights, None, toy.model().tokenizer, rows, ARGS)]
    assert (trainer.ObjectiveTrainer.log, reference.reference_logps) == before
    tokenizer = toy.model().tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    DPO(
        learning_rate=1e-3, batch_size=4, max_steps=3, schedule="constant", warmup_ratio=0.0, shuffle=False
    ).align(Model(start.weights, tokenizer), rows, out=tmp_path)  # fmt: skip
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][1:]
    assert found == [row["loss"] for row in log]


def test_what_goes_wrong_in_training_reaches_the_race():
    with pytest.raises(ValueError, match="batch_size"):
        list(
            challenger(
                toy.model().weights,
                None,
                toy.model().tokenizer,
                toy.preferences(4),
                argparse.Namespace(**{**vars(ARGS), "batch": 0}),
            )
        )
