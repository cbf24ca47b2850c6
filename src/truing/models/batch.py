"""Rows in flight: their tokens, their cache, and the scores of what comes next."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from truing.errors import RecordError, SettingsError
from truing.models import cache as caches
from truing.models.branching import joined, picked

if TYPE_CHECKING:
    from truing.models.engine import Engine


@dataclasses.dataclass(frozen=True)
class _Block:
    """Scores around the last block of some rows, kept so that a roll-back within it costs no forward pass.

    ``before`` [rows, vocabulary] come after ``lengths`` tokens,
    ``after`` [rows, block, vocabulary] after each further one.
    For the rows in ``blind`` what came before is not known.
    """

    lengths: list[int]
    before: torch.Tensor
    after: torch.Tensor
    blind: frozenset[int] = frozenset()


class Batch:
    """Rows that an `Engine` continues together; made by `Engine.prefill`.

    Args:
        tokens: all ids of each row so far, prompt included, padding apart. Read them; change them by the verbs only.
        logits: float32 scores after each row's last token, logits modifiers applied, shape [rows, vocabulary].
        prompts: how many tokens of each row are its prompt; all that it begins with unless said.
    """

    tokens: list[list[int]]
    logits: torch.Tensor
    prompts: list[int]

    def __init__(
        self, engine: Engine, cache: caches.Rows, tokens: list[list[int]], logits: torch.Tensor,
        prompts: list[int] | None = None,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._cache = cache
        self.tokens = tokens
        self.logits = logits
        self.prompts = [len(row) for row in tokens] if prompts is None else prompts
        self._recent: list[tuple[_Block, int] | None] = [None] * len(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @torch.inference_mode()
    def append(self, tokens: Sequence[int]) -> None:
        """One more token in each row, by one forward pass."""
        if len(tokens) != len(self.tokens):
            raise SettingsError(f"append needs one token for each of {len(self)} rows, got {len(tokens)}.")
        if self.tokens:
            self._extend([[token] for token in tokens])

    @torch.inference_mode()
    def extend(self, blocks: Sequence[Sequence[int]], *, keep: Sequence[int] | None = None) -> list[torch.Tensor]:
        """A block of tokens in each row, by one forward pass; blocks may differ in length and be empty.

        Args:
            blocks: one for each row.
            keep: roll each row back to its first ``keep[i]`` tokens before its block, in the same forward pass, however
                far that is. A row that is cut needs a block, since its scores are not restored.

        Returns:
            For each row the scores after each token of its block, [tokens of the block, vocabulary], as in ``logits``.
        """
        if len(blocks) != len(self.tokens):
            raise SettingsError(f"extend needs one block for each of {len(self)} rows, got {len(blocks)}.")
        copies = [list(block) for block in blocks]
        cut: list[int] = []
        if keep is not None:
            self._check_lengths(keep)
            cut = [row for row, length in enumerate(keep) if length < len(self.tokens[row])]
            for row in cut:
                if not copies[row]:
                    raise SettingsError(f"Row {row} is cut and given no tokens. Use `rollback`, which restores scores.")
        if not any(copies):
            return [self.logits[:0]] * len(copies)
        if keep is not None and cut:
            self._cut(keep)
        after = self._extend(copies, frozenset(cut))
        return [after[row, : len(block)] for row, block in enumerate(copies)]

    def _extend(self, blocks: list[list[int]], blind: frozenset[int] = frozenset()) -> torch.Tensor:
        lengths = [len(row) for row in self.tokens]
        after = self._engine._forward(self._cache, self.tokens, blocks, self.prompts)
        sizes = [len(block) for block in blocks]
        width = max(sizes)
        for row, block in zip(self.tokens, blocks):
            row.extend(block)
        kept = _Block(lengths, self.logits, after, blind)
        if min(sizes) == width:
            self.logits = after[:, -1]
            self._recent = [(kept, row) for row in range(len(blocks))]
            return after
        caches.realign(self._cache, [length + width for length in lengths], [len(row) for row in self.tokens])
        last = torch.tensor([max(size, 1) - 1 for size in sizes], device=after.device)
        fresh = torch.tensor([size > 0 for size in sizes], device=after.device)[:, None]
        self.logits = torch.where(fresh, after[torch.arange(len(blocks), device=after.device), last], self.logits)
        self._recent = [(kept, row) if size else old for row, (size, old) in enumerate(zip(sizes, self._recent))]
        return after

    def settle(self) -> None:
        """Let go of the scores of earlier tokens; a later `rollback` runs its rows' last tokens again."""
        self.logits, self._recent = self.logits.clone(), [None] * len(self)

    @torch.inference_mode()
    def rollback(self, lengths: Sequence[int]) -> None:
        """Keep the first ``lengths[i]`` tokens of each row.

        Scores are restored without a forward pass when a row ends within, or just before, the last block it was given
        (by ``append`` or ``extend``); when any row goes back further, its new last token is run again, all such rows in
        one pass.
        """
        self._check_lengths(lengths)
        if not self.tokens:
            return
        logits, deep = list(self.logits), []
        for row, length in enumerate(lengths):
            if length == len(self.tokens[row]):
                continue
            known, at = self._recent[row] or (None, 0)
            if known is None or length < known.lengths[at] + (at in known.blind):
                deep.append(row)
            elif length == known.lengths[at]:
                logits[row] = known.before[at]
            else:
                logits[row] = known.after[at, length - known.lengths[at] - 1]
        again = [[self.tokens[row][lengths[row] - 1]] if row in deep else [] for row in range(len(self))]
        self._cut([length - len(block) for length, block in zip(lengths, again)])
        self.logits = torch.stack(logits)
        if deep:
            self._extend(again)
            # Nothing is known of the scores before the token that was run again.
            for row in deep:
                self._recent[row] = None

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        if len(lengths) != len(self.tokens):
            raise SettingsError(f"rollback needs one length for each of {len(self)} rows, got {len(lengths)}.")
        for row, (tokens, length) in enumerate(zip(self.tokens, lengths)):
            if not 1 <= length <= len(tokens):
                raise SettingsError(
                    f"Row {row} has {len(tokens)} tokens and can keep 1 to {len(tokens)}, not {length}."
                )

    def _cut(self, lengths: Sequence[int]) -> None:
        """Drop tokens and their cache; ``logits`` are then those of before, for the caller to replace."""
        caches.realign(self._cache, [len(row) for row in self.tokens], lengths)
        for row, length in zip(self.tokens, lengths):
            del row[length:]

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> Batch:
        """A new batch of these rows, which may be dropped, repeated (branches) or reordered; this one stays usable."""
        rows = list(rows)
        for row in rows:
            if not 0 <= row < len(self):
                raise SettingsError(f"There is no row {row}: the batch has {len(self)}, numbered from 0.")
        lengths = [len(row) for row in self.tokens]
        if rows == list(range(len(self))):
            cache, logits = picked(self._cache, None, lengths), self.logits
        else:
            index = torch.tensor(rows, dtype=torch.long, device=self.logits.device)
            cache, logits = picked(self._cache, rows, lengths), self.logits.index_select(0, index)
        prompts = [self.prompts[row] for row in rows]
        other = Batch(self._engine, cache, [list(self.tokens[row]) for row in rows], logits, prompts)
        other._recent = [self._recent[row] for row in rows]
        return other

    @torch.inference_mode()
    def join(self, other: Batch) -> Batch:
        """A new batch with the rows of this one and then those of the other, which must be of the same engine."""
        if other._engine is not self._engine:
            raise SettingsError("Only batches of one engine can be joined: their caches belong to its model.")
        if not len(other) or not len(self):
            return (self if len(self) else other).select(range(max(len(self), len(other))))
        both = Batch(
            self._engine,
            joined(self._cache, other._cache, [len(row) for row in self.tokens], [len(row) for row in other.tokens]),
            [list(row) for row in (*self.tokens, *other.tokens)],
            torch.cat([self.logits, other.logits]),
            [*self.prompts, *other.prompts],
        )
        both._recent = [*self._recent, *other._recent]
        return both


def check_length(length: int, limit: int | None, name: str) -> None:
    """Raise `RecordError` when a row outgrows the positions of its model."""
    if limit and length > limit:
        raise RecordError(
            f"A row would have {length} tokens, and {name} reads {limit} at most. "
            "Shorten the prompt, or stop at `Engine.room`."
        )
