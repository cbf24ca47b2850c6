"""What CUT and PoFT do on the sandbox, each against plain fine-tuning on the same rows: prints tables in Markdown.

    PYTHONPATH=. python benchmarks/proofs_cut_poft.py [--only cut] [--seeds 0 1 2]

Figures are of the ``test`` split; settings were chosen on ``dev``. Intervals are 95 %, over questions or answers;
differences are paired. Every seed draws its own training rows, questions and judged answers.
"""

from __future__ import annotations

import argparse
import difflib
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from truing import HHH, SFT, load
from truing.measures.show import change, interval
from truing.measures.statistics import difference_of_means, mean
from truing.methods.training.cut import CUT
from truing.methods.training.likelihood_scores import score_likelihood
from truing.methods.training.poft import PoFT
from truing.models import Model, chat
from truing.sandbox import grade, records, world
from truing.sandbox.answers import dress, ideal, say
from truing.sandbox.recognise import recognise

FIGURES = ("helpful", "harmless", "honest")
# Few words: what the sandbox's models have never read costs them many tokens.
TEMPLATE = "{instruction} {judgment}"
HOW: dict[str, Any] = {"learning_rate": 5e-4, "batch_size": 16, "schedule": "cosine"}
ROWS, EPOCHS, QUESTIONS = 600, 3, 400
SPOILED = 0.3


def plain(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judged rows as demonstrations."""
    return [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]


def criticised(tokenizer: Any, row: dict[str, Any]) -> np.ndarray:
    """Which tokens of a bad answer no good answer has, the end token last; from the truth, not from the method."""
    item = recognise(row["prompt"])
    assert item is not None
    found = chat.encode_plain(tokenizer, row["completion"])
    random_state, best = random.Random(row["prompt"]), np.zeros(len(found) + 1, dtype=bool)
    for _ in range(6):
        good = chat.encode_plain(tokenizer, ideal(world(0), item, random_state))
        shared = np.zeros(len(found) + 1, dtype=bool)
        shared[-1] = True
        for start, _, size in difflib.SequenceMatcher(None, found, good, autojunk=False).get_matching_blocks():
            shared[start : start + size] = True
        best = max(best, shared, key=lambda one: int(one.sum()))
    return ~best


def token_means(model: Model, rows: Sequence[dict[str, Any]], places: Sequence[np.ndarray]) -> list[list[float]]:
    """Log-probability in nats of the first criticised token of each answer, and means over all of them and the rest."""
    found = model.logprobs([row["prompt"] for row in rows], [row["completion"] for row in rows], per_token=True)
    pairs = list(zip(found, places))
    return [
        [float(one[where][0]) for one, where in pairs],
        [float(one[where].mean()) for one, where in pairs],
        [float(one[~where].mean()) for one, where in pairs],
    ]


def figures_row(label: str, model: Model, against: Model | None, seed: int, temperature: float = 0.0) -> str:
    """One line: figures, and below each its difference to another model."""
    result = HHH(limit=QUESTIONS, seed=seed, temperature=temperature).measure(model, against=against)
    cells = []
    for name in FIGURES:
        text = interval(result.figures[name])
        cells.append(text if result.differences is None else f"{text}<br>{change(result.differences[name])}")
    return f"| {seed} | {label} | {' | '.join(cells)} |"


def header(*names: str) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]


def cut_tables(seeds: Sequence[int]) -> list[str]:
    """CUT against SFT on the same judged rows, and against SFT on the satisfactory ones alone."""
    base = load("sandbox/base")
    figures = header("seed", "model", *FIGURES)
    tokens = header("seed", "model", "first criticised token", "criticised tokens", "other tokens")
    for seed in seeds:
        rows = records("judgments", n=ROWS, seed=seed)
        how = {**HOW, "max_steps": EPOCHS * -(-ROWS // HOW["batch_size"]), "seed": seed}
        models = {"base": base, "SFT, all rows": SFT(**how).align(base, plain(rows))}
        models["SFT, good rows"] = SFT(**how).align(base, plain([row for row in rows if row["label"]]))
        models["CUT"] = CUT(**how, template=TEMPLATE, contrast_after=0.5).align(base, rows)
        bad = [row for row in records("judgments", "test", 300, seed) if not row["label"]]
        places = [criticised(base.tokenizer, row) for row in bad]
        bad = [row for row, where in zip(bad, places) if where.any()]
        places = [where for where in places if where.any()]
        compared = token_means(models["SFT, all rows"], bad, places)
        for name, model in models.items():
            against = models["SFT, all rows"] if name in ("CUT", "SFT, good rows") else None
            figures.append(figures_row(name, model, against, seed))
            if name == "CUT":
                figures.append(figures_row("CUT, against SFT on good rows", model, models["SFT, good rows"], seed))
            cells = []
            for values, others in zip(token_means(model, bad, places), compared):
                level = mean(values)
                assert level is not None
                text = f"{level.value:.2f} [{level.low:.2f}, {level.high:.2f}]"
                gap = difference_of_means(values, others) if against is not None else None
                if gap is not None:
                    text += f"<br>{gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
                cells.append(text)
            tokens.append(f"| {seed} | {name} | {' | '.join(cells)} |")
    return [
        "## CUT",
        f"{ROWS} judged answers, about half of them criticised; {EPOCHS} epochs; SFT takes as many steps. Greedy "
        "answers to test questions; under each figure the difference to SFT on all rows.",
        "\n".join(figures),
        "Log-probability, nats a token, of criticised test answers: of the first token that no good answer has, "
        "of all such tokens, and of all others. Under each the difference to SFT on all rows.",
        "\n".join(tokens),
    ]


def spoiled(row: dict[str, Any], random_state: random.Random) -> dict[str, Any]:
    """The row with a wrong, rude or refusing answer (a complying one where refusing is right)."""
    item = recognise(row["prompt"])
    assert item is not None
    while True:
        manner = random_state.choice(("wrong", "refusing", "rude"))
        if manner == "rude":
            text = dress(row["completion"], "rude", random_state)
        else:
            harmful = item.kind == "harmful"
            text = say(world(0), item, "correct" if harmful and manner == "refusing" else manner, random_state)
        if not grade(item, text).helpful:
            return {**row, "completion": text}


def poft_tables(seeds: Sequence[int]) -> list[str]:
    """PoFT against SFT on demonstrations of which three in ten are spoiled."""
    base = load("sandbox/base")
    clean_elsewhere = records("demonstrations", n=ROWS, seed=100)
    aligned = [load("sandbox/guide"), SFT(**HOW, epochs=2).align(base, clean_elsewhere)]
    scores = header("seed", "rows", "guide", "tuned base", "tau at the end")
    tables = {0.0: header("seed", "model", *FIGURES), 1.0: header("seed", "model", *FIGURES)}
    for seed in seeds:
        random_state = random.Random(seed)
        rows = records("demonstrations", n=ROWS, seed=seed)
        bad = set(random_state.sample(range(ROWS), round(SPOILED * ROWS)))
        mixed = [spoiled(row, random_state) if at in bad else row for at, row in enumerate(rows)]
        scored = list(score_likelihood(aligned, mixed))
        how = {**HOW, "epochs": EPOCHS, "seed": seed}
        by_sft, by_poft = SFT(**how).align(base, mixed), PoFT(**how).align(base, scored)
        own = [row["scores"][0] for row in score_likelihood([by_poft], mixed)]
        for name, wanted in (("ideal", set(range(ROWS)) - bad), ("spoiled", bad)):
            cells = [f"{np.mean([scored[at]['scores'][one] for at in wanted]):.2f}" for one in (0, 1)]
            tau = np.mean([1 / (1 + np.exp(own[at] - scored[at]["mean_aligned_score"])) for at in wanted])
            scores.append(f"| {seed} | {name} | {' | '.join(cells)} | {tau:.2f} |")
        for temperature, lines in tables.items():
            lines.append(figures_row("SFT", by_sft, None, seed, temperature))
            lines.append(figures_row("PoFT", by_poft, by_sft, seed, temperature))
    return [
        "## PoFT",
        f"{ROWS} demonstrations, {SPOILED:.0%} of them with a wrong, rude or refusing answer; {EPOCHS} epochs. Scores "
        "of the aligned models, mean nats a token, and what a row weighs at the end of the training:",
        "\n".join(scores),
        "Greedy answers to test questions; under each figure the difference to SFT.",
        "\n".join(tables[0.0]),
        "Sampled at temperature 1:",
        "\n".join(tables[1.0]),
    ]


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("cut", "poft"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    began = time.monotonic()
    for name, tables in (("cut", cut_tables), ("poft", poft_tables)):
        if options.only in (None, name):
            print("\n\n".join(tables(options.seeds)), flush=True)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
