"""honesty.json: labels and what became of them, right answers, refusals, options, and targets of all methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from truing.builders import honesty_targets as targets
from truing.measures import honesty_rules as rules

Values = dict[str, Any]


def evolutionary_metrics(inputs: Values, given: Values) -> Values:
    found = rules.evolution(inputs["before"], inputs["after"], inputs.get("refusal_also_contains_right_answer"))
    return {name: round(value, given.get("round_to", 4)) for name, value in found.items()}


def answer_match(inputs: Values, given: Values) -> Values:
    response, gold = inputs["response"], inputs["gold"]
    return {
        "normalised_response": rules.normalise(response),
        "exact_match": int(rules.exact_match(response, gold)),
        "contains_match": int(rules.contains_answer(response, gold)),
    }


def multiple_choice_label(inputs: Values, given: Values) -> Values:
    choice = rules.read_choice(inputs["response"], inputs["choices"])
    return {"choice": choice, "label": rules.label(choice == inputs["target"], refused=False)}


def build_targets(inputs: Values, given: Values) -> Values:
    samples, correct = inputs["sample_texts"], inputs["sample_correct"]
    best = targets.best_answer(inputs["greedy_text"], inputs["greedy_correct"], samples, correct)
    made = {
        "absolute": targets.absolute(best, correct),
        "confidence_num": targets.confidence_num(best, correct),
        "confidence_verb": targets.confidence_verb(best, correct),
    }
    return {
        "sft_baseline": targets.baseline(best, inputs["gold_answer"]),
        **{name: dataclasses.asdict(one) for name, one in made.items()},
        "multisample": [dataclasses.asdict(one) for one in targets.multisample(samples, correct)],
    }


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "evolutionary_metrics": evolutionary_metrics,
    "answer_match": answer_match,
    "multiple_choice_label": multiple_choice_label,
    "build_targets": build_targets,
    "is_refusal": lambda inputs, given: {"refusal": rules.is_refusal(inputs["question"], inputs["response"])},
    "judge_says_correct": lambda inputs, given: {
        "correct": rules.judge_says_correct(inputs["judge_output"], given.get("threshold", rules.RIGHT))
    },
}
