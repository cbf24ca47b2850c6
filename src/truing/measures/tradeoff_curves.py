"""How behaviour and ability follow the strength of an edit: the forms that theory gives them, and fits of these forms.

Source of all forms: Wolf et al. 2024, arXiv 2401.16332, theorems 1 and 2 and section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from truing.errors import SettingsError

Array = np.ndarray


def alignment_curve(strengths: Sequence[float] | Array, a: float | Array, b0: float | Array) -> Array:
    """Behaviour from -1 to 1, tanh(a r + b0): linear at first, then saturated; its slope at 0 is a (1 - tanh^2 b0)."""
    return np.tanh(np.multiply.outer(a, np.asarray(strengths, dtype=np.float64)) + np.asarray(b0)[..., None])


def helpfulness_curve(
    strengths: Sequence[float] | Array, a: float | Array, b: float | Array, four_choices: bool = False
) -> Array:
    """Probability of the right answer, 1 / (1 + a + a b^2 r^2 / 2): flat at 0, and less by a quadratic beside it.

    Args:
        strengths: r, [n].
        a: the odds against the right answer at strength 0, so that p_0 = 1 / (1 + a); at least 0; any shape.
        b: how fast the odds rise, of the same shape.
        four_choices: relative to four choices: half of it plus a quarter, from 1/4 to at most 3/4.

    Returns:
        [..., n].
    """
    squares = np.asarray(strengths, dtype=np.float64) ** 2
    odds = np.asarray(a)[..., None] * (1 + np.multiply.outer(np.asarray(b) ** 2, squares) / 2)
    return 0.5 / (1 + odds) + 0.25 if four_choices else 1 / (1 + odds)


def gaussian_helpfulness(p0: float, strengths: Sequence[float] | Array, sigma: float) -> tuple[Array, Array]:
    """Probability of the right answer where the edit shifts wrong tokens' scores by normal numbers of deviation
    sigma r: in the mean field, p_0 / (p_0 + (1 - p_0) exp(sigma^2 r^2 / 2)), and the quadratic form that bounds it.
    """
    if not 0 < p0 <= 1:
        raise SettingsError(f"p0 is a probability over 0, not {p0!r}.")
    half = sigma**2 * np.asarray(strengths, dtype=np.float64) ** 2 / 2
    return p0 / (p0 + (1 - p0) * np.exp(half)), p0 / (p0 + (1 - p0) * (1 + half))


def alignment_bound(strengths: Sequence[float] | Array, start: float, gap: float) -> Array:
    """The least behaviour at strengths of at least 0: tanh(gap/2 r + artanh start).

    Args:
        strengths: r.
        start: behaviour at 0.
        gap: by how much a strength of 1 moves the least moved aligned token's score above the most moved other's.
    """
    return np.tanh(gap / 2 * np.asarray(strengths, dtype=np.float64) + np.arctanh(start))


def last_layer_steering(
    unembedding: Array, hidden: Array, direction: Array, positive: Sequence[int], negative: Sequence[int],
    correct: int, strengths: Sequence[float],
) -> dict[str, Array | float]:  # fmt: skip
    """What steering the last hidden state does, exactly, where no norm follows: scores U (h + r v).

    Args:
        unembedding: U, [vocabulary, width].
        hidden: h, [width].
        direction: v, [width].
        positive, negative: ids of aligned and misaligned tokens.
        correct: id of the right answer.
        strengths: r, [n].

    Returns:
        ``behaviour`` [n], P(aligned) - P(misaligned) among these tokens; ``p_correct`` [n], over all; ``gap``, and the
        ``bound`` on behaviour that follows from it where r is at least 0; and ``shift`` of every other token's score
        against the right one's, for a strength of 1.
    """
    scores = np.asarray(unembedding, dtype=np.float64)
    moves = scores @ np.asarray(direction, dtype=np.float64)
    start = scores @ np.asarray(hidden, dtype=np.float64)
    logits = start + np.multiply.outer(np.asarray(strengths, dtype=np.float64), moves)
    logits = np.vstack([logits, start])  # strength 0 last
    chosen = np.exp(logits - logits.max(1, keepdims=True))
    good, bad = chosen[:, list(positive)].sum(1), chosen[:, list(negative)].sum(1)
    behaviour = (good - bad) / (good + bad)
    gap = float(moves[list(positive)].min() - moves[list(negative)].max())
    return {
        "behaviour": behaviour[:-1],
        "p_correct": (chosen[:, correct] / chosen.sum(1))[:-1],
        "gap": gap,
        "bound": alignment_bound(strengths, behaviour[-1], gap),
        "shift": np.delete(moves - moves[correct], correct),
    }


# --- fits -----------------------------------------------------------------------------------------------------------


def fit_alignment(strengths: Sequence[float] | Array, behaviour: Array) -> tuple[Array, Array]:
    """a and b0 of `alignment_curve` by least squares; a may be below 0, where the edit pushes the other way.

    Args:
        strengths: r, [n], at least 2 of them.
        behaviour: [..., n], each curve fitted for itself.

    Returns:
        Two arrays of the leading shape.
    """
    r, y = _points(strengths, behaviour)
    line = np.arctanh(np.clip(y, -0.999, 0.999))
    # Where it is saturated, the slope of artanh is noise: middle points count.
    weights = 1 - np.clip(y, -0.999, 0.999) ** 2
    middle = (weights * r).sum(-1) / weights.sum(-1)
    height = (weights * line).sum(-1) / weights.sum(-1)
    off = r - middle[..., None]
    slope = (weights * off * line).sum(-1) / np.maximum((weights * off**2).sum(-1), 1e-12)

    def form(values: Array) -> tuple[Array, Array]:
        found = np.tanh(values[..., :1] * r + values[..., 1:])
        steep = 1 - found**2
        return found, np.stack([steep * r, steep], -1)

    values = _least_squares(form, np.stack([slope, height - slope * middle], -1), y)
    return values[..., 0], values[..., 1]


def fit_helpfulness(
    strengths: Sequence[float] | Array, p_correct: Array, four_choices: bool = False
) -> tuple[Array, Array]:
    """a and b of `helpfulness_curve` by least squares, neither below 0; shapes as for `fit_alignment`."""
    r, y = _points(strengths, p_correct)
    low, high, scale = (0.25, 0.75, 0.5) if four_choices else (0.0, 1.0, 1.0)
    edge = 1e-6
    odds = scale / (np.clip(y, low + edge, high - edge) - low) - 1
    # Of the odds' line in r^2, through the points where p is not yet tiny.
    weights = 1 / (1 + odds) ** 4
    squares, total = r**2, weights.sum(-1)
    middle, height = (weights * squares).sum(-1) / total, (weights * odds).sum(-1) / total
    off = squares - middle[..., None]
    rise = np.maximum((weights * off * odds).sum(-1) / np.maximum((weights * off**2).sum(-1), 1e-12), 1e-9)
    begin = np.maximum(height - rise * middle, 1e-3)

    # In log a and log of a b^2 / 2, which keeps both above 0.
    def form(values: Array) -> tuple[Array, Array]:
        a, c = np.exp(values[..., :1]), np.exp(values[..., 1:])
        found = 1 / (1 + a + c * squares)
        steep = -scale * found**2
        return scale * found + low, np.stack([steep * a, steep * c * squares], -1)

    values = _least_squares(form, np.log(np.stack([begin, rise], -1)), y)
    a = np.exp(values[..., 0])
    return a, np.sqrt(2 * np.exp(values[..., 1]) / a)


def _points(strengths: Sequence[float] | Array, values: Array) -> tuple[Array, Array]:
    r, y = np.asarray(strengths, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if r.ndim != 1 or y.shape[-1:] != r.shape or len(np.unique(np.abs(r))) < 2:
        raise SettingsError("A curve is fitted to values at two strengths at least, one value for each.")
    return r, y


def _least_squares(form: Callable[[Array], tuple[Array, Array]], values: Array, y: Array) -> Array:
    """Levenberg and Marquardt's steps, for many curves at one time; two parameters."""
    damping = np.full((*values.shape[:-1], 1), 1e-3)
    found, slopes = form(values)
    cost = ((y - found) ** 2).sum(-1, keepdims=True)
    for _ in range(100):
        normal = np.einsum("...ni,...nj->...ij", slopes, slopes)
        pull = np.einsum("...ni,...n->...i", slopes, y - found)
        diagonal = np.einsum("...ii->...i", normal)
        bent = normal + (damping * (diagonal + 1e-12))[..., None] * np.eye(2)
        determinant = bent[..., 0, 0] * bent[..., 1, 1] - bent[..., 0, 1] * bent[..., 1, 0]
        ahead = bent[..., 1, 1] * pull[..., 0] - bent[..., 0, 1] * pull[..., 1]
        below = bent[..., 0, 0] * pull[..., 1] - bent[..., 1, 0] * pull[..., 0]
        step = np.stack([ahead, below], -1) / np.maximum(determinant, 1e-300)[..., None]
        tried = values + np.clip(step, -2, 2)
        next_found, next_slopes = form(tried)
        next_cost = ((y - next_found) ** 2).sum(-1, keepdims=True)
        better = next_cost < cost
        moved = float(np.abs(np.where(better, tried - values, 0)).max())
        values, cost = np.where(better, tried, values), np.where(better, next_cost, cost)
        found, slopes = np.where(better, next_found, found), np.where(better[..., None], next_slopes, slopes)
        damping = np.clip(np.where(better, damping / 4, damping * 4), 1e-12, 1e12)
        if moved < 1e-13 and bool((better | (damping > 1e6)).all()):
            break
    return values


# --- near strength 0 ------------------------------------------------------------------------------------------------


def line_through(strengths: Sequence[float] | Array, values: Array, power: int = 1) -> Array:
    """The coefficient of r^power, next to a constant and the other of r and r^2, by least squares; [...] for [..., n].

    Raises:
        SettingsError: fewer than 3 strengths.
    """
    r = np.asarray(strengths, dtype=np.float64)
    if len(np.unique(r)) < 3:
        raise SettingsError("A slope and a curvature need values at 3 strengths at least.")
    basis = np.stack([np.ones_like(r), r, r**2], 1)
    return np.asarray(values, dtype=np.float64) @ np.linalg.pinv(basis)[power]


def loss_exponent(strengths: Sequence[float] | Array, p_correct: Array) -> Array:
    """The power of r by which ability falls, from the slope of log loss over log r; 2 where it falls quadratically.

    The loss is 1 - p(r)/p(0), the mean of r and -r, so that what is odd in r does not count. Strengths without their
    opposite, and losses that are not above 0, are left out; nan where fewer than two remain.

    Args:
        strengths: r, [n], with 0 and some pairs of r and -r.
        p_correct: [..., n].
    """
    r, p = np.asarray(strengths, dtype=np.float64), np.asarray(p_correct, dtype=np.float64)
    places = {round(float(value), 9): at for at, value in enumerate(r)}
    pairs = [(value, at, places[-value]) for value, at in places.items() if value > 0 and -value in places]
    if 0.0 not in places or len(pairs) < 2:
        raise SettingsError("The exponent of the loss needs strength 0 and two pairs of r and -r.")
    start = p[..., places[0.0]]
    logs = np.log([value for value, _, _ in pairs])
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.stack([1 - (p[..., up] + p[..., down]) / (2 * start) for _, up, down in pairs], -1)
    there = lost > 0
    heights = np.log(np.where(there, lost, 1.0))
    count = there.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        across = np.where(there, logs - (there * logs).sum(-1, keepdims=True) / count[..., None], 0)
        return np.where(count > 1, (across * heights).sum(-1) / (across**2).sum(-1), math.nan)


def best_strength(strengths: Sequence[float] | Array, behaviour: Array, ability: Array, loss: float = 0.02) -> Array:
    """The strength of the best behaviour among those that can be reached from the one nearest 0 without ever losing
    more than a share of the ability there; [...] for curves [..., n].

    Args:
        strengths: r, [n].
        behaviour: higher is better.
        ability: what may be lost.
        loss: the share of it that may.
    """
    order = np.argsort(np.asarray(strengths, dtype=np.float64))
    r = np.asarray(strengths, dtype=np.float64)[order]
    good, able = np.asarray(behaviour)[..., order], np.asarray(ability)[..., order]
    zero = int(np.abs(r).argmin())
    kept = able >= (1 - loss) * able[..., zero : zero + 1] - 1e-12
    right = np.logical_and.accumulate(kept[..., zero:], axis=-1)
    left = np.logical_and.accumulate(kept[..., : zero + 1][..., ::-1], axis=-1)[..., ::-1]
    allowed = np.concatenate([left, right[..., 1:]], -1)
    return r[np.where(allowed, good, -np.inf).argmax(-1)]
