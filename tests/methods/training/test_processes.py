"""Two processes train as one does: data-parallel through a launcher, and sharded."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.methods.training import toy
from truing import BCO, DPO, SFT

ROOT = Path(__file__).resolve().parents[3]
HOW = {
    "learning_rate": 1e-3, "batch_size": 3, "epochs": 2, "save_every": 2, "weight_decay": 0.01, "beta": 0.5,
    "loss": {"sigmoid": 1.0, "sft": 0.5},
}  # fmt: skip

THUMBS = {"learning_rate": 1e-3, "batch_size": 3, "epochs": 2, "beta": 0.5}

PARALLEL = """
import sys, torch
torch.set_num_threads(1)
from tests.methods.training import toy, test_processes
from truing import BCO, DPO
BCO(**test_processes.THUMBS).align(toy.model(), test_processes.thumbs(24), out=sys.argv[1] + "/thumbs")
aligned = DPO(**test_processes.HOW).align(toy.model(), toy.preferences(24), out=sys.argv[1])
torch.save(aligned.weights.state_dict(), sys.argv[1] + f"/rank-{torch.distributed.get_rank()}.pt")
"""

SHARDED = """
import json, sys, torch
torch.set_num_threads(1)
from tests.methods.training import test_processes
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
losses, weights = test_processes.sharded_steps(rank, 2)
if rank == 0:
    torch.save(weights, sys.argv[1] + "/weights.pt")
    open(sys.argv[1] + "/losses.json", "w").write(json.dumps(losses))
"""


def thumbs(count):
    """Uneven: how many are good differs from batch to batch."""
    rows = toy.preferences(count)
    goods = [at % 5 in (0, 1, 3) for at in range(count)]
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
        for row, good in zip(rows, goods)
    ]


def launch(script, folder, launcher):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = folder / "child.py"
    path.write_text(script)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
        "TRUING_CACHE": str(folder / "cache"),
    }  # fmt: skip
    python = [sys.executable, "-m"]
    starts = {
        "torchrun": [*python, "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)],
        "accelerate": [
            *python, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port),
        ],
    }  # fmt: skip
    done = subprocess.run(
        [*starts[launcher], str(path), str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "step" in row]


COMMAND = """
import json, os, sys
from tests.methods.training import toy
from truing.cli import main
folder = sys.argv[1]
if not os.path.exists(folder + "/model"):
    if os.environ["RANK"] == "0":
        toy.model().save(folder + "/making")
        open(folder + "/pairs.jsonl", "w").write("\\n".join(map(json.dumps, toy.preferences(8))))
        os.rename(folder + "/making", folder + "/model")
    while not os.path.exists(folder + "/model"):
        pass
sys.argv = ["truing", "align", "dpo", "--model", folder + "/model", "--records", folder + "/pairs.jsonl", "--out",
    folder + "/out", "--batch-size", "2", "--max-steps", "2"]
main()
"""


@pytest.mark.slow
def test_the_command_line_under_a_launcher_writes_one_model(tmp_path):
    import truing as tr

    launch(COMMAND, tmp_path, "torchrun")
    aligned = tr.load(tmp_path / "out")
    assert [step.method for step in aligned.history] == ["dpo"]
    assert len(log_of(tmp_path / "out" / "training")) == 2


@pytest.mark.slow
def test_the_launcher_trains_as_one_process_does(tmp_path):
    alone = DPO(**HOW, gradient_accumulation=2).align(toy.model(), toy.preferences(24), out=tmp_path / "one")
    (tmp_path / "two").mkdir()
    launch(PARALLEL, tmp_path / "two", "accelerate")
    ranks = [torch.load(tmp_path / "two" / f"rank-{at}.pt") for at in range(2)]
    for name, value in ranks[0].items():
        assert torch.equal(value, ranks[1][name])
        torch.testing.assert_close(value, alone.weights.state_dict()[name], atol=1e-5, rtol=1e-4)
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert len(one) == len(two) == 8
    for left, right in zip(one, two):
        for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen"):
            assert right[name] == pytest.approx(left[name], rel=1e-4, abs=1e-5), name
    assert (tmp_path / "two" / "checkpoints" / "finished" / "complete").is_file()
    BCO(**THUMBS, gradient_accumulation=2).align(toy.model(), thumbs(24), out=tmp_path / "thumbs")
    mine, theirs = log_of(tmp_path / "thumbs"), log_of(tmp_path / "two" / "thumbs")
    # One process moves the shift after each accumulated batch, two move it once for both: from the second batch on
    # they differ by what a step changes. What both see is the same rows and, at the end, nearly the same shift.
    assert [row["step"] for row in mine] == [row["step"] for row in theirs]
    assert theirs[0]["loss"] == pytest.approx(mine[0]["loss"], abs=1e-4)
    assert theirs[-1]["loss"] == pytest.approx(mine[-1]["loss"], abs=0.02)
    launch(PARALLEL, tmp_path / "two", "torchrun")
    assert len(log_of(tmp_path / "two")) == 8, "a finished training is not repeated"


def sharded_steps(rank, world):
    """Three steps of SFT on this process's share; losses of the whole batch, and the whole weights at the end."""
    from torch.distributed.fsdp import fully_shard

    from truing.methods.training import processes
    from truing.methods.training.batches import collate
    from truing.methods.training.encoding import encode
    from truing.methods.training.policy import Policy, prepared

    start, objective = toy.model(), SFT().objective()
    rows, _, _ = encode(start, toy.demonstrations(12), objective, max_length=256, truncate="end")
    losses = []
    with prepared(start.weights, 0) as packed:
        assert packed
        policy = Policy(start.weights.train())
        if world > 1:
            mesh = torch.distributed.init_device_mesh("cpu", (world,))
            for layer in start.weights.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(policy, mesh=mesh)
        optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-3)
        for step in range(3):
            share = rows[4 * step : 4 * step + 4][rank::world]
            batch = collate(share, 0)
            (term,) = objective.terms(policy(batch))
            count = processes.total(torch.tensor(float(batch.units["every_token"])))
            loss = term.values.sum() / count
            (world * loss).backward()
            losses.append(float(processes.total(loss.detach())))
            optimiser.step()
            optimiser.zero_grad()
    return losses, {name: processes.whole(p).clone() for name, p in policy.named_parameters()}


@pytest.mark.slow
def test_sharded_layers_train_as_whole_ones_do(tmp_path):
    losses, weights = sharded_steps(0, 1)
    launch(SHARDED, tmp_path, "torchrun")
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(losses, abs=1e-5)
    assert losses[-1] < losses[0]
    for name, value in torch.load(tmp_path / "weights.pt").items():
        torch.testing.assert_close(value, weights[name], atol=1e-5, rtol=1e-4)
