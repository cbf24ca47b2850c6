"""Tiny models on disk, with modifiers, for frameworks that take a name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import tiny
from truing.methods.decoding.best_of_n import BestOfNModifier
from truing.methods.prompting.system_message import SystemMessageModifier
from truing.methods.steering.modifier import SteeringModifier
from truing.models import Model
from truing.rewards.functions import AnswerLength


def steering(strength: float) -> SteeringModifier:
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    return SteeringModifier(vectors=vector, at=[1], strength=strength)


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    """One set of weights with several modifiers, and one without a chat template."""
    base = Model(tiny.network(), tiny.tokenizer(), source="tiny/base")
    return {
        "base": base,
        "plain": Model(base.weights, tiny.tokenizer(chat=False), source="tiny/plain"),
        "steered": base.with_modifier(steering(4.0)),
        "told": base.with_modifier(SystemMessageModifier(text="the small red bird")),
        "best": base.with_modifier(BestOfNModifier(n=3, reward=AnswerLength(target=3))),
    }


@pytest.fixture(scope="session")
def folders(models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where they are saved."""
    place = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save(place / name)
    return {name: place / name for name in models}
