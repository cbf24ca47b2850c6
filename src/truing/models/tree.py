"""Log-probabilities of many continuations of one row in one forward pass: what they share is read once.

The continuations stand behind the row's cache as a tree of tokens. Each token sees the row, its own ancestors and
itself, at the position that its depth says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from truing.models import cache as caches
from truing.models.batch import Batch, check_length
from truing.models.core import core_of

NUMBERS = 2**27  # scores in memory at a time

MASKED = ("eager", "sdpa")  # attention that takes a mask of ours


def branch_logprobs(batch: Batch, branches: Sequence[Sequence[Sequence[int]]]) -> list[torch.Tensor]:
    """Log-probability in nats of continuations of each row, under logits modifiers too; the batch stays as it was.

    One forward pass for all rows, over the distinct beginnings of their continuations; several where their scores would
    not fit into memory. A model whose attention takes no mask of ours reads the continuations as rows.

    Args:
        batch: rows.
        branches: for each row its continuations, token ids, none of them empty.

    Returns:
        For each row float64 [continuations].
    """
    return [values for values, _ in branch_scores(batch, branches)]


def branch_scores(batch: Batch, branches: Sequence[Sequence[Sequence[int]]]) -> list[tuple[torch.Tensor, list[bool]]]:
    """What `branch_logprobs` gives for each row, and of each continuation whether greedy decoding would write it."""
    tries = [_Trie(row) for row in branches]
    most = max(1, NUMBERS // (batch.logits.shape[1] * max(1, len(branches))))
    if len(branches) > 1 and max(len(trie.tokens) for trie in tries) > most:
        half = len(branches) // 2
        places = range(half), range(half, len(branches))
        return [
            values for part in places for values in branch_scores(batch.select(part), [branches[row] for row in part])
        ]
    firsts = batch.logits.double().log_softmax(1)
    found: list[dict[int, torch.Tensor]] = [{-1: firsts[row]} for row in range(len(branches))]
    widest = max(len(trie.tokens) for trie in tries)
    if 0 < widest <= most and _takes_masks(batch):
        for row, scores in enumerate(_read(batch, tries)):
            found[row].update(enumerate(scores.double().log_softmax(1)))
    elif widest:
        _read_as_rows(batch, tries, found, most)
    out = []
    for trie, sequences, known in zip(tries, branches, found):
        likeliest = {at: int(each.argmax()) for at, each in known.items()}
        sums = [
            sum((known[at][token] for at, token in zip(path, sequence)), start=firsts.new_zeros(()))
            for path, sequence in zip(trie.paths, sequences)
        ]
        greedy = [
            all(likeliest[at] == token for at, token in zip(path, sequence))
            for path, sequence in zip(trie.paths, sequences)
        ]
        out.append((torch.stack(sums), greedy))
    return out


class _Trie:
    """Distinct beginnings of sequences, their last tokens left out: nothing comes after those.

    Attributes:
        tokens: of each node, parents before their children.
        parents: of each node, -1 for a first one.
        paths: for each sequence the node after which each of its tokens comes.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.paths: list[list[int]] = []
        known: dict[tuple[int, int], int] = {}
        for sequence in sequences:
            path = [-1]
            for token in sequence[:-1]:
                key = (path[-1], token)
                if key not in known:
                    known[key] = len(self.tokens)
                    self.tokens.append(token)
                    self.parents.append(path[-1])
                path.append(known[key])
            self.paths.append(path)

    def line(self, node: int) -> list[int]:
        """A node and its ancestors, the first one first."""
        out = []
        while node >= 0:
            out.append(node)
            node = self.parents[node]
        return out[::-1]


def _takes_masks(batch: Batch) -> bool:
    return getattr(core_of(batch._engine.model.weights).config, "_attn_implementation", None) in MASKED


@torch.inference_mode()
def _read(batch: Batch, tries: Sequence[_Trie]) -> list[torch.Tensor]:
    """Scores after each node, [nodes, vocabulary], for each row."""
    engine, lengths = batch._engine, [len(row) for row in batch.tokens]
    device, own = batch.logits.device, batch._cache.own(lengths)
    past, width = max(own), max(len(trie.tokens) for trie in tries)
    ids = torch.zeros(len(tries), width, dtype=torch.long)
    depth = torch.zeros(len(tries), width, dtype=torch.long)
    family = torch.eye(width, dtype=torch.bool).repeat(len(tries), 1, 1)
    for row, trie in enumerate(tries):
        for node, (token, parent) in enumerate(zip(trie.tokens, trie.parents)):
            ids[row, node] = token
            if parent >= 0:
                depth[row, node] = depth[row, parent] + 1
                family[row, node] |= family[row, parent]
        check_length(lengths[row] + int(depth[row].max()) + 1, engine.limit, engine.model.name)
    before = torch.tensor(lengths)[:, None]
    positions = before + depth
    mine = torch.tensor(own)[:, None]
    # Positions of the rows' own slots, before which comes what they share, where all see all; padding lies below.
    slots = torch.arange(past)[None] - past + before
    seen = torch.cat([(slots >= before - mine)[:, None].expand(-1, width, -1), family], dim=2)
    apart = positions[:, :, None] - torch.cat([slots, positions], dim=1)[:, None, :]
    mask = _masks(engine.model.weights, seen, apart, device)
    scores = engine._run(batch._cache, ids.to(device), mask, positions.to(device), width, batch.prompts)
    caches.realign(batch._cache, [length + width for length in lengths], lengths)
    engine.usage.count(engine.who, 1, sum(len(trie.tokens) for trie in tries))
    out = []
    for row, trie in enumerate(tries):
        part = scores[row, : len(trie.tokens)]
        if engine._logits and len(part):
            lines = [trie.line(node) for node in range(len(part))]
            part = engine._adjusted(part, [[*batch.tokens[row], *(trie.tokens[at] for at in line)] for line in lines])
        out.append(part)
    return out


def _masks(weights: Any, seen: torch.Tensor, apart: torch.Tensor, device: torch.device) -> Any:
    """What each token sees as additive masks [rows, 1, nodes, slots], one for each kind of layer where kinds differ."""
    config = core_of(weights).config.get_text_config()
    window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
    dtype = next(weights.parameters()).dtype

    def additive(keep: torch.Tensor) -> torch.Tensor:
        # The least number and not minus infinity: a row of padding would be NaN under eager attention.
        return torch.zeros(keep.shape, dtype=dtype).masked_fill(~keep, torch.finfo(dtype).min)[:, None].to(device)

    near = seen & (apart < window) if window else seen
    if "sliding_attention" in kinds:
        return {kind: additive(near if kind == "sliding_attention" else seen) for kind in kinds}
    return additive(seen if kinds else near)


def _read_as_rows(batch: Batch, tries: Sequence[_Trie], found: Sequence[dict[int, torch.Tensor]], most: int) -> None:
    """The same by a row for each leaf, in passes of at most ``most`` scores a row of the batch."""
    leaves = [
        (row, node) for row, trie in enumerate(tries) for node in sorted(set(range(len(trie.tokens))) - {*trie.parents})
    ]
    deepest = max(len(path) for trie in tries for path in trie.paths)
    size = max(1, most * len(tries) // deepest)
    for start in range(0, len(leaves), size):
        part = leaves[start : start + size]
        lines = [tries[row].line(node) for row, node in part]
        blocks = [[tries[row].tokens[at] for at in line] for (row, _), line in zip(part, lines)]
        for (row, _), line, scores in zip(part, lines, batch.select([row for row, _ in part]).extend(blocks)):
            found[row].update(zip(line, scores.double().log_softmax(1)))
