"""trustworthiness-probes.json: letters, yes and no, confidence, calibration and rates of labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from truing.measures import calibration, trust_reading

Values = dict[str, Any]


def causal_answer(inputs: Values, given: Values) -> Values:
    found, counted = trust_reading.causal_answer(inputs["text"])
    return {"found": found, "counted_as": counted}


def first_option(inputs: Values, given: Values) -> Values:
    option, valid = trust_reading.first_option(inputs["text"])
    return {"option": option, "valid": valid}


def label_rate(inputs: Values, given: Values) -> Values:
    rate, n = trust_reading.label_rate(inputs["labels"])
    return {"rate": rate, "n": n}


FUNCTIONS: dict[str, Callable[[Values, Values], Any]] = {
    "option_probabilities": lambda inputs, given: calibration.option_probabilities(inputs["top_logprobs_by_token"]),
    "causal_answer": causal_answer,
    "first_yes_no": lambda inputs, given: {"counted_as": trust_reading.first_yes_no(inputs["text"])},
    "causal_accuracy": lambda inputs, given: trust_reading.causal_accuracy(inputs["truth"], inputs["answers"]),
    "confidence_gap": lambda inputs, given: calibration.confidence_gap(inputs["answers"], inputs["stated_percent"]),
    "ece": lambda inputs, given: calibration.calibration(inputs["confidence"], inputs["correct"], given["bins"]),
    "first_option": first_option,
    "label_rate": label_rate,
}
