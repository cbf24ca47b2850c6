"""AlignScore raced against the published way of computing it, at equal scores.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python -m benchmarks.measures_alignscore

The published way, as its page describes it: every pair is padded to 512 tokens, batches stay inside of one example,
equal pairs are computed again, and the vocabulary's head runs over all positions. Both read the same weights, a RoBERTa
of random numbers. Times are CPU seconds of one process, in turns; each way counts with its fastest round.

What is won depends on the length of the pairs: chunks of 350 words nearly fill 512 tokens, so of long documents there
is little padding to leave out.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification
from transformers.models.roberta.modeling_roberta import RobertaLMHead

from benchmarks.proofs_measures_alignscore import DATA, rte
from benchmarks.proving import table
from truing import AlignScore, sandbox
from truing.models.alignment import AlignmentModel, fresh_encoder, marked
from truing.rewards.alignment_rule import aggregate, chunks, sentences

VOCABULARY, BATCH, LONGEST = 8000, 32, 512
RTE = "RTE-2, real text"
WORK = {"notes": 24, RTE: 48, "several answers to one source": 16, "documents": 12}


def scorer(texts: Sequence[str], width: int = 128, layers: int = 4) -> tuple[AlignmentModel, Any]:
    """A RoBERTa under three heads, and the vocabulary's head that the published model also has."""
    tokenizer = fresh_encoder(texts, vocabulary=VOCABULARY, width=8, heads=2).tokenizer
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * width, max_position_embeddings=LONGEST + 2, type_vocab_size=1, pad_token_id=0,
    )  # fmt: skip
    config.num_labels = 6
    weights = marked(RobertaForSequenceClassification(config)).eval()
    with torch.no_grad():
        for weight in weights.parameters():
            if weight.dim() == 2:  # random weights of the usual size give nearly the same score to everything
                weight.mul_(4)
    return AlignmentModel(weights, tokenizer, source="random RoBERTa"), RobertaLMHead(config).eval()


@torch.inference_mode()
def published(model: AlignmentModel, vocabulary: Any, contexts: Sequence[str], claims: Sequence[str]) -> list[float]:
    """Scores in the published way."""
    out = []
    for context, claim in zip(contexts, claims):
        parts, said = chunks(context), sentences(claim)
        pairs = list(itertools.product(parts, said))
        found: list[float] = []
        for start in range(0, len(pairs), BATCH):
            one, two = zip(*pairs[start : start + BATCH])
            read = model.tokenizer(
                list(one), list(two), truncation="only_first", padding="max_length", max_length=LONGEST,
                return_tensors="pt", return_token_type_ids=False,
            )  # fmt: skip
            states = model.weights.roberta(**read).last_hidden_state
            vocabulary(states)
            logits = model.weights.classifier(states)
            found += logits[:, 2:5].double().softmax(1)[:, 0].tolist()
        out.append(aggregate(np.reshape(found, (len(parts), len(said)))))
    return out


def workload(kind: str, count: int) -> tuple[list[str], list[str]]:
    """Contexts and claims of a few sentences about them."""
    rng = random.Random(kind)
    if kind == RTE:
        held = rte("rte2_test")[:count]
        return [row["prompt"] for row in held], [row["completion"] for row in held]
    texts = sandbox.heldout_text("test", 400)
    contexts, claims = [], []
    for at in range(count):
        size = {"notes": 2, "documents": rng.choice((20, 40)), "several answers to one source": 12}[kind]
        if kind.startswith("several") and at % 8:
            contexts.append(contexts[-1])
        else:
            contexts.append(" ".join(rng.choice(texts) for _ in range(size)))
        claims.append(" ".join(rng.sample(sentences(contexts[-1]), rng.choice((1, 2, 3)))))
    return contexts, claims


def race(rounds: int = 2) -> str:
    """A table of pairs a second of both ways, and how far their scores are from each other."""
    torch.set_num_threads(1)
    rows = []
    sums = {"pairs": 0.0, "published": 0.0, "truing": 0.0}
    for kind, count in WORK.items():
        if kind == RTE and not (DATA / "rte").is_dir():
            continue
        contexts, claims = workload(kind, count)
        model, vocabulary = scorer(contexts)
        rule = AlignScore(scorer=model)
        pairs = sum(len(chunks(one)) * len(sentences(two)) for one, two in zip(contexts, claims))
        ways: dict[str, Callable[[], list[float]]] = {
            "published": lambda m=model, v=vocabulary, c=contexts, d=claims: published(m, v, c, d),  # type: ignore[misc]
            "truing": lambda r=rule, c=contexts, d=claims: [one.score for one in r.score(c, d)],  # type: ignore[misc]
        }
        best = dict.fromkeys(ways, float("inf"))
        scores: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.process_time()
                scores[name] = way()
                best[name] = min(best[name], time.process_time() - began)
        for name, seconds in (("pairs", pairs), *best.items()):
            sums[name] += seconds
        apart = max(abs(one - two) for one, two in zip(*scores.values()))
        spread = float(np.ptp(scores["truing"]))
        rows.append(
            [kind, pairs, *(f"{pairs / best[name]:.1f}" for name in ways), f"{best['published'] / best['truing']:.1f}",
             f"{apart:.1e}", f"{spread:.3f}"]
        )  # fmt: skip
    rate = {name: sums["pairs"] / sums[name] for name in ("published", "truing")}
    rows.append(
        ["all", f"{sums['pairs']:.0f}", f"{rate['published']:.1f}", f"{rate['truing']:.1f}",
         f"{rate['truing'] / rate['published']:.1f}", "", ""]
    )  # fmt: skip
    head = [
        "pairs of",
        "number",
        "published, pairs/s",
        "truing, pairs/s",
        "ratio",
        "largest difference",
        "range of scores",
    ]
    return table(head, rows)


if __name__ == "__main__":
    print(race())
