"""An online training that is killed goes on where it was, and ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.methods.rl import toy
from truing.errors import RewardError, RunError
from truing.methods.rl.grpo import GRPO
from truing.methods.rl.rloo import RLOO
from truing.methods.training.checkpoints import MARK

pytest.importorskip("trl")
ROOT = Path(__file__).resolve().parents[3]
HOW = {
    "reward": toy.of_length, "n": 4, "prompts_per_step": 2, "max_new_tokens": 6, "learning_rate": 1e-3, "max_steps": 8,
    "save_every": 2, "beta": 0.1, "batch_size": 4, "warmup_ratio": 0.2, "weight_decay": 0.01,
}  # fmt: skip
# The reward kills its own process in the middle of a step, after a whole checkpoint and a line of the log beyond it.
CHILD = """
import os, signal, sys, torch
from tests.methods.rl import test_rl_resume as test
torch.set_num_threads(1)
test.run(sys.argv[1], test.GRPO, {}, lambda: os.kill(os.getpid(), signal.SIGKILL), 6)
"""


def run(out, method, extra, end=None, at=0):
    """Train; the reward calls ``end`` when it is asked for the ``at``-th time."""
    calls = []

    def reward(prompts, responses):
        calls.append(1)
        if end is not None and len(calls) == at:
            end()
        return toy.of_length(prompts, responses)

    return method(**{**HOW, "reward": reward, **extra}).align(toy.model("opt"), toy.QUESTIONS, out=out)


class Power(Exception):
    """Fails."""


def fails():
    raise Power


def equal(left, right):
    return all(torch.equal(value, toy.weights_of(right)[name]) for name, value in toy.weights_of(left).items())


def check_resumed(folder, method, extra):
    """Train again in the folder of a training that was cut off, and compare with one that was not."""
    checkpoints = folder / "killed" / "checkpoints"
    newest = max(int(place.name.rpartition("-")[2]) for place in checkpoints.glob("checkpoint-*"))
    log = [json.loads(line) for line in (folder / "killed" / "log.jsonl").read_text().splitlines()]
    assert 0 < newest <= log[-1]["step"] < 8
    half = checkpoints / "checkpoint-7"
    half.mkdir()
    (half / "trained.safetensors").write_bytes(b"cut in the middle")
    resumed, undisturbed = (run(folder / name, method, extra) for name in ("killed", "whole"))
    assert equal(undisturbed, resumed)
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (folder / name / "log.jsonl").open()
        ]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 1 + 8
    assert {place.name for place in checkpoints.iterdir()} == {"training.json", "finished"}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("method", "extra", "at"),
    [(GRPO, {}, 6), (RLOO, {"adapter": {"r": 4, "lora_dropout": 0.1}}, 6), (GRPO, {"iterations": 2, "beta": 0.0}, 4)],
    ids=["grpo", "rloo lora", "two updates a sampling"],
)
def test_a_training_that_was_cut_off_ends_with_the_same_bits(method, extra, at, one_thread, tmp_path):
    with pytest.raises(RewardError, match="Power"):
        run(tmp_path / "killed", method, extra, fails, at)
    check_resumed(tmp_path, method, extra)


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bits(one_thread, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "killed")]
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr[-2000:]
    check_resumed(tmp_path, GRPO, {})


def test_a_finished_training_is_not_repeated(tmp_path):
    asked = []

    def counting(prompts, responses):
        asked.append(len(responses))
        return toy.of_length(prompts, responses)

    method = GRPO(**{**HOW, "reward": counting, "max_steps": 2})
    first = method.align(toy.model(), toy.QUESTIONS, out=tmp_path)
    before = list(asked)
    began = time.monotonic()
    again = method.align(toy.model(), toy.QUESTIONS, out=tmp_path)
    assert asked == before
    assert time.monotonic() - began < 30
    assert equal(first, again)
    assert not again.weights.training
    assert len(again.history) == 1


def test_only_whole_checkpoints_are_marked(tmp_path, monkeypatch):
    method = GRPO(**{**HOW, "max_steps": 4, "save_every": 1, "iterations": 2})
    seen = []
    from truing.methods.rl.trainer import Watch

    plain = Watch.on_save

    def on_save(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        seen.append(sorted(place.parent.name for place in (tmp_path / "checkpoints").glob(f"checkpoint-*/{MARK}")))

    monkeypatch.setattr(Watch, "on_save", on_save)
    method.align(toy.model(), toy.QUESTIONS, out=tmp_path)
    assert seen == [["checkpoint-2"], ["checkpoint-2", "checkpoint-4"]], "never between the updates on one sampling"


@pytest.mark.parametrize(
    ("other", "rows", "why"),
    [({"beta": 0.2}, 3, "settings.beta is 0.1 there and 0.2 here"), ({}, 2, "records"), ({"seed": 1}, 3, "seed")],
)
def test_a_folder_of_another_training_is_refused(other, rows, why, tmp_path):
    GRPO(**{**HOW, "max_steps": 1}).align(toy.model(), toy.QUESTIONS, out=tmp_path)
    with pytest.raises(RunError, match=why):
        GRPO(**{**HOW, "max_steps": 1, **other}).align(toy.model(), toy.QUESTIONS[:rows], out=tmp_path)
