"""Hidden states of decoder layers: edited during a forward pass, or recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from truing.errors import SettingsError, UnsupportedError
from truing.models import cache as caches
from truing.models.branching import picked
from truing.models.cache import argument as cache_name
from truing.models.core import core_of
from truing.models.logprobs import batches
from truing.models.narrowing import Passing, at_places, can_narrow, narrowed

if TYPE_CHECKING:
    from truing.models.local import Model

# Tokens read at a time: what a processor's caches hold goes almost twice as fast as 8192 at once.
TOKENS = {"cpu": 1024}
MOST_TOKENS = 8192


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


class Edits:
    """The activation modifiers of a model, made ready for many forward passes of its weights.

    What does not change from pass to pass is found once: the layers, and what each modifier prepares. Hooks are in
    place during a pass only, so that other models may run on the same weights in between.

    Args:
        model: a local model; its activation modifiers act in the order of the stack.

    Attributes:
        by_prompt: whether one of them acts by where the prompt ends.
        positional: whether one of them acts by positions.
    """

    def __init__(self, model: Model) -> None:
        self._hooks: list[tuple[torch.nn.Module, Callable[..., Any]]] = []
        self._parent: Any = None
        self.by_prompt = self.positional = False
        self._seen: dict[str, torch.Tensor | None] = {}
        edits: list[Any] = [modifier for modifier in model.modifiers if modifier.kind == "activation"]
        if not edits:
            return
        parent, layers = _found(model.weights)
        by_layer: dict[int, list[Any]] = {}
        for modifier in edits:
            ready = modifier.ready()
            if modifier.positional:
                self._parent, self.positional = parent, True
            self.by_prompt = self.by_prompt or modifier.by_prompt
            for layer in layer_indices(model.weights, modifier.layers()):
                by_layer.setdefault(layer, []).append(ready)
        self._hooks = [(layers[layer], _edit_hook(layer, some, self._seen)) for layer, some in by_layer.items()]

    @contextlib.contextmanager
    def on(self, prompts: torch.Tensor | None = None) -> Iterator[None]:
        """Within it, forward passes run the edits.

        Positions come from ``position_ids``, else from the attention mask, else they count from 0 after the cache.

        Args:
            prompts: how many tokens of each row are its prompt, [rows]; None where all of them are.
        """
        if not self._hooks:
            yield
            return
        handles = []
        try:
            if self._parent is not None:
                self._seen["prompts"] = prompts
                handles.append(self._parent.register_forward_pre_hook(self._note, with_kwargs=True))
            handles += [layer.register_forward_hook(hook, with_kwargs=True) for layer, hook in self._hooks]
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen["positions"] = _positions(args, kwargs)


def editing(model: Model, prompts: torch.Tensor | None = None) -> contextlib.AbstractContextManager[None]:
    """Within it, forward passes of the model's weights run its activation modifiers; see `Edits.on`."""
    return Edits(model).on(prompts)


_WHOLE = 2**31 - 1  # longer than any row: all of it is prompt


def _edit_hook(layer: int, modifiers: Sequence[Any], seen: dict[str, torch.Tensor | None]) -> Callable[..., Any]:
    positional = any(modifier.positional for modifier in modifiers)

    def edit(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        positions = prompts = None
        if positional:
            given = kwargs.get("position_ids")
            places: Any = seen["positions"] if given is None else given
            positions = places.to(hidden.device).expand(hidden.shape[:2])
            known = seen["prompts"]
            rows = positions.new_full(hidden.shape[:1], _WHOLE) if known is None else known.to(hidden.device)
            prompts = rows[:, None]
        for modifier in modifiers:
            changed = modifier.edit_after(hidden, layer, positions, prompts)
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
    model: Model, sequences: Sequence[Sequence[int]], layers: Sequence[int],
    positions: Literal["last", "mean"] | int = "last", *, prompts: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> torch.Tensor: ...  # fmt: skip
@overload
def record(
    model: Model, sequences: Sequence[Sequence[int]], layers: Sequence[int], positions: Literal["all"], *,
    prompts: Sequence[int] | None = None, batch_size: int | None = None,
) -> list[torch.Tensor]: ...  # fmt: skip
def record(
    model: Model, sequences: Sequence[Sequence[int]], layers: Sequence[int], positions: str | int = "last", *,
    prompts: Sequence[int] | None = None, batch_size: int | None = None,
) -> torch.Tensor | list[torch.Tensor]:  # fmt: skip
    """Hidden states (float32, on the CPU) that come out of chosen decoder layers, the model's own edits included.

    The pass stops after the deepest of the layers, which runs only at the positions that are read where these are at
    most half of a batch; no next-token scores are computed; only what is read is kept. With ``prompts``, a prompt that
    several sequences share is read once, where that saves a third.

    Args:
        model: its activation modifiers act; its other modifiers do not.
        sequences: token ids, at least one in each.
        layers: indices from 0, or from the end when negative.
        positions: "last" token of each sequence, or "all", or the "mean" over the tokens behind the prompt, or a place
            counted from the end (-2 is the last but one).
        prompts: how many tokens of each sequence are its prompt; needed for "mean", and known to edits that act by
            where the prompt ends. Without it a sequence is all prompt.
        batch_size: sequences at a time; by default a budget of 1024 tokens, 8192 on other devices than a CPU.

    Returns:
        For "all" a tensor [tokens, layers, width] a sequence, else one tensor [sequences, layers, width].

    Raises:
        SettingsError: positions, layers or lengths do not fit the sequences.
    """
    wanted = _checked(model, sequences, layers, positions, prompts)
    width = model.weights.config.get_text_config().hidden_size
    if not sequences:
        return [] if positions == "all" else torch.zeros(0, len(wanted), width)
    jobs = _Jobs(model, [list(sequence) for sequence in sequences], wanted, positions, prompts)
    out: list[Any] = [None] * len(sequences)
    model.weights.eval()
    with torch.inference_mode():
        for rows in jobs.batches(batch_size):
            for i, states in zip(rows, jobs.states(rows)):
                out[i] = states
    # Copied outside inference mode, so that probes can be trained on them.
    return [states.clone() for states in out] if positions == "all" else torch.stack(out)


def _checked(
    model: Model, sequences: Sequence[Sequence[int]], layers: Sequence[int], positions: str | int,
    prompts: Sequence[int] | None,
) -> list[int]:  # fmt: skip
    whole = isinstance(positions, int) and not isinstance(positions, bool)
    if positions not in ("last", "all", "mean") and not (whole and int(positions) < 0):
        raise SettingsError(
            f'`positions` is "last", "mean" or "all", or a place from the end such as -2, got {positions!r}.'
        )
    if positions == "mean" and prompts is None:
        raise SettingsError('`positions="mean"` is over the tokens behind the prompt: give `prompts`, their lengths.')
    if prompts is not None and len(prompts) != len(sequences):
        raise SettingsError(f"`prompts` has {len(prompts)} lengths for {len(sequences)} sequences.")
    wanted = layer_indices(model.weights, layers)
    if not wanted:
        raise SettingsError("`layers` names no layer. Give at least one index.")
    for index, sequence in enumerate(sequences):
        if not len(sequence):
            raise SettingsError(f"Sequence {index} has no tokens, so it has no hidden states.")
        if whole and len(sequence) < -int(positions):
            raise SettingsError(f"Sequence {index} has {len(sequence)} tokens, so there is none at {positions}.")
        if prompts is not None and not 0 <= prompts[index] <= len(sequence) - (positions == "mean"):
            raise SettingsError(f"Sequence {index} has {len(sequence)} tokens, and a prompt of {prompts[index]}.")
    return wanted


SAVED = 1 / 3  # of the tokens, from which on a prompt is read apart: a second pass costs time of its own


class _Jobs:
    """Sequences to read, with or without prompts that are shared."""

    def __init__(
        self, model: Model, sequences: list[list[int]], wanted: list[int], positions: str | int,
        prompts: Sequence[int] | None,
    ) -> None:  # fmt: skip
        self.model, self.sequences, self.wanted, self.positions = model, sequences, wanted, positions
        self.prompts, self.edits = prompts, Edits(model)
        self.core, self.layers = core_of(model.weights), decoder_layers(model.weights)
        self.causal = not getattr(self.core.config.get_text_config(), "use_bidirectional_attention", False)
        self.narrow = self.causal and can_narrow(self.core)
        self.groups = self._groups()

    def _groups(self) -> list[list[int]] | None:
        """Sequences by their prompt, where reading each prompt once is worth it."""
        if self.prompts is None or self.positions == "all":
            return None
        back = 1 if isinstance(self.positions, str) else -self.positions
        groups: dict[tuple[int, ...], list[int]] = {}
        for at, (sequence, length) in enumerate(zip(self.sequences, self.prompts)):
            if not 0 < length <= len(sequence) - back:
                return None
            groups.setdefault(tuple(sequence[:length]), []).append(at)
        twice = sum(len(prompt) * (len(rows) - 1) for prompt, rows in groups.items())
        return list(groups.values()) if twice >= SAVED * sum(map(len, self.sequences)) else None

    def batches(self, batch_size: int | None) -> Iterator[list[int]]:
        """Numbers of sequences that are read together."""
        budget = TOKENS.get(self.model.device.type, MOST_TOKENS)
        if self.groups is None:
            yield from batches([len(sequence) for sequence in self.sequences], budget, batch_size)
            return
        costs = [sum(len(self.sequences[at]) for at in group) for group in self.groups]
        size = None if batch_size is None else max(1, batch_size // max(map(len, self.groups)))
        for some in batches(costs, budget, size):
            yield [at for group in some for at in self.groups[group]]

    def states(self, rows: list[int]) -> list[torch.Tensor]:
        """For each sequence the states that were asked for, [layers, width] or [tokens, layers, width]."""
        sequences = [self.sequences[at] for at in rows]
        prompts = None if self.prompts is None else [self.prompts[at] for at in rows]
        skipped = [0] * len(rows) if self.groups is None or prompts is None else prompts
        lengths = torch.tensor([len(s) - n for s, n in zip(sequences, skipped)])
        places = share = None
        if self.positions == "mean":
            assert prompts is not None
            starts = torch.tensor([size - n for size, n in zip(prompts, skipped)])
            counts = lengths - starts
            steps = torch.arange(int(counts.max()))[None]
            share = (steps < counts[:, None]).float() / counts[:, None]
            places = torch.minimum(starts[:, None] + steps, lengths[:, None] - 1)
        elif self.positions != "all":
            places = lengths[:, None] - (1 if isinstance(self.positions, str) else -self.positions)
        if self.groups is None or prompts is None:
            found = self._pass(sequences, prompts, places)
        else:
            found = self._behind([s[:n] for s, n in zip(sequences, skipped)], sequences, places)
        if places is None:
            stacked = torch.stack([found[layer].float() for layer in self.wanted], 2).cpu()
            return [states[:length] for states, length in zip(stacked, lengths.tolist())]
        kept = torch.stack([found[layer].float() for layer in self.wanted], 1)
        if share is not None:
            return list(torch.einsum("rt,rltw->rlw", share.to(kept.device), kept).cpu())
        return list(kept[:, :, 0].cpu())

    def _pass(
        self, sequences: Sequence[list[int]], prompts: Sequence[int] | None, places: torch.Tensor | None,
        cache: Any = None, before: Sequence[int] | None = None, only_cache: bool = False,
    ) -> dict[int, torch.Tensor]:  # fmt: skip
        """States of the wanted layers, each [rows, tokens or places, width]; rows padded on the right.

        Args:
            sequences: what is read now.
            prompts: tokens of each whole row that are its prompt.
            places: slots of each row that are read, [rows, count]; None for all.
            cache: filled on the way; what it holds already comes first, ending together.
            before: tokens of each row that it holds.
            only_cache: no states are read, and rows are padded on the left, to end together.
        """
        count, width = len(sequences), max(map(len, sequences))
        past = 0 if before is None else max(before)
        ids, mask = torch.zeros(count, width, dtype=torch.long), torch.zeros(count, past + width, dtype=torch.long)
        for at, sequence in enumerate(sequences):
            start = width - len(sequence) if only_cache else 0
            ids[at, start : start + len(sequence)] = torch.tensor(sequence)
            mask[at, past + start : past + start + len(sequence)] = 1
            if before is not None:
                mask[at, past - before[at] : past] = 1
        if self.causal and not past and not only_cache:
            # Nothing sees the padding behind it, and attention without a mask is a fifth faster.
            mask.fill_(1)
        if cache is None and places is not None and self.narrow:
            cache = Passing()
        device = self.model.device
        extra = {} if cache is None else {cache_name(self.core): cache}
        where = None if prompts is None else torch.tensor(list(prompts), device=device)
        with self.edits.on(where):
            return self._run(
                places, only_cache, input_ids=ids.to(device), attention_mask=mask.to(device),
                use_cache=cache is not None, position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, past:].to(device),
                **extra,
            )  # fmt: skip

    def _behind(
        self, prompts: Sequence[list[int]], sequences: Sequence[list[int]], places: torch.Tensor | None
    ) -> dict[int, torch.Tensor]:
        """As `_pass`, of what follows each prompt; equal prompts are read once."""
        numbers: dict[tuple[int, ...], int] = {}
        index = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts]
        unique, cache = [list(prompt) for prompt in numbers], caches.empty()
        self._pass(unique, list(map(len, unique)), None, cache, only_cache=True)
        branched = picked(cache, index, [len(prompt) for prompt in unique])
        sizes = [len(prompt) for prompt in prompts]
        return self._pass([s[size:] for s, size in zip(sequences, sizes)], sizes, places, branched, sizes)

    def _run(self, places: torch.Tensor | None, only_cache: bool, **inputs: Any) -> dict[int, torch.Tensor]:
        states: dict[int, torch.Tensor] = {}
        deepest = max(self.wanted)
        few = False

        def keep(layer: int) -> Callable[..., None]:
            def hook(module: Any, args: Any, output: Any) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                if places is not None and not (few and layer == deepest):
                    hidden = at_places(hidden, places.to(hidden.device))
                states[layer] = hidden
                if layer == deepest:
                    raise _Enough

            return hook

        def narrow(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            nonlocal few
            if self.edits.positional and kwargs.get("position_ids") is None:
                return None
            given = narrowed(module, args, kwargs, places)
            if given is not None and only_cache:
                raise _Enough
            few = given is not None
            return given

        hooks = [self.layers[layer].register_forward_hook(keep(layer)) for layer in sorted(set(self.wanted))]
        if self.narrow and (only_cache or places is not None):
            hooks.append(self.layers[deepest].register_forward_pre_hook(narrow, with_kwargs=True))
        try:
            self.core.base_model(**inputs)
        except _Enough:
            return states
        finally:
            for hook in hooks:
                hook.remove()
        raise UnsupportedError(
            f"Layer {deepest} of {self.model.name} did not run, so its hidden states cannot be recorded."
        )
