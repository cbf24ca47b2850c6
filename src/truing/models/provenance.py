"""Which weights are still exactly those that a name loads, so that a saved model can name them instead of a copy."""

from __future__ import annotations

import weakref
from typing import Any

import torch

_Record = tuple[str, Any, list[tuple[weakref.ref[Any], int, int]]]
_LOADED: weakref.WeakKeyDictionary[Any, _Record] = weakref.WeakKeyDictionary()


def remember(weights: Any, name: str, tokenizer: Any) -> None:
    """Note that weights were just loaded under a name which loads again on another machine."""
    tensors = [*weights.parameters(), *weights.buffers()]
    if any(tensor.is_inference() for tensor in tensors):
        return  # such tensors keep no count of changes
    _LOADED[weights] = (name, _face(tokenizer), [_state(tensor) for tensor in tensors])


def inherit(weights: Any, source: Any) -> None:
    """Note that weights are a second module around the same, unchanged memory as the source's."""
    name = name_of(source)
    if name is not None:
        tensors = [*weights.parameters(), *weights.buffers()]
        _LOADED[weights] = (name, _LOADED[source][1], [_state(tensor) for tensor in tensors])


def name_of(weights: Any, tokenizer: Any = None) -> str | None:
    """The name that loads these weights, or None if it is unknown or if a tensor was changed, moved or replaced since.

    Parameters added since (an adapter's) are not looked at. With a tokenizer, it must be as it was loaded too.
    """
    if weights not in _LOADED:
        return None
    name, face, states = _LOADED[weights]
    if tokenizer is not None and _face(tokenizer) != face:
        return None
    present = {id(tensor) for tensor in (*weights.parameters(), *weights.buffers())}
    for reference, version, pointer in states:
        tensor = reference()
        if tensor is None or id(tensor) not in present or _state(tensor)[1:] != (version, pointer):
            return None
    return name


def _state(tensor: Any) -> tuple[weakref.ref[Any], int, int]:
    # torch counts changes in place; an exchange of the storage shows in its address. Quantised weights are not trained,
    # and are laid out anew by their library as it needs them.
    if tensor.dtype in (torch.uint8, torch.int8):
        return weakref.ref(tensor), 0, 0
    return weakref.ref(tensor), tensor._version, tensor.data_ptr()


def _face(tokenizer: Any) -> tuple[Any, ...]:
    """What of a tokenizer its users change."""
    return tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token, len(tokenizer)
