"""Hidden states of decoder layers: edited during a forward pass, or recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from truing.errors import SettingsError, UnsupportedError
from truing.models.core import core_of
from truing.models.logprobs import batches

if TYPE_CHECKING:
    from truing.models.local import Model


def decoder_layers(weights: Any) -> torch.nn.ModuleList:
    """The decoder layers of a causal language model, first one first.

    Raises:
        UnsupportedError: no list of layers, or more than one, can be told.
    """
    return _found(weights)[1]


def _found(weights: Any) -> tuple[Any, torch.nn.ModuleList]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    core = core_of(weights)
    depth = core.config.get_text_config().num_hidden_layers
    decoder = core.get_decoder() if hasattr(core, "get_decoder") else core
    for place in (decoder, core):
        hits = [
            (name, module)
            for name, module in place.named_modules()
            if isinstance(module, torch.nn.ModuleList)
            and len(module) == depth
            and all(isinstance(layer, GradientCheckpointingLayer) for layer in module)
        ]
        if len(hits) == 1:
            name, layers = hits[0]
            return place.get_submodule(name.rpartition(".")[0]), layers
    raise UnsupportedError(
        f"The decoder layers of {type(core).__name__} cannot be told: {len(hits)} lists of {depth} layers were found. "
        "Activations can be read and edited in transformers' own decoder models."
    )


def layer_indices(weights: Any, layers: Sequence[int]) -> list[int]:
    """Indices from 0 for indices that may count from the end.

    Raises:
        SettingsError: a layer does not exist.
    """
    depth = len(decoder_layers(weights))
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool) or not -depth <= layer < depth:
            raise SettingsError(
                f"There is no layer {layer!r}: this model has {depth}, numbered 0 to {depth - 1} (or -{depth} to -1)."
            )
    return [layer % depth for layer in layers]


@contextlib.contextmanager
def editing(model: Model) -> Iterator[None]:
    """Within it, forward passes of the model's weights run its activation modifiers, in the order of the stack.

    Positions come from ``position_ids``, else from the attention mask, else they count from 0 after the cache.
    """
    edits = [modifier for modifier in model.modifiers if modifier.kind == "activation"]
    with contextlib.ExitStack() as stack:
        if edits:
            parent, layers = _found(model.weights)
            by_layer: dict[int, list[Any]] = {}
            for modifier in edits:
                for layer in layer_indices(model.weights, modifier.layers()):  # type: ignore[attr-defined]
                    by_layer.setdefault(layer, []).append(modifier)
            seen: dict[str, torch.Tensor] = {}

            def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                seen["positions"] = _positions(args, kwargs)

            stack.callback(parent.register_forward_pre_hook(note, with_kwargs=True).remove)
            for layer, modifiers in by_layer.items():
                hook = layers[layer].register_forward_hook(_edit_hook(layer, modifiers, seen), with_kwargs=True)
                stack.callback(hook.remove)
        yield


def _edit_hook(layer: int, modifiers: Sequence[Any], seen: dict[str, torch.Tensor]) -> Callable[..., Any]:
    def edit(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        positions = kwargs.get("position_ids")
        positions = (seen["positions"] if positions is None else positions).expand(hidden.shape[:2])
        for modifier in modifiers:
            changed = modifier.edit(hidden, layer, positions)
            if changed.shape != hidden.shape:
                raise UnsupportedError(
                    f"{type(modifier).__name__}.edit gave shape {tuple(changed.shape)} for hidden states of shape "
                    f"{tuple(hidden.shape)}. Return the same shape."
                )
            hidden = changed.to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return edit


def _positions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    given = kwargs.get("position_ids")
    if given is not None:
        return given
    tokens = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
    tokens = args[0] if tokens is None else tokens
    width = tokens.shape[1]
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.dim() == 2:
        return (mask.long().cumsum(1) - 1).clamp(min=0)[:, -width:]
    cache = kwargs.get("cache", kwargs.get("past_key_values"))
    past = cache.get_seq_length() if cache is not None else 0
    return torch.arange(past, past + width, device=tokens.device)[None]


class _Enough(Exception):
    """Raised by a hook to leave a forward pass once the deepest wanted layer has run."""


@overload
def record(
    model: Model, sequences: Sequence[Sequence[int]], layers: Sequence[int], positions: Literal["last"] = "last",
    *, batch_size: int | None = None,
) -> torch.Tensor: ...  # fmt: skip
@overload
def record(
    model: Model, sequences: Sequence[Sequence[int]], layers: Sequence[int], positions: Literal["all"],
    *, batch_size: int | None = None,
) -> list[torch.Tensor]: ...  # fmt: skip
def record(
    model: Model, sequences: Sequence[Sequence[int]], layers: Sequence[int], positions: str = "last",
    *, batch_size: int | None = None,
) -> torch.Tensor | list[torch.Tensor]:  # fmt: skip
    """Hidden states (float32, on the CPU) that come out of chosen decoder layers, the model's own edits included.

    The pass stops after the deepest of the layers; no next-token scores are computed.

    Args:
        model: its activation modifiers act; its other modifiers do not.
        sequences: token ids, at least one in each.
        layers: indices from 0, or from the end when negative.
        positions: "last" token of each sequence, or "all".
        batch_size: sequences at a time; by default a budget of 8192 tokens.

    Returns:
        For "last" one tensor [sequences, layers, width], for "all" a tensor [tokens, layers, width] a sequence.
    """
    if positions not in ("last", "all"):
        raise SettingsError(f'`positions` is "last" or "all", got {positions!r}.')
    wanted = layer_indices(model.weights, layers)
    if not wanted:
        raise SettingsError("`layers` names no layer. Give at least one index.")
    for index, sequence in enumerate(sequences):
        if not len(sequence):
            raise SettingsError(f"Sequence {index} has no tokens, so it has no hidden states.")
    out: list[Any] = [None] * len(sequences)
    model.weights.eval()
    with torch.inference_mode(), editing(model):
        for rows in batches([len(sequence) for sequence in sequences], 8192, batch_size):
            lengths = [len(sequences[i]) for i in rows]
            states = _pass(model, [sequences[i] for i in rows], wanted)
            for at, (i, length) in enumerate(zip(rows, lengths)):
                take = slice(length - 1, length) if positions == "last" else slice(0, length)
                kept = torch.stack([states[layer][at, take].float() for layer in wanted], dim=1).cpu()
                out[i] = kept[0] if positions == "last" else kept
    # Copied outside inference mode, so that probes can be trained on them.
    if positions == "all":
        return [states.clone() for states in out]
    width = model.weights.config.get_text_config().hidden_size
    return torch.stack(out) if out else torch.zeros(0, len(wanted), width)


def _pass(model: Model, sequences: Sequence[Sequence[int]], wanted: Sequence[int]) -> dict[int, torch.Tensor]:
    """States of the wanted layers, each [rows, tokens, width], padded on the right."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for at, sequence in enumerate(sequences):
        ids[at, : len(sequence)], mask[at, : len(sequence)] = torch.tensor(list(sequence)), 1
    states: dict[int, torch.Tensor] = {}
    deepest, core = max(wanted), core_of(model.weights)

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output
            if layer == deepest:
                raise _Enough

        return hook

    stack = decoder_layers(model.weights)
    hooks = [stack[layer].register_forward_hook(keep(layer)) for layer in sorted(set(wanted))]
    try:
        core.base_model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
            use_cache=False,
        )
    except _Enough:
        return states
    finally:
        for hook in hooks:
            hook.remove()
    raise UnsupportedError(f"Layer {deepest} of {model.name} did not run, so its hidden states cannot be recorded.")
