"""Log-probabilities of given tokens from hidden states, a chunk of positions at a time, with exact gradients.

Scores of the whole vocabulary exist for one chunk only. The backward pass computes them again, unless all of them are
small enough to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from truing.models.logprobs import head_scores

# Scores that fit into this many numbers are kept for the backward pass; a chunk has at most a quarter of it.
KEEP = 2**25


def target_logps(core: Any, hidden: Tensor, targets: Tensor, collisions: bool = False) -> tuple[Tensor, Tensor | None]:
    """Log-probability in nats of each target, float32 [M], and log sum_v p_v^2 at each, [M], without gradient.

    Args:
        core: a causal language model of transformers; its own logit scale, soft cap and bias hold.
        hidden: what its body gave at the positions before the targets, [M, H].
        targets: token ids, [M].
        collisions: compute the second value; None without.
    """
    head = core.get_output_embeddings()
    config = core.config.get_text_config()
    scale, cap = getattr(config, "logit_scale", None), getattr(config, "final_logit_softcapping", None)
    if type(head) is not nn.Linear:
        # An adapter or a quantised head computes what a plain product of matrices does not.
        def both(scores: Tensor, wanted: Tensor) -> Tensor:
            normaliser = scores.logsumexp(1)
            return torch.stack([scores.gather(1, wanted[:, None])[:, 0] - normaliser,
                                (2 * scores).logsumexp(1).detach() - 2 * normaliser.detach()])  # fmt: skip

        found = in_chunks(core, hidden, both, targets)
        return found[0], found[1] if collisions else None
    logps, squares = _TargetLogps.apply(hidden, head.weight, head.bias, targets, scale, cap, collisions)
    return logps, squares if collisions else None


class _TargetLogps(torch.autograd.Function):
    """The gradient of a target's log-probability in the scores is the target's one-hot less the softmax."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float | None,
        cap: float | None, collisions: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        count, size = len(hidden), len(weight)
        out = torch.empty(count, dtype=torch.float32, device=hidden.device)
        squares = torch.empty_like(out) if collisions else out.new_empty(0)
        normaliser = torch.empty_like(out)
        ctx.how = (dtype, scale, cap, max(1, KEEP // 4 // size))
        keep = count * size <= KEEP and cap is None
        kept = []
        for at in range(0, count, ctx.how[3]):
            part = slice(at, at + ctx.how[3])
            scores = _scores(hidden[part], weight, bias, dtype, scale, cap)
            normaliser[part] = scores.logsumexp(1)
            out[part] = scores.gather(1, targets[part, None])[:, 0] - normaliser[part]
            if collisions:
                squares[part] = (2 * scores).logsumexp(1) - 2 * normaliser[part]
            kept += [scores] if keep else []
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, *kept)
        ctx.mark_non_differentiable(squares)
        return out, squares

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser, *kept = ctx.saved_tensors
        dtype, scale, cap, chunk = ctx.how
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            d_hidden = torch.empty_like(hidden) if to_hidden else None
            # Sums over chunks stay in 32 bits: partial sums in 16 bits bias the head's gradient.
            d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if to_weight else None
            d_bias = torch.zeros(len(weight), device=weight.device) if to_bias and bias is not None else None
            for number, at in enumerate(range(0, len(hidden), chunk)):
                part = slice(at, at + chunk)
                here, g = hidden[part].to(dtype), gradient[part, None].float()
                scores = kept[number] if kept else _scores(hidden[part], weight, bias, dtype, scale, cap)
                slope = None if cap is None else 1 - (scores / cap) ** 2
                # Kept scores stay as they are, for whoever walks the graph twice.
                d = scores - normaliser[part, None] if kept else scores.sub_(normaliser[part, None])
                d = d.exp_().mul_(-g)
                d.scatter_add_(1, targets[part, None], g)
                if slope is not None:
                    d *= slope
                if scale:
                    d *= scale
                d = d.to(dtype)
                if d_hidden is not None:
                    d_hidden[part] = d @ weight.to(dtype)
                if d_weight is not None:
                    if dtype == torch.float32:
                        d_weight.addmm_(d.T, here)
                    else:
                        d_weight += (d.T @ here).float()
                if d_bias is not None:
                    d_bias += d.float().sum(0)
        return (
            d_hidden, None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype), None, None, None, None,
        )  # fmt: skip


def _scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, scale: float | None, cap: float | None
) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        here = hidden.to(dtype)
        scores = here @ weight.to(dtype).T if bias is None else torch.addmm(bias.to(dtype), here, weight.to(dtype).T)
        scores = scores.float()
        if scale:
            scores = scores.mul_(scale)
        return scores.div_(cap).tanh_().mul_(cap) if cap else scores


def in_chunks(core: Any, hidden: Tensor, function: Callable[..., Tensor], *aligned: Tensor) -> Tensor:
    """``function`` of next-token scores, computed a chunk at a time forward and again backward, [k, M].

    Args:
        core: a causal language model of transformers.
        hidden: [M, H].
        function: takes scores, float32 [m, vocabulary], and the m rows of each aligned tensor; gives [k, m].
        aligned: tensors of M rows, without gradient.
    """
    size = core.get_output_embeddings().weight.shape[0]
    chunk = max(1, KEEP // 8 // size)
    parts = []
    for at in range(0, len(hidden), chunk):
        rows = [one[at : at + chunk] for one in aligned]

        def work(here: Tensor, *rows: Tensor) -> Tensor:
            return function(head_scores(core, here), *rows)

        if torch.is_grad_enabled() and hidden.requires_grad:
            from torch.utils.checkpoint import checkpoint

            parts.append(checkpoint(work, hidden[at : at + chunk], *rows, use_reentrant=False))
        else:
            parts.append(work(hidden[at : at + chunk], *rows))
    return torch.cat(parts, 1)
