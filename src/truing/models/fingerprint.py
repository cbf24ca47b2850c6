"""A hash of all that a model's answers depend on."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from truing.contracts import Settings
from truing.models.core import core_of
from truing.models.stack import Stacked

# What may differ between two copies of one configuration.
_VOLATILE = frozenset({
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "return_dict",
    "output_hidden_states", "output_attentions", "problem_type", "id2label", "label2id", "chunk_size_feed_forward",
    "is_encoder_decoder", "model_type",
})  # fmt: skip


def fingerprint(model: Any) -> str:
    """Of a local model: weights, configuration, tokenizer and modifiers; of a remote one: where it is, and modifiers.

    Two models that answer alike by other means (an adapter, and the same one merged) have two fingerprints.
    """
    digest = hashlib.sha256()
    if hasattr(model, "weights"):
        core = core_of(model.weights)
        config = {key: value for key, value in core.config.to_dict().items() if key not in _VOLATILE}
        digest.update(canonical(config).encode())
        tokenizer = model.tokenizer
        told = (tokenizer.chat_template, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.get_vocab())
        digest.update(canonical(told).encode())
        for key, tensor in sorted(model.weights.state_dict().items()):
            digest.update(key.encode())
            digest.update(_tensor(tensor))
    else:
        told = (model.url, model.model, model.extra, *([model.tokenizer] if model.tokenizer else []))
        digest.update(canonical(told).encode())
    for modifier in model.modifiers:
        digest.update(canonical(modifier).encode())
    return digest.hexdigest()[:32]


def canonical(value: Any) -> str:
    """A text that is equal for equal values, whatever the process: no addresses, no order of sets or dicts."""
    return _canonical(value, ())


def _canonical(value: Any, inside: tuple[int, ...]) -> str:
    if value is None or isinstance(value, (bool, int, float, str, bytes, PurePath)):
        kind = "path" if isinstance(value, PurePath) else type(value).__name__
        return f"{kind}:{json.dumps(value) if isinstance(value, str) else value!s}"
    if id(value) in inside:
        return "itself"
    inside = (*inside, id(value))
    if isinstance(value, torch.Tensor):
        return f"tensor:{_tensor(value).hex()}"
    if isinstance(value, np.generic):
        return _canonical(value.item(), inside)
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        content = array.tolist() if array.dtype.hasobject else hashlib.sha256(array.tobytes()).hexdigest()
        return f"array:{array.dtype}:{array.shape}:{content}"
    if isinstance(value, Stacked):
        return f"model:{value.fingerprint}"
    if isinstance(value, Settings):
        return f"settings:{type(value).__module__}.{type(value).__qualname__}:{_canonical(value.settings(), inside)}"
    if isinstance(value, Mapping):
        pairs = sorted((_canonical(key, inside), _canonical(item, inside)) for key, item in value.items())
        return "{" + ",".join(f"{key}={item}" for key, item in pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_canonical(item, inside) for item in value) + "]"
    if isinstance(value, (set, frozenset)):
        return "<" + ",".join(sorted(_canonical(item, inside) for item in value)) + ">"
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        about = _canonical([_code(value.__code__), value.__defaults__, value.__kwdefaults__, cells], inside)
        return f"function:{value.__module__}:{value.__qualname__}:{about}"
    if isinstance(value, type):
        return f"class:{value.__module__}.{value.__qualname__}"
    # Any other object: its class and its attributes, since its repr may hold an address.
    about = _canonical(getattr(value, "__dict__", {}), inside)
    return f"object:{type(value).__module__}.{type(value).__qualname__}:{about}"


def _code(code: types.CodeType) -> list[Any]:
    constants = [_code(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _tensor(tensor: torch.Tensor) -> bytes:
    digest = hashlib.sha256(f"{tensor.dtype}:{tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.digest()


def checkpoint_mark(model: Any) -> str:
    """A short hash that tells one checkpoint from another by a few numbers of each tensor, in a blink.

    The same checkpoint in float32 and in half precision has the same mark: numbers are compared as bfloat16. Modifiers
    do not count. For warnings; `fingerprint` is what can be relied on.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(model.weights.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // 16)][:16].cpu()
        some = some.to(torch.bfloat16).view(torch.int16) if some.is_floating_point() else some.to(torch.int64)
        digest.update(f"{key}:{tuple(tensor.shape)}:{some.tolist()}".encode())
    return digest.hexdigest()[:16]
