"""What a model would write next, at many strengths of one of its modifiers.

For an activation edit the states below the first edited layer are the same at every strength: they are computed once,
and what lies above runs for all strengths as one batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from truing.models.activations import decoder_layers, layer_indices
from truing.models.core import core_of
from truing.models.logprobs import batches, head_scores, padded
from truing.models.types import Usage

# Tokens of all strengths together in one forward pass; a processor's caches hold less.
TOKENS = {"cpu": 4096}
MOST_TOKENS = 16384
CHUNK = 512  # positions whose scores exist at one time


@dataclasses.dataclass(frozen=True)
class Choice:
    """What may come next.

    Args:
        prefix: token ids that are read first.
        prompt: how many of them are the prompt.
        options: token ids of each continuation, at least one in each.
    """

    prefix: tuple[int, ...]
    prompt: int
    options: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """What has to be read so that every option is scored: one row where options are of one token."""
        return list(dict.fromkeys((*self.prefix, *option[:-1]) for option in self.options))


def option_logprobs(
    model: Any, which: int, strengths: Sequence[float], choices: Sequence[Choice], usage: Usage | None = None
) -> list[np.ndarray]:
    """Log-probability in nats of each option of each choice, [strengths, options], float64.

    Args:
        model: a local model without a search modifier.
        which: the place in its stack of the modifier whose dial is turned.
        strengths: what it is turned to.
        choices: see `Choice`.
        usage: where passes and positions are counted; a position that only part of the layers read counts as that part.
    """
    counted = Usage() if usage is None else usage
    kinds = {modifier.kind for modifier in model.modifiers}
    if model.modifiers[which].kind == "activation" and "logits" not in kinds:
        return _Shared(model, which, strengths, counted).scores(choices)
    parts = []
    for strength in strengths:
        turned = model.with_strength(strength, which)
        pairs = [([*choice.prefix], [*option]) for choice in choices for option in choice.options]
        found = iter(turned._score(pairs, None))
        counted.count("model", 1, sum(len(before) + len(after) for before, after in pairs))
        parts.append([[float(next(found).sum(dtype="float64")) for _ in choice.options] for choice in choices])
    return [np.array([part[at] for part in parts]) for at in range(len(choices))]


class _Shared:
    def __init__(self, model: Any, which: int, strengths: Sequence[float], usage: Usage) -> None:
        self.model, self.usage, self.count = model, usage, len(strengths)
        self.core, self.layers = core_of(model.weights), decoder_layers(model.weights)
        turned = [model.with_strength(strength, which).modifiers[which].ready() for strength in strengths]
        self.by_layer: dict[int, list[list[Any]]] = {}
        for at, modifier in enumerate(model.modifiers):
            if modifier.kind == "activation":
                acting = turned if at == which else [modifier.ready()]
                for layer in layer_indices(model.weights, modifier.layers()):
                    self.by_layer.setdefault(layer, []).append(acting)
        self.first = min(layer_indices(model.weights, model.modifiers[which].layers()))
        model.weights.eval()

    def scores(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        rows = [(at, row) for at, choice in enumerate(choices) for row in choice.rows]
        found: list[dict[tuple[int, ...], torch.Tensor]] = [{} for _ in choices]
        for some in batches(
            [len(row) for _, row in rows], max(1, TOKENS.get(self.model.device.type, MOST_TOKENS) // self.count), None
        ):
            part = [rows[number] for number in some]
            scored = self._batch([choices[at] for at, _ in part], [row for _, row in part])
            for (at, _), values in zip(part, scored):
                for option, value in values.items():
                    found[at][option] = value
        return [
            torch.stack([known[option] for option in choice.options], 1).double().cpu().numpy()
            for choice, known in zip(choices, found)
        ]

    @torch.inference_mode()
    def _batch(
        self, choices: Sequence[Choice], rows: Sequence[tuple[int, ...]]
    ) -> list[dict[tuple[int, ...], torch.Tensor]]:
        """For each row, the log-probabilities [strengths] of the options that it scores."""
        ids, mask = padded(rows)
        device = self.model.device
        positions = (mask.cumsum(1) - 1).clamp(min=0).to(device)
        prompts = torch.tensor([[choice.prompt] for choice in choices], device=device)
        with self._branching(positions, prompts):
            hidden = self.core.base_model(
                input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=positions, use_cache=False
            ).last_hidden_state
        hidden = hidden.view(self.count, *ids.shape, -1)
        depth, tokens = len(self.layers), int(mask.sum())
        above = depth - 1 - self.first
        self.usage.count("model", 1, round(tokens * (self.first + 1 + self.count * above) / depth))
        wanted = [
            (at, option, place, token)
            for at, (choice, row) in enumerate(zip(choices, rows))
            for option in dict.fromkeys(choice.options)
            if (*choice.prefix, *option[:-1]) == row
            for place, token in enumerate(option, len(choice.prefix) - 1)
        ]
        places = list(dict.fromkeys((at, place) for at, _, place, _ in wanted))
        index = {where: number for number, where in enumerate(places)}
        states = hidden[:, [at for at, _ in places], [place for _, place in places]].flatten(0, 1)
        logprobs = torch.zeros(self.count, len(wanted), device=device)
        numbers = torch.tensor([index[at, place] for at, _, place, _ in wanted], device=device)
        tokens_of = torch.tensor([token for *_, token in wanted], device=device)
        for start in range(0, len(states), CHUNK):
            scores = head_scores(self.core, states[start : start + CHUNK]).log_softmax(1)
            for strength in range(self.count):
                local = numbers + strength * len(places) - start
                inside = (local >= 0) & (local < len(scores))
                logprobs[strength, inside] = scores[local[inside], tokens_of[inside]]
        out: list[dict[tuple[int, ...], torch.Tensor]] = [{} for _ in rows]
        for column, (at, option, _, _) in enumerate(wanted):
            out[at][option] = out[at].get(option, 0) + logprobs[:, column]
        return out

    @contextlib.contextmanager
    def _branching(self, positions: torch.Tensor, prompts: torch.Tensor) -> Iterator[None]:
        rows = len(positions)
        many = (positions.repeat(self.count, 1), prompts.repeat(self.count, 1))
        repeated: dict[int, tuple[Any, Any]] = {}

        def wide(value: Any) -> Any:
            """What the model made for each row, for each strength and row; made once for all layers."""
            if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == rows:
                if id(value) not in repeated:
                    repeated[id(value)] = (value, value.repeat(self.count, *[1] * (value.dim() - 1)))
                return repeated[id(value)][1]
            if isinstance(value, (tuple, list)):
                return type(value)(wide(item) for item in value)
            return {key: wide(item) for key, item in value.items()} if isinstance(value, dict) else value

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = {key: value for key, value in kwargs.items() if key == "hidden_states"}
            rest = {key: wide(value) for key, value in kwargs.items() if key not in hidden}
            return (*args[:1], *(wide(value) for value in args[1:])), {**hidden, **rest}

        def after(layer: int) -> Callable[..., Any]:
            def hook(module: Any, args: Any, output: Any) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                for acting in self.by_layer.get(layer, []):
                    if len(acting) > 1:
                        # Rows already stand once for each strength behind the first edit.
                        parts = hidden.chunk(self.count) if layer > self.first else [hidden] * self.count
                        edited = [m.edit_after(part, layer, positions, prompts) for m, part in zip(acting, parts)]
                        hidden = torch.cat([part.to(hidden.dtype) for part in edited])
                    else:
                        where = many if len(hidden) > rows else (positions, prompts)
                        hidden = acting[0].edit_after(hidden, layer, *where).to(hidden.dtype)
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            return hook

        with contextlib.ExitStack() as stack:
            for layer in self.by_layer:
                stack.callback(self.layers[layer].register_forward_hook(after(layer)).remove)
            if self.count > 1 and rows > 1:
                for module in list(self.layers)[self.first + 1 :]:
                    stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            yield
