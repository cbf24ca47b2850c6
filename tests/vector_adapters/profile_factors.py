"""profile-factors.json: scores of factors from pairs and from levels, and alignment of two agents' scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from truing.measures import profile_scores as scores

Values = dict[str, Any]

FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "factor_score": lambda inputs, given: scores.factor_score(inputs["factor_pairs"], inputs["preferences"]),
    "factor_score_from_score_levels": lambda inputs, given: scores.score_levels(inputs["groups"]),
    "factor_alignment": lambda inputs, given: scores.factor_alignment(
        inputs["reference_factor_scores"], inputs["model_factor_scores"]
    ),
}
