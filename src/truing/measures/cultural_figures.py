"""Figures of the tests of a survey: plain scores, clusters by few dimensions, and how far personas spread."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from truing.measures import reliability, statistics
from truing.measures.result import Figure, Grid, Outcome, Plane
from truing.measures.surveys import Item, drawn_rows, mean_figure, resampled_figure

UNIT = "of the scale"
DRAWS = 1000
LEAST = 0.05
"""Share of people's spread below which personas are taken for one."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """Items and what people answered.

    Args:
        items: see `Item`.
        countries: names.
        human: their means, [countries, items], from 0 to 1.
        lost: countries without a mean in every item, which are left out.
    """

    items: list[Item]
    countries: list[str]
    human: np.ndarray
    lost: int = 0

    @property
    def counted(self) -> str:
        """What was asked, in words."""
        left = f"; {self.lost} more lack an item and are left out" if self.lost else ""
        return f"{len(self.items)} items, {len(self.countries)} countries with people's answers to all of them{left}."

    def of(self, ids: Collection[str]) -> Survey:
        """The part about some items."""
        kept = [at for at, item in enumerate(self.items) if item.id in ids]
        return dataclasses.replace(self, items=[self.items[at] for at in kept], human=self.human[:, kept])

    def dimensions(self, levels: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Answers [n, items] as dimensions [n, dimensions] and their names: the six of the Values Survey Module where
        the items are m01 to m24, else means by ``dimension``. Missing answers count as the middle of those given.
        """
        filled = np.where(np.isfinite(levels), levels, _column_means(levels))
        numbered = {item.id: at for at, item in enumerate(self.items)}
        names = [f"m{number:02d}" for number in range(1, 25)]
        if set(names) <= set(numbered):
            answers = filled[:, [numbered[name] for name in names]]
            scale = np.array([len(self.items[numbered[name]].options) - 1 for name in names])
            rows = [reliability.vsm2013_dimensions((row * scale + 1).tolist()) for row in answers]
            return np.array([list(row.values()) for row in rows]), list(reliability.VSM)
        groups = list(dict.fromkeys(item.group for item in self.items if item.group))
        columns = [
            filled[:, [at for at, item in enumerate(self.items) if item.group == name]].mean(1) for name in groups
        ]
        return (np.stack(columns, 1) if columns else np.zeros((len(levels), 0))), groups


def spread(survey: Survey) -> Figure | None:
    """How far countries lie apart: the spread of people's means over countries, mean over items."""
    return mean_figure(survey.human.std(0, ddof=1).tolist(), UNIT, within=(0.0, 1.0))


def plain_scores(outcome: Outcome, survey: Survey, forms: Sequence[str], levels: np.ndarray, seed: int) -> None:
    """Agreement with the nearest country from each form alone, which is what is usually reported.

    Args:
        outcome: where figures, notes and a table are added.
        survey: the survey.
        forms: names of the forms.
        levels: [forms, items].
        seed: of intervals.
    """
    rows, nearest = [], []
    for name, found in zip(forms, levels):
        there = np.isfinite(found)
        if there.sum() < 2:
            continue
        close = 1 - np.abs(survey.human[:, there] - found[there])
        best = int(close.mean(1).argmax())
        figure = mean_figure(close[best].tolist(), "share", seed=seed, within=(0.0, 1.0))
        if figure is None:
            continue
        # The nearest of several seems nearer than it is, as the nearest in resamples does once more; by how much is
        # itself uncertain, hence twice.
        drawn = statistics.resampled_means(close.T, seed=seed).max(1).mean()
        figure = dataclasses.replace(figure, low=max(0.0, figure.low - 2 * float(drawn - figure.value)))
        outcome.figures[f"agreement: {name}"] = figure
        nearest.append(survey.countries[best])
        rows.append((f"{name}: nearest {survey.countries[best]}", [f"agreement: {name}"]))
    if not rows:
        return
    outcome.grids.append(
        Grid("What a plain score from one form would say", ["form", "agreement with the nearest"], rows)
    )
    name, count = Counter(nearest).most_common(1)[0]
    outcome.notes.append(
        f"{count} of {len(nearest)} forms find {name} nearest; {len(set(nearest))} countries are found in all."
    )


def extrapolation(
    outcome: Outcome, survey: Survey, personas: np.ndarray, few: int, needed: float, permutations: int, seed: int
) -> None:
    """Whether few dimensions find the clusters that all of them find, for the model's personas and for people.

    Args:
        outcome: where figures, notes and a table are added.
        survey: the survey.
        personas: the model's answers, [countries, items].
        few: the largest number of dimensions that counts as few.
        needed: adjusted Rand index from which that is enough.
        permutations: of labels.
        seed: of starts and permutations.
    """
    sides = {"people": survey.human, "model": personas}
    rows, found = [], {}
    people = survey.dimensions(survey.human)[0]
    for who, levels in sides.items():
        points, names = survey.dimensions(levels)
        if len(names) < 2 or len(points) < 4:
            outcome.notes.append(
                "Extrapolability was not tested: it needs two dimensions (a column `dimension`, or items m01 to m24) "
                f"and four countries, and there are {len(names)} and {len(points)}."
            )
            return
        if who == "model" and not reliability.mean_distance(points) > LEAST * reliability.mean_distance(people):
            outcome.notes.append(
                "Extrapolability of the model cannot be said: its personas hardly differ, so its clusters are of noise."
            )
            continue
        try:
            whole = reliability.extrapolability(points, names, permutations=permutations, seed=seed)
        except ValueError:
            outcome.notes.append(f"Extrapolability of {who} cannot be said: all countries answer alike.")
            continue
        value = _few(whole, few)
        without = []
        for at in range(len(points)):
            rest = np.delete(points, at, 0)
            alike = len(rest) < 4 or not (rest.std(0) > 1e-12).any()
            less = {"permutations": 0, "seed": seed, "largest": few}
            without.append(value if alike else _few(reliability.extrapolability(rest, names, **less), few))
        estimate = statistics.mean(statistics.jackknife(value, without), seed=seed)
        if estimate is None:
            continue
        figure = Figure(
            value, max(-1.0, estimate.low), min(1.0, estimate.high), len(points), "jackknife over countries",
            "adjusted Rand index", "neither",
        )  # fmt: skip
        outcome.figures[f"few dimensions: {who}"] = found[who] = figure
        rows.append(
            (f"{who}, {whole['clusters']} clusters (silhouette {whole['silhouette']:.2f})", [f"few dimensions: {who}"])
        )
        least = sum(p < 0.05 for subset, p in whole["p"].items() if len(subset) <= few)
        many = sum(len(subset) <= few for subset in whole["p"])
        outcome.notes.append(
            f"{who}: {least} of {many} subsets of at most {few} dimensions find its clusters beyond chance."
        )
    if rows:
        title = f"Clusters of countries by at most {few} dimensions against all"
        outcome.grids.append(Grid(title, ["whose answers", "adjusted Rand index"], rows))
    if "model" in found:
        one = found["model"]
        verdict = "holds" if one.low >= needed else "fails" if one.high < needed else "is undecided"
        outcome.notes.append(f"Extrapolability {verdict}: index {one.value:.2f} where {needed:g} is asked for.")


def _few(found: dict[str, object], few: int) -> float:
    ari = found["ari"]
    assert isinstance(ari, dict)
    return float(np.mean([value for subset, value in ari.items() if len(subset) <= few]))


def steering(outcome: Outcome, survey: Survey, personas: np.ndarray, plain: np.ndarray, seed: int) -> None:
    """How far personas spread, and whether each comes nearer to its own country.

    Args:
        outcome: where figures and notes are added.
        survey: the survey.
        personas: the model's answers as each country, [countries, items], not a number where there is none.
        plain: its answers without a persona, [items].
        seed: of intervals.
    """
    human = survey.human
    filled = np.where(np.isfinite(personas), personas, _column_means(personas))
    if not np.isfinite(filled).all():
        outcome.notes.append("Steerability was not tested: an item was answered for no country.")
        return
    try:
        found = reliability.steerability_spread(human, [filled], seed=seed)
    except ValueError as error:
        outcome.notes.append(f"Steerability was not tested: {error}")
        return
    draws = _resampled_ratio(human, filled, seed)
    ratio = resampled_figure(
        found["pooled_model_ratio"], draws, human.shape[1], "times people's", method="bootstrap over items"
    )
    apart = np.abs(filled[:, None] - human[None]).mean(2)
    own = statistics.share([float(row.argmin() == at) for at, row in enumerate(apart)])
    near = Figure(own.value, own.low, own.high, own.n, own.method, "share")
    closer = None
    if np.isfinite(plain).any():
        there = np.isfinite(plain)
        gain = (np.abs(plain[None] - human) - np.abs(filled - human))[:, there].mean(1)
        closer = mean_figure(gain.tolist(), UNIT, better="higher", seed=seed)
    named = {"spread of personas": ratio, "own country nearest": near, "closer by persona": closer}
    outcome.figures.update({name: figure for name, figure in named.items() if figure is not None})
    outcome.planes.append(_picture(survey, filled))
    chance = 1 / len(survey.countries)
    if near.low > chance and closer is not None and closer.low > 0:
        verdict = "holds"
    elif near.high < 0.5 or (closer is not None and closer.high <= 0):
        verdict = "fails"
    else:
        verdict = "is undecided"
    outcome.notes.append(
        f"Steerability {verdict}: {near.value:.0%} of personas are nearest to their own country (by chance "
        f"{chance:.0%}), and they spread {found['pooled_model_ratio']:.2f} times as far as people do."
    )


def _resampled_ratio(human: np.ndarray, model: np.ndarray, seed: int) -> np.ndarray:
    """The ratio of mean distances in resamples of the items."""
    n = human.shape[1]
    counts = np.stack([np.bincount(rows, minlength=n) for rows in drawn_rows(n, DRAWS, seed)])

    def distance(points: np.ndarray) -> np.ndarray:
        one, other = np.triu_indices(len(points), 1)
        return np.asarray(np.sqrt(counts @ ((points[one] - points[other]) ** 2).T).mean(1))

    people = distance(human)
    return np.where(people > 0, distance(model) / np.where(people > 0, people, 1.0), np.nan)


def _picture(survey: Survey, personas: np.ndarray) -> Plane:
    """People and personas on the two directions in which people differ most."""
    centre = survey.human.mean(0)
    _, _, directions = np.linalg.svd(survey.human - centre, full_matrices=False)
    places = {"people": (survey.human - centre) @ directions[:2].T, "personas": (personas - centre) @ directions[:2].T}
    if directions[:2].shape[0] < 2:
        places = {name: np.pad(found, ((0, 0), (0, 1))) for name, found in places.items()}
    reach = float(max(np.abs(found).max() for found in places.values())) * 1.1 or 1.0
    # To two digits, so that the ends of the axes are short.
    reach = float(f"{reach:.1e}")
    groups = {name: [(float(x), float(y)) for x, y in found] for name, found in places.items()}
    return Plane(
        "Countries and personas, on what people differ in most",
        ("", "first direction"),
        ("", "second"),
        groups,
        {},
        reach,
    )


def _column_means(values: np.ndarray) -> np.ndarray:
    there = np.isfinite(values)
    counts = there.sum(0)
    return np.where(counts > 0, np.where(there, values, 0.0).sum(0) / np.maximum(counts, 1), np.nan)
