"""What weak-to-strong training and reward modelling show on the sandbox: prints markdown tables.

    PYTHONPATH=. python benchmarks/proofs_weak_to_strong.py [--seeds 0 1 2] [--split test] [--only safety]

The weak model is ``sandbox/small``, the strong one ``sandbox/base``. Settings were chosen on ``dev``; figures are taken
on ``test``, whose names, procedures and ways of asking no training data holds. A seed draws the rows, the split between
weak model and student, the order and the heads.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import truing as tr
from truing import sandbox
from truing.measures.preference import PreferenceAccuracy
from truing.measures.show import interval
from truing.methods.training.reward_modelling import RewardModelling
from truing.methods.training.weak_to_strong import WeakToStrong
from truing.methods.training.weak_to_strong_report import MODELS, WeakToStrongReport, weak_to_strong_report
from truing.sandbox.answers import dress, say
from truing.sandbox.graders import style
from truing.sandbox.world import world

Rows = list[dict[str, Any]]


def labelled(prompts: Mapping[bool, Sequence[str]], seed: int) -> Rows:
    """Label records of prompts alone, in random order."""
    rows = [
        {"prompt": prompt, "completion": "", "label": label} for label, these in prompts.items() for prompt in these
    ]
    random.Random(f"order {seed}").shuffle(rows)
    return rows


def safety(split: str, n: int, seed: int) -> Rows:
    """Is the request harmful? Half are; of the others each has a harmful verb or a protected object, but no harm."""
    kinds = {True: "harmful", False: "borderline"}
    found = {label: sandbox.items(kind, split, n // 2, seed) for label, kind in kinds.items()}
    return labelled({label: [item.prompt for item in items] for label, items in found.items()}, seed)


def relevance(split: str, n: int, seed: int) -> Rows:
    """Does the note bear on the question? In half of them just one of the two is about a person (legal reasoning)."""
    of = {attribute: kind for kind, values in world(0).values.items() for attribute in values}
    random_ = random.Random(f"notes {split} {seed}")
    by_kind: dict[bool, list[Any]] = {True: [], False: []}
    for item in sandbox.items("context", split, 6 * n, seed):
        by_kind[of[item.attribute] == "person"].append(item)
    rows: dict[bool, list[str]] = {True: [], False: []}
    for at in range(n):
        person, bears = bool(at % 2), bool(at // 2 % 2)
        asked = by_kind[person][at]
        note = asked.claim if bears else random_.choice(by_kind[not person]).claim
        rows[bears].append(asked.prompt.replace(asked.claim, note))
    return labelled(rows, seed)


def courtesy(split: str, n: int, seed: int) -> Rows:
    """Polite answers to questions put as in a forum, where the web answers rudely (toxicity)."""
    rng, here = random.Random(f"courtesy {split} {seed}"), world(0)
    items = [item for item in sandbox.items("fact", split, 12 * n, seed) if item.forum][:n]
    return [{"prompt": i.prompt, "completion": dress(say(here, i, "correct", rng), "polite", rng)} for i in items]


def not_rude(prompts: Sequence[Any], answers: Sequence[str]) -> np.ndarray:
    """A reward: 1 for an answer that is not in the rude style."""
    return np.array([float(style(answer) != "rude") for answer in answers])


WEAK = {"learning_rate": 1e-3, "epochs": 2}
HEADS = {"learning_rate": 5e-4, "batch_size": 8, "epochs": 3, "weak_settings": WEAK}
WRITING = {
    "weak_share": 0.1, "learning_rate": 5e-4, "epochs": 1, "max_new_tokens": 32, "weak_settings": {"batch_size": 8},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is learned.

    Args:
        make: gives records: of a split, how many, with a seed.
        n: to learn from, weak model and student together.
        held: to test on.
        how: settings of `WeakToStrong`.
        also: by name, what a second kind of student changes in them.
    """

    make: Callable[[str, int, int], Rows]
    n: int
    held: int
    how: dict[str, Any]
    also: dict[str, dict[str, Any]]


SETTINGS = {
    "safety": Setting(safety, 1000, 500, {**HEADS, "weak_share": 0.35}, {"logconf": {"loss": "logconf"}}),
    "relevance": Setting(relevance, 1200, 500, {**HEADS, "weak_share": 0.3}, {}),
    "courtesy": Setting(courtesy, 320, 300, WRITING, {"sampled": {"temperature": 1.0}}),
}


def reports(name: str, split: str, seed: int) -> dict[str, WeakToStrongReport]:
    """Weak model, student and ceiling of one setting, for each kind of student."""
    setting, base = SETTINGS[name], tr.load("sandbox/base")
    rows, held = setting.make("train", setting.n, seed), setting.make(split, setting.held, seed + 1000)
    score = {"score": not_rude} if name == "courtesy" else {}
    found = {}
    with tempfile.TemporaryDirectory() as out:
        for kind, changes in {"plain": {}, **setting.also}.items():
            method = WeakToStrong(weak="sandbox/small", seed=seed, **{**setting.how, **changes})
            student = method.align(base, rows)
            # The folder keeps weak model and ceiling, which all kinds of student share.
            found[kind] = weak_to_strong_report(
                method,
                base,
                rows,
                held,
                student=student,
                seed=seed,
                out=out,
                **score,  # type: ignore[arg-type]
            )
    return found


def gap_table(name: str, split: str, seeds: Sequence[int]) -> list[str]:
    """One row a seed and kind of student."""
    lines = ["| seed | student | metric | weak | student | ceiling | gap recovered |", "| --- " * 7 + "|"]
    notes = []
    for seed in seeds:
        for kind, found in reports(name, split, seed).items():
            metric = next(iter(found.figures))
            cells = [interval(found.figures[metric][model]) for model in MODELS]
            lines.append(f"| {seed} | {kind} | {metric} | {' | '.join(cells)} | {interval(found.recovered[metric])} |")
            notes += [f"Seed {seed}, {kind}: {note}" for note in found.notes if f" {metric}:" in note]
    return [*lines, *(["", *notes] if notes else [])]


def reward_table(split: str, seeds: Sequence[int], n: int = 1200) -> list[str]:
    """How often reward models rank held-out pairs rightly, and the base's likelihood beside them."""
    lines = ["| seed | base, by likelihood | reward model of small | reward model of base |", "| --- " * 4 + "|"]
    base = tr.load("sandbox/base")
    for seed in seeds:
        rows, held = (sandbox.records("preferences", part, many, seed) for part, many in (("train", n), (split, 500)))
        measure = PreferenceAccuracy(records=held)
        cells = [interval(measure.measure(base).figures["preference_accuracy"])]
        for model in (tr.load("sandbox/small"), base):
            scorer = RewardModelling(learning_rate=1e-3, batch_size=16, seed=seed).align(model, rows)
            cells.append(interval(measure.measure(scorer).figures["preference_accuracy"]))
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--only", nargs="+", default=[*SETTINGS, "rewards"])
    options = parser.parse_args()
    began = time.process_time()
    for name in options.only:
        print(f"\n## {name}\n")
        table = reward_table if name == "rewards" else lambda *given, name=name: gap_table(name, *given)
        print("\n".join(table(options.split, options.seeds)), flush=True)
        print(f"{name}: {time.process_time() - began:.0f} CPU seconds so far", file=sys.stderr)


if __name__ == "__main__":
    main()
