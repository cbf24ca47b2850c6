"""A toy preference: a question has a right and a wrong colour."""

from __future__ import annotations

from typing import Any

from tests import tiny
from truing.models import Model

THINGS = ("stone", "cat", "bird", "mat", "course", "sat on the mat", "small bird", "red stone")


def preferences(n: int = 16) -> list[dict[str, Any]]:
    things = [f"{THINGS[at % len(THINGS)]} {'x' * (at // len(THINGS))}" for at in range(n)]
    return [
        {
            "prompt": f"what is the colour of the {thing}?",
            "chosen": "it is grey, of course",
            "rejected": f"the {thing} is red",
        }
        for thing in things
    ]


def demonstrations(n: int = 16) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in preferences(n)]


def model(architecture: str = "llama", seed: int = 0, padding_side: str = "left", **changes: Any) -> Model:
    network = tiny.network(architecture, seed=seed, **changes)
    return Model(network, tiny.tokenizer(padding_side=padding_side), source=f"tiny-{architecture}")


def weights_of(one: Model) -> dict[str, Any]:
    return {name: value.clone() for name, value in one.weights.state_dict().items()}
