"""raft.json: selection, cleaning, and the two closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from truing.methods.decoding.best_of_n import best_of_n_kl
from truing.methods.loops import ranking

Values = dict[str, Any]


def numbers(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def local(inputs: Values, given: Values) -> Values:
    rewards = [numbers(row) for row in inputs["rewards"]]
    keep = None
    if "texts" in inputs:
        keep = [[not ranking.is_discarded(text) for text in row] for row in inputs["texts"]]
    return {"selected_index_or_null": ranking.select_local(rewards, keep=keep)}


def best_of_k(inputs: Values, given: Values) -> Values:
    ks = inputs["K"] if isinstance(inputs["K"], list) else [inputs["K"]]
    parts = inputs["reward_values"], inputs["probabilities"]
    return {
        "expected_max": [ranking.expected_best_of(*parts, k) for k in ks],
        "kl_of_best_of_K_upper_bound": [best_of_n_kl(k) for k in ks],
    }


def penalised(inputs: Values, given: Values) -> Values:
    scores = ranking.kl_penalised(
        inputs["rewards"], inputs["policy_logps"], inputs["initial_policy_logps"], given["beta"]
    ).tolist()
    return {
        "scores": scores, "selected_index": ranking.select_local([scores])[0],
        "selected_index_without_penalty": ranking.select_local([inputs["rewards"]])[0],
    }  # fmt: skip


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "local selection: best of K per prompt after discarding": local,
    "global selection: top fraction of the whole batch, best first": lambda inputs, given: {
        "selected_indices": ranking.select_global(numbers(inputs["rewards"]), given["top_fraction"])
    },
    "formula: KL-penalised ranking score": penalised,
    "clean_text: keep what precedes the first role mark, strip spaces then '#'": lambda inputs, given: {
        "texts": [ranking.clean_text(text, given.get("role_mark", "###Human")) for text in inputs["texts"]]
    },
    "formula: expected best-of-K reward of a discrete reward distribution": best_of_k,
}
