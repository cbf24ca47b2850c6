"""Whether the measure of long output tells a model that learned lengths from one that did not.

The page's toy: the sandbox base learns from answers to orders of a number of words, once from pairs whose lengths are
right, as the page's filter leaves them, once from pairs most of whose lengths are not, for as many steps. Orders and
their texts are made here; figures are taken on ``test``. See `benchmarks.proving`. Real orders are read from
``data/longwriter`` under ``$TRUING_SHARED`` (or ``../shared``).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.proving import SHARED, table
from truing import SFT, LongOutput, load, measure
from truing.measures import long_text, statistics
from truing.measures.long_output import sandbox_orders
from truing.sandbox.world import world

DATA = SHARED / "data" / "longwriter" / "longbench_write.jsonl"
PAIRS = 600


def texts(seed: int, n: int, *, noisy: bool) -> list[dict[str, Any]]:
    """Orders and texts of the world's facts, cut at a number of words: the ordered one, or one drawn anew."""
    rng, here = random.Random(f"texts {seed}"), world(0)
    facts = [f"The {a} of {e.name} is {v}." for e in here.of("train", "") for a, v in e.facts.items()]
    rows = []
    for order in sandbox_orders("train", n, seed):
        length = rng.randint(5, 40) if noisy else int(order["length"])
        words = " ".join(rng.sample(facts, 12)).split()
        rows.append({"prompt": order["prompt"], "completion": " ".join(words[:length])})
    return rows


def long_output(seeds: Sequence[int], out: Path) -> str:
    """Length scores of the base, of both students, and of what they learned from."""
    base = load("sandbox/base")
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        models = {"base": base}
        for name, noisy in (("learned from right lengths", False), ("learned from wrong lengths", True)):
            rows = texts(seed, PAIRS, noisy=noisy)
            models[name] = SFT(learning_rate=1e-3, epochs=2, batch_size=16, seed=seed).align(base, rows)
        for name, model in models.items():
            result = measure(LongOutput(limit=120, max_new_tokens=120, seed=seed), model)
            found.setdefault(name, []).extend(result.samples)
    rows = []
    for name, samples in found.items():
        score = statistics.mean([row["length_score"] for row in samples], clusters=[row["prompt"] for row in samples])
        near = statistics.share([float(row["near"]) for row in samples])
        written = sum(row["written"] for row in samples) / len(samples)
        assert score is not None
        rows.append(
            [
                name, f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]",
                f"{100 * near.value:.1f} [{100 * near.low:.1f}, {100 * near.high:.1f}]", f"{written:.1f}",
            ]
        )  # fmt: skip
    return table(["", "length score, of 100", "near, percent", "words written"], rows)


def long_orders(seeds: Sequence[int], out: Path) -> str:
    """What the page's rule reads in the 120 real orders, and how they are spread."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    read = [(long_text.required_length(row["prompt"]), row["length"]) for row in rows]
    some = [(one, wanted) for one, wanted in read if one]
    spread = Counter(long_text.bucket(row["length"]) for row in rows)
    shown = [[name, count] for name, count in spread.items()]
    right = sum(one == wanted for one, wanted in some)
    said = f"A single length is read in {len(some)} of {len(rows)} orders; in {right} of them it is the given one."
    return f"{said}\n\n{table(['required length', 'orders'], shown)}"
