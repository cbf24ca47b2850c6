"""Where an additive vector would undo alignment: the layer and the vector, from pairs of answers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import torch

from truing.errors import RecordError
from truing.methods.steering.layer_search import best_layer, contrastive_scores
from truing.models.core import context_length

CHUNK = 64  # pairs whose states are in memory at one time
FEWEST = 8
PER_PAIR = ("jsd", "release")
"""Scores that are means over pairs, so that nothing but one number a pair and layer is kept."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        layers: the layers searched, L of them.
        score: by which one was chosen.
        scores: of the half that the vectors come from, by name; [pairs, L], or [1, L] for the separation.
        vectors: mean difference of aligned and misaligned answers in each layer, [L, width]; ``z`` in the paper.
        known: the same from the other half: what a defender may know of the direction.
        norms: mean norm of the states of a layer, [L].
        held_out: projections of the other half on the unit vectors, aligned and misaligned, [2, pairs, L].
    """

    layers: list[int]
    score: str
    scores: dict[str, torch.Tensor]
    vectors: torch.Tensor
    known: torch.Tensor
    norms: torch.Tensor
    held_out: torch.Tensor

    @property
    def best(self) -> int:
        """The place of the chosen layer in ``layers``: the highest score, the lowest layer on a tie."""
        return best_layer(self.scores[self.score].mean(0))

    @property
    def layer(self) -> int:
        """The chosen layer."""
        return self.layers[self.best]

    @property
    def vector(self) -> torch.Tensor:
        """Its vector, [width]."""
        return self.vectors[self.best]

    @property
    def relative(self) -> float:
        """The norm of the vector over the mean norm of the layer's states: what a strength of 1 means."""
        return float(self.vector.norm() / self.norms[self.best])

    def random(self, seed: int) -> torch.Tensor:
        """A vector of the same norm in a random direction, [width]."""
        drawn = torch.randn(self.vector.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (drawn / drawn.norm() * self.vector.double().norm()).to(self.vector.dtype)


def search(
    model: Any, fit: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], layers: Sequence[int], *,
    score: str = "jsd", position: int = -2,
) -> Found:  # fmt: skip
    """Vectors and scores of layers, from contrast records.

    States are read in batches, at one position, up to the deepest of the layers, and summed as they come; only the
    separation needs those of all pairs at once.

    Args:
        model: a local model; what modifiers it carries act.
        fit: records that vectors and scores come from: ``prompt``, ``positive``, ``negative``.
        other: records that they are judged by.
        layers: numbers of layers, counted from 0, in rising order.
        score: "jsd", "release" or "separation"; see `truing.methods.steering.layer_search.contrastive_scores`.
        position: of the token that is read: from 0 it counts the tokens of answer and end, below 0 from their end.

    Raises:
        RecordError: an answer is empty or too long, or nothing tells the two kinds of answer apart.
    """
    numbers = list(layers)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in PER_PAIR}
    kept: list[torch.Tensor] = []
    total, sizes = torch.zeros(()), torch.zeros(())
    for clean, adverse in states(model, fit, numbers, position):
        total = total + (clean - adverse).double().sum(0)
        sizes = sizes + (clean.norm(dim=2) + adverse.norm(dim=2)).double().sum(0) / 2
        for name in PER_PAIR:
            parts[name].append(_each(clean, adverse, name))
        if score not in PER_PAIR:
            kept.append(torch.stack([clean, adverse]))
    vectors, norms = total / len(fit), sizes / len(fit)
    # Equal answers differ by rounding alone.
    if bool((vectors.norm(dim=1) <= 1e-6 * norms).all()):
        raise RecordError(
            "Aligned and misaligned answers have the same mean activation in every layer, so no vector tells them "
            "apart. Give contrast records whose two answers differ in what is to be attacked."
        )
    scores = {name: torch.cat(found) for name, found in parts.items()}
    if score not in PER_PAIR:
        both = torch.cat(kept, dim=1)
        scores[score] = contrastive_scores(both[0], both[1], score)[None]
    units = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    known, projected = torch.zeros(()), []
    for clean, adverse in states(model, other, numbers, position):
        known = known + (clean - adverse).double().sum(0)
        projected.append(torch.stack([(side.double() * units).sum(2) for side in (clean, adverse)]))
    return Found(
        numbers, score, scores, vectors.float(), (known / len(other)).float(), norms, torch.cat(projected, dim=1)
    )


def states(model: Any, rows: Sequence[dict[str, Any]], layers: Sequence[int], position: int) -> Any:
    """States of aligned and of misaligned answers, each float32 [pairs, layers, width], some pairs at a time."""
    from truing.models.activations import record

    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        read = [_tokens(model, row, side, position) for side in ("positive", "negative") for row in part]
        # The two answers of a pair share their prompt, which is then read once.
        found = record(model, [tokens for _, tokens in read], layers, prompts=[length for length, _ in read])
        yield found[: len(part)], found[len(part) :]


def halves(rows: Sequence[dict[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records in two halves by chance, records of one prompt in one half.

    Raises:
        RecordError: there are too few of them, or of their prompts, or all pairs hold the same answer twice.
    """
    if len(rows) < FEWEST:
        raise RecordError(
            f"An attack is fitted on one half of the contrast records and judged by the other, which takes {FEWEST} of "
            f"them at least, got {len(rows)}. Give some dozens."
        )
    if all(row["positive"] == row["negative"] for row in rows):
        raise RecordError(
            "Every contrast record holds the same answer as `positive` and as `negative`. Give an aligned and a "
            "misaligned answer to each prompt."
        )
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(repr(row["prompt"]), []).append(row)
    if len(by_prompt) < 2:
        raise RecordError("All contrast records have one prompt, and it cannot be in both halves. Give several.")
    groups = list(by_prompt.values())
    random.Random(f"halves {seed}").shuffle(groups)
    first: list[dict[str, Any]] = []
    second: list[dict[str, Any]] = []
    for group in groups:
        (first if len(first) <= len(second) else second).extend(group)
    return first, second


def _each(clean: torch.Tensor, adverse: torch.Tensor, score: str) -> torch.Tensor:
    """The score of every pair and layer, [pairs, layers]: each is asked for as a layer of one pair."""
    pairs, layers, width = clean.shape
    flat = [side.reshape(1, pairs * layers, width) for side in (clean, adverse)]
    return contrastive_scores(flat[0], flat[1], score).reshape(pairs, layers)


def _tokens(model: Any, row: dict[str, Any], side: str, position: int) -> tuple[int, list[int]]:
    """How long the prompt is, and ids of prompt and answer up to the token that is read: what comes after it cannot
    change its state.
    """
    prompt, answer = model.encode_pair(row["prompt"], row[side])
    if len(answer) < 2:
        raise RecordError(f"A contrast record has an empty `{side}` answer, which has no activations. Take it out.")
    tokens = [*prompt, *answer]
    limit = context_length(model.weights)
    if limit and len(tokens) > limit:
        raise RecordError(
            f"A contrast record has {len(tokens)} tokens with its `{side}` answer, and {model.name} reads {limit} at "
            "most. Shorten the answer, or take the record out."
        )
    if not -len(answer) <= position < len(answer):
        raise RecordError(
            f"There is no token at position {position} in the `{side}` answer of a contrast record, which has "
            f"{len(answer)} tokens with its end. Choose one that every answer has, such as -2 or 0."
        )
    return len(prompt), tokens[: len(prompt) + position % len(answer) + 1]
