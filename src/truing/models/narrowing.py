"""A decoder layer run at few positions of each row: the deepest one that is read, where most of a row is not."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from truing.models import cache as caches
from truing.models.branching import picked

LARGEST = 1 / 2  # of a row's positions; what is read is projected a second time

_FITS: weakref.WeakKeyDictionary[torch.nn.Module, bool] = weakref.WeakKeyDictionary()


class Passing(DynamicCache):
    """A cache that keeps nothing: layers show it their keys and values."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What was given."""
        return key_states, value_states


class _Shown(Exception):
    """Raised in place of attention, once keys and values are there."""


class _Misfit(Exception):
    """Raised where a layer asks for keys and values more than once."""


class _Showing(DynamicCache):
    """In front of a cache; stops the layer that updates it."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self.layers, self._cache = cache.layers, cache
        self.states: Any = None

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Keep what the cache gives, and stop."""
        self.states = self._cache.update(*args, **kwargs)
        raise _Shown


class _Serving(DynamicCache):
    """Gives keys and values that were computed before, once."""

    def __init__(self, cache: Cache, states: Any) -> None:
        super().__init__()
        self.layers, self._states = cache.layers, [states]

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Keys and values of whole rows, whatever was given."""
        if not self._states:
            raise _Misfit
        return self._states.pop()


def can_narrow(core: Any) -> bool:
    """Whether layers of a model may be run at few positions; `narrowed` looks at the layer itself."""
    config = core.config.get_text_config()
    return (
        config._attn_implementation in ("sdpa", "eager")
        and not set(getattr(config, "layer_types", None) or ()) - caches.ATTENTION
        and not getattr(core, "_is_stateful", False)
    )


def at_places(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of states [rows or 1, tokens, ...] those at ``places`` [rows, count]: [rows, count, ...]."""
    rows = torch.arange(len(places), device=places.device)[:, None]
    return states[rows if len(states) > 1 else 0, places]


def narrowed(
    layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], places: torch.Tensor | None
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What to call a decoder layer with for its output at some places: their hidden states, and keys of whole rows.

    On the way the layer is run as far as its attention has keys and values. The first time it is also run whole and
    compared: one that mixes positions elsewhere, or twice, is left whole.

    Args:
        layer: of a causal model.
        args: what it was to be called with: hidden states of whole rows.
        kwargs: the same; a cache must be among them.
        places: [rows, count], slots that are read; None where only the cache is to be filled.

    Returns:
        Arguments, with hidden states [rows, count, width]; None where the layer must be called as it was.
    """
    name = next((name for name, value in kwargs.items() if isinstance(value, Cache)), None)
    if name is None or len(args) != 1 or args[0].dim() != 3 or not _FITS.get(layer, True):
        return None
    hidden = args[0]
    rows, tokens = hidden.shape[:2]
    wanted = hidden.new_full((rows, 1), tokens - 1, dtype=torch.long) if places is None else places.to(hidden.device)
    if wanted.shape[1] > LARGEST * tokens:
        return None
    given = _at(kwargs, wanted, tokens)
    if given is None:
        return None
    few = at_places(hidden, wanted)
    if layer not in _FITS:
        _FITS[layer] = _fits(layer, name, hidden, kwargs, few, given, wanted)
        if not _FITS[layer]:
            return None
    return (few,), {**given, name: _Serving(kwargs[name], _shown(layer, name, hidden, kwargs))}


def _shown(layer: torch.nn.Module, name: str, hidden: torch.Tensor, kwargs: dict[str, Any]) -> Any:
    """Keys and values of a layer, those in the cache included."""
    showing = _Showing(kwargs[name])
    try:
        layer.forward(hidden, **{**kwargs, name: showing})
    except _Shown:
        return showing.states
    raise _Misfit


def _fits(
    layer: torch.nn.Module, name: str, hidden: torch.Tensor, kwargs: dict[str, Any], few: torch.Tensor,
    given: dict[str, Any], places: torch.Tensor,
) -> bool:  # fmt: skip
    """Whether a layer gives at few places what it gives there when it runs whole."""
    cache = kwargs[name]
    spare = cache if isinstance(cache, Passing) else picked(cache, None, ())
    try:
        states = _shown(layer, name, hidden, {**kwargs, name: spare})
        outputs = [
            layer.forward(some, **{**how, name: _Serving(spare, states)})
            for some, how in ((hidden, kwargs), (few, given))
        ]
    except (_Misfit, RuntimeError, LookupError, TypeError, ValueError):
        return False
    whole, part = (output[0] if isinstance(output, tuple) else output for output in outputs)
    change = at_places(whole, places).float() - few.float()
    gap = part.float() - few.float() - change
    return bool(gap.norm() <= torch.finfo(hidden.dtype).eps ** 0.5 * change.norm())


def _at(kwargs: dict[str, Any], places: torch.Tensor, tokens: int) -> dict[str, Any] | None:
    """The same arguments for some places; None where one of them is not known to go by place."""
    out: dict[str, Any] = {}
    for name, value in kwargs.items():
        if value is None or isinstance(value, (bool, int, float, str, Cache)):
            out[name] = value
        elif name == "position_ids" and isinstance(value, torch.Tensor) and value.dim() == 2:
            out[name] = at_places(value, places)
        elif name == "position_embeddings" and isinstance(value, tuple) and all(part.dim() == 3 for part in value):
            out[name] = tuple(at_places(part, places) for part in value)
        elif name == "attention_mask" and isinstance(value, torch.Tensor) and value.dim() == 4:
            index = places[:, None, :, None].expand(-1, value.shape[1], -1, value.shape[3])
            out[name] = value.expand(len(places), -1, -1, -1).gather(2, index)
        else:
            return None
    if out.get("attention_mask") is None:  # causal, over these tokens alone
        out["attention_mask"] = (torch.arange(tokens, device=places.device) <= places[..., None])[:, None]
    return out
