from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.errors import SettingsError
from truing.measures.multiple_testing import CORRECTIONS, benjamini_hochberg, holm

P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def test_four_p_values_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Times 4/1, 4/2, 4/3, 4/4, and never above the one after.
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_limits(correct) -> None:
    assert correct([]) == []
    assert correct([0.03]) == [0.03]
    assert correct([0.4] * 5) == pytest.approx([1.0] * 5 if correct is holm else [0.4] * 5)
    assert correct([0.0, 1.0]) == [0.0, 1.0]


@given(P_VALUES)
def test_corrected_ones_keep_their_order_and_only_grow(p_values: list[float]) -> None:
    strict, loose = holm(p_values), benjamini_hochberg(p_values)
    order = np.argsort(p_values, kind="stable")
    for adjusted in (strict, loose):
        assert all(p * (1 - 1e-12) <= a <= 1 for p, a in zip(p_values, adjusted))
        assert list(np.diff(np.array(adjusted)[order]) >= 0) == [True] * max(0, len(p_values) - 1)
    assert all(a <= b + 1e-12 for a, b in zip(loose, strict))


def test_holm_rejects_as_the_step_down_rule_does() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        p = rng.random(6) ** 3
        rejected = set()
        for step, at in enumerate(np.argsort(p)):
            if p[at] > 0.05 / (len(p) - step):
                break
            rejected.add(int(at))
        assert {at for at, adjusted in enumerate(holm(p.tolist())) if adjusted <= 0.05} == rejected


def test_what_each_holds_in_simulations() -> None:
    rng = np.random.default_rng(0)
    wrong = found_wrong = plain = 0.0
    for _ in range(4000):
        p = rng.random(10)
        wrong += min(holm(p.tolist())) <= 0.05
        plain += p.min() <= 0.05
        p[:4] = rng.random(4) * 1e-4
        found = np.array(benjamini_hochberg(p.tolist())) <= 0.05
        found_wrong += found[4:].sum() / max(1, found.sum())
    assert wrong / 4000 < 0.06
    assert plain / 4000 > 0.35
    assert found_wrong / 4000 < 0.05


@pytest.mark.parametrize("correct", CORRECTIONS.values())
def test_what_is_no_p_value_is_refused(correct) -> None:
    for bad in (1.2, -0.1, float("nan")):
        with pytest.raises(SettingsError, match="from 0 to 1"):
            correct([0.1, bad])
