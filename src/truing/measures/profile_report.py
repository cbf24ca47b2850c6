"""Figures of factor-level preferences for any number of agents, with intervals over prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from truing.measures import intervals, statistics
from truing.measures.profile_scores import CORRELATIONS, logistic, signs
from truing.measures.rank_correlation import distance_interval
from truing.measures.result import Figure, Grid, Outcome

Array = NDArray[np.float64]
HUMAN = "human"


@dataclasses.dataclass(frozen=True)
class Agent:
    """Whose preferences, over which pairs of responses.

    Args:
        name: shown.
        first: factor values of response 1 of each pair, [n, factors].
        second: of response 2.
        preferences: 1, -1, or 0 for none, [n].
        prompts: number of the prompt of each pair, [n]; the same numbers for all agents.
    """

    name: str
    first: Array
    second: Array
    preferences: Array
    prompts: NDArray[np.int64]

    def signs(self) -> Array:
        """See `truing.measures.profile_scores.signs`, [n, factors]."""
        columns = [
            signs(np.stack([one, two], axis=1), self.preferences) for one, two in zip(self.first.T, self.second.T)
        ]
        return np.stack(columns, axis=1)


def figures_of(
    agents: Sequence[Agent], factors: Sequence[str], *, near: float = 0.1, resamples: int = 300, seed: int = 0
) -> Outcome:
    """Factor scores of every agent, the same over pairs of like length, what each factor adds to the others, and how
    alike the agents' scores are to the first agent's.

    Args:
        agents: the first one is the reference.
        factors: names, one a column of the agents' values; "length" tells which pairs are of like length.
        near: lengths are alike that differ by at most this share of the longer one.
        resamples: of the bootstrap of correlations.
        seed: of the bootstrap.
    """
    figures: dict[str, Figure] = {}
    notes: list[str] = []
    found = {agent.name: agent.signs() for agent in agents}
    for agent in agents:
        keys = agent.prompts.tolist()
        like = _like_length(agent, factors, near)
        for at, factor in enumerate(factors):
            column = found[agent.name][:, at]
            _score(figures, f"{factor} for {agent.name}", column, keys, seed)
            ties = _kept(column == 0, column, keys)
            if ties is not None:
                figures[f"ties in {factor} for {agent.name}"] = Figure(*statistics.share(*ties)[:5], better="neither")
            if like is not None and factor != "length":
                _score(
                    figures, f"{factor} for {agent.name}, at like length", np.where(like, column, np.nan), keys, seed
                )
        figures.update(_beside(agent, factors, notes))
    if agents:
        figures.update(_alike(agents, found, factors, resamples, seed, notes))
    return Outcome([], {}, notes, figures=figures, grids=_grids(agents, factors, figures))


def _kept(values: Array, column: Array, keys: Sequence[int]) -> tuple[list[float], list[int]] | None:
    rows = np.flatnonzero(~np.isnan(column)).tolist()
    return ([float(values[row]) for row in rows], [keys[row] for row in rows]) if len(rows) else None


def _score(figures: dict[str, Figure], name: str, column: Array, keys: Sequence[int], seed: int) -> None:
    kept = _kept(column, column, keys)
    if kept is None:
        return
    values, clusters = kept
    estimate = statistics.mean(values, clusters=clusters, seed=seed, bounds=(-1.0, 1.0))
    if estimate is not None:
        figures[name] = Figure(*estimate[:5], "tau", "neither")


def _like_length(agent: Agent, factors: Sequence[str], near: float) -> NDArray[np.bool_] | None:
    if "length" not in factors:
        return None
    at = list(factors).index("length")
    one, two = agent.first[:, at], agent.second[:, at]
    return np.asarray(np.abs(one - two) <= near * np.maximum(one, two), dtype=bool)


def _beside(agent: Agent, factors: Sequence[str], notes: list[str]) -> dict[str, Figure]:
    """What each factor adds when the others are held, by logistic regression on differences."""
    gaps = agent.first - agent.second
    used = [at for at in range(len(factors)) if not np.isnan(gaps[:, at]).all()]
    rows = ~np.isnan(gaps[:, used]).any(axis=1) & (agent.preferences != 0)
    if not used or rows.sum() < 10 * len(used):
        notes.append(
            f"{agent.name} has {int(rows.sum())} pairs with all factors, too few for a regression on {len(used)}."
        )
        return {}
    values, errors = logistic(gaps[np.ix_(rows, used)], agent.preferences[rows], agent.prompts[rows])
    reach = intervals.student(max(1, len(np.unique(agent.prompts[rows])) - 1))
    return {
        f"{factors[at]} beside others for {agent.name}": Figure(
            float(value), float(value - reach * error), float(value + reach * error), int(rows.sum()),
            "sandwich, clustered", "log-odds", "neither",
        )
        for at, value, error in zip(used, values, errors)
        if np.isfinite(error)
    }  # fmt: skip


def _alike(
    agents: Sequence[Agent], found: dict[str, Array], factors: Sequence[str], resamples: int, seed: int,
    notes: list[str],
) -> dict[str, Figure]:  # fmt: skip
    """Correlations of the factor scores of each agent with the first one's."""
    figures: dict[str, Figure] = {}
    many = 1 + max(int(agent.prompts.max(initial=-1)) for agent in agents)
    totals = {agent.name: _by_prompt(found[agent.name], agent.prompts, many) for agent in agents}
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(many, np.full(many, 1 / many), size=resamples).astype(np.float64)
    mixed = rng.integers(0, 2, size=(resamples, many)).astype(np.float64)
    reference = agents[0].name
    for agent in agents[1:]:
        both = np.flatnonzero((totals[reference][1].sum(0) > 0) & (totals[agent.name][1].sum(0) > 0))
        if len(both) < 3:
            notes.append(f"{agent.name} and {reference} have {len(both)} factors in common; alignment needs 3.")
            continue
        one, two = ([part[:, both] for part in totals[name]] for name in (reference, agent.name))
        ones = np.ones(many)
        here, there = _tau(one, ones), _tau(two, ones)
        pairs = {
            "drawn": (_tau(one, counts), _tau(two, counts)),
            "mixed": (_mix(one, two, mixed), _mix(one, two, 1 - mixed)),
            "apart": (_tau(one, counts), np.roll(_tau(two, counts), 1, axis=0)),
        }
        for name, correlate in CORRELATIONS.items():
            value = correlate(here, there)
            if not np.isfinite(value):
                notes.append(f"All factor scores of {agent.name} or {reference} are equal, so there is no {name}.")
                continue
            low, high = distance_interval(
                1 - value, *(1 - np.where(np.isnan(a + b).any(-1), np.nan, correlate(a, b)) for a, b in pairs.values())
            )
            figures[f"{name} of {agent.name}"] = Figure(
                value,
                max(-1.0, 1 - high),
                1 - low,
                len(both),
                "bootstrap, against mixed agents",
                "correlation",
                "higher",
            )
        if f"kendall of {agent.name}" in figures:
            # Stands alone as well, outside the table of agents.
            figures[f"alignment of {agent.name}"] = figures[f"kendall of {agent.name}"]
        gaps = there - here
        worst = [at for at in np.argsort(-np.abs(gaps)) if abs(gaps[at]) > 0][:3]
        shown = ", ".join(f"{factors[both[at]]} {gaps[at]:+.2f}" for at in worst)
        if shown:
            notes.append(f"Scores of {agent.name} that differ most from those of {reference}: {shown}.")
    return figures


def _by_prompt(found: Array, prompts: NDArray[np.int64], many: int) -> tuple[Array, Array]:
    """Sums of signs and numbers of pairs for each prompt and factor, [prompts, factors] each."""
    sums, numbers = np.zeros((many, found.shape[1])), np.zeros((many, found.shape[1]))
    np.add.at(sums, prompts, np.nan_to_num(found))
    np.add.at(numbers, prompts, ~np.isnan(found))
    return sums, numbers


def _tau(totals: Sequence[Array], weights: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights @ totals[0]) / (weights @ totals[1]), dtype=np.float64)


def _mix(one: Sequence[Array], two: Sequence[Array], here: Array) -> Array:
    """Scores of an agent that is the one at some prompts and the other at the rest."""
    with np.errstate(invalid="ignore", divide="ignore"):
        above = here @ one[0] + (1 - here) @ two[0]
        return np.asarray(above / (here @ one[1] + (1 - here) @ two[1]), dtype=np.float64)


def _grids(agents: Sequence[Agent], factors: Sequence[str], figures: dict[str, Figure]) -> list[Grid]:
    names = [agent.name for agent in agents]

    def grid(title: str, form: str, head: str = "factor") -> Grid:
        rows = [(factor, [form.format(factor=factor, agent=name) for name in names]) for factor in factors]
        kept = [(factor, cells) for factor, cells in rows if any(cell in figures for cell in cells)]
        return Grid(title, [head, *names], kept)

    out = [
        Grid(
            f"Agents, beside {names[0]}: pairwise agreement, and alignment of factor scores",
            ["agent", "agreement", *CORRELATIONS],
            [(name, [f"agreement of {name}", *(f"{one} of {name}" for one in CORRELATIONS)]) for name in names[1:]],
        ),
        grid("Factor scores (tau14): more of it is liked above 0", "{factor} for {agent}"),
        grid("The same over pairs of like length", "{factor} for {agent}, at like length"),
        grid("Beside each other, in log-odds for a standard deviation", "{factor} beside others for {agent}"),
        grid("Ties: pairs that are equal in the factor, which count as 0", "ties in {factor} for {agent}"),
    ]
    return [one for one in out if one.rows]
