"""How many items a comparison needs, and what a pilot can see: sample sizes for shares and means.

All sizes are for two-sided tests, by default at the 5 % level with 80 % power. Items are taken to be independent draws;
where they come in clusters, a spread that was measured with them in it holds them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from truing.contracts import is_number, require
from truing.errors import SettingsError
from truing.measures.statistics import clopper_pearson

ALPHA = 0.05
POWER = 0.8
MOST = 10**9
"""Beyond so many items no size is worked out."""


def shares_unpaired(difference: float, share: float = 0.5, *, power: float = POWER, alpha: float = ALPHA) -> int:
    """Items a model needs so that a difference of two shares shows, where the models answer different items.

    With both models' shares p and p + d, the size of the test of two shares, corrected for continuity as exact tests
    need it. Of the two directions the one that needs more counts.

    Args:
        difference: d, above 0 and below 1.
        share: p, that of the one model; 0.5 needs the most.
        power: chance to see the difference where it is there.
        alpha: of the two-sided test.

    Source: Fleiss, Tytun and Ury 1980, eq. 2 and 4.
    """
    _check(difference, power, alpha)
    require(0 <= share <= 1, f"A share is from 0 to 1, not {share!r}.")
    others = [other for other in (share - difference, share + difference) if 0 <= other <= 1]
    require(bool(others), f"No share lies {difference} from {share}. Ask for a smaller difference.")
    needed = 0.0
    for other in others:
        mean = (share + other) / 2
        both = share * (1 - share) + other * (1 - other)
        spread = _z(1 - alpha / 2) * math.sqrt(2 * mean * (1 - mean)) + _z(power) * math.sqrt(both)
        plain = (spread / difference) ** 2
        needed = max(needed, plain / 4 * (1 + math.sqrt(1 + 4 / (plain * difference))) ** 2)
    return math.ceil(needed)


def shares_paired(difference: float, discordance: float, *, power: float = POWER, alpha: float = ALPHA) -> int:
    """Items that both models must answer so that McNemar's exact test sees a difference of two shares.

    Args:
        difference: of the shares, above 0.
        discordance: share of items that one model gets right and the other wrong, at least the difference.
        power: chance to see the difference where it is there.
        alpha: of the two-sided test.

    Source: Connor 1987, eq. 5, for where the search begins; `mcnemar_power` for where it ends.
    """
    _check(difference, power, alpha)
    require(
        difference <= discordance <= 1,
        f"Models whose shares differ by {difference} disagree on at least as many items, and on all at most: "
        f"`discordance` is {discordance!r}.",
    )
    start = _connor(difference, discordance, power, alpha)
    return _least(lambda n: mcnemar_power(n, difference, discordance, alpha=alpha) >= power, start)


def mcnemar_power(n: int, difference: float, discordance: float, *, alpha: float = ALPHA) -> float:
    """Chance that McNemar's exact two-sided test of n items is significant.

    The number of items on which the models disagree is binomial (n, discordance); given it, the number on which the
    better one is right is binomial with probability (discordance + difference) / (2 discordance).
    """
    share = (discordance + difference) / (2 * discordance)
    centre, reach = n * discordance, 9 * math.sqrt(n * discordance * (1 - discordance)) + 9
    m = np.arange(max(0, math.floor(centre - reach)), min(n, math.ceil(centre + reach)) + 1)
    weight = np.exp(_log_binomial(m, n, discordance))
    # The largest k for which P(X <= k) <= alpha / 2 under a fair coin: up to k, and from m - k on, is significant.
    k = np.floor(np.nan_to_num(special.bdtrik(alpha / 2, m, 0.5), nan=-1.0)).astype(np.int64)
    k = np.where(_bdtr(k + 1, m, 0.5) <= alpha / 2, k + 1, k)
    k = np.where(_bdtr(k, m, 0.5) <= alpha / 2, k, k - 1)
    significant = _bdtr(k, m, share) + _bdtr(k, m, 1 - share)
    return float(min(1.0, (weight * significant).sum()))


def means_paired(difference: float, spread: float, *, power: float = POWER, alpha: float = ALPHA) -> int:
    """Items that both models must answer so that a difference of two means shows.

    Args:
        difference: of the means, above 0, in the figure's unit.
        spread: standard deviation of the items' differences. That of one model's values, where it is compared with a
            number.
        power: chance to see the difference where it is there.
        alpha: of the two-sided test.

    Source: Student's t with n - 1 degrees of freedom; its power from the noncentral t (Cohen 1988, section 2.2).
    """
    return _by_t(difference, spread, power, alpha, 1)


def means_unpaired(difference: float, spread: float, *, power: float = POWER, alpha: float = ALPHA) -> int:
    """Items a model needs so that a difference of two means shows, where the models answer different items.

    Args:
        difference: of the means, above 0, in the figure's unit.
        spread: standard deviation of the items' values, alike for both models.
        power, alpha: as for `means_paired`.

    Source: Student's t with 2n - 2 degrees of freedom; its power from the noncentral t.
    """
    return _by_t(difference, spread, power, alpha, 2)


def detectable(size: Callable[[float], int], n: int, most: float = 1.0) -> float | None:
    """The smallest difference for which n items are enough, to three digits; None where none up to ``most`` is.

    Args:
        size: items needed for a difference; it falls as the difference grows, and raises `SettingsError` for one that
            is too large to be.
        n: items that there are.
        most: the largest difference to think of.
    """

    def enough(difference: float) -> bool | None:
        try:
            return size(difference) <= n
        except SettingsError:
            return None

    low, high = 0.0, most
    while high - low > 5e-4 * high:
        middle = (low + high) / 2
        if enough(middle) is False:
            low = middle
        else:
            high = middle
    return high if enough(high) else None


def more_items(value: float, low: float, high: float, bound: float, n: int, *, exact: bool = False) -> int | None:
    """About how many items would let a 95 % interval leave a bound out, if the value stays where it is; None where
    the value is the bound itself, or that many items are beyond reach.

    An interval shrinks with the root of the number of items.

    Args:
        value, low, high: the estimate and its interval.
        bound: what the interval holds, and should not.
        n: items behind it.
        exact: the interval is that of a share (Clopper-Pearson), which shrinks faster near 0 and 1.
    """
    away = abs(value - bound)
    half = value - low if bound < value else high - value
    if away <= 0 or half <= 0:
        return None
    if not exact:
        needed = n * (half / away) ** 2
        return math.ceil(needed) if needed <= MOST else None

    def size(wanted: float) -> float:
        """Effective number of items at which this side of the interval is so long."""
        lower, upper = 0.0, math.log(MOST)
        for _ in range(60):
            middle = (lower + upper) / 2
            ends = clopper_pearson(value * math.exp(middle), math.exp(middle))
            if (value - ends[0] if bound < value else ends[1] - value) > wanted:
                lower = middle
            else:
                upper = middle
        return math.exp(upper)

    needed = n * size(away) / size(half)
    return math.ceil(needed) if size(away) < 0.99 * MOST else None


def _by_t(difference: float, spread: float, power: float, alpha: float, groups: int) -> int:
    _check(difference, power, alpha, most=math.inf)
    require(is_number(spread) and spread >= 0, f"A spread is a number from 0 on, not {spread!r}.")
    if spread == 0:
        return 2
    effect = difference / spread

    def enough(n: int) -> bool:
        free = groups * (n - 1)
        t = float(special.stdtrit(free, 1 - alpha / 2))
        centre = effect * math.sqrt(n / groups)
        return float(1 - special.nctdtr(free, centre, t)) >= power

    plain = groups * ((_z(1 - alpha / 2) + _z(power)) / effect) ** 2
    require(plain <= MOST, f"A difference of {difference:g} needs over {MOST:,} items where the spread is {spread:g}.")
    if plain > 10_000:
        # Student's t is the normal curve by then; the noncentral one grows slow.
        return math.ceil(plain + _z(1 - alpha / 2) ** 2 / (2 * groups))
    return _least(enough, max(2, math.floor(plain)))


def _connor(difference: float, discordance: float, power: float, alpha: float) -> int:
    root = math.sqrt(max(0.0, discordance - difference**2))
    size = ((_z(1 - alpha / 2) * math.sqrt(discordance) + _z(power) * root) / difference) ** 2
    require(size <= MOST, f"A difference of {difference:g} needs over {MOST:,} items. Ask for a larger one.")
    return math.ceil(size)


def _least(enough: Callable[[int], bool], start: int) -> int:
    """The smallest n near ``start`` that is enough; power rises with n but for small steps of exact tests."""
    low, high = 1, max(2, start)
    while not enough(high):
        low, high = high, high + max(1, high // 8)
    if low == 1:
        step = max(1, high // 8)
        while high - step > 1 and enough(high - step):
            high -= step
        low = max(1, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high


def _z(probability: float) -> float:
    return float(special.ndtri(probability))


def _bdtr(k: np.ndarray, n: np.ndarray, p: float) -> np.ndarray:
    """P(X <= k), 0 for k below 0 and 1 from n on."""
    inside = np.clip(k, 0, n)
    return np.where(
        k < 0, 0.0, np.where(k >= n, 1.0, special.betainc(np.maximum(n - inside, 1e-300), inside + 1, 1 - p))
    )


def _log_binomial(k: np.ndarray, n: int, p: float) -> np.ndarray:
    if p >= 1:
        return np.where(k == n, 0.0, -np.inf)
    choose = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return choose + special.xlogy(k, p) + special.xlog1py(n - k, -p)


def _check(difference: float, power: float, alpha: float, most: float = 1.0) -> None:
    require(
        is_number(difference) and 0 < difference < most,
        f"A difference to see is above 0{f' and below {most:g}' if most < math.inf else ''}, not {difference!r}.",
    )
    require(0 < alpha < 1 and alpha < power < 1, f"power {power!r} lies between alpha {alpha!r} and 1.")
