"""Log-probabilities of given tokens, without scores of the whole vocabulary at every position."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from truing.models.core import core_of


def target_logprobs(
    weights: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, wanted: torch.Tensor, *, chunk: int = 512,
    adjust: Callable[[torch.Tensor, list[list[int]]], torch.Tensor] | None = None,
    during: contextlib.AbstractContextManager[Any] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Log-probability in nats (float32) of each wanted token given those before it, shape [wanted.sum()], row by row.

    Args:
        weights: a causal language model of transformers or PEFT.
        input_ids: shape [batch, tokens], padded on either side.
        attention_mask: same shape, 0 on padding.
        wanted: bool, same shape; the first token of a row cannot be wanted.
        chunk: positions whose scores exist at one time.
        adjust: changes scores, [positions, vocabulary], given the token ids before each position; padding apart.
        during: entered for the forward pass alone (activation edits, say), so that `adjust` may run other models on
            these weights.
    """
    core = core_of(weights)
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        with during or contextlib.nullcontext():
            hidden = core.base_model(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
            ).last_hidden_state
        chosen, targets = hidden[:, :-1][wanted[:, 1:]], input_ids[:, 1:][wanted[:, 1:]]
        prefixes = _prefixes(input_ids, attention_mask, wanted) if adjust else []
        parts = []
        for start in range(0, len(targets), chunk):
            scores = head_scores(core, chosen[start : start + chunk])
            if adjust:
                scores = adjust(scores, prefixes[start : start + chunk])
            picked = scores.gather(1, targets[start : start + chunk, None])[:, 0]
            parts.append(picked - scores.logsumexp(1))
    return torch.cat(parts) if parts else torch.zeros(0)


def _prefixes(input_ids: torch.Tensor, attention_mask: torch.Tensor, wanted: torch.Tensor) -> list[list[int]]:
    out = []
    for ids, mask, places in zip(input_ids, attention_mask.bool(), wanted):
        real, before = ids[mask].tolist(), mask.cumsum(0)
        out += [real[: int(before[at]) - 1] for at in places.nonzero()[:, 0].tolist()]
    return out


def head_scores(core: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Float32 next-token scores, shape [n, vocabulary], with the model's own logit scale and soft cap."""
    scores = core.get_output_embeddings()(hidden).float()
    config = core.config.get_text_config()
    if getattr(config, "logit_scale", None):
        scores = scores * config.logit_scale
    cap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(scores / cap) * cap if cap else scores


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of rows, filled with 0 on the right, and their attention mask; on the CPU, [rows, tokens]."""
    ids, mask = (torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long) for _ in range(2))
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = torch.tensor(list(row)), 1
    return ids, mask


def batches(lengths: Sequence[int], tokens: int, batch_size: int | None) -> list[list[int]]:
    """Row indices in batches of similar length, each under a budget of padded tokens, the longest first."""
    out: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        limit = batch_size or max(1, tokens // max(1, lengths[out[-1][0]] if out else lengths[index]))
        if out and len(out[-1]) < limit:
            out[-1].append(index)
        else:
            out.append([index])
    return out
