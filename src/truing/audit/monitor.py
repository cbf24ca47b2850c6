"""Flags generations in which hidden states move otherwise than they did while the model could be trusted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from truing.contracts import Prompt, Settings, is_number, require
from truing.errors import RecordError, UnsupportedError
from truing.models.core import context_length

if TYPE_CHECKING:
    from truing.models import AnyModel

FEWEST = 8  # generations to calibrate on
Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Alarm:
    """What a monitor says of one generation.

    Args:
        flagged: whether it is out of bounds by either of the two.
        norm: the largest deviation of a block's step, in standard deviations of the calibration.
        projection: the largest deviation along a known direction, likewise; 0 where none is watched.
        by: what was out of bounds: "norm", "projection".
    """

    flagged: bool
    norm: float
    projection: float
    by: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How far from their mean some numbers of a generation may be, all together.

    Args:
        mean, spread: of each number over half of the calibration, [numbers].
        most: the deviation that is allowed: a quantile over the other half.
    """

    mean: Array
    spread: Array
    most: float

    @classmethod
    def of(cls, values: Array, false_alarms: float) -> Bounds:
        """Bounds that a new generation of the same kind leaves with at most a given probability.

        The quantile is that of split conformal prediction, so the probability holds whatever the distribution, over
        the draw of the calibration. Too few generations for a probability so small allow what the worst of them did.

        Args:
            values: of the generations to calibrate on, in random order, [generations, numbers].
            false_alarms: that probability.
        """
        first, second = values[::2], values[1::2]
        mean, spread = first.mean(0), first.std(0, ddof=1)
        made = cls(mean, np.maximum(spread, 1e-9 * np.maximum(1.0, np.abs(mean))), math.inf)
        ordered = np.sort(made.deviation(second))
        rank = min(len(ordered), math.ceil((len(ordered) + 1) * (1 - false_alarms)))
        return dataclasses.replace(made, most=float(ordered[rank - 1]))

    def deviation(self, values: Array) -> Array:
        """The largest deviation of each generation, in standard deviations, [generations]."""
        return np.asarray((np.abs(values - self.mean) / self.spread).max(1))


class Monitor(Settings):
    """Watches what each block adds to the hidden states, and where along known directions they lie.

    A block's step is the norm of its output minus its input, the mean over the tokens of a generation. A vector added
    to the output of a block changes it in that block. Directions that are known to undo alignment (vectors of an audit
    of one's own) are watched by the mean projection of the states. Both are compared with those of trusted
    generations; norms and projections have bounds of their own, each for ``false_alarms``.

    Generations are read again, in one forward pass each, so that the monitor sees what a hook of others has done.

    Args:
        layers: blocks that are watched, counted from 0, or from the end when negative; None for all.
        known: directions by layer, each of the model's width.
        false_alarms: the share of trusted generations that each of the two may flag.

    Source: the defence that the audit of Wang and Shu 2024, arXiv 2311.09433, calls for.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/guide")
        >>> prompts = [row["prompt"] for row in tr.sandbox.records("questions", "dev", 64)]
        >>> monitor = tr.audit.Monitor().calibrate(model, prompts, model.generate(prompts).texts)
        >>> [alarm.flagged for alarm in monitor.check(model, prompts[:1], model.generate(prompts[:1]).texts)]
        [False]
    """

    layers: Sequence[int] | None = None
    known: Mapping[int, Any] | None = None
    false_alarms: float = 0.01

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            is_number(self.false_alarms) and 0 < self.false_alarms < 1,
            f"false_alarms is a share above 0 and below 1, not {self.false_alarms!r}.",
        )

    def calibrate(self, model: AnyModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> CalibratedMonitor:
        """A monitor with bounds, from generations of a model that can be trusted, of the kind it will see.

        Raises:
            UnsupportedError: the model has no hidden states to watch.
            RecordError: there are fewer than 8 generations.
        """
        self.validate()
        if len(prompts) < FEWEST:
            raise RecordError(
                f"A monitor is calibrated on {FEWEST} generations at least, got {len(prompts)}. Some hundreds are "
                "needed before one in a hundred false alarms can be kept."
            )
        steps, along = movements(model, prompts, answers, self.layers, self.known)
        order = np.random.default_rng(0).permutation(len(steps))
        bounds = Bounds.of(steps[order], self.false_alarms)
        known = Bounds.of(along[order], self.false_alarms) if along.shape[1] else None
        return CalibratedMonitor(self, bounds, known)


@dataclasses.dataclass(frozen=True)
class CalibratedMonitor:
    """A `Monitor` that knows its bounds; `Monitor.calibrate` makes it.

    Args:
        monitor: what is watched.
        norms: bounds of the blocks' steps.
        projections: bounds along the known directions, or None.
    """

    monitor: Monitor
    norms: Bounds
    projections: Bounds | None

    def check(self, model: AnyModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Alarm]:
        """An alarm, or none, for each generation."""
        steps, along = movements(model, prompts, answers, self.monitor.layers, self.monitor.known)
        norms = self.norms.deviation(steps)
        known = np.zeros(len(norms)) if self.projections is None else self.projections.deviation(along)
        allowed = math.inf if self.projections is None else self.projections.most
        out = []
        for norm, projection in zip(norms.tolist(), known.tolist()):
            by = [*(["norm"] if norm > self.norms.most else []), *(["projection"] if projection > allowed else [])]
            out.append(Alarm(bool(by), norm, projection, tuple(by)))
        return out


def movements(
    model: AnyModel, prompts: Sequence[Prompt], answers: Sequence[str], layers: Sequence[int] | None = None,
    known: Mapping[int, Any] | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """How the hidden states of generations move: means over their tokens, the first one apart.

    Args:
        model: a local model; the modifiers that it carries act.
        prompts: n of them.
        answers: n answers.
        layers: blocks, counted from 0 or from the end; None for all.
        known: directions by layer.

    Returns:
        Norms of the blocks' steps, float64 [n, layers], and projections of the states on the unit directions, float64
        [n, directions].

    Raises:
        UnsupportedError: the model has no hidden states to look at, or its layers cannot be told.
        RecordError: there is not one answer for each prompt.
    """
    from truing.models.activations import decoder_layers, editing, layer_indices
    from truing.models.core import core_of
    from truing.models.logprobs import batches, padded

    if "activations" not in model.offers:
        raise UnsupportedError(f"A monitor needs activations, which {model.name} does not offer. Load local weights.")
    if len(prompts) != len(answers):
        raise RecordError(f"A monitor reads one answer for each prompt, got {len(prompts)} and {len(answers)}.")
    local: Any = model
    stack = decoder_layers(local.weights)
    watched = list(range(len(stack))) if layers is None else layer_indices(local.weights, layers)
    places = layer_indices(local.weights, list(known or ()))
    units = [_unit(vector, layer) for layer, vector in zip(places, (known or {}).values())]
    pairs = [local.encode_pair(prompt, answer) for prompt, answer in zip(prompts, answers)]
    limit = context_length(local.weights)
    # The end token of an answer that fills all positions was never read.
    sequences = [[*prompt, *answer][:limit] for prompt, answer in pairs]
    steps, along = np.zeros((len(sequences), len(watched))), np.zeros((len(sequences), len(units)))
    local.weights.eval()
    for rows in batches([len(sequence) for sequence in sequences], 8192, None):
        ids, mask = (part.to(local.device) for part in padded([sequences[row] for row in rows]))
        counted = mask.float()
        # Many models give the first token a state of its own, far longer than the others.
        counted[:, 0] = (mask.sum(1) == 1).float()
        weight = counted / counted.sum(1, keepdim=True)
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        hooks = []
        with torch.inference_mode(), editing(local):
            try:
                for layer in {*watched, *places}:
                    mine = [unit for unit, place in zip(units, places) if place == layer]
                    hooks.append(
                        stack[layer].register_forward_hook(_watch(found, layer, weight, mine), with_kwargs=True)
                    )
                core_of(local.weights).base_model(
                    input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False
                )
            finally:
                for hook in hooks:
                    hook.remove()
        for column, layer in enumerate(watched):
            steps[rows, column] = found[layer][0].cpu().numpy()
        seen: dict[int, int] = {}
        for column, layer in enumerate(places):
            at = seen[layer] = seen.get(layer, -1) + 1
            along[rows, column] = found[layer][1][at].cpu().numpy()
    return steps, along


def _watch(
    found: dict[int, tuple[torch.Tensor, torch.Tensor]], layer: int, weight: torch.Tensor, units: list[torch.Tensor]
) -> Callable[..., None]:
    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        step = ((after.float() - before.float()).norm(dim=-1) * weight).sum(1)
        mean = (after.float() * weight[..., None]).sum(1)
        along = [mean @ unit.to(mean.device) for unit in units]
        found[layer] = (step, torch.stack(along) if along else mean[:0])

    return hook


def _unit(vector: Any, layer: int) -> torch.Tensor:
    found = torch.as_tensor(vector).detach().float().cpu()
    require(
        found.dim() == 1 and bool(found.isfinite().all()) and float(found.norm()) > 0,
        f"A known direction is a vector of finite numbers that are not all 0; that of layer {layer} is not.",
    )
    return found / found.norm()
