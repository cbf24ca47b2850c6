"""Rows of caches picked, branched and joined, so that what they have in common is stored once where that pays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from truing.models.cache import Layer, Rows, empty
from truing.models.shared_cache import Share, Store

BRANCHES = 2  # rows for each beginning, at least, before rows begin to share


def picked(cache: Rows, rows: Sequence[int] | None, lengths: Sequence[int]) -> Rows:
    """A cache of these rows, which may repeat (None: all, sharing memory); the old one stays usable.

    Args:
        cache: of rows that hold ``lengths[i]`` tokens.
        rows: their numbers.
        lengths: of all its rows.
    """
    other = empty(cache.sharing)
    if rows is None:
        other.layers, other.share = [layer.picked(None, 0) for layer in cache.layers], cache.share
        return other
    how = _how(cache, rows, lengths)
    if how == "branch":
        store, of = _beginnings(cache, rows, lengths)
        other.layers = [layer.hollow(len(rows)) for layer in cache.layers]
        other.share = Share(store, of, [lengths[row] for row in rows])
    elif how == "copy":
        other.layers = _whole(cache, rows, lengths)
    else:
        own = cache.own(lengths)
        trim = cache.width - max((own[row] for row in rows), default=0)
        index = torch.tensor(list(rows), dtype=torch.long)
        other.layers = [layer.picked(index, trim) for layer in cache.layers]
        other.share = None if cache.share is None else cache.share.picked(rows)
    return other


def _how(cache: Rows, rows: Sequence[int], lengths: Sequence[int]) -> str:
    """Whether picked rows share all they hold ("branch"), keep what they share ("keep"), or get copies ("copy")."""
    share, distinct = cache.share, len(set(rows))
    if cache.sharing is None or not rows or (share is None and distinct == len(rows)):
        return "keep"
    own, longest = cache.own(lengths), max(lengths[row] for row in rows)
    branched, kept = distinct * longest, len(rows) * max(own[row] for row in rows)
    saved = len(rows) * longest - branched
    branching = BRANCHES * distinct <= len(rows) and branched <= kept and cache.sharing.pays(saved * cache.numbers)
    if branching or share is None:
        return "branch" if branching else "keep"
    kept += len({share.of[row] for row in rows}) * share.store.slots
    # Half of what it takes to begin, so that rows that leave one by one do not go to and fro.
    return "keep" if cache.sharing.pays(2 * (len(rows) * longest - kept) * cache.numbers) else "copy"


def _beginnings(cache: Rows, rows: Sequence[int], lengths: Sequence[int]) -> tuple[Store, list[int]]:
    """All that picked rows hold as beginnings, and the number of each row's; in the memory of the cache if most of it
    is wanted."""
    distinct = sorted(set(rows))
    longest = max(lengths[row] for row in distinct)
    if cache.share is None and 2 * len(distinct) * longest > len(lengths) * cache.width:
        parts = [layer.frozen() for layer in cache.layers]
        return Store([keys for keys, _ in parts], [values for _, values in parts], list(lengths)), list(rows)
    layers = _whole(cache, distinct, lengths)
    store = Store(
        [layer.keys.contiguous() for layer in layers], [layer.values.contiguous() for layer in layers],
        [lengths[row] for row in distinct],
    )  # fmt: skip
    return store, [distinct.index(row) for row in rows]


def _whole(cache: Rows, rows: Sequence[int], lengths: Sequence[int]) -> list[Layer]:
    """Layers of picked rows in which each has all it holds."""
    share, own = cache.share, cache.own(lengths)
    if share is None:
        trim = cache.width - max(own[row] for row in rows)
        return [layer.picked(torch.tensor(list(rows)), trim) for layer in cache.layers]
    slots, store = max(lengths[row] for row in rows), share.store
    layers = []
    for layer, *begun in zip(cache.layers, store.keys, store.values):
        made = []
        for states, beginnings in zip((layer.keys, layer.values), begun):
            out = states.new_zeros(len(rows), states.shape[1], slots, states.shape[3])
            for place, row in enumerate(rows):
                start, mine = slots - lengths[row], slots - own[row]
                first = store.slots - store.lengths[share.of[row]]
                out[place, :, start:mine] = beginnings[share.of[row], :, first : first + mine - start]
                out[place, :, mine:] = states[row, :, states.shape[2] - own[row] :]
            made.append(out)
        layers.append(Layer.of(made[0], made[1]))
    return layers


def joined(cache: Rows, other: Rows, lengths: Sequence[int], its: Sequence[int]) -> Rows:
    """A cache of the rows of both, which hold ``lengths`` and ``its`` tokens; beginnings of both side by side."""
    if cache.share is not None or other.share is not None:
        cache, other = _matched(cache, other, lengths, its)
    both = empty(cache.sharing)
    both.layers = [a.joined(b) for a, b in zip(cache.layers, other.layers)]
    shares = [part.share for part in (cache, other) if part.share is not None]
    if len(shares) == 2:
        both.share = shares[0].joined(shares[1])
    elif shares:
        count, (share,) = len(lengths) + len(its) - len(shares[0].of), shares
        nothing, first = [0] * count, cache.share is not None
        of, seen = ([*part, *nothing] if first else [*nothing, *part] for part in (share.of, share.seen))
        both.share = Share(share.store, of, seen)
    return both


def _matched(cache: Rows, other: Rows, lengths: Sequence[int], its: Sequence[int]) -> tuple[Rows, Rows]:
    """Two caches as they are joined with fewest slots: as they are, with one's rows as beginnings, or with copies."""
    rows, longest = len(lengths) + len(its), max(*lengths, *its)
    held = [_Side(cache, lengths), _Side(other, its)]
    pairs = [(held[0], held[1])]
    pairs += [(held[0].begun(), held[1])] if cache.share is None else []
    pairs += [(held[0], held[1].begun())] if other.share is None else []

    def slots(pair: tuple[_Side, _Side]) -> int:
        one, two = pair
        same = one.store is not None and one.store is two.store
        beginnings = one.beginnings if same else one.beginnings + two.beginnings
        return rows * max(one.width, two.width) + beginnings * max(one.slots, two.slots)

    best = min(pairs, key=slots)
    assert cache.sharing is not None
    if not cache.sharing.pays(2 * (rows * longest - slots(best)) * cache.numbers):
        best = held[0].copied(), held[1].copied()
    return best[0].made(), best[1].made()


@dataclasses.dataclass
class _Side:
    """One of two caches that are to be joined, and what becomes of it."""

    cache: Rows
    lengths: Sequence[int]
    how: str = ""

    def begun(self) -> _Side:
        """All its rows as beginnings."""
        return _Side(self.cache, self.lengths, "begun")

    def copied(self) -> _Side:
        """Nothing shared."""
        return _Side(self.cache, self.lengths, "copied" if self.cache.share is not None else "")

    @property
    def store(self) -> Store | None:
        """The beginnings it has as it is."""
        return None if self.cache.share is None else self.cache.share.store

    @property
    def beginnings(self) -> int:
        """How many."""
        return len(self.lengths) if self.how == "begun" else len(self.store.lengths) if self.store is not None else 0

    @property
    def slots(self) -> int:
        """Of each beginning."""
        return max(self.lengths) if self.how == "begun" else self.store.slots if self.store is not None else 0

    @property
    def width(self) -> int:
        """Slots that are the rows' own."""
        return 0 if self.how == "begun" else self.cache.width

    def made(self) -> Rows:
        """The cache."""
        if not self.how:
            return self.cache
        made, rows = empty(self.cache.sharing), range(len(self.lengths))
        if self.how == "begun":
            store, of = _beginnings(self.cache, rows, self.lengths)
            made.layers = [layer.hollow(len(rows)) for layer in self.cache.layers]
            made.share = Share(store, of, list(self.lengths))
        else:
            made.layers = _whole(self.cache, rows, self.lengths)
        return made
