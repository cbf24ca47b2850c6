"""radfact.json: scores of a report from given verdicts, boxes, means, the bootstrap, and matching of quoted phrases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from truing.measures import radfact_rule as rule
from truing.records.grounded_text import Phrase, checked_boxes

Values = dict[str, Any]


def plain(values: Any) -> Values:
    """NaN is null in the file."""
    return {name: None if isinstance(one, float) and math.isnan(one) else one for name, one in values.items()}


def numbers(values: Values) -> Values:
    return {name: math.nan if one is None else one for name, one in values.items()}


def score_report(inputs: Values, given: Values) -> Values:
    sides = [
        (
            [Phrase(one["text"], checked_boxes(one["boxes"], "a phrase")) for one in inputs[name]],
            [rule.Verdict(one["entailed"], tuple(one["evidence"])) for one in inputs[name]],
        )
        for name in ("candidate", "reference")
    ]
    (candidate, forward), (reference, backward) = sides
    found = rule.score_report(
        candidate, reference, forward, backward, size=given["image_size"], threshold=given["box_precision_threshold"]
    )
    return {
        **plain(found.values), "candidate_spatial_status": found.candidate, "reference_spatial_status": found.reference,
    }  # fmt: skip


def box_metrics(inputs: Values, given: Values) -> Values:
    return plain(rule.box_metrics(inputs["pred_boxes"], inputs["true_boxes"], given["mask_size"]))


def reports(inputs: Values) -> list[Any]:
    found = [None if one is None else numbers(one) for one in inputs["per_report"]]
    return [*found, *[None] * inputs.get("num_invalid_reports", 0)]


def aggregate(inputs: Values, given: Values) -> Values:
    found = rule.aggregate(reports(inputs), narrative=given["narrative_text"])
    return {**plain(found), "main_score": plain(found)["logical_f1"]}


def bootstrap(inputs: Values, given: Values) -> Values:
    found = rule.bootstrap(reports(inputs), rounds=given["num_bootstrap"], seed=given["seed"])
    parts = {f"{name}/{key}": value for name, values in found.items() for key, value in values.items()}
    return plain({**found["logical_f1"], **parts})


def match_phrase(inputs: Values, given: Values) -> Values:
    found = rule.match_phrase(inputs["text"], inputs["candidates"])
    return {"index": found, "normalised_text": rule.normalised(inputs["text"])}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "score_report": score_report,
    "box_metrics": box_metrics,
    "aggregate": aggregate,
    "bootstrap": bootstrap,
    "match_phrase": match_phrase,
}
