"""discretion.json: labels of rows, arbitrariness, supremacy, weights and discrepancy. The published code gives -inf
to a principle without a clash."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from truing.measures import principle_tables as tables

Values = dict[str, Any]


def _array(values: Any) -> Any:
    return np.array(values, dtype=object).astype(float)


def _plain(value: float) -> Any:
    return None if math.isnan(value) else value if math.isfinite(value) else str(value)


def classify_rows(inputs: Values, given: Values) -> Values:
    labels = tables.classify_rows(_array(inputs["principle_prefs"]))
    names = ("consensus", "conflict", "indifference")
    return {"labels": labels, "fractions": {name: labels.count(name) / len(labels) for name in names}}


def _both(inputs: Values) -> tuple[Any, Any]:
    return _array(inputs["principle_prefs"]), _array(inputs["annotator_prefs"])


def principle_supremacy(inputs: Values, given: Values) -> Values:
    share, clashes = tables.supremacy(*_both(inputs))
    return {"n_conflicts": clashes.tolist(), "supremacy": [[_plain(one) for one in row] for row in share.tolist()]}


def principle_weights(inputs: Values, given: Values) -> Values:
    found = tables.principle_weights(tables.wins(*_both(inputs)), isolated=-math.inf)
    return {"weights_centred_on_finite": [_plain(one) for one in found.tolist()]}


def discretion_discrepancy(inputs: Values, given: Values) -> Values:
    one, other = _array(inputs["weights_a"]), _array(inputs["weights_b"])
    return {"ranks_a": tables.ranks(one), "ranks_b": tables.ranks(other), "dd": _plain(tables.discrepancy(one, other))}


def preference_from_probabilities(inputs: Values, given: Values) -> Values:
    return {"pref": [_plain(one) for one in tables.preferences(inputs["prob_A_B_NA"]).tolist()]}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "classify_rows": classify_rows,
    "discretion_arbitrariness": lambda inputs, given: {"da": _plain(tables.arbitrariness(*_both(inputs)))},
    "principle_supremacy": principle_supremacy,
    "principle_weights": principle_weights,
    "discretion_discrepancy": discretion_discrepancy,
    "preference_from_probabilities": preference_from_probabilities,
}
