"""Which samples a reward keeps: the best of each prompt, or of a whole batch. Pure functions over lists and arrays.

The rules of RAFT: Dong et al. 2023, arXiv 2304.06767, as in its code, OptimalScale/LMFlow. A reward of NaN or minus
infinity is a discard: that sample is never kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Flags = Sequence[Sequence[bool]]


def clean_text(text: str, role_mark: str = "###Human") -> str:
    """What precedes the first role mark, without white space and then without ``#`` at its ends.

    A text that begins with the mark gives an empty one, and so a discard; the published code keeps what follows.
    """
    return text.split(role_mark, 1)[0].strip().strip("#")


def is_discarded(text: str, *, forbidden: Sequence[str] = ("#",), shortest: int = 2) -> bool:
    """Whether a response is not worth ranking: shorter than that many characters, or with a forbidden mark in it."""
    return len(text) < shortest or any(mark in text for mark in forbidden)


def select_local(
    rewards: Sequence[Sequence[float]], *,
    keep: Flags | None = None, ended: Flags | None = None, min_gap: float = 0.0,
) -> list[int | None]:  # fmt: skip
    """Number of the best sample of each prompt; None where none is left, or where there is nothing to learn.

    Of equal rewards one that ended wins over one that was cut off, then the lowest number.

    Args:
        rewards: of each prompt's samples; prompts may have different numbers of them.
        keep: which samples were not discarded; None for all.
        ended: which samples ended by themselves; None for all.
        min_gap: best reward less worst, of samples that were kept, below which a prompt is left out.
    """
    chosen: list[int | None] = []
    for row, values in enumerate(rewards):
        usable = [at for at, value in enumerate(values) if value > -math.inf and (keep is None or keep[row][at])]
        if not usable or max(values[at] for at in usable) - min(values[at] for at in usable) < min_gap:
            chosen.append(None)
            continue
        best = max(values[at] for at in usable)
        equal = [at for at in usable if values[at] == best]
        chosen.append(next((at for at in equal if ended is None or ended[row][at]), equal[0]))
    return chosen


def select_global(rewards: Sequence[float], fraction: float, *, keep: Sequence[bool] | None = None) -> list[int]:
    """Numbers of the best floor(n * fraction) samples of a batch of n, best first; of equal rewards the lower number.

    Only where rewards of different prompts can be compared, which a reward model trained on pairs does not promise. A
    discard counts in n and is never chosen.

    Args:
        rewards: of each sample, one a prompt.
        fraction: in [0, 1].
        keep: which samples were not discarded; None for all.

    Raises:
        ValueError: the fraction is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is a share from 0 to 1, not {fraction!r}.")
    count = math.floor(len(rewards) * fraction + 1e-9)  # 100 * 0.29 is a little below 29
    usable = [at for at, value in enumerate(rewards) if value > -math.inf and (keep is None or keep[at])]
    return sorted(usable, key=lambda at: -rewards[at])[:count]


def kl_penalised(rewards: ArrayLike, policy: ArrayLike, initial: ArrayLike, beta: float) -> NDArray[np.float64]:
    """Scores to rank by: r - beta (log p - log p_0), of the shape given.

    ``policy`` and ``initial`` are summed log-probabilities, in nats, of each response under the policy that sampled it
    and under the model that the run began with. Only the ranking changes; what is logged stays the reward.
    """
    found = np.asarray(rewards, dtype=float)
    return found - beta * (np.asarray(policy, dtype=float) - np.asarray(initial, dtype=float)) if beta else found


def expected_best_of(values: ArrayLike, probabilities: ArrayLike, k: int) -> float:
    """Mean reward of the best of k draws from rewards with known probabilities.

    With k = 1 the mean. For how far such draws move from the policy see `truing.methods.decoding.best_of_n`.

    Raises:
        ValueError: k is below 1, or the probabilities do not sum to 1.
    """
    rewards, shares = np.asarray(values, dtype=float), np.asarray(probabilities, dtype=float)
    if k < 1:
        raise ValueError(f"The best of at least one draw, not of {k!r}.")
    if abs(shares.sum() - 1) > 1e-6 or (shares < 0).any():
        raise ValueError(f"Probabilities are not negative and sum to 1, not to {shares.sum():g}.")
    order = np.argsort(rewards, kind="stable")
    below = np.append(0.0, np.cumsum(shares[order]).clip(0, 1)) ** k
    return float(np.diff(below) @ rewards[order])
