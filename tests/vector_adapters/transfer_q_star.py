"""transfer-q-star.json: decoding over a bigram table, values on a tree of two steps, weights, and diversity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.vector_adapters.deal import bigrams
from truing.measures.repetition import repetition, text_diversity
from truing.methods.decoding.exact_values import decoding_policy, tilted, token_values
from truing.methods.decoding.lookahead_rule import Rule, look_ahead
from truing.methods.decoding.lookahead_values import Estimate, Mean, Released, SelfNormalised, effective_sample_size
from truing.methods.decoding.lookahead_world import Found, Table, Tokens, answered

Values = dict[str, Any]


def decode(inputs: Values, given: Values, estimate: Estimate, reward: Callable[[Tokens], Any]) -> Values:
    rule = Rule(given["top_k"], given["rollout_tokens"], given["weight"], cumulative=False, estimate=estimate)
    world = bigrams(inputs["bigram_logits"], inputs["prompt"], given["top_k"], raw=True)
    found = answered(look_ahead(rule, world, given["max_new_tokens"]), reward)
    return {"tokens": list(found.best.tokens), "step_scores": [step.kept[0].score for step in found.steps]}


def summed(weights: list[float], prompt: list[int]) -> Callable[[Tokens], float]:
    return lambda tokens: sum(weights[token] for token in [*prompt, *tokens])


def direct(inputs: Values, given: Values) -> Values:
    return decode(inputs, given, Mean(), summed(inputs["reward_token_weights"], inputs["prompt"]))


def indirect(inputs: Values, given: Values) -> Values:
    target = summed(inputs["target_reward_token_weights"], inputs["prompt"])
    baseline = summed(inputs["baseline_reward_token_weights"], inputs["prompt"])
    estimate = Released(exponent=given["ratio_exponent"])
    return decode(inputs, given, estimate, lambda tokens: (target(tokens), baseline(tokens)))


def policy(inputs: Values, given: Values) -> Values:
    candidates, chances = decoding_policy(inputs["sft_logits"], inputs["tq_values"], given["alpha"], given["top_k"])
    choice = candidates[int(np.argmax(chances))]
    return {"candidates": candidates, "probabilities": chances.tolist(), "greedy_choice": choice}


def tree(inputs: Values, given: Values) -> Values:
    ones = inputs["prob_of_1_after"]

    def chance(token: str, before: str) -> float:
        return float(ones[before] if token == "1" else 1 - ones[before])

    answers = list(inputs["target_reward"])
    logs = {each: float(np.log(chance(each[0], "start") * chance(each[1], each[0]))) for each in answers}
    reward, base, beta = inputs["target_reward"], inputs["baseline_reward"], given["beta"]
    out: Values = {}
    for first in ("0", "1"):
        own = [each for each in answers if each[0] == first]
        found = token_values([logs[e] for e in own], [reward[e] for e in own], [base[e] for e in own], beta)
        out[first] = {
            "q_star": found.aligned, "q_sft_controlled_decoding": found.plain,
            "expected_target_reward_under_baseline": found.transferred,
            "indirect_self_normalised": found.reweighted, "release_rule_ratio_half_unnormalised": found.released,
            "soft_value": found.soft,
        }  # fmt: skip
    plain, rewards = np.exp(list(logs.values())), np.array([reward[each] for each in answers])
    best = tilted(list(logs.values()), rewards, beta)
    starts = np.array([each[0] == "1" for each in answers])
    out["first_token"] = {
        "sft_prob_of_1": float(plain[starts].sum()), "rho_star_prob_of_1": float(best[starts].sum()),
        "kl_rho_star_sft": float(best @ np.log(best / plain)), "expected_reward_rho_star": float(best @ rewards),
        "expected_reward_sft": float(plain @ rewards),
    }  # fmt: skip
    return out


def rollouts(inputs: Values, given: Values) -> Values:
    rewards, baselines = inputs["target_rewards"], inputs["baseline_rewards"]
    estimate = SelfNormalised(beta=given["beta"])
    weights = estimate.weights(rewards, baselines)
    return {
        "direct_mean": Mean().value(rewards, baselines), "weights": weights.tolist(),
        "indirect_estimate": estimate.value(rewards, baselines),
        "effective_sample_size": effective_sample_size(weights),
    }  # fmt: skip


def args_step(inputs: Values, given: Values) -> Values:
    order = sorted(range(len(inputs["logits"])), key=lambda token: -inputs["logits"][token])
    world = Table(lambda tokens: [(token, inputs["logits"][token]) for token in order], lambda tokens, number: 0)
    rule = Rule(given["top_k"], 0, given["weight"], cumulative=False)
    reward = inputs["reward_of_prefix_plus_token"]
    found: Found = answered(look_ahead(rule, world, 1), lambda tokens: reward[tokens[-1]])
    (step,) = found.steps
    return {
        "candidates": [each.tokens[0] for each in step.candidates], "scores": [each.score for each in step.candidates],
        "choice": found.best.tokens[0],
    }  # fmt: skip


def diversity(inputs: Values, given: Values) -> Values:
    words = inputs["text"].split()
    return {"diversity": text_diversity(inputs["text"]), **{f"rep_{n}": repetition(words, n) for n in (2, 3, 4)}}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "direct_greedy_decode": direct, "indirect_greedy_decode": indirect, "decoding_policy": policy,
    "exact_values_binary_tree": tree, "rollout_estimate": rollouts, "args_step": args_step, "diversity": diversity,
}  # fmt: skip
