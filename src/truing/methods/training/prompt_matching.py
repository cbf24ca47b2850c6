"""Prompts of good answers against those of bad ones: how much likelier a prompt is among the good, from embeddings.

Jung et al. 2024, first version (arXiv 2404.04656v1), call it underlying distribution matching. Where good and bad
answers come from different kinds of prompt, a method that pulls them apart learns the prompts; weighing bad answers by
the density ratio makes their part of the loss an estimate under the prompts of good answers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from truing import progress
from truing.contracts import Prompt
from truing.errors import SettingsError, TrainingError
from truing.methods.training.losses.unpaired import density_weights
from truing.models import Model, chat
from truing.models.core import context_length

Encoder = Callable[[Sequence[str]], Any]
"""Embeds texts: n of them, an array [n, d]."""

LEAST = 50
_FOLDS = 5
# Weights of the penalty on standardised features. The largest leaves a classifier that says 0.5 everywhere.
_PENALTIES = (30.0, 3.0, 0.3, 0.03, 3e-3, 3e-4)
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Matching:
    """What a classifier found about m distinct prompts.

    Args:
        probabilities: that a prompt belongs to a good answer, if both kinds were as many, [m]; each from a classifier
            that did not see the prompt.
        accuracy: share of prompts it tells right, the mean of both kinds; 0.5 is chance.
        penalty: weight of the penalty on standardised features.
    """

    probabilities: np.ndarray
    accuracy: float
    penalty: float


def match(features: np.ndarray, good: np.ndarray, bad: np.ndarray, *, seed: int = 0) -> Matching:
    """Fit balanced logistic regression on all prompts, each scored by the folds that leave it out.

    A classifier scored on what it was fitted to is too sure of every prompt, and with more features than prompts it
    tells any two sets apart: the weights would be noise at the bounds. So the penalty is the one that
    predicts prompts left out best, unless the gain may be chance, and each probability is given by a fit that left the
    prompt out.

    Args:
        features: embeddings of m distinct prompts, [m, d].
        good: how many good answers each prompt has, [m].
        bad: how many bad ones, [m].
        seed: of the folds.

    Raises:
        TrainingError: fewer than 50 distinct prompts have a good answer, or a bad one.
    """
    for name, counts in (("good", good), ("bad", bad)):
        found = int((counts > 0).sum())
        if found < LEAST:
            raise TrainingError(
                f"Prompts can be matched from {LEAST} distinct prompts of each kind on, and {found} have a {name} "
                "answer. Add records, or leave out match_prompts."
            )
    x = np.asarray(features, dtype=np.float64)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 1e-12, spread, 1.0)
    shares = np.stack([good / good.sum(), bad / bad.sum()])
    fold = np.random.default_rng(seed).permutation(len(x)) % _FOLDS
    tried: list[tuple[float, np.ndarray, np.ndarray]] = []
    for penalty in _PENALTIES:
        margins = np.empty(len(x))
        for held in range(_FOLDS):
            weights, offset = _fit(x, np.where(fold == held, 0.0, shares), penalty)
            margins[fold == held] = x[fold == held] @ weights + offset
        tried.append((penalty, margins, _losses(margins, shares)))
    penalty, margins = _chosen(tried)
    right = (margins > 0) + 0.5 * (margins == 0)
    accuracy = float(shares[0] @ right + shares[1] @ (1 - right)) / 2
    return Matching(_logistic(margins), min(accuracy, 1.0), penalty)


def _chosen(tried: Sequence[tuple[float, np.ndarray, np.ndarray]]) -> tuple[float, np.ndarray]:
    """Penalty and margins: those that predict best, or the strongest where the gain over it may well be chance."""
    plain, best = tried[0], min(tried, key=lambda one: float(one[2].sum()))
    gains = plain[2] - best[2]
    sure = gains.sum() > 2 * gains.std() * len(gains) ** 0.5
    return (best if sure else plain)[:2]


def _logistic(margins: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -margins))


def _losses(margins: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What each prompt adds to the negative log-likelihood, [m]."""
    return shares[0] * np.logaddexp(0, -margins) + shares[1] * np.logaddexp(0, margins)


def _fit(x: np.ndarray, shares: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights [d] and offset of logistic regression in which both kinds count the same, whatever is left out."""
    from scipy.optimize import minimize

    shares = shares / shares.sum(1, keepdims=True)

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights = values[:-1]
        margins = x @ weights + values[-1]
        pull = shares[1] * _logistic(margins) - shares[0] * _logistic(-margins)
        loss = float(_losses(margins, shares).sum()) + 0.5 * penalty * float(weights @ weights)
        return loss, np.append(x.T @ pull + penalty * weights, pull.sum())

    found = minimize(objective, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x[:-1], float(found.x[-1])


def embed(model: Model, prompts: Sequence[Prompt], limit: int) -> np.ndarray:
    """Mean over a prompt's tokens of the hidden states that leave the last layer, [n, width]; modifiers do not act.

    Args:
        model: reads the prompts in its own chat form.
        prompts: n of them.
        limit: most tokens of a prompt; a longer one loses its start.
    """
    from truing.models.activations import record

    plain = dataclasses.replace(model, modifiers=())
    most = context_length(model.weights) or limit
    ids = [chat.encode_conversation(model.tokenizer, chat.as_messages(prompt)) for prompt in prompts]
    ids = [one[-min(limit, most) :] for one in ids]
    out = []
    with progress.task("embeddings of prompts", len(ids)) as bar:
        # States of all tokens are large: a few prompts at a time, of which the means stay.
        for at in range(0, len(ids), _CHUNK):
            chunk = ids[at : at + _CHUNK]
            out += [states[:, 0].mean(0) for states in record(plain, chunk, [-1], "all")]
            bar.advance(len(chunk))
    return torch.stack(out).numpy()


def texts(prompts: Sequence[Prompt]) -> list[str]:
    """Prompts as an encoder reads them: a text as it is, a conversation as lines that begin with the role."""
    return [
        prompt
        if isinstance(prompt, str)
        else "\n\n".join(f"{m['role']}: {m['content']}" for m in chat.as_messages(prompt))
        for prompt in prompts
    ]


def prompt_weights(
    model: Model,
    prompts: Sequence[Prompt],
    labels: Sequence[bool],
    *,
    encoder: Encoder | None = None,
    low: float = 0.5,
    high: float = 10.0,
    limit: int = 1024,
    seed: int = 0,
) -> tuple[list[float], str]:
    """How much a bad answer to each prompt counts, and a line that says what was found.

    Args:
        model: embeds the prompts where there is no encoder.
        prompts: one for each of n answers; equal ones count together.
        labels: whether the answer is good, [n].
        encoder: embeds the distinct prompts in its place.
        low: least weight.
        high: greatest weight.
        limit: see `embed`.
        seed: of the folds.

    Raises:
        SettingsError: the encoder does not give finite numbers, [n, d].
        TrainingError: see `match`.
    """
    keys = [json.dumps(prompt, sort_keys=True) for prompt in prompts]
    numbers: dict[str, int] = {}
    at = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    _, firsts = np.unique(at, return_index=True)
    distinct = [prompts[first] for first in firsts]
    marks = np.asarray(labels, dtype=bool)
    good, bad = (np.bincount(at[those], minlength=len(distinct)).astype(float) for those in (marks, ~marks))
    features = embed(model, distinct, limit) if encoder is None else _encoded(encoder, texts(distinct))
    found = match(features, good, bad, seed=seed)
    ratios = density_weights(torch.from_numpy(found.probabilities), low, high).numpy()
    return ratios[at].tolist(), _note(found, ratios[at][~marks], low, high)


def _encoded(encoder: Encoder, given: list[str]) -> np.ndarray:
    found = encoder(given)
    found = np.asarray(found.detach().cpu() if isinstance(found, torch.Tensor) else found)
    fits = found.ndim == 2 and len(found) == len(given) and np.issubdtype(found.dtype, np.number)
    if not fits or not np.isfinite(found).all():
        what = f"shape {list(found.shape)}" if not fits else "numbers that are not finite"
        raise SettingsError(
            f"match_prompts was given {len(given):,} texts and gave back {what}. It gives one row of finite numbers "
            "for each text."
        )
    return found


def _note(found: Matching, weights: np.ndarray, low: float, high: float) -> str:
    edge = float(((weights <= low) | (weights >= high)).mean())
    text = (
        f"Prompts of good and bad answers are told apart in {found.accuracy:.0%} of cases (cross-validated; chance is "
        f"50%), so bad answers weigh {weights.min():.2f} to {weights.max():.2f}, {weights.mean():.2f} on average, and "
        f"{edge:.0%} of them are at a bound."
    )
    if found.accuracy < 0.55:
        return f"{text} The prompts are alike: matching changes little."
    if found.accuracy > 0.95:
        return f"{text} The prompts hardly overlap: the bounds decide, and no weight can make up for it."
    return text
