"""The value of a next token, from the rewards of what may follow it: one rollout, the mean of several, or their mean
under weights that turn samples of one model into samples of another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from truing.contracts import Settings


class Mean(Settings):
    """The mean reward; with one rollout, its reward."""

    baseline = False

    def value(self, rewards: Sequence[float], baselines: Sequence[float]) -> float:
        """The value from the rewards of the rollouts."""
        return _within(float(np.mean(rewards)), rewards)

    def interval(self, lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
        """Where the value lies when each reward lies between two ends."""
        return self.value(lows, ()), self.value(highs, ())


class SelfNormalised(Settings):
    """``sum_i w_i r_i`` with ``w_i`` proportional to ``exp((r_i - r_BL,i) / beta)``.

    Turns rollouts of a model that was aligned with r_BL into an estimate for the one that is aligned with r. With one
    rollout its weight is 1, whatever the rewards are. Source: Transfer Q*, indirect transfer.

    Args:
        beta: of the two models, in the unit of the rewards.
    """

    baseline = True

    beta: float = 0.1

    def value(self, rewards: Sequence[float], baselines: Sequence[float]) -> float:
        """The value from the rewards of the rollouts, and what the baseline reward says of each."""
        return _within(float(self.weights(rewards, baselines) @ np.asarray(rewards, dtype=np.float64)), rewards)

    def weights(self, rewards: Sequence[float] | np.ndarray, baselines: Sequence[float] | np.ndarray) -> np.ndarray:
        """The weight of each rollout; they sum to 1."""
        logs = (np.asarray(rewards, dtype=np.float64) - np.asarray(baselines, dtype=np.float64)) / self.beta
        return np.asarray(np.exp(logs - logsumexp(logs)))

    def interval(self, lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
        """Where the value lies when each reward lies between two ends: the weights may favour any of them."""
        return min(lows), max(highs)


class Released(Settings):
    """``mean_i exp(exponent * (r_i - r_BL,i)) r_i``, the rule of the code that was published with Transfer Q*.

    The weights are not normalised, so the value depends on where the zero of the reward lies, and a rollout that the
    ratio favours counts as worse where rewards are negative. For comparison only.

    Args:
        exponent: of the ratio.
    """

    baseline = True

    exponent: float = 0.5

    def value(self, rewards: Sequence[float], baselines: Sequence[float]) -> float:
        """The value from the rewards of the rollouts, and what the baseline reward says of each."""
        given, base = np.asarray(rewards, dtype=np.float64), np.asarray(baselines, dtype=np.float64)
        return float(np.mean(np.exp(self.exponent * (given - base)) * given))

    def interval(self, lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
        """Not known: the ratio has no bounds."""
        return -math.inf, math.inf


Estimate = Mean | SelfNormalised | Released


def effective_sample_size(weights: Sequence[float] | np.ndarray) -> float:
    """``1 / sum_i w_i**2`` of weights that sum to 1: how many equally weighted rollouts these are worth."""
    return 1.0 / float(np.square(np.asarray(weights, dtype=np.float64)).sum())


def _within(value: float, rewards: Sequence[float]) -> float:
    # Rounding must not carry a mean past what it is a mean of, since bounds decide what is left out.
    return min(max(value, min(rewards)), max(rewards))
