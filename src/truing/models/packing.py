"""Settings of a modifier as JSON values and back, with tensors and models set apart.

What JSON lacks is an object with the key ``$``: ``{"$": "tuple", "items": […]}``. A file never makes code run that the
process did not have: classes are found in the catalogue, functions only among those that `unpack` allows.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from truing.catalogue import KINDS, find
from truing.contracts import Settings
from truing.errors import ModelError
from truing.models.history import entry_of
from truing.models.stack import Stacked


class Packed:
    """Gathers what does not go into JSON.

    Args:
        name_of: the name by which a model loads again, or None where it must be saved.

    Attributes:
        tensors: by key.
        models: those to be saved, by a key that is safe in a path.
    """

    def __init__(self, name_of: Callable[[Any], str | None]) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.models: dict[str, Any] = {}
        self._name_of = name_of

    def pack(self, value: Any, where: str) -> Any:
        """A value as JSON values.

        Raises:
            ModelError: it cannot be saved; the message names the place and the remedy.
        """
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"$": "float", "value": str(value)}
        if isinstance(value, torch.Tensor):
            key = self._key(where, self.tensors)
            self.tensors[key] = value.detach().cpu().contiguous().clone()
            return {"$": "tensor", "key": key}
        if isinstance(value, np.generic):
            return self.pack(value.item(), where)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            key = self._key(where, self.tensors)
            self.tensors[key] = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
            return {"$": "array", "key": key}
        if isinstance(value, Stacked):
            name = self._name_of(value)
            if name is not None:
                return {"$": "model", "name": name}
            key = self._key(where, self.models)
            self.models[key] = value
            return {"$": "model", "saved": key}
        if isinstance(value, Settings):
            return self._settings(value, where)
        if isinstance(value, Mapping):
            if all(isinstance(key, str) for key in value) and "$" not in value:
                return {key: self.pack(item, f"{where}-{key}") for key, item in value.items()}
            pairs = [
                [self.pack(key, f"{where}-{at}-key"), self.pack(item, f"{where}-{at}")]
                for at, (key, item) in enumerate(value.items())
            ]
            return {"$": "dict", "items": pairs}
        if isinstance(value, list):
            return [self.pack(item, f"{where}-{at}") for at, item in enumerate(value)]
        if isinstance(value, (tuple, set, frozenset)):
            items = list(value) if isinstance(value, tuple) else sorted(value, key=repr)
            kind = "tuple" if isinstance(value, tuple) else type(value).__name__
            return {"$": kind, "items": [self.pack(item, f"{where}-{at}") for at, item in enumerate(items)]}
        if callable(value):
            return {"$": "function", "name": _function_name(value, where)}
        raise ModelError(f"`{where}` holds a {type(value).__name__}, which cannot be saved.")

    def _settings(self, value: Settings, where: str) -> Any:
        entry = entry_of(type(value))
        if entry is None:
            raise ModelError(
                f"`{where}` holds a {type(value).__name__}, which the catalogue does not know, so it could not be "
                "loaded again. Register it with `truing.catalogue.register`."
            )
        settings = {name: self.pack(item, f"{where}-{name}") for name, item in value.settings().items()}
        return {"$": entry.kind, "name": entry.name, "settings": settings}

    @staticmethod
    def _key(where: str, taken: Mapping[str, Any]) -> str:
        key = base = safe(where)
        number = 2
        while key in taken:
            key, number = f"{base}-{number}", number + 1
        return key


def safe(text: str) -> str:
    """A text as one name in a path."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:80]


def _function_name(value: Any, where: str) -> str:
    if isinstance(value, types.FunctionType):
        module, name = value.__module__, value.__qualname__
        if name.isidentifier() and getattr(sys.modules.get(module), name, None) is value:
            return f"{module}:{name}"
        label = f"the function {name}"
    else:
        label = f"a {type(value).__name__}"
    raise ModelError(
        f"`{where}` holds {label}, which cannot be saved: only a function that stands at the top of a module can be "
        "found again by its name. Define it with `def` in a module, or use one of truing's own rewards."
    )


def unpack(
    value: Any,
    tensors: Mapping[str, torch.Tensor],
    model: Callable[[Mapping[str, Any]], Any],
    functions: Iterable[Callable[..., Any]] = (),
) -> Any:
    """The inverse of `Packed.pack`.

    Args:
        value: JSON values, not trusted.
        tensors: by key.
        model: gives the model that an object with ``name`` or ``saved`` stands for.
        functions: which a file may name, besides rewards in modules that are imported already.

    Raises:
        ModelError: the value is damaged, or names what this process does not have.
    """
    if isinstance(value, list):
        return [unpack(item, tensors, model, functions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        return {key: unpack(item, tensors, model, functions) for key, item in value.items()}
    kind = value["$"]
    try:
        if kind == "float":
            return float(value["value"])
        if kind in ("tensor", "array"):
            if value["key"] not in tensors:
                raise ModelError(f"The tensor {value['key']!r} of a modifier is missing.")
            tensor = tensors[value["key"]]
            return tensor if kind == "tensor" else tensor.cpu().numpy()
        if kind == "model":
            return model(value)
        if kind in ("tuple", "set", "frozenset"):
            made = {"tuple": tuple, "set": set, "frozenset": frozenset}[kind]
            return made(unpack(item, tensors, model, functions) for item in value["items"])
        if kind == "dict":
            return {
                unpack(key, tensors, model, functions): unpack(item, tensors, model, functions)
                for key, item in value["items"]
            }
        if kind == "function":
            return _function(value["name"], tuple(functions))
        if kind in KINDS:
            settings = {name: unpack(item, tensors, model, functions) for name, item in value["settings"].items()}
            return find(value["name"], kind=kind).load()(**settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"A setting of a modifier cannot be read: {str(error)[:300]}") from error
    raise ModelError(f"A setting of a modifier is of a kind that is not known: {str(kind)[:40]!r}.")


def _function(name: str, functions: tuple[Callable[..., Any], ...]) -> Any:
    """The function of a name, looked up but never imported.

    A file could name any function, ``subprocess:call`` too. So one is taken only if it was handed over, or if it
    stands in a module that is imported already and has the two parameters of a reward, which no other function has.
    """
    module, _, attribute = str(name).partition(":")
    for function in functions:
        if (getattr(function, "__module__", None), getattr(function, "__qualname__", None)) == (module, attribute):
            return function
    if module not in sys.modules:
        raise ModelError(
            f"This model uses the function {str(name)[:120]!r}, and code that a file names is not imported. If you "
            f"trust it, import the module {module[:80]!r} first, or call load(..., functions=[the function])."
        )
    found = vars(sys.modules[module]).get(attribute)
    reward_like = (
        isinstance(found, types.FunctionType)
        and found.__module__ == module
        and list(inspect.signature(found).parameters) == ["prompts", "responses"]
    )
    if not reward_like:
        raise ModelError(
            f"This model uses the function {str(name)[:120]!r}, which is not there, or is not a reward with the "
            "parameters `prompts` and `responses`. If you trust it, call load(..., functions=[the function])."
        )
    return found
