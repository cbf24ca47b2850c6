"""What decoding with two or three models on one vocabulary shares: checks, scores of a second model, and single steps.

Source of the steps: Fei, Razeghi and Singh 2025 (arXiv 2410.09300), who compare nudging with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from truing.contracts import require
from truing.errors import ModelError, StackError, UnsupportedError
from truing.models.core import context_length
from truing.models.engine import Engine
from truing.models.local import Model, same_vocabulary

if TYPE_CHECKING:
    from truing.models import AnyModel


def check_second(
    role: str, given: Any, lack: str = "does not give the scores of all tokens", name: str | None = None
) -> None:
    """Raise for a second model that cannot run inside another one's decoding.

    Args:
        role: the setting that names it.
        given: its value.
        lack: why a remote model does not serve.
        name: see `check_no_search`.

    Raises:
        SettingsError: it is no model.
        UnsupportedError: it is a remote model.
        StackError: it carries a search modifier.
    """
    if not isinstance(given, Model):
        if hasattr(given, "offers"):
            raise UnsupportedError(
                f"`{role}` is {given.name}, a remote model, which {lack}. "
                "Load its weights instead: a folder, a hub name, or sandbox/guide."
            )
        require(False, f"`{role}` is a model, got {given!r}. Load it: {role}=truing.load('sandbox/guide').")
    check_no_search(role, given, name)


def check_no_search(role: str, given: AnyModel, name: str | None = None) -> None:
    """Raise `StackError` for a second model that carries a search of its own; ``name`` is what the remedy calls it, the
    role unless given."""
    name = name or role
    for modifier in given.modifiers:
        if modifier.kind == "search":
            raise StackError(
                f"The {role} carries {modifier.label}, a search of its own, which cannot run inside another. "
                f"Give `{role}={name}.policy`, the {name} without it."
            )


def check_vocabulary(name: str, model: AnyModel, role: str, second: Model) -> None:
    """Raise `ModelError` when a method (``name``) joins the scores of two models whose token ids differ in meaning."""
    if isinstance(model, Model) and not same_vocabulary(model, second):
        raise ModelError(
            f"{name} joins the scores of {model.name} and of its {role} {second.name} token by token, and the two have "
            f"different vocabularies. Take a {role} with the tokenizer of {model.name}, or let the models meet in "
            'text: Nudging(unit="word").'
        )


def positions(model: Model) -> int | None:
    """Most tokens that a model reads, or None where nothing bounds it."""
    limit = context_length(model.weights)
    return int(limit) if limit else None


def least(*limits: int | None) -> int | None:
    """The smallest of the limits that are there."""
    return min((limit for limit in limits if limit is not None), default=None)


def follow(
    session: dict[Any, Any], role: str, model: Model, prefixes: Sequence[Sequence[int]], width: int
) -> torch.Tensor:
    """Scores [prefixes, width] of a second model that reads what the first one does; only what is new is computed.

    Vocabularies are padded to different sizes in models of one family. Columns that the second model lacks are minus
    infinity, and those that the first one lacks are left out: no token stands there.

    Args:
        session: of the logits modifier; keeps the second model's engine under ``role``.
        role: "guide", say; its passes are counted under this name.
        model: the second model, with its activation and logits modifiers.
        prefixes: see `LogitsModifier.adjust`.
        width: of the first model's scores.
    """
    if role not in session:
        session[role] = Engine(model, session["usage"], role)
    scores: torch.Tensor = session[role].scores(prefixes)
    missing = width - scores.shape[1]
    return torch.nn.functional.pad(scores, (0, missing), value=-math.inf) if missing > 0 else scores[:, :width]


def best(probabilities: Mapping[str, float]) -> str:
    """The most likely token; the first of several that are equal."""
    return max(probabilities, key=lambda token: probabilities[token])


def ensemble_step(*models: Mapping[str, float]) -> dict[str, float]:
    """Mean probability of each token that any of the models names; a token that one does not name counts 0 there.

    With truncated distributions (top tokens of a server) the values need not sum to 1.
    """
    tokens = dict.fromkeys(token for model in models for token in model)
    return {token: sum(model.get(token, 0.0) for model in models) / len(models) for token in tokens}


def proxy_tuning_step(
    base: Mapping[str, float], tuned: Mapping[str, float], untuned: Mapping[str, float]
) -> dict[str, float]:
    """The base's distribution moved by what tuning did to a small model: base * tuned / untuned, normalised.

    Args:
        base: probabilities of the large model.
        tuned: of the small aligned model.
        untuned: of the small model before it was aligned; a token of probability 0 there is left out.

    Returns:
        Probabilities over the tokens that all three name; empty when there is none.

    Source: Liu et al. 2024, "Tuning language models by proxy", eq. 1, in probabilities.
    """
    shared = [token for token in base if token in tuned and untuned.get(token, 0.0) > 0]
    scores = {token: base[token] * tuned[token] / untuned[token] for token in shared}
    total = sum(scores.values())
    return {token: score / total for token, score in scores.items()} if total > 0 else {}
