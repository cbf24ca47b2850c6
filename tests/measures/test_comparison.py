from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.measures.results import first, outcome, result
from truing.errors import RunError, SettingsError
from truing.measures.comparison import compare_results, other_result
from truing.measures.multiple_testing import benjamini_hochberg, holm
from truing.measures.result import Column, Result

N = 120


def models(*shares: float) -> dict[str, dict[str, Result]]:
    rng = np.random.default_rng(0)
    ease = rng.random(N)
    return {
        f"m{at}": {"exam": result(outcome((ease < share).astype(float), rng.normal(8, 2, N)), f"m{at}")}
        for at, share in enumerate(shares)
    }


def test_every_model_is_tested_against_the_first_on_the_same_items() -> None:
    given = models(0.5, 0.7, 0.5)
    found = compare_results(given)
    assert found.models == ["m0", "m1", "m2"]
    assert list(found.figures) == ["right", "length"]
    assert found.figures["right"]["m1"] == given["m1"]["exam"].figures["right"]
    assert [(test.figure, test.model) for test in found.tests] == [
        ("right", "m1"), ("right", "m2"), ("length", "m1"), ("length", "m2"),
    ]  # fmt: skip
    test = found.test_of("right", "m1")
    assert test is not None
    right = [[row["right"] for row in given[name]["exam"].samples] for name in ("m0", "m1")]
    ahead = sum(b > a for a, b in zip(*right))
    assert test.difference.p == pytest.approx(stats.binomtest(ahead, ahead).pvalue)
    assert (test.test, test.paired, test.shared) == ("McNemar, exact", True, N)
    assert test.verdict == "better"
    p = [float(each.difference.p or 0) for each in found.tests]
    assert [each.p_adjusted for each in found.tests] == holm(p)
    loose = compare_results(given, correction="benjamini-hochberg")
    assert [each.p_adjusted for each in loose.tests] == benjamini_hochberg(p)
    assert [each.p_adjusted for each in compare_results(given, correction="none").tests] == p
    assert found.notes == []


def test_another_baseline_turns_the_sign() -> None:
    given = models(0.5, 0.7)
    there, back = compare_results(given), compare_results(given, "m1")
    assert back.models == ["m1", "m0"]
    one, two = there.test_of("right", "m1"), back.test_of("right", "m0")
    assert one is not None
    assert two is not None
    assert one.difference.value == -two.difference.value
    assert (one.verdict, two.verdict) == ("better", "worse")


def test_correction_can_take_a_finding_back() -> None:
    # Six against none: p = 0.031 alone, and not among twenty tests.
    base = [1.0] * 6 + [0.0] * 34
    given = {"base": {"exam": result(outcome(base))}}
    given.update({f"m{at}": {"exam": result(outcome([0.0] * 40 if at == 0 else base))} for at in range(20)})
    assert compare_results(given, correction="none").tests[0].verdict == "worse"
    assert compare_results(given).tests[0].verdict == "unclear"


def test_rows_of_one_id_that_ask_something_else_are_no_pair() -> None:
    one, two = result(outcome(first(0.5, 40)), "a"), result(outcome(first(0.9, 40)), "b")
    for row in two.samples:
        row["prompt"] += " Really?"
    found = compare_results({"a": {"exam": one}, "b": {"exam": two}})
    (test,) = found.tests
    assert (test.paired, test.shared, test.test) == (False, 0, "from both intervals")
    assert test.difference.value == pytest.approx(0.4)
    assert "Not paired" in found.notes[0]


def test_ids_alone_pair_only_under_equal_settings() -> None:
    def bare(seed: int, limit: int) -> Result:
        made = result(outcome(first(0.5, 40)), settings={"seed": seed, "limit": limit})
        for row in made.samples:
            del row["prompt"]
        return made

    def paired(one: Result, two: Result) -> bool:
        return compare_results({"a": {"exam": one}, "b": {"exam": two}}).tests[0].paired

    assert paired(bare(0, 40), bare(0, 60))
    assert not paired(bare(0, 40), bare(1, 40))


def test_some_items_shared() -> None:
    one, two = result(outcome(first(0.5, 40)), "a"), result(outcome(first(0.9, 100)), "b")
    found = compare_results({"a": {"exam": one}, "b": {"exam": two}})
    assert (found.tests[0].paired, found.tests[0].difference.n) == (True, 40)
    assert "shared items only: right of b (40 items)" in found.notes[0]
    for row in two.samples[15:]:
        row["id"] = f"new {row['id']}"
    apart = compare_results({"a": {"exam": one}, "b": {"exam": two}})
    assert (apart.tests[0].paired, apart.tests[0].shared) == (False, 15)


def test_results_without_columns_are_compared_by_their_intervals() -> None:
    given = models(0.5, 0.7)
    for results in given.values():
        results["exam"].columns = {}
    assert not any(test.paired for test in compare_results(given).tests)


def test_what_is_not_measured_on_both_is_not_tested() -> None:
    given = models(0.5, 0.7, 0.6)
    del given["m0"]["exam"].figures["length"]
    found = compare_results(given)
    assert [test.figure for test in found.tests] == ["right", "right"]
    assert found.notes == ["`length` is not tested: it was not measured on m0."]
    assert set(found.figures["length"]) == {"m1", "m2"}


def test_units_and_other_models_must_agree() -> None:
    given = models(0.5, 0.7)
    from dataclasses import replace

    figures = given["m1"]["exam"].figures
    figures["length"] = replace(figures["length"], unit="letters")
    assert "is in letters, and that of m0 in words" in compare_results(given).notes[0]
    given = models(0.5, 0.7)
    for name, other in (("m0", "base"), ("m1", "guide")):
        exam = given[name]["exam"]
        exam.columns["right"] = Column("right", null=0.5)
        exam.against_model = {"name": other, "source": other}
    assert "it compares m1 with guide, and m0 with base" in compare_results(given).notes[0]


def test_other_settings_are_noted() -> None:
    given = models(0.5, 0.7)
    given["m1"]["exam"].settings = {"seed": 0, "judge": "strict", "limit": 3}
    given["m0"]["exam"].settings = {"seed": 0, "judge": "mild", "limit": 9}
    note = compare_results(given).notes[0]
    assert note == '`exam` was measured with other settings on m0 than on m1: judge "mild" and "strict".'


def test_equal_models_and_rounding_are_no_change() -> None:
    given = models(0.5, 0.5)
    given["m1"] = {"exam": Result.from_json(given["m0"]["exam"].to_json())}
    for row in given["m1"]["exam"].samples:
        row["words"] += 1e-7
    assert [test.verdict for test in compare_results(given).tests] == ["unclear"] * 2


def test_figures_of_one_name_and_a_choice_of_them() -> None:
    given = models(0.5, 0.7)
    for results in given.values():
        results["again"] = results["exam"]
    assert list(compare_results(given).figures) == ["exam.right", "exam.length", "again.right", "again.length"]
    assert list(compare_results(given, figures=["again.right"]).figures) == ["again.right"]
    assert list(compare_results(given, figures=["right"]).figures) == ["exam.right", "again.right"]


def test_the_other_model_of_a_result() -> None:
    one, two = outcome(first(0.8, 40), range(40)), outcome(first(0.4, 40), range(1, 41))
    both = result(one, "after", ("before", two))
    other = other_result(both)
    assert other is not None
    assert other.model["name"] == "before"
    assert other.figures == result(two).figures
    found = compare_results({"before": {"exam": other}, "after": {"exam": both}})
    assert both.differences is not None
    assert [test.difference.value for test in found.tests] == [both.differences[name].value for name in found.figures]
    assert all(test.paired for test in found.tests)
    assert other_result(result(one)) is None
    both.columns = {name: Column("right", null=0.5) for name in both.columns}
    assert other_result(both) is None


def test_samples_that_were_changed_by_hand_are_one_error() -> None:
    given = models(0.5, 0.7)
    given["m1"]["exam"].samples[3]["right"] = "yes"
    with pytest.raises(RunError, match="The samples of `right` of m1 cannot be read"):
        compare_results(given)


def test_mistakes() -> None:
    given = models(0.5, 0.7)
    with pytest.raises(SettingsError, match="Did you mean `m1`"):
        compare_results(given, "m11")
    with pytest.raises(SettingsError, match="Did you mean `holm`"):
        compare_results(given, correction="hom")
    with pytest.raises(SettingsError, match="Did you mean `length`"):
        compare_results(given, figures=["lenght"])
    with pytest.raises(SettingsError, match="nothing to compare"):
        compare_results({"a": {}})


def test_it_is_written_as_json_and_as_text(tmp_path: Path) -> None:
    found = compare_results(models(0.5, 0.7))
    found.save(tmp_path / "c.json")
    value = json.loads((tmp_path / "c.json").read_text())
    assert value["baseline"] == "m0"
    assert value["tests"][0]["verdict"] == "better"
    assert value["figures"]["right"]["m1"]["n"] == N
    text = str(found)
    assert "p (Holm)" in text
    assert "▲ better" in text
    assert "<table>" in found._repr_html_()
    alone = compare_results(models(0.5))
    assert alone.tests == []
    assert "right" in str(alone)
