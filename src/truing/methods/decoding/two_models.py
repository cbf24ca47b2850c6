"""One step of decoding with two or three models on one vocabulary: the baselines that nudging is compared with."""

from __future__ import annotations

from collections.abc import Mapping


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
