"""What the conformance suite gives to anything in the catalogue: tiny models, rows of every kind, and its needs."""

from __future__ import annotations

import functools
from typing import Any

from tests import tiny
from truing.contracts import Method
from truing.models import Model

PROMPTS = ["what is the colour of the stone?", "the cat", "look at the small red bird and the mat, what is on the mat?"]

ROWS: dict[str, list[dict[str, Any]]] = {
    "demonstration": [
        {"prompt": "what is the colour of the stone?", "completion": "it is grey, of course."},
        {"prompt": "what sat on the mat?", "completion": "the cat sat on the mat."},
        {"prompt": "the bird?", "completion": "small and red."},
        {"prompt": "who looked at the bird?", "completion": "the cat looked."},
    ],
    "preference": [
        {"prompt": "what is the colour of the stone?", "chosen": "it is grey, of course.", "rejected": "red"},
        {"prompt": "what sat on the mat?", "chosen": "the cat.", "rejected": "look at the small bird and the mat"},
        {"prompt": "the bird?", "chosen": "small and red.", "rejected": "grey"},
        {"prompt": "who looked at the bird?", "chosen": "the cat looked.", "rejected": "the stone"},
    ],
    "label": [
        {"prompt": "what sat on the mat?", "completion": "the cat.", "label": True},
        {"prompt": "the bird?", "completion": "grey", "label": False},
    ],
    "dispreference": [{"prompt": "the bird?", "rejected": ["grey", "the mat"]}],
    "judgment": [{"prompt": "the bird?", "completion": "grey", "judgment": "birds here are red", "label": False}],
    "ranking": [{"prompt": "the bird?", "completions": ["red", "grey"], "scores": [1.0, 0.0]}],
    "contrast": [
        {"prompt": "the bird?", "positive": "it is small and red, of course.", "negative": "grey"},
        {"prompt": "the stone?", "positive": "it is grey, of course.", "negative": "red"},
    ],
    "dialogue": [{"messages": [{"role": "user", "content": "the bird?"}, {"role": "assistant", "content": "red"}]}],
    "question": [{"prompt": "the bird?", "answers": ["red"]}],
}


def model(architecture: str = "llama", seed: int = 0, padding_side: str = "left") -> Model:
    """A fresh tiny model; its weights are its own."""
    return Model(
        tiny.network(architecture, seed=seed), tiny.tokenizer(padding_side=padding_side), source=f"tiny-{architecture}"
    )


@functools.cache
def guide() -> Model:
    """A second tiny model, for methods that need one."""
    return model("qwen3", seed=7)


def like_the_cat(prompts: Any, responses: Any) -> Any:
    """A reward: the share of letters that are c, a or t."""
    import numpy as np

    return np.array([sum(letter in "cat" for letter in text) / (len(text) or 1) for text in responses])


def as_before(prompts: Any, responses: Any) -> list[str]:
    """A judge in words: a short answer is perfect."""
    return ["perfect" if len(text) < 12 else "It is too long." for text in responses]


def make(method: type[Method], architecture: str = "llama") -> Method:
    """The method with quick settings, and with whatever it declares that it needs."""
    given: dict[str, Any] = dict(method.quick)
    for name in sorted({"guide", "writer", "responder", "rollout"} & method.needs):
        given[name] = guide()
    if "reward" in method.needs:
        given["reward"] = like_the_cat
    for name in sorted({"untuned", "amateur"} & method.needs):
        given[name] = model("llama", seed=8)
    if "teacher" in method.needs:
        given["teacher"] = model(architecture, seed=7)
    if "models" in method.needs:
        given["models"] = [model(architecture, seed=7)]
    if "judge" in method.needs:
        given["judge"] = as_before
    if "weak" in method.needs:
        given["weak"] = model(architecture, seed=7)
    return method(**given)


def rows(method: type[Method]) -> list[dict[str, Any]] | None:
    """Rows of the first kind that the method reads, or None."""
    return ROWS[method.record_kinds[0]] if method.record_kinds else None
