"""deal.json: search over a bigram table with token-level heuristics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.methods.decoding.deal import rerank
from truing.methods.decoding.lookahead_rule import Rule, look_ahead
from truing.methods.decoding.lookahead_tree import likeliest
from truing.methods.decoding.lookahead_world import Candidate, Table, Tokens, answered

Values = dict[str, Any]


def bigrams(logits: list[list[float]], prompt: list[int], k: int, eos: int | None = None, raw: bool = False) -> Table:
    """A world in which the next token depends on the last one; ``raw`` scores are not normalised."""
    scores = torch.tensor(logits, dtype=torch.float64)
    scores = scores if raw else scores.log_softmax(1)
    values, ids = (part.tolist() for part in likeliest(scores, k))

    def last(tokens: Tokens) -> int:
        return [*prompt, *tokens][-1]

    return Table(
        lambda tokens: list(zip(ids[last(tokens)], values[last(tokens)])),
        lambda tokens, number: ids[last(tokens)][0],
        lambda tokens: eos is not None and tokens[-1:] == (eos,),
    )


def heuristic(given: Values, eos: int) -> Callable[[Tokens], float]:
    """A heuristic of the file, over answer tokens."""
    kind = given["kind"]
    if kind == "keyword_coverage":
        return lambda tokens: sum(word in tokens for word in given["keywords"]) / len(given["keywords"])
    if kind == "length_at_most":
        return lambda tokens: float(sum(token != eos for token in tokens) <= given["max"])
    if kind == "token_weights":
        return lambda tokens: sum(given["weights"][token] for token in tokens)
    if kind == "weighted_sum":
        parts = [heuristic(part, eos) for part in given["parts"]]
        return lambda tokens: sum(weight * part(tokens) for weight, part in zip(given["weights"], parts))
    raise ValueError(f"unknown heuristic {kind}")


def deal_search(inputs: Values, given: Values) -> Values:
    rule = Rule(given["top_k"], given["lookahead"], given["lambda"], given["beam"])
    eos = inputs["eos"]
    world = bigrams(inputs["bigram_logits"], inputs["prompt"], given["top_k"], eos)
    found = answered(look_ahead(rule, world, given["max_new_tokens"]), heuristic(inputs["heuristic"], eos))

    def shown(each: Candidate) -> Values:
        return {
            "tokens": list(each.tokens), "lookahead": list(each.rollouts[0].whole), "log_prob": sum(each.logprobs),
            "h": each.value, "score": each.score,
        }  # fmt: skip

    steps = [
        {"candidates": list(map(shown, step.candidates)), "kept": [list(each.tokens) for each in step.kept]}
        for step in found.steps
    ]
    best = found.best
    return {
        "tokens": list(best.tokens), "score": best.score, "log_prob": sum(best.logprobs), "h": best.value,
        "steps": steps[:3], "steps_note": "first three steps only",
        "lookahead_tokens_naive": sum(len(e.rollouts[0].tokens) for step in found.steps for e in step.candidates),
    }  # fmt: skip


def reranking(inputs: Values, given: Values) -> Values:
    value = heuristic(inputs["heuristic"], 0)
    found = rerank(inputs["log_probs"], [value(tuple(each)) for each in inputs["sequences"]], given["lambda"])
    return {"scores": found.scores, "best": found.best}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {"deal_search": deal_search, "rerank": reranking}
