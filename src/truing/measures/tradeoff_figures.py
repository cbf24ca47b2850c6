"""Figures and curves of a sweep over strengths, with intervals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from truing.errors import SettingsError
from truing.measures import intervals, statistics
from truing.measures import tradeoff_curves as forms
from truing.measures.result import Curve, Figure

Array = np.ndarray
HELPFULNESS = "1 / (1 + a + a b\u00b2 r\u00b2 / 2)"


@dataclasses.dataclass(frozen=True)
class Form:
    """What is fitted to the values by strength, with two parameters, the first called a.

    Args:
        second: what the second is called.
        fit: the parameters of strengths and values.
        curve: the values of strengths and parameters.
        formula: in words.
    """

    second: str
    fit: Callable[..., tuple[Array, Array]]
    curve: Callable[..., Array]
    formula: str


FORMS = {
    "behaviour": Form("b0", forms.fit_alignment, forms.alignment_curve, "tanh(a r + b0)"),
    "ability": Form("b", forms.fit_helpfulness, forms.helpfulness_curve, HELPFULNESS),
    "relative": Form(
        "b", functools.partial(forms.fit_helpfulness, four_choices=True),
        functools.partial(forms.helpfulness_curve, four_choices=True), f"1/4 + 1/2 \u00b7 {HELPFULNESS}",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Swept:
    """What was measured at each strength.

    Args:
        strengths: in order, [n].
        behaviour: from -1 to 1, [records, n].
        ability: from 0 to 1, [questions, n].
        relative: the probability of the right answer among choices, [questions, n], where all have some.
        four: whether they have four each.
    """

    strengths: Array
    behaviour: Array
    ability: Array
    relative: Array | None = None
    four: bool = False


class Findings:
    """Figures and curves of a sweep, with intervals by a bootstrap over its samples.

    Args:
        swept: what was measured.
        loss: the share of the ability that may be lost.
        within: strengths up to this are fitted; None for all.
        seed: of the bootstrap.
    """

    def __init__(self, swept: Swept, loss: float, within: float | None, seed: int) -> None:
        strengths = swept.strengths
        self.r, self.loss, self.notes = strengths, loss, list[str]()
        columns = {"behaviour": swept.behaviour, "ability": swept.ability}
        if swept.relative is not None:
            columns["relative"] = swept.relative
        self.means = {name: values.mean(0) for name, values in columns.items()}
        self.sizes = {name: len(values) for name, values in columns.items()}
        # Two streams: records of behaviour are drawn apart from the questions that both others are about.
        self.draws = {
            name: statistics.resampled_means(values, seed=seed + (name != "behaviour"))
            for name, values in columns.items()
        }
        self.zero = int(np.abs(strengths).argmin())
        fits = np.abs(strengths) <= (within or np.inf)
        self.fitted = fits if len(np.unique(np.abs(strengths[fits]))) > 1 else np.ones_like(fits)
        # Probabilities among choices have a form where there are four of them.
        self.fits = {
            name: FORMS[name].fit(strengths[self.fitted], mean[self.fitted])
            for name, mean in self.means.items()
            if name != "relative" or swept.four
        }
        # The third of the range around 0, and three strengths at least, show what is linear and what is quadratic.
        ranked = np.argsort(np.abs(strengths), kind="stable")
        self.near = np.abs(strengths) <= max(np.abs(strengths).max() / 3, np.abs(strengths[ranked[:3]]).max()) + 1e-9

    def figures(self) -> dict[str, Figure]:
        """By name; what cannot be told is left out, with a note."""
        r, near, out = self.r, self.near, dict[str, Figure]()

        def put(name: str, what: str, of: Any, unit: str = "", better: str = "neither") -> None:
            out[name] = _figure(of(self.means[what]), of(self.draws[what]), self.sizes[what], unit, better)

        loss = self.loss
        best = forms.best_strength(r, self.means["behaviour"], self.means["ability"], loss)
        draws = forms.best_strength(r, self.draws["behaviour"], self.draws["ability"], loss)
        self._remarks(float(best))
        size = min(self.sizes.values())
        low, high = intervals.percentiles(draws, size)
        low, high = min(low, float(best)), max(high, float(best))
        out["best_strength"] = Figure(float(best), low, high, size, "paired bootstrap", "", "neither")
        at = int(np.flatnonzero(r == best)[0])
        put("behaviour_at_best", "behaviour", lambda y: y[..., at], "", "higher")
        put("behaviour_gained", "behaviour", lambda y: y[..., at] - y[..., self.zero], "", "higher")
        put("ability_at_best", "ability", lambda y: y[..., at], "share", "higher")
        if self.means["ability"][self.zero] > 0:
            put("ability_lost", "ability", lambda y: 1 - self._kept(y)[..., at], "share", "lower")
        else:
            self.notes.append("Nothing was answered right at strength 0, so nothing tells what is lost.")
        put("behaviour_slope", "behaviour", lambda y: forms.line_through(r[near], y[..., near]))
        self._fitted(out, "behaviour")
        if "ability_lost" not in out:
            return out
        put("ability_linear_loss", "ability", lambda y: -forms.line_through(r[near], self._kept(y)[..., near], 1))
        put("ability_quadratic_loss", "ability", lambda y: -forms.line_through(r[near], self._kept(y)[..., near], 2))
        self._fitted(out, "ability")
        if "relative" in self.fits:
            self._fitted(out, "relative")
        self._exponent(out, put)
        return out

    def _exponent(self, out: dict[str, Figure], put: Callable[..., None]) -> None:
        r, near = self.r, self.near
        try:
            put("loss_exponent", "ability", lambda y: forms.loss_exponent(r[near], y[..., near]))
        except SettingsError as error:
            self.notes.append(f"`loss_exponent` is not shown: {error}")
        if "loss_exponent" in out and not np.isfinite(out["loss_exponent"].value):
            del out["loss_exponent"]
            self.notes.append("`loss_exponent` is not shown: ability falls at fewer than two of the strengths near 0.")

    def _remarks(self, best: float) -> None:
        if self.r[self.zero] != 0:
            self.notes.append(f"Ability is compared with strength {self.r[self.zero]:g}, the one nearest 0.")
        if abs(best) == float(np.abs(self.r).max()):
            self.notes.append("The best strength is the end of the range: wider `strengths` may hold a better one.")

    def _fitted(self, out: dict[str, Figure], what: str) -> None:
        form = FORMS[what]
        draws = form.fit(self.r[self.fitted], self.draws[what][:, self.fitted])
        for name, value, many in zip(("a", form.second), self.fits[what], draws):
            out[f"{what}_fit_{name}"] = _figure(value, many, self.sizes[what], "", "neither")

    def _kept(self, ability: Array) -> Array:
        """As shares of what it is at strength 0; not finite in resamples where that is nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(ability / ability[..., self.zero][..., None])

    def curves(self) -> list[Curve]:
        """Behaviour, ability, and ability among choices where there are any, with what is fitted to them."""
        fine = np.linspace(self.r.min(), self.r.max(), 81)
        out = []
        for name, mean in self.means.items():
            unit = "" if name == "behaviour" else "share"
            points = [
                (float(x), _figure(value, draws, self.sizes[name], unit, "higher"))
                for x, value, draws in zip(self.r, mean, self.draws[name].T)
            ]
            fit, formula = [], ""
            if name in self.fits:
                y = FORMS[name].curve(fine, *self.fits[name])
                fit, formula = list(zip(fine.tolist(), y.tolist())), FORMS[name].formula
            out.append(Curve(name, "strength", points, fit, formula))
        return out


def _figure(value: Any, draws: Array, size: int, unit: str, better: str) -> Figure:
    number, found = float(value), np.asarray(draws, dtype=np.float64)
    found = found[np.isfinite(found)]
    low, high = intervals.ends(found, number, size) if len(found) else (np.nan, np.nan)
    return Figure(number, low, high, size, "paired bootstrap", unit, better)
