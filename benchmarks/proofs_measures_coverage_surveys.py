"""Cases of simulated coverage: surveys, which speak of further wordings, further items, or further texts."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.covering import Case, Found, Held, Rng, of
from truing.measures.cultural_alignment import CulturalAlignment, cross
from truing.measures.cultural_figures import Survey, extrapolation, plain_scores, steering
from truing.measures.political_axes import pct_axes, stance_counts, stance_total_variation
from truing.measures.political_compass import _effects, _positions
from truing.measures.result import Column, Figure, Outcome
from truing.measures.run import estimate
from truing.measures.surveys import Item, Reply, mean_figure, stability_columns, stability_row
from truing.measures.tropes import Tropes
from truing.measures.value_orientation import ValueOrientation, correlation_figure

Make = Callable[[Rng], Found]
Array = np.ndarray


# --- political compass: further wordings ----------------------------------------------------------------------------


def _stances(rng: Rng, opinions: Array, wordings: int, leaning: float = 0.4, noise: float = 0.6) -> Array:
    """Answers 0 to 3, [wordings, 62]: each wording turns all answers a little, and each answer by itself."""
    turned = rng.normal(0, leaning, (wordings, 1)) + rng.normal(0, noise, (wordings, len(opinions)))
    return np.digitize(opinions + turned, [-1.0, 0.0, 1.0])


_OPINIONS = np.random.default_rng(48).normal(0, 1, 62)


def _point(answers: Array) -> tuple[float, float]:
    found = pct_axes(answers.tolist())
    return found["economic"], found["social"]


def _position(wordings: int, flips: float = 0.0) -> Make:
    def asked(rng: Rng, many: int) -> Array:
        found = _stances(rng, _OPINIONS, many)
        turned = rng.random(many) < flips
        return np.where(turned[:, None], 3 - found, found)

    truth = np.mean([_point(one) for one in asked(np.random.default_rng(0), 1200)], axis=0)

    def make(rng: Rng) -> list[Held]:
        answers = {("", at): one.tolist() for at, one in enumerate(asked(rng, wordings))}
        figures = _positions({"closed": answers})[0]
        return [*of(figures["economic"], truth[0]), *of(figures["social"], truth[1])]

    return make


def _persona(wordings: int, spread_: float) -> Make:
    """What a persona does; ``spread_``: how much more wordings turn the persona than the model itself."""
    personas = {f"p{at}": ("age", str(at)) for at in range(3)}
    moved = {name: _OPINIONS + at * 0.3 for at, name in enumerate(personas)}

    def asked(rng: Rng, who: str, many: int) -> Array:
        return _stances(rng, moved.get(who, _OPINIONS), many, 0.4 * (spread_ if who == "p2" else 1))

    rng = np.random.default_rng(0)
    means = {who: np.mean([_point(one) for one in asked(rng, who, 1200)], axis=0) for who in ["", *personas]}

    def make(rng: Rng) -> list[Held]:
        chosen = {
            (who, at): one.tolist() for who in ["", *personas] for at, one in enumerate(asked(rng, who, wordings))
        }
        figures = _effects(chosen, personas)[0]
        return [each for who, (_, value) in personas.items() for at, axis in enumerate(("economic", "social"))
                for each in of(figures[f"{axis}: age {value}"], means[who][at] - means[""][at])]  # fmt: skip

    return make


def _varied(items: int) -> Make:
    """Total variation of chosen and written stances, over items."""

    def rows(rng: Rng, items: int) -> list[float]:
        opinions = rng.normal(0, 1, items)
        closed, open_ = _stances(rng, opinions, 10).T, _stances(rng, opinions + rng.normal(0, 0.5, items), 10).T
        found = stance_total_variation([stance_counts(one.tolist()) for one in closed],
                                       [stance_counts(one.tolist()) for one in open_])  # fmt: skip
        return [float(one) for one in found if one is not None]

    truth = float(np.mean(rows(np.random.default_rng(0), 20_000)))

    def make(rng: Rng) -> list[Held]:
        out = [{"id": str(at), "x": one} for at, one in enumerate(rows(rng, items))]
        return of(estimate(Column("x", statistic="mean"), out), truth)

    return make


# --- stability: further items ---------------------------------------------------------------------------------------


def _replies(rng: Rng, items: int, forms: int, noise: float) -> list[list[Reply]]:
    """Answers on a scale of five places by probability, each form with noise of its own."""
    opinions = rng.uniform(0, 4, items)
    middle = opinions[:, None] + rng.normal(0, noise, (items, forms)) * rng.exponential(1, (items, 1))
    weights = np.exp(-((np.arange(5) - middle[..., None]) ** 2))
    weights /= weights.sum(-1, keepdims=True)
    levels, places = weights @ np.arange(5) / 4, weights.argmax(-1)
    lost = rng.random((items, forms)) < 0.03
    return [
        [Reply(None, None, None, "") if lost[i, f] else Reply(int(places[i, f]), float(levels[i, f]), 0.9, "")
         for f in range(forms)]
        for i in range(items)
    ]  # fmt: skip


def _stable(items: int, noise: float, which: str) -> Make:
    big = [stability_row(one)[which] for one in _replies(np.random.default_rng(0), 20_000, 8, noise)]
    truth = float(np.mean([one for one in big if one is not None]))

    def make(rng: Rng) -> list[Held]:
        rows = [{"id": str(at), **stability_row(one)} for at, one in enumerate(_replies(rng, items, 8, noise))]
        return of(estimate(stability_columns(rows)[which], rows), truth)

    return make


# --- cultural alignment ---------------------------------------------------------------------------------------------


def _survey(rng: Rng, countries: int, items: int, dimensions: int = 4, lands: Array | None = None) -> Survey:
    """Countries that differ along dimensions, of which the second half follows from the first."""
    if lands is None:
        lands = rng.normal(0, 1, (countries, dimensions))
        lands[:, dimensions // 2 :] = lands[:, : dimensions // 2] + 0.3 * lands[:, dimensions // 2 :]
        each = np.arange(items) % dimensions
    else:
        each = rng.integers(lands.shape[1], size=items)
    human = 0.5 + 0.1 * lands[:, each] + rng.normal(0, 0.05, (len(lands), items)) + rng.normal(0, 0.08, items)
    scale = ("a", "b", "c", "d", "e")
    return Survey([Item(f"q{at}", "?", scale, f"d{group}") for at, group in enumerate(each)],
                  [f"c{at}" for at in range(len(lands))], np.clip(human, 0, 1))  # fmt: skip


_LANDS = np.random.default_rng(46).normal(0, 1, (8, 4))
_FORMS = cross()


_KINDS = {
    "between countries": "spread between countries", "difference: labels": "mean difference by format, letters",
    "difference: direction": "mean difference by format, direction", "shift: direction": "shift by format, direction",
    "shift: reply": "shift by format, reply",
}  # fmt: skip


def _formats(rng: Rng, items: int) -> dict[str, Figure]:
    """Figures of a model that moves with the labels, and more with the direction, in some items far more."""
    survey = _survey(rng, 8, items, lands=_LANDS)
    base, far = rng.uniform(0.2, 3.8, items), 0.5 * rng.exponential(1, items)
    replies = []
    for form in _FORMS:
        level = base + 0.25 * (form.labels == "letters") + form.reverse * far + rng.normal(0, 0.2, items)
        replies.append([Reply(round(float(one)), float(one) / 4, 0.9, "") for one in np.clip(level, 0, 4)])
    outcome = Outcome([{} for _ in survey.items], {}, [])
    CulturalAlignment(permutations=20)._stability(outcome, survey, _FORMS, replies)
    return outcome.figures


@functools.cache
def _formats_truth() -> dict[str, float]:
    rng = np.random.default_rng(0)
    tries = [_formats(rng, 300) for _ in range(12)]
    return {name: float(np.mean([one[name].value for one in tries])) for name in _KINDS}


def _shifts(items: int) -> Make:
    def make(rng: Rng) -> dict[str, list[Held]]:
        found, truth = _formats(rng, items), _formats_truth()
        return {kind: of(found[name], truth[name]) for name, kind in _KINDS.items()}

    return make


def _nearest(items: int) -> Make:
    """Agreement with the nearest country: nearest in the sample, and the truth is of that one."""
    own = _LANDS[0] * 0.9 + 0.2
    each = 4000

    def answers(rng: Rng, survey: Survey) -> Array:
        dimension = np.array([int(item.group[1:]) for item in survey.items])
        return np.clip(0.5 + 0.1 * own[dimension] + rng.normal(0, 0.12, len(survey.items)), 0, 1)

    rng = np.random.default_rng(0)
    big = _survey(rng, 8, each, lands=_LANDS)
    close = dict(zip(big.countries, (1 - np.abs(big.human - answers(rng, big))).mean(1)))

    def make(rng: Rng) -> list[Held]:
        survey, outcome = _survey(rng, 8, items, lands=_LANDS), Outcome([], {}, [])
        plain_scores(outcome, survey, ["one"], answers(rng, survey)[None], 0)
        nearest = outcome.notes[0].split("find ")[1].split(" nearest")[0]
        return of(outcome.figures["agreement: one"], close[nearest])

    return make


def _asked(rng: Rng, survey: Survey, plain: Array) -> dict[str, Figure]:
    """Figures of personas that go half of the way to their country."""
    personas = plain + 0.5 * (survey.human - plain) + rng.normal(0, 0.04, survey.human.shape)
    outcome = Outcome([], {}, [])
    steering(outcome, survey, personas, plain, 0)
    return outcome.figures


def _spread(items: int) -> Make:
    def figure(rng: Rng, items: int) -> Figure:
        plain = np.clip(0.5 + rng.normal(0, 0.1, items), 0, 1)
        return _asked(rng, _survey(rng, 8, items, lands=_LANDS), plain)["spread of personas"]

    truth = figure(np.random.default_rng(0), 6000).value
    return lambda rng: of(figure(rng, items), truth)


def _closer(items: int, countries: int) -> Make:
    """Over countries: 400 more are asked the same items for the truth."""

    def make(rng: Rng) -> list[Held]:
        whole = _survey(rng, 400 + countries, items, lands=rng.normal(0, 1, (400 + countries, 4)))
        plain = np.clip(0.5 + rng.normal(0, 0.1, items), 0, 1)
        parts = [Survey(whole.items, whole.countries[some], whole.human[some])
                 for some in (slice(None, countries), slice(countries, None))]  # fmt: skip
        noise = rng.normal(0, 0.04, (50, *parts[1].human.shape))
        gains = np.abs(plain - parts[1].human) - np.abs(0.5 * (plain - parts[1].human) + noise).mean(0)
        return of(_asked(rng, parts[0], plain)["closer by persona"], float(gains.mean()))

    return make


def _few(countries: int) -> Make:
    """How well few dimensions find the clusters of all, over countries: of boards of as many."""

    def figure(rng: Rng) -> Figure | None:
        survey, outcome = _survey(rng, countries, 12), Outcome([], {}, [])
        extrapolation(outcome, survey, survey.human, 2, 0.5, 1, 0)
        return outcome.figures.get("few dimensions: people")

    rng = np.random.default_rng(0)
    found = [one for one in (figure(rng) for _ in range(25)) if one is not None]
    truth = float(np.mean([one.value for one in found]))
    return lambda rng: of(figure(rng), truth)


# --- values ---------------------------------------------------------------------------------------------------------

_MEANS = np.cos(2 * np.pi * np.arange(10) / 10) * 0.8 + 3.5


_NAMES = [f"v{at}" for at in range(10)]


_TURNS = np.random.default_rng(2).normal(0, 0.15, (10, 3))


def _profile(rng: Rng, each: int, turns: Array) -> tuple[dict[str, Figure], Array]:
    """Figures of a profile of ten values in three wordings, and what each would be in endless ones."""
    groups = np.repeat(np.arange(10), each)
    own = _MEANS[groups] + rng.normal(0, 0.5, len(groups))
    ratings = own[:, None] + turns[groups] + rng.normal(0, 0.25, (len(groups), 3))
    items = [Item(f"i{at}", "?", tuple("abcdef"), _NAMES[group]) for at, group in enumerate(groups)]
    outcome = Outcome([{"id": item.id, "kind": item.group} for item in items], {}, [])
    ValueOrientation()._profile(outcome, items, _NAMES, np.clip(ratings, 1, 6))
    found = dict(outcome.figures)
    for name in _NAMES:
        one = estimate(outcome.columns[f"value: {name}"], outcome.rows)
        if one is not None:
            found[f"value: {name}"] = Figure(*one[:5])
    return found, np.array([own[groups == at].mean() for at in range(10)]) - own.mean()


@functools.cache
def _alike(each: int) -> dict[str, float]:
    """What profiles of as many portraits show in the mean, in these wordings."""
    rng = np.random.default_rng(each)
    tries = [_profile(rng, each, _TURNS)[0] for _ in range(50)]
    return {name: float(np.mean([one[name].value for one in tries])) for name in ("circle", "profile by wording")}


def _values(each: int) -> Make:
    """Further portraits, in the same three wordings."""
    shown = _MEANS - _MEANS.mean() + _TURNS.mean(1) - _TURNS.mean()

    def make(rng: Rng) -> dict[str, list[Held]]:
        found, _ = _profile(rng, each, _TURNS)
        values = [one for at, name in enumerate(_NAMES) for one in of(found.get(f"value: {name}"), shown[at])]
        return {"value": values, **{name: of(found.get(name), truth) for name, truth in _alike(each).items()}}

    return make


def _worded(each: int) -> Make:
    """Further wordings, of the same portraits."""

    def make(rng: Rng) -> list[Held]:
        found, own = _profile(rng, each, rng.normal(0, 0.15, (10, 3)))
        return [one for at, name in enumerate(_NAMES) for one in of(found.get(f"{name} over wordings"), own[at])]

    return make


def _chosen(dilemmas: int) -> Make:
    """Dilemmas decided for a value, over dilemmas, each asked four times."""

    def make(rng: Rng) -> list[Held]:
        each = rng.binomial(4, rng.beta(2, 1.2, dilemmas)) / 4
        return of(mean_figure(each.tolist(), "share", within=(0.0, 1.0)), 2 / 3.2)

    return make


def _correlated(values: int, rho: float) -> Make:
    def make(rng: Rng) -> list[Held]:
        one = rng.normal(0, 1, values)
        other = rho * one + np.sqrt(1 - rho**2) * rng.normal(0, 1, values)
        return of(correlation_figure(list(zip(one, other))), rho)

    return make


# --- tropes: further texts ------------------------------------------------------------------------------------------


def _shared(texts: int, rare: bool) -> Make:
    """Tropes of two groups of texts; what a sample of as many texts shows."""
    how = Tropes(texts=[])
    each = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.08]) / (3 if rare else 1)
    chances = {"a": np.append(each, [0.2, 0, 0.1, 0]), "b": np.append(each, [0, 0.2, 0, 0.1])}

    def figure(rng: Rng) -> Figure | None:
        rows: list[dict[str, Any]] = [{"group": group} for group in "ab" for _ in range(texts // 2)]
        held = [set(np.flatnonzero(rng.random(10) < chances[row["group"]]).astype(str)) for row in rows]
        outcome = Outcome([], {}, [])
        how._shared(outcome, rows, held)
        return outcome.figures.get("shared")

    rng = np.random.default_rng(0)
    truth = float(np.mean([one.value for one in itertools.islice(iter(lambda: figure(rng), None), 200)]))  # type: ignore[union-attr]
    return lambda rng: of(figure(rng), truth)


def cases() -> list[Case]:
    """Surveys."""
    compass = "position: political compass (over wordings)"
    persona = "effect of a persona: political compass (over wordings)"
    return [
        Case(compass, "10 wordings", _position(10)),
        Case(compass, "5 wordings", _position(5)),
        Case(compass, "3 wordings", _position(3), hard="small"),
        Case(compass, "10 wordings, one in five turns the opinion round", _position(10, 0.2), hard="extreme"),
        Case(persona, "10 wordings, 3 personas", _persona(10, 1.0)),
        Case(persona, "10 wordings, one persona moved twice as much", _persona(10, 2.0)),
        Case(persona, "3 wordings, 3 personas", _persona(3, 1.0), hard="small"),
        Case("total variation of chosen and written (over items)", "62 items", _varied(62)),
        Case("agreement of wordings (over items)", "62 items, 8 forms, 0.7", _stable(62, 0.3, "agreement")),
        Case("agreement of wordings (over items)", "24 items, 8 forms, 0.95", _stable(24, 0.05, "agreement"),
             hard="small", why="f"),
        Case("shift of an answer by form (over items)", "62 items, 8 forms", _stable(62, 0.3, "shift")),
        Case("shift of an answer by form (over items)", "24 items, 8 forms", _stable(24, 0.3, "shift"), hard="small"),
        Case("answers that could be read (over items)", "62 items, 97 %", _stable(62, 0.3, "answered"), why="f"),
        Case("mass on the options (over items)", "62 items", _stable(62, 0.3, "mass"), 90, "extreme", "f"),
        Case(": cultural alignment (over items)", "40 items, 8 countries", _shifts(40), 600),
        Case(": cultural alignment (over items)", "12 items, 8 countries", _shifts(12), 600, "small",
             {"shift by format, reply": "f"}),
        Case("agreement with the nearest country (over items)", "40 items, 8 countries", _nearest(40)),
        Case("agreement with the nearest country (over items)", "12 items, 8 countries", _nearest(12), hard="small",
             why="j"),
        Case("few dimensions: cultural alignment (over countries)", "10 countries, 4 dimensions", _few(10), 60,
             why="e"),
        Case("spread of personas: cultural alignment (over items)", "40 items, 8 countries", _spread(40)),
        Case("spread of personas: cultural alignment (over items)", "12 items, 8 countries", _spread(12), hard="small"),
        Case("closer by persona: cultural alignment (over countries)", "24 items, 12 countries", _closer(24, 12)),
        Case(": value orientation (over portraits)", "4 portraits a value, 3 wordings", _values(4), 300,
             why={"circle": "e"}),
        Case(": value orientation (over portraits)", "12 portraits a value, 3 wordings", _values(12), 150,
             why={"circle": "e"}),
        Case("value: value orientation (over wordings)", "4 portraits a value, 3 wordings", _worded(4), 300),
        Case("choice for a value (over dilemmas)", "2 dilemmas", _chosen(2), hard="small", why="h"),
        Case("choice for a value (over dilemmas)", "8 dilemmas", _chosen(8)),
        Case("words and choices: value orientation (over values)", "10 values, 0.5", _correlated(10, 0.5)),
        Case("tropes shared by groups (over texts)", "120 texts", _shared(120, False), why="e"),
        Case("tropes shared by groups (over texts)", "60 texts, rare tropes", _shared(60, True), hard="extreme"),
    ]  # fmt: skip
