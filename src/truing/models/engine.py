"""The stepping engine: prefill, decoding, branching and roll-back over one local model, all in batches.

A decoding method is a rule on top of it; see docs/engine.md.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from truing.errors import RecordError, SettingsError
from truing.models import cache as caches
from truing.models.activations import Edits
from truing.models.answers import Draft
from truing.models.batch import Batch, check_length
from truing.models.core import context_length, core_of
from truing.models.following import Follower
from truing.models.local import Model
from truing.models.logprobs import batches
from truing.models.modifiers import SearchModifier
from truing.models.prefixes import Prefixes
from truing.models.running import Flight, Running
from truing.models.sampling import check_sampling, noise_stream
from truing.models.shared_attention import Pass, attending, possible
from truing.models.shared_cache import Sharing
from truing.models.types import Completion, Completions, Row, Sampling, Usage

Stream = Callable[[int, int, str], None]
"""Called with prompt index, sample index and a piece of text."""

TOKENS = 16384  # cache slots in flight unless a batch size is given


class Engine:
    """Runs one local model for one generation; its activation edits and logits modifiers act inside.

    Args:
        model: weights, tokenizer and modifiers. A search modifier is not run: searches are written on engines.
        usage: where sequential calls and token positions are counted; a new one unless given.
        who: the name they are counted under, "model" or "guide" for example.
        batch_size: most sequences in flight in `generate`; by default a budget of 16384 cache slots.
        between: called before each forward pass; what it raises ends the generation.

    Raises:
        UnsupportedError: the model has layers that cannot be rolled back (linear attention, SSM).
    """

    def __init__(
        self, model: Model, usage: Usage | None = None, who: str = "model", batch_size: int | None = None,
        between: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise SettingsError(f"`batch_size` is a whole number of at least 1, or None, got {batch_size!r}.")
        caches.check(model.weights, model.name)
        self.model = model
        self.usage = usage if usage is not None else Usage()
        self.who = who
        self.batch_size = batch_size
        self._between = between
        self.stream: Stream | None = None  # for a search that passes pieces on
        core = core_of(model.weights)
        self.ends = _end_tokens(model.tokenizer, core)
        self._logits = [modifier for modifier in model.modifiers if modifier.kind == "logits"]
        limits = [(context_length(core), model.name)]
        limits += [(modifier.limit, modifier.label) for modifier in self._logits]  # type: ignore[attr-defined]
        self.limit: int | None
        self.limit, self.limited_by = min(
            ((limit, name) for limit, name in limits if limit), default=(None, model.name), key=lambda found: found[0]
        )
        # One session each, so that two modifiers of one class keep apart.
        self._sessions: list[dict[Any, Any]] = [{"usage": self.usage} for _ in self._logits]
        self._keeps = "logits_to_keep" in inspect.signature(core.forward).parameters
        self._cache_name = caches.argument(core)
        self._edits = Edits(model)
        self._device = model.device
        self._core = core
        self._follower: Follower | None = None
        self._sharing = Sharing(lambda: possible(core, caches.empty, self._cache_name))
        self._prefixes = Prefixes(self._read)
        if model.weights.training:
            model.weights.eval()

    def text(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(
            self.model.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def room(self, row: Row | Sequence[int], sampling: Sampling) -> int:
        """Most tokens an answer may have after these: ``max_new_tokens``, or what the model's positions leave."""
        used = len(row.tokens if isinstance(row, Row) else row)
        return min(sampling.max_new_tokens, self.limit - used) if self.limit else sampling.max_new_tokens

    def draft(self, row: Row, sampling: Sampling, emit: Callable[[str], None] | None = None) -> Draft:
        """An empty answer to a row, which knows when it ends."""
        stop = (*sampling.stop, *self.model.stops)
        return Draft(self.text, self.ends, self.room(row, sampling), stop, row.index, emit, self.model.clean)

    def completion(
        self, row: Row, tokens: Sequence[int], sampling: Sampling, reason: str | None = None, **trace: Any
    ) -> Completion:
        """The answer that these tokens are, cut after the first one that ends it."""
        draft = self.draft(row, sampling)
        for token in tokens:
            if draft.push(token):
                break
        return draft.completion(None if draft.reason == "stop" else reason, **trace)

    @torch.inference_mode()
    def prefill(self, sequences: Sequence[Sequence[int]], prompts: Sequence[int] | None = None) -> Batch:
        """Rows with their cache and next-token scores, by one forward pass over left-padded ids.

        A long beginning that rows share, with one another or with rows of earlier calls, is read once, in a pass of its
        own, and branched; not so where an edit acts by where the prompt ends.

        Args:
            sequences: token ids of each row.
            prompts: how many of them are its prompt, for edits that act by where it ends; all of them unless given.
        """
        if not sequences:
            raise SettingsError("prefill needs at least one sequence of token ids.")
        rows = [list(sequence) for sequence in sequences]
        for index, row in enumerate(rows):
            if not row:
                raise RecordError(f"Sequence {index} has no tokens, so nothing comes next. Give at least one token.")
            check_length(len(row), self.limit, self.limited_by)
        known = [len(row) for row in rows] if prompts is None else list(prompts)
        if self._edits.by_prompt:
            return self._batch(rows, [(0, 0)] * len(rows), known)
        places = self._prefixes.serve(rows)
        served = [at for at, (_, size) in enumerate(places) if size]
        others = [at for at, (_, size) in enumerate(places) if not size]
        if not served:
            return self._batch(rows, places, known)
        first, *rest = (
            self._batch([rows[at] for at in some], [places[at] for at in some], [known[at] for at in some])
            for some in (served, others)
            if some
        )
        if not rest:
            return first
        both = first.join(rest[0])
        order = [*served, *others]
        return both.select(sorted(range(len(rows)), key=order.__getitem__))

    def expect(self, sequences: Sequence[Sequence[int]]) -> None:
        """Say which rows will be prefilled, in any number of calls, so that a beginning they share is read once."""
        self._prefixes.expect(sequences)

    def _batch(self, rows: list[list[int]], places: Sequence[tuple[int, int]], prompts: list[int]) -> Batch:
        """Rows read in one pass, from where their held beginnings end."""
        width = max(len(row) - size for row, (_, size) in zip(rows, places))
        # All blocks are equally wide: where a row has less to read, its beginning serves less, as padding would cost as
        # much and leave a hole.
        keep = [max(0, len(row) - width) for row in rows]
        cache = self._prefixes.branched([at for at, _ in places], keep) if places[0][1] else self._empty()
        scores = self._read_after(cache, rows, keep, width, prompts)
        self.usage.count(self.who, 1, sum(len(row) - size for row, (_, size) in zip(rows, places)))
        return Batch(self, cache, rows, self._adjusted(scores, rows), prompts)

    def _empty(self) -> caches.Rows:
        return caches.empty(self._sharing)

    def _read(self, rows: Sequence[Sequence[int]]) -> caches.Rows:
        """The cache of rows, by one pass."""
        cache = self._empty()
        self._read_after(cache, rows, [0] * len(rows), max(map(len, rows)), None)
        self.usage.count(self.who, 1, sum(map(len, rows)))
        return cache

    def _read_after(
        self, cache: caches.Rows, rows: Sequence[Sequence[int]], keep: Sequence[int], width: int,
        prompts: Sequence[int] | None,
    ) -> torch.Tensor:  # fmt: skip
        """Scores after the last token of each row, of which the cache holds the first ``keep[i]``."""
        own = cache.own(keep)
        past = max(own)
        begun = torch.tensor([size - mine for size, mine in zip(keep, own)], device=self._device)[:, None]
        lengths = torch.tensor([len(row) for row in rows], device=self._device)[:, None] - begun
        ids = torch.tensor([[0] * (width - len(row)) + list(row)[-width:] for row in rows], device=self._device)
        slots = torch.arange(past + width, device=self._device)[None]
        places = slots - (past + width - lengths)
        positions = (places + begun)[:, past:].clamp(min=0)
        return self._run(cache, ids, (places >= 0).long(), positions, 1, prompts)[:, -1]

    @torch.inference_mode()
    def scores(self, prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
        """Float32 next-token scores after each prefix, shape [prefixes, vocabulary].

        For a second model that follows what another one writes: rows of the last call are remembered, and only what is
        new in a prefix is read, in one forward pass as a rule, however rows grew, rolled back, branched or left.
        """
        if not prefixes:
            raise SettingsError("scores needs at least one sequence of token ids.")
        if self._follower is None:
            self._follower = Follower(self)
        return self._follower.scores(prefixes)

    def _forward(
        self, cache: caches.Rows, tokens: Sequence[list[int]], blocks: Sequence[list[int]], prompts: Sequence[int]
    ) -> torch.Tensor:
        """Scores [rows, widest block, vocabulary] after each token of blocks that follow cached rows.

        Real tokens come first and padding last, so that a row has no hole before its block; the cache is then left with
        the padding, for the caller to realign.
        """
        sizes = [len(block) for block in blocks]
        before = [len(row) for row in tokens]
        own = cache.own(before)
        width, past = max(sizes), max(own)
        check_length(max(map(sum, zip(before, sizes))), self.limit, self.limited_by)
        lengths = torch.tensor(before, device=self._device)[:, None]
        starts = past - torch.tensor(own, device=self._device)[:, None]
        ids = torch.tensor([block + [0] * (width - len(block)) for block in blocks], device=self._device)
        slots = torch.arange(past + width, device=self._device)[None]
        if min(sizes) == width:
            mask = (slots >= starts).long()
            positions = lengths + slots[:, :width]
        else:
            ends = torch.tensor(sizes, device=self._device)[:, None]
            mask = ((slots >= starts) & (slots < past + ends)).long()
            # Padding stays within the model's positions, which OPT looks up in a table.
            positions = lengths + torch.minimum(slots[:, :width], (ends - 1).clamp(min=0))
            if self.limit:
                positions = positions.clamp(max=self.limit - 1)
        scores = self._run(cache, ids, mask, positions, width, prompts)
        self.usage.count(self.who, 1, sum(sizes))
        if self._logits:
            where = [(row, at) for row, size in enumerate(sizes) for at in range(size)]
            rows, places = (list(part) for part in zip(*where))
            prefixes = [[*tokens[row], *blocks[row][: at + 1]] for row, at in where]
            scores[rows, places] = self._adjusted(scores[rows, places], prefixes)
        return scores

    def _run(
        self, cache: caches.Rows, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, keep: int,
        prompts: Sequence[int] | None,
    ) -> torch.Tensor:  # fmt: skip
        if self._between is not None:
            self._between()
        extra: dict[str, Any] = {self._cache_name: cache}
        if self._keeps:
            extra["logits_to_keep"] = keep
        where = torch.tensor(prompts, device=self._device) if self._edits.by_prompt and prompts is not None else None
        how = attending(self._core, Pass(cache.share)) if cache.share is not None else contextlib.nullcontext()
        with self._edits.on(where), how:
            out = self.model.weights(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **extra
            )
        return out.logits[:, -keep:].float()

    def _adjusted(self, scores: torch.Tensor, prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
        for modifier, session in zip(self._logits, self._sessions):
            scores = modifier.adjust(scores, prefixes, session).float()  # type: ignore[attr-defined]
        return scores

    @torch.inference_mode()
    def generate(
        self, rows: Sequence[Row], sampling: Sampling, *, stream: Stream | None = None
    ) -> list[list[Completion]]:
        """For each row its ``sampling.n`` completions, in order, all samples of a row from one prefill.

        Rows of similar length run together; a row that ends leaves its batch.

        Args:
            rows: prompts as token ids.
            sampling: see `Sampling`.
            stream: called with (prompt index, sample index, piece of text) as text becomes certain: whole characters,
                and never the beginning of a stop string. The pieces join to the completion's text.

        Raises:
            SettingsError: a value of ``sampling`` cannot work.
            RecordError: a row has no tokens, or leaves no position for an answer.
        """
        check_sampling(sampling)
        for row in rows:
            if not row.tokens:
                raise RecordError(f"Prompt {row.index} has no tokens, so nothing comes next. Give at least one token.")
            if self.limit and len(row.tokens) >= self.limit:
                raise RecordError(
                    f"Prompt {row.index} has {len(row.tokens)} tokens, and {self.limited_by} reads {self.limit} "
                    "at most, its answer included. Shorten it."
                )
        out: list[list[Completion]] = [[] for _ in rows]
        self.expect([row.tokens for row in rows])
        for group in self._groups(rows, sampling, sampling.n):
            prompts = self.prefill([rows[i].tokens for i in group])
            wanted = [(at, sample) for at in range(len(group)) for sample in range(sampling.n)]
            size = self.batch_size or max(1, TOKENS // max(self._slots(rows[i], sampling) for i in group))
            for start in range(0, len(wanted), size):
                part = wanted[start : start + size]
                flights = []
                for at, sample in part:
                    row = rows[group[at]]
                    draft = self.draft(row, sampling, _emitter(stream, row.index, sample))
                    flights.append(Flight(draft, noise_stream(row.tokens, sample), sampling))
                running = Running(prompts.select([at for at, _ in part]), flights)
                while running.flights:
                    running.step()
                for (at, _), flight in zip(part, flights):
                    out[group[at]].append(flight.draft.completion())
        return out

    def _slots(self, row: Row, sampling: Sampling) -> int:
        return len(row.tokens) + self.room(row, sampling)

    def _groups(self, rows: Sequence[Row], sampling: Sampling, branches: int) -> list[list[int]]:
        """Indices of rows that run together, prompts of similar length, each group within the budget when each prompt
        has so many branches."""
        lengths = [self._slots(row, sampling) for row in rows]
        size = max(1, self.batch_size // branches) if self.batch_size else None
        return batches(lengths, TOKENS // branches, size)


def _emitter(stream: Stream | None, prompt: int, sample: int) -> Callable[[str], None] | None:
    if stream is None:
        return None
    return lambda piece: stream(prompt, sample, piece)


def _end_tokens(tokenizer: Any, core: Any) -> frozenset[int]:
    ends = {tokenizer.eos_token_id}
    configured = getattr(getattr(core, "generation_config", None), "eos_token_id", None)
    ends.update(configured if isinstance(configured, (list, tuple)) else [configured])
    return frozenset(int(end) for end in ends if end is not None)


@torch.inference_mode()
def generate(
    model: Model,
    rows: Sequence[Row],
    sampling: Sampling,
    *,
    batch_size: int | None = None,
    stream: Stream | None = None,
    between: Callable[[], None] | None = None,
) -> Completions:
    """Answers of a local model to rows: by its search modifier if it carries one, else by plain decoding.

    Args:
        model: weights, tokenizer and modifiers.
        rows: prompts, already encoded, numbered from 0.
        sampling: see `Sampling`.
        batch_size: most sequences in flight; by default a budget of 16384 cache slots.
        stream: see `Engine.generate`; most searches give each answer in one piece when it is done.
        between: see `Engine`.
    """
    check_sampling(sampling)
    start = time.perf_counter()
    engine = Engine(model, batch_size=batch_size, between=between)
    search = next((modifier for modifier in model.modifiers if isinstance(modifier, SearchModifier)), None)
    if search is None:
        found = engine.generate(rows, sampling, stream=stream)
    else:
        found = [[] for _ in rows]
        engine.expect([row.tokens for row in rows])
        engine.stream = stream
        for group in engine._groups(rows, sampling, search.branches(sampling)):
            answers = search.search(engine, [rows[i] for i in group], sampling)
            if [len(row) for row in answers] != [sampling.n] * len(group):
                raise SettingsError(
                    f"{type(search).__name__}.search gave {[len(row) for row in answers]} completions for "
                    f"{len(group)} rows. Give {sampling.n} for each."
                )
            for i, answer in zip(group, answers):
                found[i] = answer
                for sample, completion in enumerate(answer):
                    completion.prompt_index = rows[i].index
                    if stream is not None and completion.text and not search.streams:
                        stream(rows[i].index, sample, completion.text)
    usage = engine.usage
    usage.prompt_tokens += sum(len(row.tokens) for row in rows)
    usage.completion_tokens += sum(len(answer.tokens) for row in found for answer in row)
    usage.seconds += time.perf_counter() - start
    return Completions([answer for row in found for answer in row], usage)
