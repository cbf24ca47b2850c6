"""How a next token is chosen: greedy, or Gumbel-max with noise that is a pure function of where it is used.

The noise of token ``t`` at step ``s`` of a prompt's sample ``i`` is a hash of (seed, prompt, i, s, t), so a row draws
the same tokens alone, in any batch, after other rows leave or join, and again after a roll-back; and two prompts draw
noise that has nothing in common, so that intervals over prompts hold.
Source of the hash: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch

from truing.errors import ModelError, SettingsError
from truing.models.types import Sampling

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def check_sampling(sampling: Sampling) -> None:
    """Raise `SettingsError` for a setting that cannot work."""
    _whole("max_new_tokens", sampling.max_new_tokens, 1)
    _whole("n", sampling.n, 1)
    _whole("top_k", sampling.top_k, 0)
    _whole("seed", sampling.seed, 0, 2**63)
    if not (_number(sampling.temperature) and 0 <= sampling.temperature < math.inf):
        raise SettingsError(
            f"`temperature` is a number from 0 (greedy) upwards, got {sampling.temperature!r}. Usual values: 0 to 1."
        )
    if not (_number(sampling.top_p) and 0 < sampling.top_p <= 1):
        raise SettingsError(f"`top_p` is a probability above 0 and at most 1 (all tokens), got {sampling.top_p!r}.")
    if isinstance(sampling.stop, str) or not all(isinstance(text, str) and text for text in sampling.stop):
        raise SettingsError(f"`stop` is a list of non-empty strings, got {sampling.stop!r}.")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(name: str, value: Any, least: int, below: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (below and value >= below):
        limit = f"from {least} to 2**63 - 1" if below else f"of at least {least}"
        raise SettingsError(f"`{name}` is a whole number {limit}, got {value!r}.")


def noise_stream(prompt: Sequence[int], sample: int = 0) -> int:
    """The number of the noise stream of one sample of a prompt, given as token ids; equal prompts share theirs."""
    digest = hashlib.blake2b(",".join(map(str, prompt)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + sample) & _MASK


def choose(
    logits: torch.Tensor, sampling: Sampling, samples: Sequence[int], step: int | Sequence[int] = 0
) -> list[int]:
    """The next token of each row.

    Args:
        logits: float scores, shape [rows, vocabulary].
        sampling: temperature, truncation and seed; temperature 0 takes the most likely token.
        samples: the number of each row's noise stream; see `noise_stream`.
        step: index of the token within its answer, for all rows or for each.

    Raises:
        ModelError: a row has no finite score to choose from.
    """
    return pick(logits, sampling, samples, step).tolist()


def pick(
    logits: torch.Tensor, sampling: Sampling, samples: Sequence[int], step: int | Sequence[int] = 0,
    seeds: Sequence[int] | None = None,
) -> torch.Tensor:  # fmt: skip
    """What `choose` gives, as a tensor, shape [rows]; ``seeds``, one a row, stand for the seed of ``sampling``."""
    if sampling.temperature == 0:
        best, tokens = _largest(logits.float())
    else:
        scores = truncate(logits, sampling)
        ids = None
        if sampling.top_k or sampling.top_p < 1:
            survivors = int((scores > -math.inf).sum(1).max()) if len(scores) else 0
            if 0 < survivors < scores.shape[1] // 2:
                scores, ids = scores.topk(survivors, dim=1)
        best, tokens = _largest(race(scores, sampling.seed if seeds is None else seeds, samples, step, ids))
        if ids is not None:
            tokens = ids.gather(1, tokens[:, None])[:, 0]
    if not bool(best.isfinite().all()):
        raise ModelError(
            "The next-token scores of a row are all -inf, or one of them is NaN or +inf, so no token can be chosen. "
            "Check the weights, and the logits modifiers that act on them."
        )
    return tokens


def _largest(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest score of each row and the first place where it stands; NaN counts as the largest."""
    if scores.device.type == "cpu":
        # numpy's argmax is vectorised, torch's is not: ten times as fast at any vocabulary.
        tokens = torch.from_numpy(scores.detach().numpy().argmax(1))
    else:
        tokens = scores.argmax(1)
    return scores.gather(1, tokens[:, None])[:, 0], tokens


def race(
    scores: torch.Tensor, seed: int | Sequence[int], samples: Sequence[int], step: int | Sequence[int],
    ids: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Scores in nats with Gumbel noise added (float64); the largest of a row is a draw from its softmax.

    Args:
        scores: shape [rows, tokens].
        seed: of the generation, or of each row.
        samples: noise stream of each row.
        step: index of the token within its answer, for all rows or for each.
        ids: token ids of the columns, shape [rows, tokens]; None where column t is token t.
    """
    noise = uniform(len(scores), scores.shape[1], seed, samples, step, ids, scores.device)
    # In place: these are the large tensors of a step.
    return scores.double().sub_(noise.log_().neg_().log_())


def uniform(
    rows: int, width: int, seed: int | Sequence[int], samples: Sequence[int], step: int | Sequence[int],
    ids: torch.Tensor | None = None, device: torch.device | str = "cpu",
) -> torch.Tensor:  # fmt: skip
    """Float64 noise above 0 and below 1, odd multiples of 2**-53, shape [rows, width]; see `race` for the arguments."""
    steps = [step] * rows if isinstance(step, int) else step
    seeds = [seed] * rows if isinstance(seed, int) else seed
    keys = [_mix(_mix(_mix(one) ^ sample) ^ at) for one, sample, at in zip(seeds, samples, steps, strict=True)]
    start = torch.tensor([_signed(key) for key in keys], dtype=torch.long, device=device)[:, None]
    if ids is None:
        ids = torch.arange(width, device=device)[None]
    x = (ids + 1) * _signed(_GOLDEN) + start
    x ^= _shifted(x, 30)
    x *= _signed(_FIRST)
    x ^= _shifted(x, 27)
    x *= _signed(_SECOND)
    x ^= _shifted(x, 31)
    return _shifted(x, 12).double().add_(0.5).mul_(2.0**-52)


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    # A logical shift: int64 shifts drag the sign along.
    return (x >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mix(x: int) -> int:
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


def truncate(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Float32 scores divided by the temperature, -inf on tokens that top-k and then top-p cut, shape as given.

    Top-k keeps exactly k tokens, top-p the smallest set of the most likely ones whose probability (after temperature
    and top-k) reaches it; among equal scores lower token ids go first. Temperature 0 divides by nothing.
    """
    scores = logits.float()
    if sampling.temperature not in (0, 1):
        scores = scores / sampling.temperature
    width = scores.shape[1]
    if 0 < sampling.top_k < width:
        edge = scores.topk(sampling.top_k, dim=1).values[:, -1:]
        scores = _keep(scores, edge, torch.full_like(edge, sampling.top_k, dtype=torch.long))
    if sampling.top_p < 1:
        total = scores.double().logsumexp(1, keepdim=True)
        # The head of the vocabulary nearly always holds the nucleus; a whole sort costs many times more.
        for size in dict.fromkeys((min(512, width), width)):
            values = scores.topk(size, dim=1).values
            reached = (values.double() - total).exp().cumsum(1)
            if size == width or bool((reached[:, -1] >= sampling.top_p).all()):
                break
        counts = (reached < sampling.top_p).sum(1, keepdim=True).clamp(max=width - 1) + 1
        scores = _keep(scores, values.gather(1, (counts - 1).clamp(max=values.shape[1] - 1)), counts)
    return scores


def _keep(scores: torch.Tensor, edge: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    keep = scores >= edge
    if bool((keep.sum(1, keepdim=True) > counts).any()):
        above, tied = scores > edge, scores == edge
        keep = above | (tied & (tied.cumsum(1) <= counts - above.sum(1, keepdim=True)))
    return scores.masked_fill(~keep, -math.inf)
