"""activation-attack.json: the layer search, the added vector, and how the release tells refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.measures.activation_attack_release import apply_vector, contrastive_layer_search, release_refusal_match

Values = dict[str, Any]


def layer_search(inputs: Values, given: Values) -> Values:
    positive, negative = (torch.tensor(inputs[side], dtype=torch.float64) for side in ("positive", "negative"))
    found = contrastive_layer_search(positive, negative, inputs["layer_numbers"])
    return {
        "steering_vectors": found["vectors"].tolist(),
        "release_score": found["release"].tolist(),
        "release_choice": found["release_choice"],
        "jensen_shannon": found["jsd"].tolist(),
        "jensen_shannon_choice": found["jsd_choice"],
    }


def added(inputs: Values, given: Values) -> Values:
    hidden, vector = (torch.tensor(inputs[name], dtype=torch.float64) for name in ("hidden", "vector"))
    positions = torch.tensor(inputs["position_ids"])
    out = {
        name: apply_vector(
            hidden, vector, given["multiplier"], positions=positions, after=inputs["after_position"], release=release
        ).tolist()
        for name, release in (("release_output", True), ("single_addition", False))
    }
    return out


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "contrastive_layer_search": layer_search,
    "apply_vector": added,
    "release_refusal_match": lambda inputs, given: {"refusal": release_refusal_match(inputs["answer"])},
}
