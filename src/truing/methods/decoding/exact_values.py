"""Values of next tokens in closed form, where all answers can be listed: what rollouts estimate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp, softmax

from truing.methods.decoding.lookahead_values import Released, SelfNormalised

Numbers = Sequence[float] | np.ndarray


def tilted(logprobs: Numbers, rewards: Numbers, beta: float) -> np.ndarray:
    """Probabilities [n] of the answers of the model that maximises ``E[reward] - beta KL`` from the given one.

    Args:
        logprobs: of all n answers, in nats; they need not sum to 1.
        rewards: of each.
        beta: how close it stays.
    """
    return np.asarray(softmax(np.asarray(logprobs, dtype=np.float64) + np.asarray(rewards, dtype=np.float64) / beta))


@dataclasses.dataclass(frozen=True)
class TokenValues:
    """What the value of one token is to different methods.

    Args:
        aligned: expected reward under the model aligned with it: Q*, which direct transfer estimates.
        plain: expected reward under the model itself: controlled decoding.
        transferred: expected reward under the model aligned with the baseline reward.
        reweighted: the same under self-normalised weights: what indirect transfer estimates; equal to ``aligned``.
        released: the same under the published code's weights.
        soft: ``beta log E exp(reward / beta)`` under the model itself, the value of reinforcement learning under KL.
    """

    aligned: float
    plain: float
    transferred: float
    reweighted: float
    released: float
    soft: float


def token_values(logprobs: Numbers, rewards: Numbers, baselines: Numbers, beta: float) -> TokenValues:
    """The values of a token, from all answers that continue it.

    Args:
        logprobs: of the n answers, in nats.
        rewards: of each.
        baselines: what the baseline reward says of each.
        beta: of both aligned models.
    """
    logs, gain = np.asarray(logprobs, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    logs, base = logs - logsumexp(logs), np.asarray(baselines, dtype=np.float64)
    under = tilted(logs, base, beta)
    # Every answer is a rollout that counts as often as the baseline model writes it.
    weights = SelfNormalised(beta=beta).weights(gain + beta * np.log(under), base)
    released = Released()
    return TokenValues(
        aligned=float(tilted(logs, gain, beta) @ gain),
        plain=float(np.exp(logs) @ gain),
        transferred=float(under @ gain),
        reweighted=float(weights @ gain),
        released=float(sum(chance * released.value([r], [b]) for chance, r, b in zip(under, gain, base))),
        soft=float(beta * logsumexp(logs + gain / beta)),
    )


def decoding_policy(logits: Numbers, values: Numbers, alpha: float, k: int) -> tuple[list[int], np.ndarray]:
    """The candidates and their probabilities, ``proportional to model * exp(value / alpha)`` over the k likeliest.

    Args:
        logits: of all tokens.
        values: of all tokens; those of other tokens than the candidates do not matter.
        alpha: how close to stay to the model.
        k: candidates; of equal logits lower ids first.
    """
    scores, gain = np.asarray(logits, dtype=np.float64), np.asarray(values, dtype=np.float64)
    candidates = np.argsort(-scores, kind="stable")[:k]
    return candidates.tolist(), np.asarray(softmax(scores[candidates] + gain[candidates] / alpha))
