"""Figures and curves of a sweep over strengths, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from truing.errors import SettingsError
from truing.measures import statistics
from truing.measures import tradeoff_curves as forms
from truing.measures.result import Curve, Figure

Array = np.ndarray
FORM = "1 / (1 + a + a b\u00b2 r\u00b2 / 2)"


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
        self.r, self.loss, self.four, self.notes = strengths, loss, swept.four, list[str]()
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
        # The third of the range around 0, and three strengths at least, show what is linear and what is quadratic.
        ranked = np.argsort(np.abs(strengths), kind="stable")
        near = np.abs(strengths) <= max(np.abs(strengths).max() / 3, np.abs(strengths[ranked[:3]]).max()) + 1e-9
        self.near = near

    def figures(self) -> dict[str, Figure]:
        """By name; what cannot be told is left out, with a note."""
        r, near, out = self.r, self.near, dict[str, Figure]()

        def put(name: str, what: str, of: Any, unit: str = "", better: str = "neither") -> None:
            self._put(out, name, of(self.means[what]), of(self.draws[what]), self.sizes[what], unit, better)

        loss = self.loss
        best = forms.best_strength(r, self.means["behaviour"], self.means["ability"], loss)
        draws = forms.best_strength(r, self.draws["behaviour"], self.draws["ability"], loss)
        self._remarks(float(best))
        size = min(self.sizes.values())
        self._put(out, "best_strength", best, draws, size, "", "neither")
        at = int(np.flatnonzero(r == best)[0])
        put("behaviour_at_best", "behaviour", lambda y: y[..., at], "", "higher")
        put("behaviour_gained", "behaviour", lambda y: y[..., at] - y[..., self.zero], "", "higher")
        put("ability_at_best", "ability", lambda y: y[..., at], "share", "higher")
        if self.means["ability"][self.zero] > 0:
            put("ability_lost", "ability", lambda y: 1 - self._kept(y)[..., at], "share", "lower")
        else:
            self.notes.append("Nothing was answered right at strength 0, so nothing tells what is lost.")
        put("behaviour_slope", "behaviour", lambda y: forms.line_through(r[near], y[..., near]))
        self._fitted(out, "behaviour", "b0", forms.fit_alignment)
        if "ability_lost" not in out:
            return out
        put("ability_linear_loss", "ability", lambda y: -forms.line_through(r[near], self._kept(y)[..., near], 1))
        put("ability_quadratic_loss", "ability", lambda y: -forms.line_through(r[near], self._kept(y)[..., near], 2))
        self._fitted(out, "ability", "b", forms.fit_helpfulness)
        if self.four and "relative" in self.means:
            self._fitted(out, "relative", "b", lambda r, y: forms.fit_helpfulness(r, y, True))
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

    def _fitted(self, out: dict[str, Figure], what: str, second: str, fit: Callable[..., tuple[Array, Array]]) -> None:
        r, fitted = self.r[self.fitted], self.fitted
        values, draws = (fit(r, one[what][..., fitted]) for one in (self.means, self.draws))
        for name, value, many in zip(("a", second), values, draws):
            self._put(out, f"{what}_fit_{name}", value, many, self.sizes[what], "", "neither")

    def _kept(self, ability: Array) -> Array:
        """As shares of what it is at strength 0; not finite in resamples where that is nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(ability / ability[..., self.zero][..., None])

    def _put(
        self, out: dict[str, Figure], name: str, value: Any, draws: Array, size: int, unit: str, better: str
    ) -> None:
        low, high = statistics.percentiles(np.asarray(draws, dtype=np.float64), size)
        number = float(value)
        out[name] = Figure(number, min(low, number), max(high, number), size, "paired bootstrap", unit, better)

    def curves(self) -> list[Curve]:
        """Behaviour, ability, and ability among choices where there are any, with what is fitted to them."""
        r, fine = self.r, np.linspace(self.r.min(), self.r.max(), 81)
        behaviour, ability = (self.means[name][self.fitted] for name in ("behaviour", "ability"))
        a, b0 = forms.fit_alignment(r[self.fitted], behaviour)
        c, d = forms.fit_helpfulness(r[self.fitted], ability)
        out = [
            self._curve("behaviour", "", fine, forms.alignment_curve(fine, a, b0), "tanh(a r + b0)"),
            self._curve("ability", "share", fine, forms.helpfulness_curve(fine, c, d), FORM),
        ]
        if "relative" in self.means:
            x, y, formula = np.array([]), np.array([]), ""
            if self.four:
                a, b = forms.fit_helpfulness(r[self.fitted], self.means["relative"][self.fitted], True)
                x, y, formula = fine, forms.helpfulness_curve(fine, a, b, True), f"1/4 + 1/2 \u00b7 {FORM}"
            out.append(self._curve("relative", "share", x, y, formula))
        return out

    def _curve(self, name: str, unit: str, x: Any, y: Any, formula: str) -> Curve:
        points = []
        for at, strength in enumerate(self.r):
            low, high = statistics.percentiles(self.draws[name][:, at], self.sizes[name])
            value = float(self.means[name][at])
            figure = Figure(value, min(low, value), max(high, value), self.sizes[name], "paired bootstrap", unit)
            points.append((float(strength), figure))
        return Curve(name, "strength", points, [(float(a), float(b)) for a, b in zip(x, y)], formula)
