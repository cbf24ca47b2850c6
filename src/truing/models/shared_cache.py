"""Beginnings that several rows of a cache share: their keys and values are stored once, beside what is each row's own.

What a row holds is the first tokens of one beginning and then its own. Rows that branch share all that they have in
common, and a roll-back into a beginning only lets the row see less of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Numbers (keys and values of all layers) that must be saved before anything is shared. Attention in two parts is faster
# from far less on; below this a copy is 64 MiB at most in float32, and small models keep the plainer path.
NUMBERS = 2**24


class Sharing:
    """When rows of one model share beginnings.

    Args:
        possible: whether the model's attention can be done in two parts; asked once, when it first matters.
    """

    def __init__(self, possible: Callable[[], bool]) -> None:
        self._possible = possible

    @functools.cached_property
    def possible(self) -> bool:
        """Whether the model's attention can be done in two parts."""
        return self._possible()

    def pays(self, numbers: int) -> bool:
        """Whether saving this many numbers is worth it."""
        return numbers > 0 and numbers >= NUMBERS and self.possible


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """Beginnings of rows; never written to.

    Args:
        keys: of each layer [beginnings, heads, slots, width], padded on the left.
        values: likewise.
        lengths: tokens of each beginning.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    lengths: list[int]

    @property
    def slots(self) -> int:
        """Slots of each beginning, padding included."""
        return self.keys[0].shape[2]

    def picked(self, which: Sequence[int]) -> Store:
        """These beginnings."""
        lengths = [self.lengths[at] for at in which]
        index = torch.tensor(list(which), device=self.keys[0].device)
        trim = self.slots - max(lengths)
        keys, values = (
            [states[:, :, trim:].index_select(0, index) for states in part] for part in (self.keys, self.values)
        )
        return Store(keys, values, lengths)

    def joined(self, other: Store) -> Store:
        """The beginnings of both."""
        slots = max(self.slots, other.slots)

        def together(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
            out = mine.new_zeros(len(mine) + len(theirs), mine.shape[1], slots, mine.shape[3])
            out[: len(mine), :, slots - mine.shape[2] :] = mine
            out[len(mine) :, :, slots - theirs.shape[2] :] = theirs
            return out

        keys, values = (
            [together(a, b) for a, b in zip(mine, theirs)]
            for mine, theirs in ((self.keys, other.keys), (self.values, other.values))
        )
        return Store(keys, values, [*self.lengths, *other.lengths])


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows that attend to beginnings by one multiplication: equally many to each.

    Args:
        beginnings: from which to which.
        rows: of each beginning in turn, the first row standing in where one has fewer; None for all rows in order.
        each: how many rows a beginning has.
    """

    beginnings: slice
    rows: torch.Tensor | None
    each: int


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """What each row has of the beginnings.

    Args:
        store: the beginnings.
        of: for each row the number of its beginning; 0 where it has none.
        seen: how many of the beginning's tokens are the row's; 0 where it has none.
    """

    store: Store
    of: list[int]
    seen: list[int]

    def picked(self, rows: Sequence[int]) -> Share:
        """Of these rows; beginnings that none of them has are dropped once they are half of all."""
        of, seen = [self.of[row] for row in rows], [self.seen[row] for row in rows]
        used = sorted(set(of))
        if 2 * len(used) > len(self.store.lengths) or not used:
            return Share(self.store, of, seen)
        return Share(self.store.picked(used), [used.index(at) for at in of], seen)

    def joined(self, other: Share) -> Share:
        """Of the rows of both."""
        seen = [*self.seen, *other.seen]
        if other.store is self.store:
            return Share(self.store, [*self.of, *other.of], seen)
        count = len(self.store.lengths)
        return Share(self.store.joined(other.store), [*self.of, *(count + at for at in other.of)], seen)

    @functools.cached_property
    def parts(self) -> tuple[list[Part], torch.Tensor | None]:
        """How rows attend, and where each row's result stands among all; None where they are in order."""
        device = self.store.keys[0].device
        members: list[list[int]] = [[] for _ in self.store.lengths]
        for row, at in enumerate(self.of):
            members[at].append(row)
        count, most = len(members), max(map(len, members))
        order = [row for rows in members for row in rows]
        if count * most == len(order) == len(self.of) and order == sorted(order):
            return [Part(slice(0, count), None, most)], None
        places = [0] * len(self.of)
        if count * most <= 2 * len(self.of):
            padded = [[*rows, *[0] * (most - len(rows))] for rows in members]
            for at, rows in enumerate(members):
                for number, row in enumerate(rows):
                    places[row] = at * most + number
            parts = [Part(slice(0, count), torch.tensor(padded, device=device).flatten(), most)]
        else:
            for place, row in enumerate(order):
                places[row] = place
            parts = [
                Part(slice(at, at + 1), torch.tensor(rows, device=device), len(rows))
                for at, rows in enumerate(members)
                if rows
            ]
        return parts, torch.tensor(places, device=device)

    @functools.cached_property
    def visible(self) -> torch.Tensor | None:
        """Which slots of its beginning each row sees, bool [rows, slots]; None where all see all."""
        slots, lengths = self.store.slots, [self.store.lengths[at] for at in self.of]
        if all(size == seen == slots for size, seen in zip(lengths, self.seen)):
            return None
        device = self.store.keys[0].device
        starts = slots - torch.tensor(lengths, device=device)[:, None]
        ends = starts + torch.tensor(self.seen, device=device)[:, None]
        places = torch.arange(slots, device=device)[None]
        return (places >= starts) & (places < ends)

    @functools.cached_property
    def masks(self) -> dict[Any, torch.Tensor]:
        """Masks that were made of ``visible``, for the next layer and the next step."""
        return {}
