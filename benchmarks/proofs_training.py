"""What every training method shows on the sandbox, over three seeds: writes ``docs/proofs/training.md``.

    PYTHONPATH=. python benchmarks/proofs_training.py [--only objectives scenarios ...] [--jobs 2]

Each section is a file under ``runs/proofs/training`` once it is done, so a killed proof goes on where it was; remove
the file to prove that section anew. Figures are taken on the ``test`` split; settings were chosen on ``dev``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import truing as tr
from benchmarks.proving import Prove, prove, table
from truing import sandbox
from truing.measures.result import Result
from truing.reports.rows import interval
from truing.runs import run

FIGURES = ("helpful", "harmless", "honest")
RECIPES = (
    "quickstart", "simpo", "orpo", "kto", "bco", "d2o", "cut", "poft", "distillation", "mixture-of-instructions",
    "raft", "reasoning-grpo",
)  # fmt: skip


def cells(result: Result, ours: bool = True) -> list[str]:
    """Helpful, harmless and honest with intervals."""
    found = result.figures if ours else dict(result.against or {})
    return [interval(found[name]) for name in FIGURES]


def objectives(seeds: Sequence[int], out: Path) -> str:
    """The ready recipe of each method: its figures, its distance to the start, its training time."""
    rows = []
    for name in RECIPES:
        for seed in seeds:
            done = run(name, out=out / "runs" / f"{name}-{seed}", overrides=[f"seed={seed}"])
            hhh, kl = done.results["hhh"], done.results["kl"]
            if not rows:
                rows.append(["the start", "", *cells(hhh, ours=False), "", ""])
            seconds = sum(step["seconds"] for step in done.state["steps"])
            moved = interval(next(iter(kl.figures.values())))
            rows.append([f"`{name}`" if seed == seeds[0] else "", seed, *cells(hhh), moved, f"{seconds:.0f}"])
    return table(["recipe", "seed", *FIGURES, "KL to the start, nats a token", "seconds"], rows)


def scenarios(seeds: Sequence[int], out: Path) -> str:
    """Page 37's comparison: align after SFT, align the base, align a model that was tuned well."""
    how = {"learning_rate": 3e-4, "batch_size": 16}
    methods: dict[str, Callable[[int], Any]] = {
        "DPO": lambda seed: tr.DPO(**how, beta=2.0, seed=seed),
        "IPO": lambda seed: tr.IPO(**how, beta=0.5, seed=seed),
        "CPO": lambda seed: tr.CPO(**how, beta=1.0, seed=seed),
        "KTO": lambda seed: tr.KTO(**how, beta=1.0, seed=seed),
    }
    rows = []
    for seed in seeds:
        pairs = sandbox.records("preferences", n=800, seed=seed)
        base = tr.load("sandbox/base")
        tune = tr.SFT(learning_rate=5e-4, epochs=2, batch_size=16, seed=seed)
        starts = {
            "1 SFT, then align": tune.align(base, sandbox.records("demonstrations", n=120, seed=seed)),
            "2 align the base": base,
            "3 align a tuned model": tune.align(base, sandbox.records("demonstrations", n=600, seed=seed)),
        }
        for scenario, start in starts.items():
            rows.append([scenario, "its start", seed, *cells(tr.measure("hhh", start))])
            for name, make in methods.items():
                aligned = make(seed).align(start, pairs)
                rows.append(["", name, seed, *cells(tr.measure("hhh", aligned))])
    order = {label: at for at, label in enumerate(dict.fromkeys(str(row[0]) for row in rows if row[0]))}
    where, sorted_rows = "", []
    for row in rows:
        where = str(row[0]) or where
        sorted_rows.append((order[where], ["its start", *methods].index(str(row[1])), int(row[2]), row))
    sorted_rows.sort(key=lambda item: item[:3])
    last, shown = None, []
    for at, method, _, row in sorted_rows:
        label = next(name for name, number in order.items() if number == at)
        shown.append([label if (at, method) == (at, 0) and last != at else "", *row[1:]])
        last = at
    return table(["scenario", "method", "seed", *FIGURES], shown)


def merging(seeds: Sequence[int], out: Path) -> str:
    """Two parents that learned from demonstrations of their own, and their merges by each rule."""
    rules: dict[str, dict[str, Any]] = {
        "linear": {}, "task_arithmetic": {"weights": [0.5, 0.5]}, "model_stock": {}, "ties": {"density": 0.5},
        "dare": {"drop": 0.3}, "slerp": {},
    }  # fmt: skip
    needs_base = ("task_arithmetic", "model_stock", "ties", "dare")
    rows = []
    for seed in seeds:
        base = tr.load("sandbox/base")
        parents = []
        for at in (0, 1):
            tune = tr.SFT(learning_rate=5e-4, epochs=2, batch_size=16, seed=2 * seed + at)
            demos = sandbox.records("demonstrations", n=200, seed=100 + 2 * seed + at)
            parents.append(tune.align(base, demos))
            rows.append([f"parent {at + 1}", seed, *cells(tr.measure("hhh", parents[-1]))])
        for rule, more in rules.items():
            given = {**more, **({"base": base} if rule in needs_base else {})}
            merged = tr.ModelMerge(models=[parents[1]], rule=rule, **given).align(parents[0])
            rows.append([f"`{rule}`", seed, *cells(tr.measure("hhh", merged, against=parents[0]))])
    names = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: (names.index(row[0]), row[1]))
    return table(["model", "seed", *FIGURES], rows)


def chain(seeds: Sequence[int], out: Path) -> str:
    """The recipe ``baichuan``, stage by stage."""
    rows = []
    for seed in seeds:
        done = run("baichuan", out=out / "runs" / f"baichuan-{seed}", overrides=[f"seed={seed}"])
        last = done.results["hhh"]
        if not rows:
            rows.append(["the start", "", *cells(last, ours=False)])
        for folder, results in done.by_step.items():
            if "hhh" in results:
                rows.append([folder, seed, *cells(results["hhh"])])
        rows.append([done.state["steps"][-1]["folder"], seed, *cells(last)])
    names = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: (names.index(row[0]), str(row[1])))
    return table(["stage", "seed", *FIGURES], rows)


def printed(script: str, *arguments: str) -> Callable[[Sequence[int], Path], str]:
    """What another script of proofs prints."""

    def prove(seeds: Sequence[int], out: Path) -> str:
        command = [sys.executable, str(Path(__file__).with_name(script)), *arguments, "--seeds", *map(str, seeds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
        lines = done.stdout.strip().splitlines()
        if sum(line.startswith("## ") for line in lines) == 1:
            lines = [line for line in lines if not line.startswith("## ")]
        lines = [f"**{line[3:]}**" if line.startswith("## ") else line for line in lines]
        if lines[-1].endswith(" s"):  # some say how long they took
            lines.pop()
        return "\n".join(lines).strip()

    return prove


SECTIONS: dict[str, tuple[str, Prove]] = {
    "objectives": ("Each method's ready recipe", objectives),
    "scenarios": ("The three scenarios of the DPO family (37)", scenarios),
    "bco": ("BCO, DPO and KTO from thumbs; shifted prompts (45)", printed("proofs_bco.py")),
    "d2o": ("D2O: from bad answers alone (41)", printed("proofs_d2o_raft.py", "--only", "d2o")),
    "raft": ("RAFT: reward against KL (54)", printed("proofs_d2o_raft.py", "--only", "raft")),
    "cut": ("CUT: criticised tokens (22)", printed("proofs_cut_poft.py", "--only", "cut")),
    "poft": ("PoFT: 30 % spoiled demonstrations (57)", printed("proofs_cut_poft.py", "--only", "poft")),
    "distillation": ("Distillation (20)", printed("proofs_distillation.py", "distillation")),
    "bialign": ("BiAlign (47)", printed("proofs_distillation.py", "bialign")),
    "mixture": ("Mixture of Instructions (43)", printed("proofs_distillation.py", "mixture")),
    "weak-to-strong": ("Weak to strong, and reward models (08, 23)", printed("proofs_weak_to_strong.py")),
    "merging": ("Merging (23, 20)", merging),
    "baichuan": ("The chain of Baichuan Alignment (23)", chain),
}


def main() -> None:
    """Prove what is asked for, and write the page of all sections that are there."""
    prove(
        __file__,
        "training",
        "Proofs of training",
        "Written by `make proofs`. Everything is taken on the `test` split of the sandbox, whose names, templates and "
        "procedures no training data holds; settings were chosen on `dev`. Percentages with 95 % intervals over "
        "questions; each seed draws its own rows, order and questions. One pretrained base.",
        SECTIONS,
    )


if __name__ == "__main__":
    main()
