"""Attention to shared beginnings and to what is each row's own, with one softmax over both.

The queries of all rows of a beginning attend to its keys in one multiplication, whatever their number. transformers
hands every layer's attention to a function that is registered by name; ours is in place during passes whose cache has
a shared part, and only for models in which it is known to be exact.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from truing.models.shared_cache import Part, Share

NAME = "truing_shared"
CHUNK = 2**23  # scores, or numbers of a mask, in memory at a time

# Arguments of a layer's attention that say nothing about how it attends.
HARMLESS = {
    "position_ids", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
    "cache_position", "logits_to_keep", "is_causal", "dropout",
}  # fmt: skip


@dataclasses.dataclass(eq=False)
class Pass:
    """One forward pass over a cache with a shared part."""

    share: Share
    own: tuple[Tensor | None, Tensor | None] | None = None

    def own_mask(self, mask: Tensor | None, queries: Tensor, slots: int, times: int) -> Tensor | None:
        """The mask of the rows' own slots, additive, for ``times`` query heads side by side; one for all layers."""
        if self.own is None or self.own[0] is not mask:
            made = mask
            if mask is None and queries.shape[2] > 1:
                places = torch.arange(slots, device=queries.device)
                made = (places[None] <= places[slots - queries.shape[2] :, None])[None, None]
            if made is not None:
                made = additive(made, queries.dtype)
                if times > 1:
                    made = made.repeat(1, 1, times, 1)
            self.own = mask, made
        return self.own[1]


@dataclasses.dataclass(eq=False)
class Probe:
    """Watches what a model's layers ask of attention in one pass over a cache."""

    cache: Any
    layers: list[int] = dataclasses.field(default_factory=list)
    plain: bool = True

    def note(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: dict[str, Any]) -> None:
        """One layer's call."""
        at = getattr(module, "layer_idx", -1)
        self.plain &= 0 <= at < len(self.cache.layers) and query.dim() == 4
        if self.plain:
            held = self.cache.layers[at]
            # What is attended to must be what the cache holds, and nothing else may act on the scores.
            self.plain &= key is held.keys and value is held.values and query.shape[1] % key.shape[1] == 0
            self.plain &= query.shape[-1] == key.shape[-1] and getattr(module, "is_causal", True)
            self.plain &= how.get("is_causal") in (None, True) and not how.get("dropout")
            self.plain &= all(given is None for name, given in how.items() if name not in HARMLESS)
            self.layers.append(at)

    @property
    def passed(self) -> bool:
        """Whether every layer attended once, in the plain way."""
        return self.plain and sorted(self.layers) == list(range(len(self.cache.layers)))


_current: contextvars.ContextVar[Pass | Probe | None] = contextvars.ContextVar(NAME, default=None)


def shared_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as transformers calls it: query [rows, heads, new, d], key and value of the rows' own slots."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    now = _current.get()
    if isinstance(now, Pass):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return _two_parts(now, module.layer_idx, query, key, value, attention_mask, scale).transpose(1, 2), None
    if isinstance(now, Probe):
        now.note(module, query, key, value, kwargs)
        kwargs = {}
    # A pass of another thread, on the same weights, has no shared part.
    out: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )
    return out


@contextlib.contextmanager
def attending(core: Any, now: Pass | Probe) -> Iterator[None]:
    """Within it, forward passes of a transformers model attend by `shared_attention`."""
    _register()
    config = core.config.get_text_config()
    held, token = config._attn_implementation, _current.set(now)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = held
        _current.reset(token)


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, shared_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


_known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def possible(core: Any, cache: Callable[[], Any], name: str) -> bool:
    """Whether attention in two parts is exact for a transformers model: found by its settings, and by one tiny pass.

    All layers must be full attention by scaled dot products, over what the cache holds, and without anything that only
    the model's own attention knows: windows, chunks, caps, sinks, biases.

    Args:
        core: the model.
        cache: makes an empty cache.
        name: of the model's argument for it.
    """
    config = core.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    windows = any(getattr(config, each, None) for each in ("sliding_window", "attention_chunk_size"))
    places = {weight.device for weight in core.parameters()}
    if (
        config._attn_implementation != "sdpa"
        or kinds - {"full_attention"}
        or (windows and not kinds)
        or len(places) > 1
    ):
        return False
    if core not in _known:
        probe = Probe(cache())
        token = torch.zeros(1, 1, dtype=torch.long, device=core.device)
        with attending(core, probe), torch.inference_mode():
            core(
                input_ids=token, attention_mask=torch.ones_like(token), position_ids=token, use_cache=True,
                **{name: probe.cache},
            )  # fmt: skip
        _known[core] = probe.passed
    return _known[core]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores. The least number and not minus infinity: a part that a row has nothing of weighs 0."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def _two_parts(
    now: Pass, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Attention of all rows, [rows, heads, new, d]."""
    rows, heads, new, width = query.shape
    times = heads // key.shape[1]
    # The query heads of one key head side by side, so that keys are never repeated.
    packed = query.reshape(rows, key.shape[1], times * new, width)
    near, near_log = attend(packed, key, value, now.own_mask(mask, query, key.shape[2], times), scale)
    parts, places = now.share.parts
    found = [_part(now.share, number, part, layer, packed, scale) for number, part in enumerate(parts)]
    far, far_log = (torch.cat(some) if len(some) > 1 else some[0] for some in zip(*found))
    if places is not None:
        far, far_log = far.index_select(0, places), far_log.index_select(0, places)
    # exp(far_log) / (exp(far_log) + exp(near_log)): the two are then one softmax.
    weight = torch.sigmoid(far_log - near_log)
    out = torch.lerp(near.float(), far.float(), weight).to(query.dtype)
    return out.view(rows, heads, new, -1)


def _part(share: Share, number: int, part: Part, layer: int, packed: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What rows find in their beginnings, [rows, key heads, queries, d], and the logarithm of its weight."""
    keys, values = (states[layer][part.beginnings] for states in (share.store.keys, share.store.values))
    rows = packed if part.rows is None else packed.index_select(0, part.rows)
    heads, queries, width = rows.shape[1:]
    grouped = rows.view(len(keys), part.each, heads, queries, width)
    fits = max(1, CHUNK // max(1, len(keys) * queries * keys.shape[2]))
    found = []
    for start in range(0, part.each, fits):
        some = grouped[:, start : start + fits].transpose(1, 2)
        count = some.shape[2]
        mask = _visible(share, number, part, queries, start, count, packed.dtype)
        out, log = attend(some.reshape(len(keys), heads, count * queries, width), keys, values, mask, scale)
        found.append([one.view(len(keys), heads, count, queries, -1).transpose(1, 2) for one in (out, log)])
    out, log = (torch.cat(some, 1) if len(some) > 1 else some[0] for some in zip(*found))
    return out.reshape(-1, heads, queries, out.shape[-1]), log.reshape(-1, heads, queries, 1)


def _visible(
    share: Share, number: int, part: Part, queries: int, start: int, count: int, dtype: torch.dtype
) -> Tensor | None:
    """Which slots the queries of some rows of each beginning see, [beginnings, 1, rows * queries, slots]."""
    seen = share.visible
    if seen is None:
        return None
    key = (number, queries, start, count, dtype)
    made = share.masks.get(key)
    if made is None:
        rows = seen if part.rows is None else seen[part.rows]
        rows = rows.view(-1, part.each, 1, rows.shape[-1])[:, start : start + count]
        made = additive(rows, dtype).expand(-1, -1, queries, -1).reshape(len(rows), 1, count * queries, -1)
        if len(share.masks) > 2 * len(share.parts[0]):
            share.masks.clear()  # of passes over blocks of other sizes
        share.masks[key] = made
    return made


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention, [..., queries, d], and the logarithm of the sum of its weights, float32 [..., queries, 1].

    Args:
        query: [batch, heads, queries, d].
        key: [batch, heads, slots, d].
        value: likewise.
        mask: added to the scores; [batch, 1, queries, slots].
        scale: of the scores.
    """
    fused = _fused(query, value)
    if fused is not None:
        out, log = fused(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        return out, log[..., None].float()
    scores = (query * scale) @ key.transpose(2, 3)
    if mask is not None:
        scores += mask
    scores = scores.float()
    return scores.softmax(-1).to(value.dtype) @ value, scores.logsumexp(-1, keepdim=True)


def _fused(query: Tensor, value: Tensor) -> Any:
    """A kernel that gives the logarithm, too, and never holds all scores; None where there is none."""
    if query.device.type != "cpu" or value.shape[-1] != query.shape[-1]:
        return None
    return getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
