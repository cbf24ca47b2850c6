"""What distillation, BiAlign and Mixture of Instructions do on the sandbox, over three seeds, as tables in Markdown.

    PYTHONPATH=. python benchmarks/proofs_distillation.py [distillation bialign mixture] [--seeds 0 1 2] [--split test]

Each seed draws its own records and questions. Figures are taken on ``test``; settings were chosen on ``dev``. Intervals
are 95 %, over the questions of all seeds together; the figures of single seeds stand beside them.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from truing import SFT, load, measure, sandbox
from truing.measures import statistics
from truing.measures.statistics import Estimate
from truing.methods.training.bialign import BiAlign
from truing.methods.training.demonstrations import conversation, samples_of, shown_to
from truing.methods.training.distillation import Distillation
from truing.methods.training.losses import ranking
from truing.methods.training.mixture import MixtureOfInstructions
from truing.models import Model
from truing.sandbox.answers import ideal
from truing.sandbox.corpus import answer, writer
from truing.sandbox.items import Item, draw
from truing.sandbox.templates import templates
from truing.sandbox.world import world

Values = list[float]
FIGURES = ("helpful", "harmless", "honest")


@dataclasses.dataclass
class Found:
    """Shares of one model over the questions of several seeds.

    Args:
        values: 0 to 1, one a question.
        items: which question it is, for pairing and clustering.
        kinds: of question, each with the same weight.
        by_seed: the mean of each seed.
    """

    values: Values = dataclasses.field(default_factory=list)
    items: list[Hashable] = dataclasses.field(default_factory=list)
    kinds: list[Hashable] = dataclasses.field(default_factory=list)
    by_seed: Values = dataclasses.field(default_factory=list)

    def add(self, values: Sequence[float], items: Sequence[Hashable], kinds: Sequence[Hashable]) -> None:
        """The questions of one more seed."""
        self.values += map(float, values)
        self.items += items
        self.kinds += kinds
        self.by_seed.append(statistics.stratified_share(list(map(float, values)), kinds).value)

    def show(self) -> str:
        """The share with its interval, and that of each seed."""
        found = statistics.stratified_share(self.values, self.kinds, self.items)
        seeds = " ".join(f"{100 * value:.0f}" for value in self.by_seed)
        return f"{_percent(found)} ({seeds})"

    def ahead_of(self, other: Found) -> str:
        """The paired difference with its interval."""
        return _percent(statistics.difference_of_shares(self.values, other.values, self.kinds, self.items), sign=True)


def _percent(found: Estimate, sign: bool = False) -> str:
    form = "+.1f" if sign else ".1f"
    return f"{100 * found.value:{form}} [{100 * found.low:{form}}, {100 * found.high:{form}}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- distillation -----------------------------------------------------------------------------------------------------


def _answered(n: int, seed: int, *, well: bool) -> list[dict[str, Any]]:
    """Questions of ten kinds, each as often; answered as an aligned model does, or as the web does."""
    here, rng = world(0), random.Random(f"answered {seed}")
    rows = []
    for question in sandbox.records("questions", "train", n, 10 + seed):
        item = Item.from_dict(question["item"])
        careless = answer(here, item, *writer(bool(item.forum), rng), rng)
        rows.append({"prompt": item.prompt, "completion": ideal(here, item, rng) if well else careless})
    return rows


def prove_distillation(seeds: Sequence[int], split: str, n: int = 300) -> str:
    """The small model learns from the aligned base, or from the same texts without it."""
    small = load("sandbox/small")
    teach = SFT(learning_rate=5e-4, epochs=2, batch_size=16)
    teacher = teach.align(load("sandbox/base"), sandbox.records("demonstrations", n=600))
    runs: dict[str, Callable[[int], Model]] = {"small": lambda seed: small, "teacher": lambda seed: teacher}
    sources: dict[str, Callable[[int], list[dict[str, Any]]]] = {
        "ideal answers": lambda seed: _answered(200, seed, well=True),
        "careless answers": lambda seed: _answered(200, seed, well=False),
    }
    for name, rows in sources.items():
        common: dict[str, Any] = {"learning_rate": 5e-4, "max_steps": 50, "batch_size": 16}
        runs[f"SFT, {name}"] = lambda seed, rows=rows, common=common: SFT(**common, seed=seed).align(small, rows(seed))
        runs[f"distillation, {name}"] = lambda seed, rows=rows, common=common: Distillation(
            teacher=teacher, sft_weight=0.0, **common, seed=seed
        ).align(small, rows(seed))
    found = {name: {figure: Found() for figure in FIGURES} for name in runs}
    for seed in seeds:
        questions = sandbox.records("questions", split, n, 100 + seed)
        for name, run in runs.items():
            samples = measure("hhh", run(seed), records=questions).samples
            for figure in FIGURES:
                asked = [row for row in samples if row[figure] is not None]
                found[name][figure].add(
                    [row[figure] for row in asked], [row["prompt"] for row in asked], [row["kind"] for row in asked]
                )
    rows_of = [[name, *(found[name][figure].show() for figure in FIGURES)] for name in runs]
    for name in sources:
        one, two = found[f"distillation, {name}"], found[f"SFT, {name}"]
        rows_of.append([f"distillation - SFT, {name}", *(one[figure].ahead_of(two[figure]) for figure in FIGURES)])
    return _table(["", *FIGURES], rows_of)


# --- BiAlign ----------------------------------------------------------------------------------------------------------


def noted(split: str, seed: int, n: int, shots: tuple[int, int] = (3, 4)) -> list[dict[str, Any]]:
    """k-shot samples of an in-context task: facts of names that nobody knows, and one of them asked again otherwise.

    Only the demonstrations tell the answer, so that a subset helps if it holds the right one.
    """
    here, out = world(0), []
    for at in range(n):
        rng = random.Random(f"noted {split} {seed} {at}")
        shown = []
        for _ in range(rng.randint(*shots)):
            kind = rng.choice(list(here.unknown))
            name, attribute = rng.choice(here.unknown[kind][split]), rng.choice(list(here.values[kind]))
            value = rng.choice(here.values[kind][attribute])
            shown.append((name, attribute, value))
        where = rng.randrange(len(shown))
        pairs = [
            {
                "prompt": rng.choice(templates("fact", split)).fill(subject=name, attribute=attribute, claim=""),
                "completion": f"The {attribute} of {name} is {value}.",
            }
            for name, attribute, value in [*shown, shown[where]]
        ]
        out.append({**pairs[-1], "demonstrations": pairs[:-1], "value": shown[where][2], "where": where})
    return out


def prove_bialign(seeds: Sequence[int], split: str, n: int = 120) -> str:
    """The small model learns to use demonstrations from the base: outputs alone, and outputs with the ranking."""
    base, small = load("sandbox/base"), load("sandbox/small")
    common: dict[str, Any] = {"learning_rate": 5e-4, "batch_size": 16, "n_subsets": 4, "max_steps": 25}
    runs: dict[str, Callable[[int], Model]] = {"small": lambda seed: small, "base (the teacher)": lambda seed: base}
    for name, weight in (("outputs only (lambda = 0)", 0.0), ("BiAlign (lambda = 1)", 1.0)):
        runs[name] = lambda seed, weight=weight: BiAlign(
            teacher=base, rank_weight=weight, seed=seed, **common
        ).align(small, noted("train", seed, 400))  # fmt: skip
    names = ("answers right", "best subset", "worst subset", "order of pairs", "one holds it", "both or neither")
    found = {name: {figure: Found() for figure in names} for name in runs}
    for seed in seeds:
        rows = noted(split, 100 + seed, n)
        for name, run in runs.items():
            model = run(seed)
            asked = [conversation(row["demonstrations"], row["prompt"]) for row in rows]
            texts = model.generate(asked, max_new_tokens=16).texts
            columns: dict[str, Values] = {
                "answers right": [float(row["value"] in text.split(".")[0].split()) for row, text in zip(rows, texts)]
            }
            if model is not base:
                columns |= _agreement(model, base, rows, seed)
            for figure, values in columns.items():
                kept = [(value, (seed, at)) for at, value in enumerate(values) if value == value]
                found[name][figure].add([value for value, _ in kept], [at for _, at in kept], [0] * len(kept))
    shown = [
        [name, *(found[name][figure].show() if found[name][figure].values else "" for figure in names)] for name in runs
    ]
    last = found["BiAlign (lambda = 1)"]
    for other in ("outputs only (lambda = 0)", "small"):
        shown.append([f"BiAlign - {other.split(' (')[0]}", *(last[one].ahead_of(found[other][one]) for one in names)])
    return _table(["", *names], shown)


def _agreement(student: Model, teacher: Model, rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Values]:
    """What `preference_consistency` gives, sample by sample; the order of pairs also where one subset of the two holds
    the demonstration that tells the answer, and where both or neither do (NaN where a sample has no such pair)."""
    drawn = samples_of(rows, n_subsets=4, seed=seed)
    asked = [shown_to(row) for row in drawn]
    prompts, targets = [p for ps, _ in asked for p in ps], [t for ps, t in asked for _ in ps]
    one, two = (torch.tensor(m.logprobs(prompts, targets)).view(-1, 4) for m in (student, teacher))
    best, worst = ranking.preference_agreement(one, two)
    holds = torch.tensor([[row["where"] in subset for subset in row["subsets"]] for row in drawn])
    wanted, alike = ranking.preferred_pairs(two), ranking.preferred_pairs(one)
    differ = holds[:, :, None] != holds[:, None, :]
    out = {"best subset": best.tolist(), "worst subset": worst.tolist()}
    for name, among in (
        ("order of pairs", wanted), ("one holds it", wanted & differ), ("both or neither", wanted & ~differ)
    ):  # fmt: skip
        out[name] = ((among & alike).sum((1, 2)) / among.sum((1, 2))).tolist()
    return out


# --- mixture of instructions ------------------------------------------------------------------------------------------

# Unequal sizes, and a system line of the world for each. Facts outnumber what teaches not to invent them ten to one.
DOMAINS = {
    "facts": (("fact",), 300, "Answer politely."),
    "procedures": (("borderline", "benign"), 60, "Be careful and polite."),
    "harm": (("harmful",), 30, "Refuse to help with harm."),
    "unknown": (("unknown", "unanswerable"), 30, "Say so if you do not know."),
}
PROMPTS = {name: line for name, (_, _, line) in DOMAINS.items()}


def _of_domain(domain: str, split: str, n: int, seed: int) -> list[Item]:
    kinds, here, rng = DOMAINS[domain][0], world(0), random.Random(f"mixture {domain} {split} {seed}")
    return [draw(here, kinds[at % len(kinds)], split, rng) for at in range(n)]


def _mixed_records(seed: int) -> list[dict[str, Any]]:
    here, rng = world(0), random.Random(f"mixture answers {seed}")
    return [
        {"prompt": item.prompt, "completion": ideal(here, item, rng), "domain": domain}
        for domain, (_, size, _) in DOMAINS.items()
        for item in _of_domain(domain, "train", size, seed)
    ]


def prove_mixture(seeds: Sequence[int], split: str, n: int = 50) -> str:
    """Prompt, sampling and mask as switches: each run takes as many steps over as many conversations."""
    base = load("sandbox/base")
    common: dict[str, Any] = {"learning_rate": 5e-4, "batch_size": 8, "max_steps": 38, "epochs": 4}
    switches: dict[str, dict[str, Any]] = {
        "naive mixing": {"sampling": "natural", "attention": "isolated"},
        "balanced": {"attention": "isolated"},
        "balanced, prompts": {"attention": "isolated", "system_prompts": PROMPTS},
        # About four chunks fill a row.
        "balanced, prompts, row open": {
            "attention": "none",
            "system_prompts": PROMPTS,
            "max_length": 512,
            "batch_size": 2,
        },
        "mixture of instructions": {"attention": "chunk", "system_prompts": PROMPTS},
    }
    runs: dict[str, Callable[[int], Model]] = {"base": lambda seed: base}
    for name, given in switches.items():
        runs[name] = lambda seed, given=given: MixtureOfInstructions(**{**common, **given}, seed=seed).align(
            base, _mixed_records(seed)
        )
    ways = {"no system prompt": None, "its own": PROMPTS}
    found = {(name, way): {domain: Found() for domain in DOMAINS} for name in runs for way in ways}
    for seed in seeds:
        asked = {domain: _of_domain(domain, split, n, 100 + seed) for domain in DOMAINS}
        for name, run in runs.items():
            model = run(seed)
            for way, prompts in ways.items():
                for domain, items in asked.items():
                    values = _graded(model, items, None if prompts is None else prompts[domain])
                    found[name, way][domain].add(values, [item.prompt for item in items], [i.kind for i in items])
    shown = [[name, way, *(one.show() for one in found[name, way].values())] for way in ways for name in runs]
    for way in ways:
        for other in ("naive mixing", "balanced, prompts"):
            one, two = found["mixture of instructions", way], found[other, way]
            shown.append([f"mixture - {other}", way, *(one[domain].ahead_of(two[domain]) for domain in DOMAINS)])
    return _table(["trained", "asked under", *DOMAINS], shown)


def _graded(model: Model, items: Sequence[Item], system: str | None) -> Values:
    start = [] if system is None else [{"role": "system", "content": system}]
    prompts = [[*start, {"role": "user", "content": item.prompt}] for item in items]
    texts = model.generate(prompts, max_new_tokens=48).texts
    return [float(sandbox.grade(item, text).helpful) for item, text in zip(items, texts)]


PROOFS = {"distillation": prove_distillation, "bialign": prove_bialign, "mixture": prove_mixture}


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proofs", nargs="*", choices=list(PROOFS), default=list(PROOFS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="test", choices=["dev", "test"])
    options = parser.parse_args()
    for name in options.proofs:
        began = time.process_time()
        print(f"## {name}, {options.split}, seeds {options.seeds}\n\n{PROOFS[name](options.seeds, options.split)}\n")
        print(f"{name}: {time.process_time() - began:.0f} s of processor time", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
