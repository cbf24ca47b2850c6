"""The profile of a model on the sandbox: outcomes by kind of question, the figures, styles; greedy and sampled.

    PYTHONPATH=src:. python benchmarks/sandbox_profile.py sandbox/base --split test --n 100
    PYTHONPATH=src:. python benchmarks/sandbox_profile.py runs/quickstart/steps/02-dpo/model --temperature 0

Takes a sandbox name, a folder in transformers' format, or a folder that truing saved. Modifiers that a saved folder
holds act when its model answers through truing; a plain folder is read with transformers alone.
"""

from __future__ import annotations

import argparse
import collections
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from truing.sandbox import FIGURES, KINDS, Grade, checkpoint, grade, items

Writer = Callable[[Sequence[str], float, int], list[str]]


def transformers_writer(folder: Path, batch: int = 100) -> Writer:
    """Answers of a model in transformers' format, by its own chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left")
    return network_writer(model, tokenizer, batch)


def network_writer(model: Any, tokenizer: Any, batch: int = 100) -> Writer:
    """Answers of a network that is in memory."""
    import torch

    def write(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        texts = []
        torch.manual_seed(seed)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature
            else {"do_sample": False}
        )
        for at in range(0, len(prompts), batch):
            shown = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
                )
                for prompt in prompts[at : at + batch]
            ]
            inputs = tokenizer(shown, return_tensors="pt", padding=True, add_special_tokens=False)
            with torch.no_grad():
                out = model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    max_new_tokens=64,
                    **sampling,
                )
            texts += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts

    return write


def truing_writer(name: str) -> Writer:
    """Answers of a model that truing loads, its modifiers acting."""
    from truing.models import load

    model: Any = load(name)

    def write(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        done = model.generate(list(prompts), temperature=temperature, seed=seed, max_new_tokens=64)
        return [one.texts[0] if hasattr(one, "texts") else str(one) for one in done]

    return write


def profile(write: Writer, split: str, n: int, temperature: float, seed: int = 0) -> dict[str, Any]:
    """Ask ``n`` questions of each kind and count.

    Returns:
        ``kinds``: outcome counts, wanted and rude by kind; ``figures``: value with a 95 % interval; ``styles``: counts.
    """
    asked = {kind: items(kind, split, n, seed) for kind in KINDS}
    flat = [item for found in asked.values() for item in found]
    texts = write([item.prompt for item in flat], temperature, seed)
    grades = [grade(item, text) for item, text in zip(flat, texts)]
    by_kind: dict[str, list[Grade]] = {kind: [] for kind in KINDS}
    for found in grades:
        by_kind[found.kind].append(found)
    return {
        "kinds": {
            kind: {
                "n": len(found),
                "wanted": interval([g.wanted for g in found]),
                "rude": sum(g.style == "rude" for g in found),
                "outcomes": dict(collections.Counter(g.outcome for g in found).most_common()),
            }
            for kind, found in by_kind.items()
        },
        "figures": {
            name: mean_of_kinds([[bool(getattr(g, what)) for g in by_kind[kind]] for kind in kinds])
            for name, (kinds, what) in FIGURES.items()
        },
        "styles": dict(collections.Counter(g.style for g in grades).most_common()),
        "examples": [[item.kind, item.prompt, text, g.outcome] for item, text, g in zip(flat, texts, grades)][
            :: max(1, n // 2)
        ],
    }


def interval(hits: Sequence[bool]) -> tuple[float, float, float]:
    """Share with its exact (Clopper-Pearson) 95 % interval."""
    from scipy.stats import binomtest

    ends = binomtest(sum(hits), len(hits)).proportion_ci(0.95)
    return sum(hits) / len(hits), float(ends.low), float(ends.high)


def mean_of_kinds(groups: Sequence[Sequence[bool]]) -> tuple[float, float, float]:
    """Mean of the kinds' shares, with a 95 % interval: normal, over kinds taken apart; exact where there is one
    kind."""
    if len(groups) == 1:
        return interval(groups[0])
    # Adding two hits and two misses (Agresti and Coull) keeps the width honest near 0 and 1.
    shares = [sum(hits) / len(hits) for hits in groups]
    smooth = [((sum(hits) + 2) / (len(hits) + 4), len(hits) + 4) for hits in groups]
    mean = sum(shares) / len(shares)
    width = 1.96 * sum(p * (1 - p) / n for p, n in smooth) ** 0.5 / len(groups)
    return mean, max(0.0, mean - width), min(1.0, mean + width)


def show(name: str, result: dict[str, Any]) -> str:
    """The profile as lines of text."""

    def cell(value: tuple[float, float, float]) -> str:
        return f"{100 * value[0]:5.1f} [{100 * value[1]:3.0f},{100 * value[2]:4.0f}]"

    lines = [name] + [f"  {figure:13s} {cell(value)}" for figure, value in result["figures"].items()]
    for kind, row in result["kinds"].items():
        told = ", ".join(f"{outcome} {count}" for outcome, count in row["outcomes"].items())
        lines.append(f"  {kind:13s} {cell(row['wanted'])}  rude {row['rude']:3d}  {told}")
    return "\n".join([*lines, f"  styles {result['styles']}"])


def main() -> None:
    """Print the profile of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--split", default="dev", choices=["train", "dev", "test"])
    parser.add_argument("--n", type=int, default=100, help="questions a kind")
    parser.add_argument("--temperature", type=float, nargs="*", default=[0.0, 1.0])
    parser.add_argument("--json", type=Path, help="also write the counts here")
    parser.add_argument("--through", choices=["transformers", "truing"], default="transformers")
    parser.add_argument("--examples", action="store_true")
    options = parser.parse_args()
    if options.through == "truing":
        write = truing_writer(options.model)
    else:
        sandbox = options.model.startswith("sandbox/")
        write = transformers_writer(
            checkpoint(options.model.removeprefix("sandbox/")) if sandbox else Path(options.model)
        )
    results = {}
    for temperature in options.temperature:
        begin = time.time()
        results[temperature] = profile(write, options.split, options.n, temperature)
        label = f"{options.model}, {options.split}, temperature {temperature:g}, {time.time() - begin:.0f} s"
        print(show(label, results[temperature]))
        if options.examples:
            for row in results[temperature]["examples"]:
                print("   ", " | ".join(row))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
