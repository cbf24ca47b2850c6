"""What steering shows on the sandbox: behaviour and ability by strength, ways to read a vector, layers, positions.

    PYTHONPATH=. python -m benchmarks.proofs_steering [--seeds 0 1 2]

Settings (layer 2, ``loss`` 5 %) were chosen on ``dev``; figures are of ``test``. Every seed draws its own pairs to read
the vector from, and its own pairs and questions to measure it on.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import truing as tr
from benchmarks.proving import table
from truing.measures.show import change, interval
from truing.measures.steering_tradeoff import TradeoffResult
from truing.methods.steering.reading import METHODS, pca_differences
from truing.sandbox import items, records, world
from truing.sandbox.answers import say

PAIRS, ASKED, LAYER, LOSS = 200, 200, 2, 0.05
Rows = list[dict[str, Any]]
FORM = {
    "behaviour_slope": "behaviour: slope", "behaviour_fit_a": "tanh: a", "ability_linear_loss": "ability: linear loss",
    "ability_quadratic_loss": "quadratic loss", "ability_fit_b": "fit: b", "loss_exponent": "exponent of the loss",
}  # fmt: skip
BEST = {
    "best_strength": "best", "behaviour_gained": "behaviour gained", "behaviour_at_best": "behaviour there",
    "ability_lost": "ability lost", "ability_at_best": "ability there",
}  # fmt: skip


def courtesy(split: str, seed: int, count: int) -> Rows:
    """The same answer, courteous and rude."""
    return records("contrasts", split, count, seed)


def refusal(split: str, seed: int, count: int) -> Rows:
    """Harmful requests, refused and complied with."""
    rng = random.Random(f"refusal {split} {seed}")
    return [
        {"prompt": item.prompt, "positive": say(world(0), item, "refusing", rng),
         "negative": say(world(0), item, "correct", rng)}
        for item in items("harmful", split, count, seed)
    ]  # fmt: skip


TARGETS = {"courtesy": courtesy, "refusal": refusal}


def swept(model: Any, rows: Rows, seed: int, **how: Any) -> TradeoffResult:
    """The trade-off of a steered model on test pairs and facts."""
    return tr.SteeringTradeoff(behaviour=rows, loss=LOSS, limit=ASKED, seed=seed, **how).measure(model)


def steering(seeds: Sequence[int], out: Path) -> str:
    """All tables of the section."""
    torch.set_num_threads(1)
    base = tr.load("sandbox/base")
    forms, gains, ways, places, answers = [], [], [], [], []
    for target, draw in TARGETS.items():
        for seed in seeds:
            learn, test = draw("train", seed, PAIRS), draw("test", seed, ASKED)
            steered = tr.RepresentationSteering(layers=[LAYER]).align(base, learn)
            found = swept(steered, test, seed)
            shown = {name: interval(figure) for name, figure in found.figures.items()}
            forms.append([target, seed, *(shown.get(name, "not shown") for name in FORM)])
            gains.append([target, seed, *(shown[name] for name in BEST), found.best(0.02), found.best(0.1)])
            if seed == seeds[0]:
                found.save(out / f"steering-{target}.json")
            answers += asked(target, base, steered, found, seed, out / "steering-answers")
            ways += readings(target, base, learn, test, seed)
            if target == "courtesy":
                places += layers_and_positions(base, learn, test, seed, out / "steering-answers")
    share = f"at most {100 * LOSS:.0f} % of the ability"
    best = ["best", "behaviour gained", "ability lost"]
    texts = [
        f"**Form.** Strength 1 moves the states after layer {LAYER} as far as the two sides are apart on average. "
        "Slopes and losses are those near 0; the exponent is the power of the strength by which ability falls.",
        table(["vector", "seed", *FORM.values()], forms),
        f"**Best strength** for {share}; the last two columns name it for 2 % and 10 %.",
        table(["vector", "seed", *BEST.values(), "at 2 %", "at 10 %"], gains),
        "**What the model then writes**, graded exactly, minus what the base writes (paired), at the best strength and "
        "at three times that.",
        table(["vector", "seed", "strength", "helpful", "harmless", "honest", "facts right"], answers),
        f"**Ways to read a vector**, each as long as the two sides are apart along it: what is gained for {share}.",
        table(["vector", "seed", "way", "cosine with mean difference", *best], ways),
        "**Layers and positions** (courtesy); the last two columns are of answers written at that strength, minus the "
        "base's (paired).",
        table(["seed", "layers", "positions", "layer", *best, "helpful", "facts right"], places),
    ]
    return "\n\n".join(texts)


def asked(target: str, base: Any, steered: Any, found: TradeoffResult, seed: int, kept: Path) -> list[list[Any]]:
    """Figures of answers at some strengths."""
    best, rows = found.best(LOSS), []
    for factor in (1, 3):
        turned = steered.with_strength(factor * best)
        hhh = tr.HHH(limit=400, seed=seed).measure(turned, against=base, out=kept)
        facts = tr.Capability(limit=120, seed=seed).measure(turned, against=base, out=kept)
        told = [hhh.differences[name] for name in ("helpful", "harmless", "honest")]  # type: ignore[index]
        told.append(facts.differences["capability"])  # type: ignore[index]
        rows.append([target, seed, f"{factor * best:g}", *map(change, told)])
    return rows


def readings(target: str, base: Any, learn: Rows, test: Rows, seed: int) -> list[list[Any]]:
    """Each way to read a vector, and centred PCA of one order, which loses what it looks for."""
    rows, mean = [], tr.RepresentationSteering(layers=[LAYER]).fit(base, learn).vectors[LAYER]
    steering = tr.RepresentationSteering(layers=[LAYER], seed=seed)
    for way in (*METHODS, "pca, one order"):
        if way in METHODS:
            vector = steering.clone(method=way).fit(base, learn)
        else:
            pairs = states(base, learn)
            direction = pca_differences(pairs, "same")
            apart = (pairs[:, 0] - pairs[:, 1]).mean(0) @ direction
            vector = tr.SteeringVector({LAYER: abs(float(apart)) * direction})
        cosine = float(torch.cosine_similarity(vector.vectors[LAYER], mean, dim=0))
        figures = swept(vector.align(base), test, seed).figures
        shown = [interval(figures[name]) for name in ("best_strength", "behaviour_gained", "ability_lost")]
        rows.append([target, seed, way, f"{cosine:.3f}", *shown])
    return rows


def states(base: Any, rows: Rows) -> torch.Tensor:
    """What the method reads, [pairs, 2, width]."""
    from truing.models.activations import record

    pairs = [base.encode_pair(row["prompt"], row[side]) for row in rows for side in ("positive", "negative")]
    tokens = [[*prompt, *answer[:-1]] for prompt, answer in pairs]
    found = record(base, tokens, [LAYER], "mean", prompts=[len(prompt) for prompt, _ in pairs])
    return found[:, 0].view(len(rows), 2, -1)


def layers_and_positions(base: Any, learn: Rows, test: Rows, seed: int, kept: Path) -> list[list[Any]]:
    """Layers by hand and by search, and where the vector is added; and what answers written so are worth."""
    asked_for: list[tuple[Any, str]] = [
        ([0], "all"), ([1], "all"), ([2], "all"), ([3], "all"), ("probe", "all"), ("contrast", "all"),
        ([LAYER], "answer"), ([LAYER], "prompt"), ([LAYER], "last"),
    ]  # fmt: skip
    rows = []
    for layers, positions in asked_for:
        made = tr.RepresentationSteering(layers=layers, positions=positions, depth=(0, 1), seed=seed).align(base, learn)
        found = swept(made, test, seed)
        figures, best = found.figures, made.with_strength(found.best(LOSS))
        written = [
            tr.HHH(limit=200, seed=seed).measure(best, against=base, out=kept).differences["helpful"],  # type: ignore[index]
            tr.Capability(limit=120, seed=seed).measure(best, against=base, out=kept).differences["capability"],  # type: ignore[index]
        ]
        at = ", ".join(map(str, made.modifiers[-1].layers()))  # type: ignore[attr-defined]
        shown = [interval(figures[name]) for name in ("best_strength", "behaviour_gained", "ability_lost")]
        way = layers if isinstance(layers, str) else "by hand"
        rows.append([seed, way, positions, at, *shown, *map(change, written)])
    return rows


def main() -> None:
    """The tables of the seeds that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/proofs/inference"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(steering(options.seeds, options.out))


if __name__ == "__main__":
    main()
