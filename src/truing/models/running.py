"""Answers that are written together, one token each a step; they may join and leave between steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from truing.models.answers import Draft
from truing.models.batch import Batch
from truing.models.sampling import pick
from truing.models.types import Sampling


@dataclasses.dataclass(eq=False)
class Flight:
    """One answer on its way.

    Args:
        draft: what is written of it.
        stream: the number of its noise stream; see `noise_stream`.
        sampling: temperature, truncation and seed.
        top: how many of the likeliest tokens to note at each step.
        likeliest: for each token written, those (token id, log-probability in nats).
    """

    draft: Draft
    stream: int
    sampling: Sampling
    top: int = 0
    likeliest: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)

    @property
    def written(self) -> int:
        """Tokens so far, which is also the step that its next token has."""
        return len(self.draft.tokens)


class Running:
    """A batch and the answer that each of its rows writes. Rows may differ in sampling, seed and step.

    Args:
        batch: one row for each answer.
        flights: the answers, in the order of the rows; those that have ended are no longer here.
    """

    def __init__(self, batch: Batch, flights: Sequence[Flight]) -> None:
        self.batch = batch
        self.flights = list(flights)

    def join(self, batch: Batch, flights: Sequence[Flight]) -> None:
        """More rows, from the next step on."""
        self.batch = self.batch.join(batch) if self.flights else batch
        self.flights += flights

    def leave(self, gone: Sequence[Flight]) -> None:
        """Drop rows, whatever they have written."""
        which = set(map(id, gone))
        self._keep([at for at, flight in enumerate(self.flights) if id(flight) not in which])

    @torch.inference_mode()
    def step(self) -> list[Flight]:
        """One more token in each answer; those that have ended with it leave, and are returned."""
        picked = self._picked()
        scores = self.batch.logits.log_softmax(1)
        most = max(flight.top for flight in self.flights)
        if most:
            self._note(scores, most)
        tokens = picked.tolist()
        logprobs = scores.gather(1, picked[:, None])[:, 0].tolist()
        ended = [flight for at, flight in enumerate(self.flights) if flight.draft.push(tokens[at], logprobs[at])]
        if ended:
            alive = [at for at, flight in enumerate(self.flights) if flight.draft.reason is None]
            tokens = [tokens[at] for at in alive]
            self._keep(alive)
        if tokens:
            self.batch.append(tokens)
        return ended

    def _keep(self, rows: list[int]) -> None:
        if len(rows) < len(self.flights):
            self.flights = [self.flights[at] for at in rows]
            # Without rows the old batch is kept only so that there is one; `join` replaces it.
            self.batch = self.batch.select(rows)

    def _picked(self) -> torch.Tensor:
        """The next token of each row; rows that are chosen alike are chosen together."""
        alike: dict[tuple[float, int, float], list[int]] = {}
        for at, flight in enumerate(self.flights):
            how = flight.sampling
            alike.setdefault((how.temperature, how.top_k, how.top_p), []).append(at)
        logits = self.batch.logits
        if len(alike) == 1:
            return self._pick(logits, self.flights)
        out = torch.empty(len(self.flights), dtype=torch.long, device=logits.device)
        for rows in alike.values():
            index = torch.tensor(rows, device=logits.device)
            out[index] = self._pick(logits[index], [self.flights[at] for at in rows])
        return out

    def _pick(self, logits: torch.Tensor, flights: Sequence[Flight]) -> torch.Tensor:
        return pick(
            logits,
            flights[0].sampling,
            [flight.stream for flight in flights],
            [flight.written for flight in flights],
            [flight.sampling.seed for flight in flights],
        )

    def _note(self, scores: torch.Tensor, most: int) -> None:
        values, ids = (part.tolist() for part in scores.topk(min(most, scores.shape[1]), dim=1))
        for at, flight in enumerate(self.flights):
            if flight.top:
                flight.likeliest.append(list(zip(ids[at], values[at]))[: flight.top])
