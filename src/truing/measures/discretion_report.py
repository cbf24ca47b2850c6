"""Figures of discretion with their intervals, for any number of annotators of the same comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from truing.measures import intervals, statistics
from truing.measures.principle_tables import (
    ROW_LABELS,
    against_consensus,
    classify_rows,
    discrepancy,
    principle_weights,
    wins,
)
from truing.measures.rank_correlation import distance_interval
from truing.measures.result import Figure, Grid, Outcome
from truing.safe_text import visible

Array = NDArray[np.float64]
Annotators = dict[str, Array]
_TIES = 0.1
_LONG = 70
# Principles whose clashes are still shown one by one.
_MOST = 8


def figures_of(
    principles: Array, annotators: Annotators, reference: str, names: Sequence[str], resamples: int, seed: int
) -> Outcome:
    """Shares of the kinds of comparison; arbitrariness, weights and discrepancy of each annotator.

    Args:
        principles: preferences, [n, m].
        annotators: preferences by name, [n] each.
        reference: the annotator that the others are compared with.
        names: of the principles, m.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    labels = classify_rows(principles)
    figures = {
        name: _share([label == name for label in labels], "neither")
        for name in ROW_LABELS
        if name != "undecided" or name in labels
    }
    notes: list[str] = []
    if "undecided" in labels:
        notes.append("Undecided: the only views of principles there turned with the order of showing.")
    for name, chosen in annotators.items():
        against = against_consensus(principles, chosen)
        counted = against[~np.isnan(against)]
        if len(counted):
            figures[f"arbitrariness of {name}"] = _share(counted.astype(bool).tolist(), "lower")
        else:
            notes.append(f"{name} has no opinion on any consensus comparison, so it has no arbitrariness.")
        silent = np.isnan(chosen) | (chosen == 0)
        figures[f"no opinion of {name}"] = _share(silent.tolist(), "neither")
    drawn = _Drawn(principles, annotators, resamples, seed)
    weights = {name: principle_weights(drawn.won[name]) for name in annotators}
    for name in annotators:
        figures.update(drawn.weights(name, weights[name]))
        notes += _limits(name, weights[name], names)
        if name != reference:
            value = discrepancy(weights[reference], weights[name])
            if np.isfinite(value):
                figures[f"discrepancy of {name}"] = drawn.discrepancy(reference, name, value)
            else:
                notes.append(
                    f"{name} and {reference} have fewer than two principles with different weights in common, so they "
                    "have no discrepancy."
                )
    grids = _grids(annotators, reference, names, weights[reference])
    if len(names) <= _MOST:
        for name in annotators:
            figures.update(_wins(name, drawn.won[name]))
            grids.append(_who_wins(name, names))
    return Outcome([], {}, notes, figures=figures, grids=grids)


class _Drawn:
    """Clashes of principles as each annotator decides them, in the rows at hand and in every resample of them."""

    def __init__(self, principles: Array, annotators: Annotators, resamples: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n = len(principles)
        self._counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
        self._mixed = rng.integers(0, 2, size=(resamples, n)).astype(np.float64)
        self._principles, self._annotators = principles, annotators
        self.won = {name: wins(principles, chosen) for name, chosen in annotators.items()}
        self._ties = {name: _TIES / 2 * ((won + won.T) > 0) for name, won in self.won.items()}
        self.draws = {
            name: principle_weights(wins(principles, chosen, self._counts) + self._ties[name])
            for name, chosen in annotators.items()
        }

    def weights(self, name: str, weights: Array) -> dict[str, Figure]:
        clashes = (self.won[name] + self.won[name].T).sum(1)
        out = {}
        finite = np.isfinite(weights)
        # Centred on the same principles as the weights are.
        centred = self.draws[name] - self.draws[name][:, finite].mean(axis=1, keepdims=True) if finite.any() else None
        for at, value in enumerate(weights):
            draws = self.draws[name][:, at] if centred is None else centred[:, at]
            if np.isfinite(value) and np.isfinite(draws).sum() > 1:
                low, high = intervals.percentiles(draws, max(2, int(clashes[at])))
                out[f"weight of {at} for {name}"] = Figure(
                    float(value), min(low, float(value)), max(high, float(value)), int(clashes[at]),
                    "bootstrap", "nats", "neither",
                )  # fmt: skip
        return out

    def discrepancy(self, reference: str, name: str, value: float) -> Figure:
        draws = [discrepancy(one, two) for one, two in zip(self.draws[reference], self.draws[name])]
        ties = self._ties[reference] + self._ties[name]
        sides = [
            principle_weights(
                wins(self._principles, self._annotators[reference], here)
                + wins(self._principles, self._annotators[name], 1 - here) + ties
            )
            for here in (self._mixed, 1 - self._mixed)
        ]  # fmt: skip
        others = np.roll(self.draws[name], 1, axis=0)
        low, high = distance_interval(
            value, draws, [discrepancy(one, two) for one, two in zip(*sides)],
            [discrepancy(one, two) for one, two in zip(self.draws[reference], others)],
        )  # fmt: skip
        clashes = int(min(won.sum() for won in (self.won[reference], self.won[name])))
        return Figure(value, low, min(1.0, high), clashes, "bootstrap, against mixed annotators", "of 1", "lower")


def _share(values: Sequence[bool], better: str) -> Figure:
    found = statistics.share([float(value) for value in values])
    return Figure(*found[:5], better=better)


def _wins(name: str, won: Array) -> dict[str, Figure]:
    """Principle supremacy, each share over the clashes of two principles."""
    out = {}
    for one, other in zip(*np.nonzero(won + won.T)):
        ahead, behind = int(won[one, other]), int(won[other, one])
        out[f"{one} over {other} for {name}"] = _share([True] * ahead + [False] * behind, "neither")
    return out


def _who_wins(name: str, names: Sequence[str]) -> Grid:
    places = range(len(names))
    rows = [(f"{at}. {_short(names[at])}", [f"{at} over {other} for {name}" for other in places]) for at in places]
    return Grid(f"Whom {name} sides with: the row's principle over the column's", ["", *map(str, places)], rows)


def _limits(name: str, weights: Array, names: Sequence[str]) -> list[str]:
    """Principles whose weight is no number: those that win or lose all, and those that never clash."""
    parts = []
    for what, found in (
        ("sides always with", np.isposinf(weights)), ("never with", np.isneginf(weights)),
        ("meets in no clash", np.isnan(weights)),
    ):  # fmt: skip
        if found.any():
            which = "; ".join(f"{at}, {_short(names[at])}" for at in np.flatnonzero(found).tolist())
            parts.append(f"{what} ({which})")
    return [f"Where principles clash, {name} {', '.join(parts)}. These have no finite weight."] if parts else []


def _grids(annotators: Annotators, reference: str, names: Sequence[str], weights: Array) -> list[Grid]:
    grids = [
        Grid(
            f"Annotators; discrepancy is to {reference}",
            ["annotator", "arbitrariness", "discrepancy", "no opinion"],
            [(name, [f"arbitrariness of {name}", "" if name == reference else f"discrepancy of {name}",
                     f"no opinion of {name}"]) for name in annotators],
        )
    ]  # fmt: skip
    order = np.argsort(-np.where(np.isnan(weights), -np.inf, weights), kind="stable")
    grids.append(
        Grid(
            f"Weights of principles in nats, in the order of {reference}; n counts clashes",
            ["principle", *annotators],
            [
                (f"{at}. {_short(names[at])}", [f"weight of {at} for {name}" for name in annotators])
                for at in order.tolist()
            ],
        )
    )
    return grids


def _short(text: str) -> str:
    shown = " ".join(visible(text, 400).split())
    return shown if len(shown) <= _LONG else shown[: _LONG - 1] + "…"
