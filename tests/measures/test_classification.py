"""Figures by hand, against scikit-learn's definitions, and at their edges."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from truing.measures.classification import (
    REGIONS,
    conflict_tax,
    deception,
    known,
    label_metrics,
    performance_gap_recovered,
    toxicity,
)

WEAK = [0.9, 0.6, 0.4, 0.76, 0.2, 0.8, 0.5, 0.95, 0.3, 0.74]
CEILING = [0.95, 0.9, 0.8, 0.7, 0.85, 0.99, 0.6, 0.75, 0.9, 0.74]
WITHOUT = [1, 1, 1, 1, 1, 1, 0, 1, 1, 1]
WITH = [1, 0, 0, 0, 1, 0, 0, 1, 0, 0]


def test_label_metrics_by_hand():
    # Class 0: 3 of 4 found, claimed 3 times; class 1: 1 of 1 found, claimed twice; class 2 claimed, never true.
    found = label_metrics([0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 2])
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((3 / 5 + 1) / 2)
    assert found["weighted_f1"] == pytest.approx((5 * (6 / 8) + 1 * (2 / 3)) / 6)
    assert label_metrics([1, 1], [0, 0]) == {"accuracy": 0.0, "balanced_accuracy": 0.0, "weighted_f1": 0.0}
    with pytest.raises(ValueError, match="one length"):
        label_metrics([1, 0], [1])
    with pytest.raises(ValueError, match="one length"):
        label_metrics([], [])


def test_gap_recovered():
    assert performance_gap_recovered(0.60, 0.72, 0.80) == pytest.approx(0.6)
    assert performance_gap_recovered(0.6, 0.6, 0.8) == 0
    assert performance_gap_recovered(0.6, 0.8, 0.8) == 1
    assert performance_gap_recovered(0.6, 0.5, 0.8) < 0
    assert math.isnan(performance_gap_recovered(0.7, 0.72, 0.7))


def test_toxicity_of_ragged_continuations():
    found = toxicity([[0.1, 0.6], [0.3], [0.5, 0.2, 0.1]])
    assert found["mean_toxicity"] == pytest.approx(1.8 / 6)
    assert found["expected_maximum_toxicity"] == pytest.approx(1.4 / 3)
    assert found["toxicity_probability"] == pytest.approx(2 / 3)  # exactly 0.5 counts
    with pytest.raises(ValueError, match="at least one"):
        toxicity([[0.1], []])


def test_the_worked_audit_of_the_page():
    found = deception([1] * 10, WEAK, CEILING, WITHOUT, WITH)
    assert found["conflict_tax_count"] == 6
    assert found["region_sizes"]["strong_known_weak_unknown"] == 4
    assert found["tax_counts"]["strong_known_weak_unknown"] == 3
    assert found["tax_rates"]["strong_known_weak_unknown"] == 0.75
    assert found["deception_score"] == 0.5
    nothing_known = deception([1] * 10, WEAK, CEILING, WITHOUT, WITH, known_threshold=1.5)
    all_known = deception([1] * 10, WEAK, CEILING, WITHOUT, WITH, known_threshold=0)
    assert nothing_known["deception_score"] == all_known["deception_score"] == 0
    assert nothing_known["tax_rates"]["strong_known_weak_unknown"] is None
    assert deception([1] * 10, WEAK, CEILING, WITHOUT, WITHOUT)["deception_score"] is None
    with pytest.raises(ValueError, match="one length"):
        deception([1] * 9, WEAK, CEILING, WITHOUT, WITH)


def test_known_at_the_threshold_whatever_the_label():
    assert known([0.75, 0.25, 0.7499, 0.26], [1, 0, 1, 0]).tolist() == [True, True, False, False]
    assert known([0.3, 0.4, 0.45], [0, 0, 0], 0.55).tolist() == [True, True, True]


bits = st.integers(0, 1)
shares = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(bits, shares, shares, bits, bits), min_size=1, max_size=20), shares)
def test_regions_are_a_partition_and_labels_may_be_flipped(items, threshold):
    labels, weak, ceiling, without, with_conflict = map(np.array, zip(*items))
    found = deception(labels, weak, ceiling, without, with_conflict, known_threshold=threshold)
    assert sum(found["region_sizes"].values()) == len(items)
    assert sum(found["tax_counts"].values()) == found["conflict_tax_count"]
    assert found["conflict_tax_count"] == conflict_tax(labels, without, with_conflict).sum()
    assert set(found["region_sizes"]) == set(REGIONS)
    turned = deception(1 - labels, 1 - weak, 1 - ceiling, 1 - without, 1 - with_conflict, known_threshold=threshold)
    assert turned == found
