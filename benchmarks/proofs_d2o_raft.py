"""What D2O and RAFT do on the sandbox, over three seeds, as markdown tables.

    PYTHONPATH=. python benchmarks/proofs_d2o_raft.py [--seeds 0 1 2] [--only d2o raft]

Figures of helpful, harmless and honest are taken on the ``test`` split, whose names, templates and procedures no
training data holds, with 95 % intervals over questions; each seed draws its own training rows and its own questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from truing import SFT, load, measure, progress, sandbox
from truing.methods.loops.raft import RAFT
from truing.methods.training.d2o import D2O
from truing.methods.training.self_samples import COLUMN, SelfSampler
from truing.reports.rows import change, interval

FIGURES = ("helpful", "harmless", "honest")
# Lines that some writers of the text that the base has read were given; the pool that D2O brings is plain English,
# which the base has not read.
LINES = ("Refuse to help with harm.", "Say so if you do not know.", "Be careful.", "Be careful and polite.")


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _figures(model: Any, seed: int) -> list[str]:
    found = measure("hhh", model, seed=seed).figures
    return [interval(found[name]) for name in FIGURES]


def _words(model: Any, seed: int) -> str:
    return interval(measure("length", model, seed=seed, limit=120).figures["length"])


def d2o_table(seeds: Sequence[int], n: int = 200) -> list[str]:
    """Bad answers, and what each part of D2O does with them.

    - NPO: no own samples (beta 0), which is near gradient ascent on the bad answers.
    - D2O, bare samples: own samples asked for without instructions, so that the bad answers alone say what is wanted.
    - SFT on own samples: the samples that careful instructions gave, without the bad answers.
    - D2O: both. What it has over SFT on its samples is what the bad answers add; the last table pairs the two.

    Of 8 settings tried on ``dev`` with 300 records of seed 0 one was taken for D2O with instructions; bare samples and
    NPO have the same alpha, learning rate and epochs. SFT has settings of its own. None of these three was tuned.
    """
    base = load("sandbox/base")
    lines = [_row(["trained with", "seed", *FIGURES, "words an answer"]), "| --- " * 6 + "|"]
    paired = [_row(["D2O less SFT on own samples, seed", *FIGURES]), "| --- " * 4 + "|"]
    how = {"learning_rate": 5e-4, "epochs": 2, "batch_size": 16, "alpha": 0.1, "online_after": None}
    names = ("start", "NPO (beta 0)", "D2O, bare samples", "SFT on own samples", "D2O")
    made: dict[str, list[str]] = {name: [] for name in names}
    for seed in seeds:
        rows = sandbox.records("dispreferences", "train", n, seed)
        sampler = SelfSampler(k=8, instructions=LINES, max_new_tokens=40, seed=seed)
        own, bare = sampler.build(rows, base), sampler.clone(instructions=[]).build(rows, base)
        said = [{"prompt": row["prompt"], "completion": text} for row in own for text in row[COLUMN]]
        models = dict(zip(names, (
            base, D2O(**how, beta=0.0, seed=seed).align(base, rows),
            D2O(**how, beta=1.0, seed=seed).align(base, bare),
            SFT(learning_rate=3e-4, epochs=1, batch_size=64, seed=seed).align(base, said),
            D2O(**how, beta=1.0, seed=seed).align(base, own),
        )))  # fmt: skip
        for name, model in models.items():
            made[name].append(_row([name, seed, *_figures(model, seed), _words(model, seed)]))
        apart = measure("hhh", models["D2O"], against=models["SFT on own samples"], seed=seed).differences or {}
        paired.append(_row([seed, *(change(apart[name]) for name in FIGURES)]))
        progress.say(f"d2o: seed {seed}")
    return [*lines, *(line for found in made.values() for line in found), "", *paired]


def raft_table(seeds: Sequence[int], rounds: int = 4) -> list[str]:
    """The reward against the distance to the start, round by round, and what the last model does on ``test``.

    The reward is the sandbox's grade, which also measures; questions of training and test are different ones. No round
    asks a prompt of an earlier one, so that its reward is that of prompts not trained on. The first setting that was
    tried on ``dev`` was taken.
    """
    base = load("sandbox/base")
    lines = [
        _row(
            [
                "seed",
                "after round",
                "reward of a sample",
                "nats a token from the start",
                "selected reward",
                "distinct-2",
            ]
        ),
        "| --- " * 6 + "|",
    ]
    last = [_row(["model", "seed", *FIGURES, "words an answer"]), "| --- " * 6 + "|"]
    for seed in seeds:
        rows = sandbox.records("questions", "train", 125 * rounds, seed)
        method = RAFT(
            reward="sandbox_grade", k=4, rounds=rounds, prompts_per_round=120, max_new_tokens=40, learning_rate=3e-4,
            batch_size=16, seed=seed,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            model = method.align(base, rows, out=folder)
            log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        for row in log:
            if row["event"] == "round":
                reward, kl = (
                    f"{value:.3f} [{value - 1.96 * error:.3f}, {value + 1.96 * error:.3f}]"
                    for value, error in ((row["reward"], row["reward_error"]), (row["kl_per_token"], row["kl_error"]))
                )
                selected = f"{row['selected_reward']:.3f} of {row['selected']}"
                lines.append(_row([seed, row["round"] - 1, reward, kl, selected, f"{row['distinct_2']:.2f}"]))
        last += [
            _row([name, seed, *_figures(one, seed), _words(one, seed)])
            for name, one in (("start", base), ("RAFT", model))
        ]
        progress.say(f"raft: seed {seed}")
    return [*lines, "", *last]


TABLES: dict[str, Callable[[Sequence[int]], list[str]]] = {"d2o": d2o_table, "raft": raft_table}


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    options = parser.parse_args()
    for name in options.only:
        began, spent = time.monotonic(), time.process_time()
        print(f"## {name}\n\n" + "\n".join(TABLES[name](options.seeds)) + "\n", flush=True)
        print(
            f"{name}: {time.process_time() - spent:.0f} CPU seconds, {time.monotonic() - began:.0f} s", file=sys.stderr
        )


if __name__ == "__main__":
    main()
