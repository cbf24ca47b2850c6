"""Options of multiple-choice questions, scored with their context computed once, raced against lm-evaluation-harness.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python -m benchmarks.measures_options

The harness reads each context again with each option, and takes scores of the whole vocabulary at every position; where
options are of one token it reads a context once. Its own code runs where the package ``lm_eval`` is installed; the same
way written out here runs in any case. Scores are checked to be equal first. The model is the sandbox's base made larger
without a change of what it answers; its vocabulary is small, which favours the harness.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.decoding_nudging import SIZES, enlarged
from benchmarks.proving import table
from truing import Model, load
from truing.measures.options import TOKENS, option_scores
from truing.models.chat import encode_plain
from truing.sandbox import heldout_text, items
from truing.sandbox.answers import fact
from truing.sandbox.world import world

Pair = tuple[list[int], list[int]]
BATCH = 16


def questions(kind: str, n: int) -> tuple[list[Any], list[list[str]]]:
    """Prompts and options: facts with four whole sentences, alone, behind a page of text, or behind one common prompt
    of examples; or with one letter each.
    """
    here = world(0)
    values = {name: sorted(some) for kinds in here.values.values() for name, some in kinds.items()}
    asked = items("fact", "test", n, 0)
    texts = heldout_text(n=n, seed=0)
    shown = items("fact", "train", 5, 0)
    examples = "\n".join(f"{item.prompt} {fact(item.attribute, item.subject, item.truth)}" for item in shown)
    prompts: list[Any] = []
    options: list[list[str]] = []
    for item, text in zip(asked, texts):
        others = [value for value in values[item.attribute] if value != item.truth]
        several = [fact(item.attribute, item.subject, value) for value in [item.truth, *others[:3]]]
        prompt = item.prompt
        if kind == "behind a page":
            prompt = f"{text}\n{item.prompt}"
        elif kind == "five examples":
            prompt = f"{examples}\n{item.prompt}"
        elif kind == "letters":
            listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", several))
            prompt, several = f"{text}\n{item.prompt}\n{listed}", list("ABCD")
        prompts.append(prompt)
        options.append(several)
    return prompts, options


def pairs_of(model: Model, prompts: Sequence[Any], options: Sequence[Sequence[str]]) -> list[Pair]:
    """Context and continuation of each option as token ids."""
    return [
        (model.encode_prompt(prompt), encode_plain(model.tokenizer, text))
        for prompt, several in zip(prompts, options)
        for text in several
    ]


def harness_way(model: Model, pairs: Sequence[Pair]) -> list[float]:
    """Every context with its option as a full row, in batches by length; rows that differ in their last token once."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for at, (context, option) in enumerate(pairs):
        rows.setdefault((*context, *option[:-1]), []).append(at)
    order = sorted(rows, key=len, reverse=True)
    found = [0.0] * len(pairs)
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        ids = torch.zeros(len(some), len(some[0]), dtype=torch.long)
        for at, row in enumerate(some):
            ids[at, : len(row)] = torch.tensor(row)
        with torch.inference_mode():
            scores = model.weights(input_ids=ids).logits.log_softmax(-1)
        for row, part in zip(some, scores):
            for at in rows[row]:
                option = pairs[at][1]
                places = range(len(row) - len(option), len(row))
                found[at] = float(sum(part[place, token] for place, token in zip(places, option)))
    return found


def installed_harness(model: Model) -> Callable[[Sequence[Pair]], list[float]] | None:
    """The harness's own code on these weights, or None where it is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        return None
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model.weights, tokenizer=model.tokenizer, batch_size=BATCH, device="cpu", backend="causal")

    def score(pairs: Sequence[Pair]) -> list[float]:
        asked = [((str(context), str(option)), context, option) for context, option in pairs]
        return [value for value, _ in lm._loglikelihood_tokens(asked, disable_tqdm=True)]

    return score


KINDS = ("a question alone", "behind a page", "five examples", "letters")


def race(n: int = 48, rounds: int = 5) -> str:
    """Markdown: processor seconds of each way for the same questions, and the median ratio within rounds."""
    torch.set_num_threads(1)
    model = enlarged(load("sandbox/base"), *SIZES["base"])
    theirs = installed_harness(model)
    lines = []
    for kind in KINDS:
        prompts, options = questions(kind, n)
        pairs = pairs_of(model, prompts, options)
        sides: dict[str, Callable[[], list[float]]] = {
            "ours": lambda p=prompts, o=options: [v for one in option_scores(model, p, o) for v in one.logprobs],  # type: ignore[misc]
            "its way": lambda pairs=pairs: harness_way(model, pairs),  # type: ignore[misc]
        }
        if theirs is not None:
            sides["lm_eval"] = lambda pairs=pairs: theirs(pairs)  # type: ignore[misc]
        values = {name: np.array(side()) for name, side in sides.items()}
        apart = max(float(np.abs(values["ours"] - other).max()) for other in values.values())
        assert apart < 2e-3, f"{kind}: scores differ by {apart}"
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(rounds):
            for name in list(sides)[:: 1 if turn % 2 else -1]:
                began = time.process_time()
                sides[name]()
                seconds[name].append(time.process_time() - began)
        ratios = {
            name: statistics.median(b / a for a, b in zip(seconds["ours"], seconds[name])) for name in list(sides)[1:]
        }
        sizes = [len(context) for context, _ in pairs]
        lines.append(
            [
                kind, f"{min(sizes)} to {max(sizes)}", f"{np.mean([len(option) for _, option in pairs]):.1f}",
                f"{1000 * statistics.median(seconds['ours']) / n:.0f}",
                *(f"{1000 * statistics.median(seconds[name]) / n:.0f} ({ratios[name]:.1f} times)" for name in ratios),
                f"{apart:.0e}",
            ]
        )  # fmt: skip
    head = ["questions", "context, tokens", "option, tokens", "truing, ms a question",
            *(["its way written out", "lm_eval itself"] if theirs else ["harness's way written out"]),
            "largest difference, nats"]  # fmt: skip
    return "\n\n".join(
        [
            f"{n} questions with four options on {model.source}, one thread, batches of {BATCH} rows for the harness "
            f"and of {TOKENS['cpu']} tokens for truing; processor time, medians of {rounds} interleaved rounds.",
            table(head, lines),
        ]
    )


if __name__ == "__main__":
    print(race())
