"""Nudging on the sandbox: what it gains against the share of tokens that the guide writes, and its baselines.

Figures of helpful, harmless and honest are taken on the ``test`` split with 95 % intervals over questions; each seed
draws its own questions. Lookahead is 4, since answers of the sandbox are short: with 16 the guide would end nearly
every answer within its first proposal, and so write all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.proving import table
from truing import ContrastiveDecoding, Ensemble, Model, Nudging, ProxyTuning, load, measure, progress
from truing.reports.rows import change, interval
from truing.sandbox import KINDS, items
from truing.sandbox.building import PLANS, make_guide, make_model, save
from truing.sandbox.corpus import documents
from truing.sandbox.tokenizer import train_tokenizer

FIGURES = ("helpful", "harmless", "honest")
GAMMAS = (0.0, 0.4, 0.6, 0.8, 0.9, 1.1)
LIMIT = 360
HOW = {"lookahead": 4}


def other_guide(folder: Path) -> Model:
    """A guide of the same plan as the sandbox's, with a tokenizer of its own that knows far fewer words."""
    if not (folder / "model.safetensors").is_file():
        texts = (
            text if isinstance(text, str) else "\n".join(m["content"] for m in text)
            for text in documents(4000, seed=98)
        )
        tokenizer = train_tokenizer(texts, size=600)
        plan = dataclasses.replace(PLANS["small"], tokens=900_000, lessons=500_000, seed=5)
        save(make_guide(make_model(plan, tokenizer, "other"), tokenizer, 0.6), tokenizer, folder)
    model = load(folder)
    assert isinstance(model, Model)
    return model


def nudged(model: Any, seed: int, per_kind: int = 8) -> str:
    """Share of tokens from the guide, over questions of all kinds."""
    prompts = [item.prompt for kind in KINDS for item in items(kind, split="test", n=per_kind, seed=seed)]
    answers = model.generate(prompts, max_new_tokens=64)
    total = sum(len(answer.tokens) for answer in answers)
    return f"{100 * sum(answer.trace['nudged_share'] * len(answer.tokens) for answer in answers) / total:.1f} %"


def nudging(seeds: Sequence[int], out: Path) -> str:
    """Markdown: the sweep of gamma with a guide of the same and of another tokenizer, baselines, paired differences."""
    base, guide, small = (load(f"sandbox/{name}") for name in ("base", "guide", "small"))
    other = other_guide(out / "other-guide")
    sides: dict[str, Any] = {"base": base, "guide": guide}
    for gamma in GAMMAS:
        sides[f"nudging, gamma {gamma:g}"] = Nudging(guide=guide, gamma=gamma, **HOW).align(base)
    sides["nudging by word, gamma 0.4"] = Nudging(guide=guide, gamma=0.4, unit="word", **HOW).align(base)
    sides["guide of another tokenizer"] = other
    for gamma in (0.4, 0.8, 1.1):
        sides[f"nudging with it, gamma {gamma:g}"] = Nudging(guide=other, gamma=gamma, **HOW).align(base)
    sides["proxy tuning"] = ProxyTuning(guide=guide, untuned=small).align(base)
    sides["ensemble"] = Ensemble(guide=guide).align(base)
    sides["contrastive decoding, sandbox/small as amateur"] = ContrastiveDecoding(amateur=small).align(base)
    rows: list[list[Any]] = []
    means: dict[str, list[float]] = {}
    for name, model in sides.items():
        for seed in seeds:
            found = measure("hhh", model, seed=seed, limit=LIMIT).figures
            share = nudged(model, seed) if name.startswith("nudging") else ""
            rows.append([name, seed, share, *(interval(found[figure]) for figure in FIGURES)])
            means.setdefault(name, []).append(sum(found[figure].value for figure in FIGURES) / len(FIGURES))
        progress.say(f"nudging: {name}")
    low, gap = sum(means["base"]), sum(means["guide"]) - sum(means["base"])
    gain = [[name, f"{100 * (sum(values) - low) / gap:.0f} %"] for name, values in means.items() if name != "base"]
    pairs = (
        ("nudging, gamma 0.4", "guide"),
        ("nudging, gamma 0.9", "guide"),
        ("nudging, gamma 0.4", "ensemble"),
        ("nudging, gamma 0.4", "proxy tuning"),
        ("nudging with it, gamma 0.4", "guide of another tokenizer"),
    )
    paired = []
    for one, against in pairs:
        for seed in seeds:
            apart = measure("hhh", sides[one], against=sides[against], seed=seed, limit=LIMIT).differences or {}
            paired.append([f"{one} less {against}", seed, *(change(apart[figure]) for figure in FIGURES)])
    return "\n\n".join([
        table(["side", "seed", "share from the guide", *FIGURES], rows),
        "Share of the gap between base and guide that is closed, mean of the three figures over all seeds:",
        table(["side", "gain"], gain),
        "Paired, on the same questions:",
        table(["difference", "seed", *FIGURES], paired),
    ])  # fmt: skip
