"""A training that is killed goes on where it was, and ends with the same bits."""

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

from tests.methods.training import toy
from truing import DPO, SFT
from truing.errors import RunError
from truing.methods.training.batches import BatchOrder, collate
from truing.methods.training.checkpoints import load_trained, save_trained
from truing.methods.training.encoding import Row

ROOT = Path(__file__).resolve().parents[3]
HOW = {
    "learning_rate": 1e-3, "batch_size": 3, "gradient_accumulation": 2, "epochs": 3, "save_every": 2, "dropout": True,
    "loss": {"sigmoid": 1.0, "sft": 0.5}, "weight_decay": 0.01,
}  # fmt: skip
# Each step is slowed down, so that the kill falls into the middle.
CHILD = """
import sys, time, torch
from transformers import TrainerCallback
from tests.methods.training import toy, test_resume
from truing import DPO
from truing.methods.training.trainer import ObjectiveTrainer
plain = ObjectiveTrainer.training_step
def slow(self, *args, **kwargs):
    time.sleep(0.1)
    return plain(self, *args, **kwargs)
ObjectiveTrainer.training_step = slow
torch.set_num_threads(1)
DPO(**{**test_resume.HOW, **eval(sys.argv[2])}).align(test_resume.start(), toy.preferences(23), out=sys.argv[1])
"""


def start():
    return toy.model("opt", dropout=0.1, attention_dropout=0.1)


def equal(left, right):
    return all(
        torch.equal(value, right.weights.state_dict()[name]) for name, value in left.weights.state_dict().items()
    )


@pytest.mark.parametrize("extra", [{}, {"adapter": "lora"}], ids=["full", "lora"])
def test_a_killed_training_ends_with_the_same_bits(extra, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        undisturbed = DPO(**HOW, **extra).align(start(), toy.preferences(23), out=tmp_path / "whole")
        command = [sys.executable, "-c", CHILD, str(tmp_path / "killed"), repr(extra)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        marked = tmp_path / "killed" / "checkpoints" / "checkpoint-4" / "complete"
        until = time.monotonic() + 60
        while not marked.is_file() and child.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.25)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.returncode == -signal.SIGKILL, child.stderr.read().decode()[-2000:]
        log = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
        assert 4 <= json.loads(log[-1])["step"] < 12
        half = tmp_path / "killed" / "checkpoints" / "checkpoint-99"
        half.mkdir()
        (half / "trained.safetensors").write_bytes(b"cut in the middle")
        resumed = DPO(**HOW, **extra).align(start(), toy.preferences(23), out=tmp_path / "killed")
    finally:
        torch.set_num_threads(threads)
    assert equal(undisturbed, resumed)
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "tokens_per_second")}
            for line in path.open()
        ]
        for path in (tmp_path / "whole" / "log.jsonl", tmp_path / "killed" / "log.jsonl")
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 13
    left = {place.name for place in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert left == {"training.json", "finished"}


def test_a_finished_training_is_not_repeated(tmp_path):
    first = SFT(max_steps=3).align(toy.model(), toy.demonstrations(6), out=tmp_path)
    written = (tmp_path / "log.jsonl").stat().st_mtime_ns
    again = SFT(max_steps=3).align(toy.model(), toy.demonstrations(6), out=tmp_path)
    assert equal(first, again)
    assert (tmp_path / "log.jsonl").stat().st_mtime_ns == written
    assert len(again.history) == 1


def test_two_checkpoints_are_kept_while_it_trains(tmp_path, monkeypatch):
    from truing.methods.training.trainer import ObjectiveTrainer

    seen = []
    plain = ObjectiveTrainer._save_checkpoint

    def save(self, *args):
        plain(self, *args)
        seen.append(sorted(place.name for place in (tmp_path / "checkpoints").glob("checkpoint-*")))

    monkeypatch.setattr(ObjectiveTrainer, "_save_checkpoint", save)
    SFT(max_steps=4, save_every=1).align(toy.model(), toy.demonstrations(6), out=tmp_path)
    assert seen[0] == ["checkpoint-1"]
    assert seen[-1] == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize(
    ("method", "rows", "seed", "why"),
    [
        (SFT(max_steps=3, learning_rate=1e-3), 6, 0, "settings.learning_rate is 2e-05 there and 0.001 here"),
        (SFT(max_steps=3), 5, 0, "rows"),
        (SFT(max_steps=3), 6, 1, "model"),
        (DPO(max_steps=3), 6, 0, "method is 'SFT' there"),
    ],
)
def test_a_folder_of_another_training_is_refused(method, rows, seed, why, tmp_path):
    SFT(max_steps=3).align(toy.model(), toy.demonstrations(6), out=tmp_path)
    data = toy.preferences(rows) if isinstance(method, DPO) else toy.demonstrations(rows)
    with pytest.raises(RunError, match=why):
        method.align(toy.model(seed=seed), data, out=tmp_path)
    SFT(max_steps=3, save_every=2).align(toy.model(), toy.demonstrations(6), out=tmp_path)


def test_a_folder_of_another_reference_is_refused(tmp_path):
    how, rows = {"max_steps": 2}, toy.preferences(4)
    DPO(**how, reference=toy.model(seed=5)).align(toy.model(), rows, out=tmp_path)
    with pytest.raises(RunError, match="reference"):
        DPO(**how, reference=toy.model(seed=6)).align(toy.model(), rows, out=tmp_path)


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(RunError, match="cannot be used"):
        SFT(max_steps=1).align(toy.model(), toy.demonstrations(2), out=tmp_path / "file")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "training.json").write_text("{")
    with pytest.raises(RunError, match="not readable"):
        SFT(max_steps=1).align(toy.model(), toy.demonstrations(2), out=tmp_path)


def test_reference_logprobs_are_kept_and_used(tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    rows, start = toy.preferences(6), toy.model()
    DPO(max_steps=1, batch_size=6).align(start, rows, out=tmp_path / "one")
    (kept,) = (tmp_path / "cache" / "reference").iterdir()
    logps = load_file(kept)["logps"]
    found = start.logprobs([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    torch.testing.assert_close(logps[:, 0], torch.tensor(found, dtype=torch.float32), atol=1e-4, rtol=1e-5)
    save_file({"logps": logps - 1000.0 * torch.tensor([[0.0, 1.0]])}, kept)
    # Another run and another loss of the same rows read what is there.
    DPO(max_steps=1, batch_size=6, loss="hinge").align(start, rows, out=tmp_path / "two")
    row = json.loads((tmp_path / "two" / "log.jsonl").read_text().splitlines()[1])
    assert row["rewards/margins"] == pytest.approx(-100, abs=0.1)
    DPO(max_steps=1, batch_size=6, ld_alpha=0.5).align(start, rows, out=tmp_path / "three")
    DPO(max_steps=1, batch_size=6).align(start, toy.preferences(5), out=tmp_path / "four")
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 3


def test_a_cache_that_is_damaged_or_cannot_be_written_stops_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path))
    DPO(max_steps=1, batch_size=6).align(toy.model(), toy.preferences(6))
    (kept,) = (tmp_path / "reference").iterdir()
    kept.write_bytes(b"not a file of tensors")
    DPO(max_steps=1, batch_size=6).align(toy.model(), toy.preferences(6), out=tmp_path / "again")
    assert "made again" in caplog.text
    row = json.loads((tmp_path / "again" / "log.jsonl").read_text().splitlines()[1])
    assert row["rewards/margins"] == pytest.approx(0, abs=1e-4)
    (tmp_path / "file").write_text("here")
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "file"))
    DPO(max_steps=1, batch_size=6).align(toy.model(), toy.preferences(6))


def test_order_depends_on_seed_and_epoch_alone():
    widths = [(at * 7) % 40 + 1 for at in range(1003)]
    order = BatchOrder(widths, 4, seed=3, shuffle=True)
    order.set_epoch(2)
    second = list(order)
    assert len(second) == len(order) == 251
    assert sorted(row for batch in second for row in batch) == list(range(1003))
    again = BatchOrder(widths, 4, seed=3, shuffle=True)
    list(again)
    again.set_epoch(2)
    assert list(again) == second
    again.set_epoch(1)
    assert list(again) != second
    padded = sum(len(batch) * max(widths[row] for row in batch) for batch in second)
    plain = sum(4 * max(widths[at : at + 4]) for at in range(0, 1003, 4))
    assert padded < 0.8 * plain
    assert list(BatchOrder(widths[:5], 2, seed=0, shuffle=False)) == [[0, 1], [2, 3], [4]]


def test_a_batch_is_laid_out_answer_by_answer():
    rows = [
        Row(4, (([1, 2], [3]), ([1, 2], [5, 6])), {"label": 1.0, "each": [0.5, 0.6]}),
        Row(9, (([7], [8]), ([7], [9]), ([7, 8], [4])), {"label": 0.0, "each": [0.7, 0.8, 0.9]}),
    ]
    reference = torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.4, 0.5]])
    padded = collate(rows, 0, reference, packed=False)
    assert padded.input_ids.tolist() == [[1, 2, 3, 0], [7, 8, 0, 0], [1, 2, 5, 6], [7, 9, 0, 0], [7, 8, 4, 0]]
    assert padded.attention_mask.sum(1).tolist() == [3, 2, 4, 2, 3]
    packed = collate(rows, 0, reference)
    assert packed.input_ids.tolist() == [[1, 2, 5, 6, 3, 7, 8, 4, 9]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1, 2, 1]]
    for batch in (padded, packed):
        flat = batch.input_ids.flatten()
        assert batch.targets.tolist() == [3, 8, 5, 6, 9, 4]
        assert flat[batch.sources].tolist() == [2, 7, 2, 5, 7, 8]
        assert flat[batch.last].tolist() == [3, 8, 6, 9, 4]
        assert batch.lengths.tolist() == [1, 1, 2, 1, 1]
        assert batch.owner.tolist() == [0, 1, 0, 1, 1]
        assert batch.slot.tolist() == [0, 0, 1, 1, 2]
        assert batch.reference.tolist() == pytest.approx([0.1, 0.3, 0.2, 0.4, 0.5])
        assert batch.values["label"].tolist() == [1.0, 0.0]
        assert batch.values["each"].tolist() == pytest.approx([0.5, 0.7, 0.6, 0.8, 0.9])
        assert (batch.rows, batch.answers) == ([4, 9], 3)
        assert batch.units == {"row": 2, "token": 2, "every_token": 6}
    assert (padded.tokens, packed.tokens) == (14, 9)


def test_tied_weights_are_written_once_and_come_back(tmp_path):
    one, other = toy.model("gemma").weights, toy.model("gemma", seed=1).weights
    save_trained(one.requires_grad_(True), tmp_path)
    load_trained(other.requires_grad_(True), tmp_path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert other.get_input_embeddings().weight is other.get_output_embeddings().weight
