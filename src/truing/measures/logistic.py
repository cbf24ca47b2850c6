"""Logistic regression of a few features, with standard errors that hold for clusters and for shares of a win."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from truing.measures.intervals import student
from truing.measures.statistics import cluster_sums

Array = np.ndarray


class Fit(NamedTuple):
    """A fitted model.

    Args:
        coefficients: [p], in log-odds for one unit of each feature.
        covariance: [p, p], the sandwich estimate, over clusters where there are any.
        curvature: [p, p], the inverse of the penalised information, which stays honest where few outcomes go against
            the model and the sandwich sees no spread.
        units: rows or clusters behind it.
    """

    coefficients: Array
    covariance: Array
    curvature: Array
    units: int

    @property
    def reach(self) -> float:
        """How many standard errors an end of a 95 % interval lies off: Student's t."""
        return student(max(1, self.units - len(self.coefficients)))


def fit(
    features: Array, outcomes: Array, *, penalties: Sequence[float] | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> Fit | None:  # fmt: skip
    """Maximum of the (penalised) likelihood, by Newton's method with halved steps; None where it finds none.

    Args:
        features: [n, p]; a column of ones for an intercept.
        outcomes: [n], each from 0 to 1: a tie is a half (a quasi-likelihood, for which the sandwich is right).
        penalties: [p], the inverse variance of a normal prior of each coefficient around 0; none unless given.
        clusters: a key for each row; rows with the same key are not independent.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    prior = np.zeros(x.shape[1]) if penalties is None else np.asarray(penalties, dtype=np.float64)
    found = np.zeros(x.shape[1])

    def loss(at: Array) -> float:
        odds = x @ at
        return float(np.logaddexp(0, odds).sum() - y @ odds + (prior * at**2).sum() / 2)

    for _ in range(100):
        p = special.expit(x @ found)
        slope = x.T @ (y - p) - prior * found
        step = _solved((x * (p * (1 - p))[:, None]).T @ x + np.diag(prior), slope)
        if step is None or not np.isfinite(step).all():
            return None
        now = loss(found)
        while loss(found + step) > now + 1e-12 and np.abs(step).max() > 1e-12:
            step = step / 2
        found = found + step
        if np.abs(step).max() < 1e-10 * (1 + np.abs(found).max()):
            break
    else:
        return None
    p = special.expit(x @ found)
    inverse = _solved((x * (p * (1 - p))[:, None]).T @ x + np.diag(prior), np.eye(len(found)))
    if inverse is None:
        return None
    parts = x * (y - p)[:, None]
    parts = cluster_sums(parts, clusters)
    units = len(parts)
    spread = inverse @ (parts.T @ parts) @ inverse * units / max(1, units - x.shape[1])
    return Fit(found, spread, inverse, units)


def _solved(matrix: Array, right: Array) -> Array | None:
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return None
