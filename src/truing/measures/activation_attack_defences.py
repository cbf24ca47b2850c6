"""How an attack on activations is attached to a model, and whether each defence notices it."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

WAYS = ("modifier", "hook", "hook on all modules", "patched forward", "wrapped block")
"""Ways to add a vector to the output of a block without a change of any weight."""
UNTOUCHED = ("as it was", "after an answer", "after its activations were read", "after a mode was switched")


@contextlib.contextmanager
def attached(model: Any, layer: int, vector: torch.Tensor, way: str) -> Iterator[Any]:
    """A model that adds a vector [width] to the output of a block, and the model as it was afterwards.

    Args:
        model: a local model. All ways but "modifier" change the weights object that it shares with others.
        layer: of the block, from 0.
        vector: what is added at every position.
        way: one of `WAYS`.
    """
    from truing.methods.steering.modifier import SteeringModifier
    from truing.models.activations import decoder_layers

    stack = decoder_layers(model.weights)
    block = stack[layer]

    def moved(output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden + vector.to(device=hidden.device, dtype=hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    if way == "modifier":
        yield model.with_modifier(SteeringModifier(vectors=vector[None], at=[layer]))
    elif way in ("hook", "hook on all modules"):

        def hook(module: torch.nn.Module, args: Any, output: Any) -> Any:
            return moved(output) if module is block else None

        everywhere = torch.nn.modules.module.register_module_forward_hook
        handle = block.register_forward_hook(hook) if way == "hook" else everywhere(hook)
        try:
            yield model
        finally:
            handle.remove()
    elif way == "patched forward":
        before = block.forward
        had = vars(block).get("forward")

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return moved(before(*args, **kwargs))

        block.forward = types.MethodType(forward, block)
        try:
            yield model
        finally:
            if had is None:
                del block.forward
            else:
                block.forward = had
    else:
        stack[layer] = _Wrapped(block, moved)
        try:
            yield model
        finally:
            stack[layer] = block


class _Wrapped(torch.nn.Module):
    """A block inside another module that changes what it gives."""

    def __init__(self, block: torch.nn.Module, change: Any) -> None:
        super().__init__()
        self.block = block
        self._change = change

    def __getattr__(self, name: str) -> Any:
        # What the model asks of a block (its kind of attention, say) is answered by the one inside.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._change(self.block(*args, **kwargs))


def integrity_alarms(model: Any, kept: Any, layer: int, vector: torch.Tensor) -> dict[str, bool]:
    """Whether the check of a model's parts finds the attack, by the way that it is attached."""
    from truing.audit import integrity

    out = {}
    for way in WAYS:
        with attached(model, layer, vector, way) as attacked:
            out[way] = not integrity(attacked, kept, hashes=False).ok
    return out


def false_integrity_alarms(model: Any, kept: Any, prompt: Any) -> dict[str, bool]:
    """Whether the check of a model's parts finds anything after ordinary use."""
    from truing.audit import integrity
    from truing.models.activations import record

    out = {}
    for what in UNTOUCHED:
        if what == "after an answer":
            model.generate([prompt], max_new_tokens=4)
        elif what == "after its activations were read":
            record(model, [model.encode_prompt(prompt)], [0])
        elif what == "after a mode was switched":
            model.weights.train()
            model.weights.eval()
        out[what] = not integrity(model, kept, hashes=False).ok
    return out


def canary_alarms(model: Any, kept: Any, *, alone: bool = False) -> list[bool]:
    """For each canary, whether its scores are off; ``alone`` reads them in other batches than the manifest did."""
    import dataclasses

    from truing.audit.canaries import deviations

    if not alone:
        return [not off <= kept.tolerance for off in deviations(model, kept)]
    ones = (
        dataclasses.replace(kept, canaries=[kept.canaries[at]], picked=[kept.picked[at]], logprobs=[kept.logprobs[at]])
        for at in range(len(kept.canaries))
    )
    return [not deviations(model, one)[0] <= kept.tolerance for one in ones]


def monitor_alarms(clean: np.ndarray, seen: Sequence[np.ndarray], false_alarms: float, seed: int) -> list[list[bool]]:
    """For each run and generation, whether a monitor flags it that was calibrated on the other half of the clean ones.

    Args:
        clean: movements of the untouched model's generations, [generations, numbers].
        seen: those of every run to judge, of the same questions in the same order.
        false_alarms: as in `truing.audit.Monitor`.
        seed: of the halves.
    """
    from truing.audit.monitor import Bounds

    order = np.random.default_rng(seed).permutation(len(clean))
    out = [np.zeros(len(clean), dtype=bool) for _ in seen]
    for mine, others in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        bounds = Bounds.of(clean[others], false_alarms)
        for flags, values in zip(out, seen):
            flags[mine] = bounds.deviation(values[mine]) > bounds.most
    return [flags.tolist() for flags in out]
