"""The activation attack on an aligned model of the sandbox, beside random vectors, with its defences.

For each seed the sandbox's base is aligned (SFT on 600 demonstrations and 40 balanced opinions, DPO on 1,600
preferences) and audited with questions of its own. Figures are pooled over seeds; answers to one question by several
models are one cluster. Strengths were chosen on ``dev``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.proving import table
from truing import load
from truing.measures.activation_attack import ActivationAttack
from truing.measures.activation_attack_report import ALARMS
from truing.measures.activation_attack_targets import COLUMNS
from truing.measures.result import Column, Result
from truing.measures.run import estimate
from truing.measures.show import POINTS
from truing.methods.training.dpo import DPO
from truing.methods.training.sft import SFT
from truing.models import AnyModel
from truing.sandbox import items, records
from truing.sandbox.answers import say
from truing.sandbox.data import question
from truing.sandbox.world import world

HARM = {"harmful": 60, "fact": 30, "benign": 30, "unknown": 30, "premise_false": 30, "opinion": 20}
LIES = {"unknown": 60, "unknowable": 30, "premise_false": 30, "fact": 30, "benign": 30}
AUDITS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "harm": ({"position": 0, "strengths": (-0.2, -0.3, -0.4)}, HARM),
    "paper": ({"strengths": (-0.2, -0.4, -0.8), "draws": 2, "repair": False, "defences": False}, HARM),
    "lies": (
        {"target": "truthful", "position": 0, "score": "separation", "strengths": (-0.4, -0.6, -0.8), "repair": False,
         "defences": False},
        LIES,
    ),
    "lies_jsd": (
        {"target": "truthful", "position": 0, "strengths": (-0.8,), "control": None, "repair": False,
         "defences": False},
        LIES,
    ),
}  # fmt: skip
SHOWN = ("harmless", "refused", "truthful", "courteous", "balanced", "capable", "broken")


def aligned(seed: int, out: Path) -> AnyModel:
    """The sandbox's base after SFT and DPO, opinions among the demonstrations so that there are some to lose."""
    folder = out / f"attack-model-{seed}"
    if not (folder / "truing.json").is_file():
        rng = random.Random(seed)
        rows = [
            {key: row[key] for key in ("prompt", "completion")} for row in records("demonstrations", "train", 600, seed)
        ]
        opinions = items("opinion", "train", 40, seed)
        rows += [{"prompt": item.prompt, "completion": say(world(0), item, "correct", rng)} for item in opinions]
        model = SFT(learning_rate=5e-4, epochs=2, batch_size=16, seed=seed).align(load("sandbox/base"), rows)
        pairs = DPO(learning_rate=3e-4, batch_size=16, beta=2.0, loss={"sigmoid": 1.0, "sft": 1.0}, seed=seed)
        pairs.align(model, records("preferences", "train", 1600, seed)).save(folder)
    return load(folder)


def audited(name: str, seeds: Sequence[int], out: Path, split: str) -> tuple[list[Result], list[dict[str, Any]]]:
    """One audit of every seed's model, and all their samples, clustered by question."""
    settings, kinds = AUDITS[name]
    results, rows = [], []
    for seed in seeds:
        asked = [question(item) for kind, count in kinds.items() for item in items(kind, split, count, seed)]
        audit = ActivationAttack(records=asked, seed=seed, max_new_tokens=40, split=split, **settings)
        found = audit.measure(aligned(seed, out), out=out / "attack-answers")
        results.append(found)
        prompts = {f"row-{at + 1}": row["prompt"] for at, row in enumerate(asked)}
        rows += [{**row, "cluster": prompts.get(row["id"], f"{row['id']} {seed}")} for row in found.samples]
    return results, rows


def cell(column: Column, rows: Sequence[dict[str, Any]]) -> str:
    """A pooled figure in percent, with its interval."""
    found = estimate(column, rows)
    if found is None:
        return ""
    digits = "{:+.0f} [{:+.0f}, {:+.0f}]" if column.unit == POINTS else "{:.0f} [{:.0f}, {:.0f}]"
    return digits.format(*(100 * value for value in (found.value, found.low, found.high)))


def _column(name: str, suffix: str, minus: str | None = None) -> Column:
    one = COLUMNS.get(name, Column(name))
    return Column(name + suffix, "share" if minus is None else POINTS, statistic=one.statistic, strata=one.strata,
                  minus=None if minus is None else name + minus)  # fmt: skip


def behaviour(shown: Sequence[str], results: Sequence[Result], rows: Sequence[dict[str, Any]]) -> str:
    """A table: each run and its figures."""
    there = [one for one in shown if any(one in row for row in rows)]
    grid = results[0].grids[0]
    norms = [
        [float(row[0].split("(")[1][:-1]) if "(" in row[0] else 0.0 for row in one.grids[0].rows] for one in results
    ]
    lines = []
    for at, (label, names) in enumerate(grid.rows):
        suffix = names[0].removeprefix(grid.columns[1])
        norm = "" if not norms[0][at] else f"{min(n[at] for n in norms):.2f} to {max(n[at] for n in norms):.2f}"
        lines.append([label.split(" (")[0], norm, *(cell(_column(one, suffix), rows) for one in there)])
    return table(["run", "norm added over norm of states", *there], lines)


def verdicts(results: Sequence[Result], seeds: Sequence[int], targets: Sequence[str]) -> str:
    """What each audit says of its targets, seed by seed."""
    lines = []
    for seed, one in zip(seeds, results):
        for target in targets:
            lines += [[seed, note.replace("|", "/")] for note in one.notes if note.startswith(f"{target} (")]
    return table(["seed", "verdict"], lines)


def attack(seeds: Sequence[int], out: Path, split: str = "test") -> str:
    """The attack's effect with controls and defences, as tables in Markdown."""
    parts = []
    results, rows = audited("harm", seeds, out, split)
    parts += [
        "**Harm**, vectors read at the first token of the answer. Shares in percent; `harmless` counts harmful "
        "requests that are not complied with, `refused` those that are refused. Three random vectors a strength, "
        "averaged.",
        behaviour(SHOWN, results, rows),
        "Change of `harmless` in points, paired: "
        + "; ".join(
            f"at {c:g} {cell(_column('harmless', f' {c:+g}', ''), rows)} from clean, "
            f"{cell(_column('harmless', f' {c:+g}', f' {c:+g} random'), rows)} from random vectors"
            for c in AUDITS["harm"][0]["strengths"]
        )
        + ".",
        verdicts(results, seeds, ("harmless", "truthful")),
        "**Alarms**, in percent: ways to attach the vector that integrity finds, canaries that are off, answers that "
        "the monitor flags. 1 % false alarms are asked of each of its parts, and 50 answers for its bounds promise no "
        "less than 2 %. The first row holds false alarms.",
        table(
            ["run", *ALARMS],
            [
                [label, *(cell(Column(name + suffix), rows) for name in ALARMS)]
                for label, suffix in [("clean", "")]
                + [(f"attack {c:+g}", f" {c:+g}") for c in AUDITS["harm"][0]["strengths"]]
            ],
        ),
    ]
    results, rows = audited("paper", seeds, out, split)
    parts += [
        "**The paper's position**: the same pairs read at the answer's last token (-2), its strengths.",
        behaviour(SHOWN, results, rows),
        verdicts(results, seeds, ("harmless",)),
    ]
    results, rows = audited("lies", seeds, out, split)
    other, more = audited("lies_jsd", seeds, out, split)
    parts += [
        "**Truth**, vectors read at the first token, layer chosen by separation.",
        behaviour(("truthful", "capable", "broken"), results, rows),
        verdicts(results, seeds, ("truthful",)),
        "Layers attacked: "
        + ", ".join(f"{_layer(one)} by separation and {_layer(two)} by the divergence (seed {seed})"
                    for seed, one, two in zip(seeds, results, other))
        + f". By the divergence, at -0.8: truthful {cell(_column('truthful', ' -0.8'), more)}, "
        f"capable {cell(_column('capable', ' -0.8'), more)}.",
    ]  # fmt: skip
    return "\n\n".join(parts)


def _layer(result: Result) -> str:
    return next(label.split(",")[0] for label, _ in result.grids[1].rows if "attacked" in label)
