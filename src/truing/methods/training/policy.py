"""The model in training: log-probabilities of answer tokens from packed rows, with the head on those tokens only."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from truing.errors import UnsupportedError
from truing.methods.training.adapters import with_adapter
from truing.methods.training.attention import packing
from truing.methods.training.batches import Batch, collate
from truing.methods.training.encoding import Row
from truing.methods.training.head import in_chunks, target_logps
from truing.models import provenance
from truing.models.core import core_of, merged
from truing.models.logprobs import head_scores


@dataclasses.dataclass(frozen=True)
class Scores:
    """A batch as the policy sees it: N sequences of B rows, [first answers..., second answers..., ...].

    Args:
        tokens: float32 log-probability of each answer token, [N, T], zero beyond the answer.
        mask: which of them are answer tokens, bool [N, T].
        owner: the row of the batch that each sequence belongs to, [N].
        slot: the number of the answer in its row, [N].
        reference: reference log-probability of each answer, [N], or None.
        values: numbers that came with the rows, by name: [B], or [N] where a row has one for every answer.
        collisions: log sum_v p_v^2 at each answer token, [N, T], where the objective asked for it.
        divergence: the teacher's divergence at each answer token, [N, T], where the objective asked for it.
        labels: what the score head gives at the last token of each sequence, [N, labels], where there is a head.
    """

    tokens: Tensor
    mask: Tensor
    owner: Tensor
    slot: Tensor
    reference: Tensor | None = None
    values: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    collisions: Tensor | None = None
    divergence: Tensor | None = None
    labels: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows of the batch, B."""
        return int((self.slot == 0).sum())

    @property
    def lengths(self) -> Tensor:
        """Answer tokens of each sequence, [N]."""
        return self.mask.sum(1)


# Wrappers that shard look for tensors in what a module gives, and hang their gradient hooks on those.
pytree.register_dataclass(
    Scores, field_names=[field.name for field in dataclasses.fields(Scores)], serialized_type_name="truing.Scores"
)


@dataclasses.dataclass
class Teacher:
    """A frozen model whose next-token distributions the policy is compared with.

    Args:
        weights: a transformers model of the same vocabulary.
        divergence: of scores of teacher and student, each [m, vocabulary], one value a position, [m].
        slots: the answers on whose tokens they are compared; None for all.
    """

    weights: Any
    divergence: Callable[[Tensor, Tensor], Tensor]
    slots: tuple[int, ...] | None = None


class Policy(nn.Module):
    """Wraps a language model (transformers or PEFT), so that trainers and their wrappers see one forward.

    Args:
        weights: a causal language model, or with ``head`` a sequence-classification model.
        head: whether it has a score head, whose values are wanted in place of token log-probabilities.
        teacher: see `Teacher`.
    """

    def __init__(self, weights: Any, *, head: bool = False, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.weights, self.head = weights, head
        # Not a part of what is trained, wrapped or saved.
        self.__dict__["teacher"] = teacher
        # What wrappers that shard ask for: the layers that are units of their own.
        self._no_split_modules = getattr(core_of(weights), "_no_split_modules", None)

    def forward(self, batch: Batch, collisions: bool = False) -> Scores:
        """The scores of a batch."""
        core = core_of(self.weights)
        hidden = body_states(core, batch)
        if self.head:
            labels = core.score(hidden[batch.last].to(next(core.score.parameters()).dtype)).float()
            nothing = torch.zeros(len(batch.owner), 1, device=hidden.device)
            return _scores(batch, nothing, nothing.bool(), labels=labels)
        # Scores of the whole vocabulary exist for answer positions only, a chunk at a time.
        chosen = hidden[batch.sources]
        flat, squares = target_logps(core, chosen, batch.targets, collisions)
        mask = torch.arange(int(batch.lengths.max()), device=flat.device)[None] < batch.lengths[:, None]
        divergence = None if self.teacher is None else _spread(self._divergence(core, chosen, batch), mask)
        return _scores(
            batch, _spread(flat, mask), mask, divergence=divergence,
            collisions=None if squares is None else _spread(squares, mask),
        )  # fmt: skip

    def _divergence(self, core: Any, chosen: Tensor, batch: Batch) -> Tensor:
        teacher: Teacher = self.__dict__["teacher"]
        with torch.no_grad():
            taught = body_states(teacher.weights, batch)[batch.sources]
        wanted = torch.ones(len(chosen), dtype=torch.bool, device=chosen.device)
        if teacher.slots is not None:
            wanted = torch.isin(batch.slot, torch.tensor(teacher.slots, device=chosen.device))
            wanted = wanted.repeat_interleave(batch.lengths)

        def compare(student: Tensor, there: Tensor) -> Tensor:
            with torch.no_grad():
                scores = head_scores(teacher.weights, there)
            return teacher.divergence(scores, student)[None]

        found = in_chunks(core, chosen[wanted], compare, taught[wanted])[0]
        return torch.zeros(len(chosen), device=chosen.device).masked_scatter(wanted, found)


def body_states(core: Any, batch: Batch) -> Tensor:
    """Last hidden states of all tokens in a batch, flat: [T, H], or [N * W, H] where it is padded."""
    more = {} if batch.layout is None else {"layout": batch.layout}
    hidden = core.base_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids,
        use_cache=False, **more,
    ).last_hidden_state  # fmt: skip
    return hidden.flatten(0, 1)


def _scores(batch: Batch, tokens: Tensor, mask: Tensor, **more: Tensor | None) -> Scores:
    return Scores(tokens, mask, batch.owner, batch.slot, batch.reference, batch.values, **more)


def _spread(flat: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


@contextlib.contextmanager
def prepared(weights: Any, pad: int) -> Iterator[bool]:
    """Let a model read packed rows inside the block, if it computes there what it computes row by row.

    Yields whether it does; where it does not, one line in the log says why, and batches must be padded.

    Args:
        weights: transformers or PEFT.
        pad: token id to fill with.
    """
    core = core_of(weights)
    why = _unpackable(core)
    if not why:
        plain = _trial(core, pad, packed=False)
        with packing(core):
            why = _differs(core, pad, plain)
            if not why:
                yield True
                return
    logging.getLogger("truing").warning("%s: rows are padded, not packed: %s.", type(core).__name__, why)
    yield False


@contextlib.contextmanager
def all_prepared(readers: Sequence[Any], pad: int) -> Iterator[bool]:
    """`prepared` for all that read the same batches: all of them read packed rows inside the block, or none does."""
    with contextlib.ExitStack() as stack:
        packed = all(stack.enter_context(prepared(reader, pad)) for reader in readers)
        if not packed:
            stack.close()
        yield packed


def _unpackable(core: Any) -> str:
    kinds = set(getattr(core.config.get_text_config(), "layer_types", None) or ())
    kinds -= {"full_attention", "sliding_attention"}
    if kinds:
        return f"it has layers of the kind {', '.join(sorted(kinds))}"
    return "" if core._can_set_attn_implementation() else "its attention cannot be exchanged"


def _differs(core: Any, pad: int, plain: Tensor) -> str:
    """Why not, if not: what a model does with a packed row cannot be told from its class."""
    try:
        found = _trial(core, pad, packed=True)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        return f"trying it ended in {type(error).__name__}: {error}"
    gap = float((found - plain).abs().max() / plain.abs().max().clamp(min=1e-6))
    # Two ways to add up the same numbers: 16-bit states agree less well.
    wide = next(core.parameters()).dtype == torch.float32
    return "" if gap < (1e-3 if wide else 0.1) else f"hidden states differ by {gap:.2g} of their size"


def _trial(core: Any, pad: int, *, packed: bool) -> Tensor:
    """States after two short rows of two answers each, [4, H]."""
    size = core.get_input_embeddings().weight.shape[0]
    ids = [[(3 + 7 * at + 11 * row) % size for at in range(6)] for row in range(2)]
    rows = [Row(at, tuple((one[:3], [*one[cut:], at]) for cut in (3, 4))) for at, one in enumerate(ids)]
    batch = collate(rows, pad, packed=packed).to(next(core.parameters()).device)
    training = core.training
    core.eval()
    try:
        with torch.no_grad():
            return body_states(core, batch)[batch.last].float()
    finally:
        core.train(training)


def working_copy(weights: Any, adapter: dict[str, Any] | None, seed: int) -> Any:
    """Weights that may be trained without touching the ones given.

    Without an adapter a full copy; with one, a PEFT model around modules that share the given parameters' memory, which
    stay frozen. An adapter that the given weights carry already is merged first, into a copy.

    Args:
        weights: a transformers or PEFT model.
        adapter: see `truing.methods.training.adapters.adapter_settings`; None trains all weights.
        seed: of the adapter's first weights.
    """
    if hasattr(weights, "merge_and_unload"):
        base = merged(weights)
    elif adapter is None:
        base = copy.deepcopy(weights)
    else:
        base = around(weights)
        provenance.inherit(base, weights)
    return adapted(base, adapter, seed)


def around(weights: Any) -> Any:
    """A second model over the same memory, whose parameters are its own objects."""
    if not getattr(weights, "is_quantized", False):
        # New parameters: freezing these leaves the given model's own flags alone.
        shared = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in weights.parameters()}
        return copy.deepcopy(weights, memo=shared)
    # Quantised parameters carry more than their numbers, are frozen already, and are shared as they are on a GPU. On a
    # CPU bitsandbytes lays them out anew for answering, without gradients: asking the copy for its state undoes that.
    on_cpu = next(weights.parameters()).device.type == "cpu"
    base = copy.deepcopy(weights, memo={} if on_cpu else {id(p): p for p in weights.parameters()})
    if on_cpu:
        base.state_dict()
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return base


def adapted(base: Any, adapter: dict[str, Any] | None, seed: int, task: str = "CAUSAL_LM") -> Any:
    """A model of which all weights are trained, or an adapter.

    Args:
        base: belongs to the training.
        adapter: see `truing.methods.training.adapters.adapter_settings`; None trains all weights.
        seed: of the adapter's first weights.
        task: peft's name for what the model does.
    """
    if adapter is None:
        return base.requires_grad_(True)
    with seeded(seed):
        return with_adapter(base, {"type": "lora", **adapter}, task)


def score_model(weights: Any, labels: int, seed: int, pad: int | None) -> Any:
    """A sequence-classification model over a copy of a causal model's body; its head starts small and random.

    Args:
        weights: a causal language model of transformers or PEFT; it stays as it is.
        labels: values that the head gives.
        seed: of the head.
        pad: token id of padding, which transformers' heads look for.

    Raises:
        UnsupportedError: transformers has no such model for this architecture.
    """
    from transformers import AutoModelForSequenceClassification

    core = merged(weights)
    config = copy.deepcopy(core.config)
    config.num_labels, config.pad_token_id = labels, pad
    try:
        with seeded(seed):
            made = AutoModelForSequenceClassification.from_config(config, dtype=core.dtype)
    except ValueError as error:
        raise UnsupportedError(
            f"transformers has no score head for {type(core).__name__}. Train it on another architecture."
        ) from error
    found = made.base_model.load_state_dict(core.base_model.state_dict(), strict=False)
    if found.missing_keys or found.unexpected_keys or not hasattr(made, "score"):
        raise UnsupportedError(f"The body of {type(core).__name__} does not fit transformers' score head for it.")
    return made.to(next(core.parameters()).device).eval()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch inside the block, and put their states back after it."""
    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def without_dropout(weights: nn.Module) -> Iterator[None]:
    """Set every dropout rate in the model to 0 inside the block; some are plain attributes (OPT, attention).

    An adapter's own dropout was asked for with the adapter, and stays.
    """
    found: list[tuple[nn.Module, str, float]] = []
    for path, module in weights.named_modules():
        if "lora_dropout" in path:
            continue
        if isinstance(module, nn.Dropout):
            found.append((module, "p", module.p))
        found += [(module, k, v) for k, v in vars(module).items() if "dropout" in k and isinstance(v, float)]
    for module, name, _ in found:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in found:
            setattr(module, name, value)
