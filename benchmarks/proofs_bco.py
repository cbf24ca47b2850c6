"""BCO where good and bad answers come from different kinds of question, with and without matching of prompts.

    PYTHONPATH=. python benchmarks/proofs_bco.py [--seeds 0 1 2] [--n 600] [--split test]

Prints a table in Markdown; 2 to 4 minutes of one core. Kinds of question fall into two groups: those that are to be
answered, and those that call for restraint. A share of the good answers, 85 or 15 %, is to questions that are to be
answered; of the bad answers it is the other way round. Figures are shares of answers that are as wanted on questions
mixed as those of the good answers are (what matching aims at), on each group alone, and of the log-ratios that rank a
good answer over a bad one to the same question (mixed likewise). Settings were chosen on ``dev``.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from truing import load, sandbox
from truing.measures.hhh import HHH
from truing.methods.training.bco import BCO
from truing.models import AnyModel
from truing.sandbox.answers import ideal, say
from truing.sandbox.data import PREFERRED, REJECTED
from truing.sandbox.world import world

ANSWER = ("fact", "context", "borderline", "benign", "premise_true")
RESTRAIN = ("unknown", "unknowable", "unanswerable", "premise_false", "harmful")
HOW: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 16, "beta": 1.0}
SHARES = (0.85, 0.15)


def bad_answer(item: sandbox.Item, rng: random.Random) -> str:
    """An answer that does not do what is wanted."""
    manners = REJECTED[item.kind]
    while True:
        manner = rng.choices(list(manners), list(manners.values()))[0]
        text = say(world(0), item, manner, rng, forms=False)
        if not sandbox.grade(item, text).wanted:
            return text


def drawn(kinds: Sequence[str], count: int, split: str, rng: random.Random) -> list[sandbox.Item]:
    """Questions of these kinds, as common among each other as in the sandbox's preferences."""
    found = rng.choices(kinds, [PREFERRED[kind] for kind in kinds], k=count)
    return [
        item
        for kind in sorted(set(found))
        for item in sandbox.items(kind, split, found.count(kind), rng.randrange(2**31))
    ]


def thumbs(n: int, share: float, seed: int) -> list[dict[str, Any]]:
    """Half of n good answers, ``share`` of them to questions that are to be answered; half bad ones, the other way."""
    rng = random.Random(f"thumbs {share} {seed}")
    rows = []
    for good in (True, False):
        for kinds, part in ((ANSWER, share if good else 1 - share), (RESTRAIN, 1 - share if good else share)):
            for item in drawn(kinds, round(n / 2 * part), "train", rng):
                text = ideal(world(0), item, rng) if good else bad_answer(item, rng)
                rows.append({"prompt": item.prompt, "completion": text, "label": good})
    rng.shuffle(rows)
    return rows


def wanted(model: AnyModel, split: str) -> tuple[float, float]:
    """Share of answers that are as wanted, in percent: questions to be answered, and those that call for restraint."""
    found: dict[str, list[bool]] = {}
    for row in HHH(split=split, limit=400).measure(model).samples:
        graded = [row[name] for name in ("helpful", "harmless", "honest") if row[name] is not None]
        found.setdefault(row["kind"], []).append(bool(graded[0]))
    answer, restrain = (100 * float(np.mean([np.mean(found[k]) for k in kinds])) for kinds in (ANSWER, RESTRAIN))
    return answer, restrain


def ranked(model: AnyModel, start: AnyModel, split: str, n: int = 200) -> tuple[float, float]:
    """Share of pairs, in percent, in which the log-ratio to the start ranks the good answer first; groups as above."""
    out = []
    for kinds in (ANSWER, RESTRAIN):
        rng = random.Random("pairs")
        items = drawn(kinds, n, split, rng)
        prompts = [item.prompt for item in items]
        good = [ideal(world(0), item, rng) for item in items]
        bad = [bad_answer(item, rng) for item in items]
        gaps = [
            model.logprobs(prompts, texts) - start.logprobs(prompts, texts)
            for texts in (good, bad)
        ]  # fmt: skip
        out.append(100 * float((gaps[0] > gaps[1]).mean()))
    return out[0], out[1]


def figures(matched: bool, share: float, n: int, seed: int, start: AnyModel, split: str) -> list[float]:
    """Those of one row of the table."""
    method = BCO(**HOW, seed=seed, match_prompts=True if matched else None)
    model = method.align(start, thumbs(n, share, seed))
    answers, pairs = wanted(model, split), ranked(model, start, split)
    mixed = [share * one[0] + (1 - share) * one[1] for one in (answers, pairs)]
    return [mixed[0], *answers, mixed[1]]


def shifted_prompts(seeds: Sequence[int], n: int, split: str) -> str:
    """The table: for each share and with or without matching, the mean over seeds, and from lowest to highest."""
    start = load("sandbox/base")
    lines = [
        f"BCO({', '.join(f'{name}={value}' for name, value in HOW.items())}) from sandbox/base, {n} thumbs, "
        f"{len(seeds)} seeds, `{split}`: mean over seeds (lowest to highest), in percent.",
        "",
        "| good answers to questions to be answered | prompts | wanted, mixed as good answers | to be answered "
        "| restraint | pairs ranked right, mixed likewise |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for share in SHARES:
        for matched in (False, True):
            found = np.array([figures(matched, share, n, seed, start, split) for seed in seeds])
            cells = [f"{one.mean():.1f} ({one.min():.1f} to {one.max():.1f})" for one in found.T]
            lines.append(f"| {share:.0%} | {'matched' if matched else 'as they are'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=600, help="thumbs")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    began = time.monotonic()
    print(shifted_prompts(options.seeds, options.n, options.split))
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
