from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.measures.results import first, outcome, result
from truing.errors import SettingsError
from truing.measures.power import means_paired, means_unpaired, shares_paired, shares_unpaired
from truing.measures.result import Column
from truing.measures.run import compare
from truing.measures.sample_size import DISCORDANCES, OTHER, SAME, advice


def test_without_a_pilot_shares_are_planned_under_several_disagreements() -> None:
    found = advice(0.1)
    assert [row.needed for row in found] == [
        *(shares_paired(0.1, apart) for apart in DISCORDANCES if apart >= 0.1),
        shares_unpaired(0.1, 0.5),
    ]
    assert {row.items for row in found} == {SAME, OTHER}
    assert all(row.sees is None for row in found)
    large = advice(0.7)
    assert [row.needed for row in large] == [shares_paired(0.7, 0.7), shares_unpaired(0.7, 0.0)]


def test_a_pilot_says_how_often_the_models_disagree() -> None:
    # 12 of 80 only the first right, 4 only the second.
    one = [1.0] * 12 + [0.0] * 4 + [1.0] * 40 + [0.0] * 24
    two = [0.0] * 12 + [1.0] * 4 + [1.0] * 40 + [0.0] * 24
    same, most, other = advice(0.05, result(outcome(one), against=("base", outcome(two))))
    assert same.needed == shares_paired(0.05, 0.2)
    assert "20.0 %" in same.assumes
    assert most.needed is not None
    assert most.needed > same.needed
    assert other.needed == shares_unpaired(0.05, 52 / 80)
    # What these 80 items show is found again by its own size.
    assert same.sees is not None
    assert shares_paired(same.sees, max(0.2, same.sees)) <= 80 < shares_paired(same.sees * 0.98, 0.2)


def test_means_by_the_spread_that_the_pilots_interval_shows() -> None:
    rng = np.random.default_rng(0)
    two = rng.normal(10, 3, 200)
    one = two + rng.normal(0, 0.5, 200)
    pilot = result(outcome([1.0] * 200, one), against=("base", outcome([1.0] * 200, two)))
    found = {(row.figure, row.items): row for row in advice(0.2, pilot)}
    paired, unpaired = found["length", SAME], found["length", OTHER]
    assert paired.needed == pytest.approx(means_paired(0.2, float((one - two).std())), rel=0.1)
    assert unpaired.needed == pytest.approx(means_unpaired(0.2, float(one.std())), rel=0.1)
    assert paired.unit == "words"


def test_without_another_model_disagreement_is_guessed() -> None:
    found = advice(0.05, result(outcome(first(0.8, 50))))
    assert [row.items for row in found] == [SAME] * 4 + [OTHER]
    assert found[-1].needed == shares_unpaired(0.05, 0.8)


def test_clusters_are_in_the_spread() -> None:
    clusters = [at // 4 for at in range(80)]
    one = [float(at % 3 > 0) for at in clusters]
    alone = advice(0.1, result(outcome(one)))[-1]
    together = advice(0.1, result(outcome(one, cluster=clusters)))
    assert [row.items for row in together] == [OTHER]
    assert together[0].needed is not None
    assert alone.needed is not None
    assert together[0].needed > 2 * alone.needed


def test_a_figure_that_is_compared_by_definition_needs_one_sample() -> None:
    made = outcome(first(0.6, 100))
    made.columns = {"win_rate": Column("right", null=0.5)}
    pilot = compare("win_rate", made)
    (row,) = advice(0.1, pilot)
    assert row.items == "against 50.0 %"
    assert row.needed == pytest.approx(means_paired(0.1, 0.49), rel=0.1)


def test_what_cannot_be() -> None:
    pilot = result(outcome(first(0.5, 40)))
    assert advice(0.6, pilot)[-1].needed is None
    assert "Ask for a smaller difference" in advice(0.6, pilot)[-1].assumes
    for bad in (0.0, -0.1, float("nan"), 1.0):
        with pytest.raises(SettingsError, match="difference"):
            advice(bad)
    with pytest.raises(SettingsError, match="holds no figure"):
        advice(0.1, dataclasses.replace(pilot, figures={}))
