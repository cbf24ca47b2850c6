"""Ends of 95 % intervals from the values of a statistic in resamples."""

from __future__ import annotations

import numpy as np
from scipy import special

ALPHA = 0.05

Array = np.ndarray


def ends(draws: Array, value: float, many: int) -> tuple[float, float]:
    """Ends of a 95 % interval from resampled values of a smooth statistic, at least as wide as Student's; see `mean`.

    Args:
        draws: one finite value a resample.
        value: the statistic.
        many: rows that were resampled, at least 2.
    """
    reach = _reach(many)
    tail = float(special.ndtr(-reach))
    low, high = np.quantile(draws, [tail, 1 - tail])
    # Resamples of few units never go beyond the most extreme unit; Student's t does. Where they lean to a side, so does
    # what they do not show: a mean of skew values is off that way farther than it seems.
    half, lean = reach * _spread(draws), _lean(draws) * (1 + 2 * reach**2)
    return min(float(low), value - half + min(lean, 0.0)), max(float(high), value + half + max(lean, 0.0))


def percentiles(draws: Array, many: int) -> tuple[float, float]:
    """Ends of a 95 % interval from resampled values of any statistic, as far out as `mean` takes them.

    Args:
        draws: one value a resample; those that are not finite are left out.
        many: rows that were resampled, at least 2.
    """
    found = draws[np.isfinite(draws)]
    tail = float(special.ndtr(-_reach(many)))
    low, high = np.quantile(found, [tail, 1 - tail]) if len(found) else (np.nan, np.nan)
    return float(low), float(high)


def chance(draws: Array, value: float, many: int) -> float:
    """The p-value that belongs to the interval of `ends`."""
    spread = _spread(draws)
    if value == 0 or spread == 0:
        return 1.0
    beyond = float((draws <= 0).mean() if value > 0 else (draws >= 0).mean())
    # Each end of the interval is the farther one of two, so the nearer reach decides. The first is the root of
    # reach + lean (1 + 2 reach^2) = value, in standard errors.
    lean = max(0.0, -float(np.sign(value)) * _lean(draws) / spread)
    off = abs(value) / spread - lean
    plain = 2 * off / (1 + float(np.sqrt(1 + 8 * lean * off))) if off > 0 else 0.0
    reaches = [plain, *([-float(special.ndtri(beyond))] if beyond > 0 else [])]
    t = min(reaches) / float(np.sqrt(many / (many - 1)))
    return min(1.0, 2 * float(special.stdtr(many - 1, -t)))


def beyond(many: int) -> float:
    """The largest share of unlike units under which so many alike ones still turn up in 1 of 40 samples."""
    return float(1 - (ALPHA / 2) ** (1 / many))


def student(free: int) -> float:
    """How many standard errors an end of a 95 % interval lies off, by Student's t with so many degrees of freedom."""
    return float(special.stdtrit(free, 1 - ALPHA / 2))


def _reach(many: int) -> float:
    """How many standard errors of resamples an end lies off: Student's t, and a bootstrap's spread is too small."""
    return student(many - 1) * float(np.sqrt(many / (many - 1)))


def _lean(draws: Array) -> float:
    """A sixth of the skewness, times the standard deviation."""
    spread = _spread(draws)
    # Each draw is divided for itself: sums of draws may be too large for a float.
    off = draws / spread if spread else np.zeros(len(draws))
    return spread * float(((off - off.mean()) ** 3).mean()) / 6


def _spread(draws: Array) -> float:
    """The standard deviation, also of numbers whose squares are too large for a float (the perplexity of noise)."""
    power = int(np.frexp(np.abs(draws).max())[1])
    return float(np.ldexp(np.ldexp(draws, -power).std(), power))
