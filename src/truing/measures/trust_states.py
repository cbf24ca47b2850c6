"""Whether hidden states tell what a prompt is about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from truing.measures.trust_items import TrustItem
from truing.measures.trust_probes import Labelled


def told_apart(model: Any, items: Sequence[TrustItem], seed: int) -> dict[str, Labelled]:
    """Whether a line through the hidden states at the end of a prompt tells those with something from those without.

    Items are parted in two; the line and the layer are found on one half and tried on the other, and the other way
    round, so that no item is judged by a line that has seen it. Items of one group (a verb) stay on one side.
    """
    from truing.models.activations import decoder_layers, record

    layers = list(range(len(decoder_layers(model.weights))))
    states = record(model, [model.encode_prompt(item.prompt) for item in items], layers).double().numpy()
    truth = np.array([item.truths == ("yes",) for item in items])
    groups = sorted({item.group or item.id for item in items})
    random.Random(f"halves {seed}").shuffle(groups)
    side = {group: at % 2 for at, group in enumerate(groups)}
    half = np.array([side[item.group or item.id] for item in items])
    found: dict[str, Labelled] = {}
    for test in (0, 1):
        train = np.flatnonzero(half != test)
        there = np.flatnonzero(half == test)
        if len(set(truth[train])) < 2 or not len(there):
            continue
        layer = max(layers, key=lambda layer: (_fit(states[train, layer], truth[train]), -layer))
        said = _line(states[train, layer], truth[train], states[there, layer]) > 0
        for row, yes in zip(there, said):
            good = bool(yes) == bool(truth[row])
            word = "told apart" if good else "mistaken"
            found[items[int(row)].id] = Labelled(float(good), word, f"layer {layer}: {'with' if yes else 'without'}")
    return {item.id: found.get(item.id, Labelled(answer="")) for item in items}


def _fit(states: np.ndarray, truth: np.ndarray) -> float:
    """The share that a line from the even rows gets right on the odd ones, and the other way round."""
    right = 0
    for odd in (0, 1):
        train, test = np.arange(len(truth)) % 2 != odd, np.arange(len(truth)) % 2 == odd
        if len(set(truth[train])) == 2:
            right += int(((_line(states[train], truth[train], states[test]) > 0) == truth[test]).sum())
    return right / len(truth)


def _line(train: np.ndarray, truth: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression of yes and no, at the strength of the states' own spread: a side for each test row."""
    centre, spread = train.mean(0), train.std(0) + 1e-9
    x, y = (train - centre) / spread, np.where(truth, 1.0, -1.0)
    kernel = x @ x.T / x.shape[1]
    weights = np.linalg.solve(kernel + np.eye(len(x)), y - y.mean())
    return ((test - centre) / spread) @ x.T / x.shape[1] @ weights + y.mean()
