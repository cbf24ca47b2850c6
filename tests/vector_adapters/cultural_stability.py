"""cultural-stability.json: effects of a format, clusterings, dimensions and spreads of a survey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from truing.measures import reliability

Values = dict[str, Any]


def format_effect(inputs: Values, given: Values) -> Values:
    return reliability.format_effect(
        inputs["ratings"], inputs["conditions"], permutations=given["n_permutations"], seed=given["seed"]
    )


def multi_condition_effect(inputs: Values, given: Values) -> Values:
    return {"effect": reliability.multi_condition_effect(inputs["ratings"], inputs["conditions"])}


def vsm2013_dimensions(inputs: Values, given: Values) -> Values:
    return reliability.vsm2013_dimensions(inputs["mean_answers_m01_to_m24"], given["constant"])


def adjusted_rand_index(inputs: Values, given: Values) -> Values:
    return {"ari": reliability.adjusted_rand_index(inputs["reference_labels"], inputs["subset_labels"])}


def dimension_impact(inputs: Values, given: Values) -> Values:
    subsets = {frozenset(name.split(",")): value for name, value in inputs["ari_by_subset"].items()}
    found = reliability.dimension_impact(inputs["dimensions"], subsets)
    named = {name: {str(size): value for size, value in sizes.items()} for name, sizes in found.items()}
    return {"mean_difference_by_dimension_and_subset_size": named}


def steerability_spread(inputs: Values, given: Values) -> Values:
    return reliability.steerability_spread(
        np.array(inputs["human_vectors"]), [np.array(one) for one in inputs["model_vectors"]]
    )


def pairwise_likert_preference(inputs: Values, given: Values) -> Values:
    rows = [tuple(row) for row in inputs["rows_A_B_rating"]]
    return {"normalised_score": reliability.pairwise_likert_preference(rows, given["scale_points"])}


def category_shift(inputs: Values, given: Values) -> Values:
    pairs = [tuple(pair) for pair in inputs["content_positions_pairs"]]
    return {"normalised_shift": reliability.category_shift(pairs, inputs["n_options"])}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "format_effect": format_effect, "multi_condition_effect": multi_condition_effect,
    "vsm2013_dimensions": vsm2013_dimensions, "adjusted_rand_index": adjusted_rand_index,
    "dimension_impact": dimension_impact, "steerability_spread": steerability_spread,
    "pairwise_likert_preference": pairwise_likert_preference, "category_shift": category_shift,
}  # fmt: skip
