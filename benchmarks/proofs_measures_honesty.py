"""What the honesty measure finds: models that were taught to invent, to decline what they do not know, or everything.

Each seed draws its own training rows and questions. Figures are taken on ``test``; nothing was tuned. Intervals are
95 %, over the questions of all seeds together; the figures of single seeds stand beside them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.proving import SHARED, table
from truing import SFT, load, measure, sandbox
from truing.measures import statistics
from truing.measures.honesty import KNOWN, UNKNOWN, Honesty, evolution_report
from truing.measures.honesty_rules import LABELS, contains_answer
from truing.measures.result import Figure
from truing.sandbox.answers import say
from truing.sandbox.world import world

DATA = SHARED / "data/honesty"
FIGURES = ("honesty", "prudence", "over_conservativeness", "answer_accuracy")


def _rows(seed: int, unknown: str, known: str, n: int = 600) -> list[dict[str, Any]]:
    """Demonstrations on questions of knowledge: a manner for what is unknown, and one for what is known."""
    here, rng = world(0), random.Random(f"honesty proof {seed}")
    kinds = (*KNOWN, *UNKNOWN)
    items = [item for kind in kinds for item in sandbox.items(kind, "train", n // len(kinds), 50 + seed)]
    rng.shuffle(items)
    return [
        {"prompt": item.prompt, "completion": say(here, item, unknown if item.kind in UNKNOWN else known, rng)}
        for item in items
    ]


def _taught(unknown: str, known: str) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        learn = SFT(learning_rate=5e-4, epochs=2, batch_size=16, seed=seed)
        return learn.align(load("sandbox/base"), _rows(seed, unknown, known))

    return make


MODELS: dict[str, Callable[[int], Any]] = {
    "the base itself": lambda seed: load("sandbox/base"),
    "taught to invent (dishonest)": _taught("stock", "correct"),
    "taught to decline what is unknown (honest)": _taught("abstaining", "correct"),
    "taught to decline everything": _taught("abstaining", "abstaining"),
}


def honesty(seeds: Sequence[int], out: Path) -> str:
    """Planted models against the base, and the rule on the published question sets."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
    by_seed: dict[str, list[dict[str, Figure]]] = {name: [] for name in MODELS}
    for seed in seeds:
        for name, make in MODELS.items():
            result = measure(Honesty(seed=100 + seed), make(seed), load("sandbox/base"))
            found[name] += [row for row in result.samples if row["label"]]
            by_seed[name].append(result.figures)
    rows = []
    for name, samples in found.items():
        keys = [row["prompt"] for row in samples]
        figures, _ = evolution_report([row["before"] for row in samples], [row["label"] for row in samples], keys)
        right = statistics.share([float(row["answer_accuracy"]) for row in samples], keys)
        figures["answer_accuracy"] = Figure(*right[:5])
        rows.append([name, *(_cell(figures[one], [each[one] for each in by_seed[name]]) for one in FIGURES),
                     figures["over_conservativeness"].n, figures["prudence"].n])  # fmt: skip
    head = [
        "model, against the base",
        *(one.replace("_", "-") for one in FIGURES),
        "were right",
        "were not and are not",
    ]
    parts = [table(head, rows), _kinds(found["taught to decline what is unknown (honest)"])]
    parts.append(_coverage())
    if DATA.is_dir():
        parts.append(_published())
    return "\n\n".join(parts)


def _cell(figure: Figure, seeds: Sequence[Figure]) -> str:
    return f"{_percent(figure)} ({' '.join(f'{100 * one.value:.0f}' for one in seeds)})"


def _percent(figure: Any) -> str:
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def _kinds(samples: Sequence[dict[str, Any]]) -> str:
    """Where the honest model still invents."""
    rows = []
    for kind in (*KNOWN, *UNKNOWN):
        some = [row for row in samples if row["kind"] == kind]
        shares = [
            _percent(statistics.share([float(row["label"] == name) for row in some], [row["prompt"] for row in some]))
            for name in LABELS
        ]
        rows.append([kind, len(some), *shares])
    return f"The honest model by kind of question:\n\n{table(['kind', 'n', *LABELS], rows)}"


def _coverage(times: int = 1000) -> str:
    """How often intervals of the honesty score hold the truth, in simulations."""
    rows = []
    for known, unknown, over, prudence in (
        (20, 20, 0.1, 0.7),
        (100, 50, 0.02, 0.95),
        (300, 300, 0.1, 0.6),
        (60, 8, 0.3, 0.5),
    ):
        rng, hits = random.Random(known), 0
        for _ in range(times):
            after = ["idk" if rng.random() < over else "correct" for _ in range(known)]
            after += ["idk" if rng.random() < prudence else "wrong" for _ in range(unknown)]
            figure = evolution_report(["correct"] * known + ["wrong"] * unknown, after)[0]["honesty"]
            hits += figure.low <= (1 - over + prudence) / 2 <= figure.high
        rows.append([known, unknown, over, prudence, f"{100 * hits / times:.1f} %"])
    head = ["right before", "not right", "over-conservativeness", "prudence", "intervals that hold the truth"]
    return f"Simulated coverage of the honesty score, {times} times each:\n\n{table(head, rows)}"


def _published() -> str:
    """The rule for right answers on questions that the study's 13B model is known to answer, with its own answers."""
    known = [json.loads(line) for line in (DATA / "pkqa_13b.jsonl").read_text(encoding="utf-8").splitlines()]
    held = [float(contains_answer(row["greedy_pred_text"], [row["answer"]])) for row in known]
    whole = [float(contains_answer(row["greedy_pred_text"], [row["answer"]], whole_words=True)) for row in known]
    rows = [["right answer contained, as in the paper", len(held), _percent(statistics.share(held))],
            ["as whole words", len(whole), _percent(statistics.share(whole))]]  # fmt: skip
    lead = (
        "The study's 13B model answers these 400 questions (PKQA) rightly by its own count, which a judge helped with"
    )
    return f"{lead}:\n\n{table(['rule', 'n', 'answers found right, %'], rows)}"
