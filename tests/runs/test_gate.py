from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from tests.measures.results import first, outcome, result
from truing.errors import RecipeError, SettingsError
from truing.measures.result import Figure, Result
from truing.measures.statistics import difference_of_shares, share
from truing.runs import parse
from truing.runs.gate import Check, Gate, as_require, check_names, judge, parse_condition
from truing.runs.writing import as_yaml


def figure(low: float, value: float, high: float, unit: str = "share", better: str = "higher") -> Figure:
    return Figure(value, low, high, 100, "bootstrap", unit, better)


def answer(condition: str, found: Figure, change: Figure | None = None) -> Check:
    made = Result("exam", {}, {"x": found}, differences=None if change is None else {"x": change})
    (check,) = judge({"x": (condition,)}, {"exam": made}).checks
    return check


# --- reading ---


@pytest.mark.parametrize(
    ("text", "kind", "bounds", "than"),
    [
        (">= 0.95", ">=", (0.95,), ""), ("<.5", "<", (0.5,), ""), ("≤ 10 %", "<=", (0.1,), ""),
        ("> -2", ">", (-2,), ""),
        (">=1e-3", ">=", (0.001,), ""), ("between 0.2 and  40%", "between", (0.2, 0.4), ""),
        ("better than base", "better", (0.0,), "base"), ("Better than base by 5 pp", "better", (0.05,), "base"),
        ("not worse than sandbox/base by 0.02", "not worse", (0.02,), "sandbox/base"),
        ("within 0.5 of base", "within", (0.5,), "base"),
    ],
)  # fmt: skip
def test_conditions_are_read(text: str, kind: str, bounds: tuple[float, ...], than: str) -> None:
    found = parse_condition(text)
    assert (found.kind, found.bounds, found.than) == (kind, pytest.approx(bounds), than)
    assert parse_condition(found.text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.95", "one exact value"), ("== 0.95", "one exact value"), (0.95, "a condition is text"),
        ("not worse than base", "says no margin"), ("not worse than base by 0", "a margin is above 0"),
        ("not worse than base by -0.1", "a margin is above 0"), ("within 0 of base", "a margin is above 0"),
        ("between 0.9 and 0.2", "holds nothing"), ("good", "no condition"), (">= much", "no condition"),
        ("", "no condition"),
        (">= nan", "no condition"), (None, "a condition is text"), (">= 0.9; rm", "no condition"),
    ],
)  # fmt: skip
def test_what_is_no_condition(text: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_condition(text)


def test_a_mapping_of_conditions() -> None:
    found = as_require({"hhh": {"harmless": ">= 0.9", "honest": ["> 0.1", "< 0.9"]}, "length": "< 30"})
    assert found == {"hhh.harmless": (">= 0.9",), "hhh.honest": ("> 0.1", "< 0.9"), "length": ("< 30",)}
    for bad in ([">= 0.9"], {"x": []}, {"x": 3}):
        with pytest.raises(SettingsError):
            as_require(bad)


# --- testing ---


@pytest.mark.parametrize(
    ("condition", "ends", "status"),
    [
        (">= 0.9", (0.9, 0.95, 1.0), "passed"), ("> 0.9", (0.9, 0.95, 1.0), "not enough data"),
        (">= 0.9", (0.89, 0.95, 1.0), "not enough data"), (">= 0.9", (0.7, 0.8, 0.89), "failed"),
        (">= 0.9", (0.7, 0.8, 0.9), "not enough data"), ("> 0.9", (0.7, 0.8, 0.9), "failed"),
        ("<= 0.1", (0.0, 0.05, 0.1), "passed"), ("< 0.1", (0.0, 0.05, 0.1), "not enough data"),
        ("<= 0.1", (0.2, 0.3, 0.4), "failed"), ("<= 0.1", (0.05, 0.2, 0.4), "not enough data"),
        ("between 0.2 and 0.4", (0.2, 0.3, 0.4), "passed"), ("between 0.2 and 0.4", (0.5, 0.6, 0.7), "failed"),
        ("between 0.2 and 0.4", (0.0, 0.1, 0.19), "failed"),
        ("between 0.2 and 0.4", (0.1, 0.3, 0.35), "not enough data"),
    ],
)  # fmt: skip
def test_values(condition: str, ends: tuple[float, float, float], status: str) -> None:
    assert answer(condition, figure(*ends)).status == status


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize(
    ("condition", "ends", "status"),
    [
        ("better than base", (0.01, 0.1, 0.2), "passed"), ("better than base", (0.0, 0.1, 0.2), "not enough data"),
        ("better than base", (-0.2, -0.1, 0.0), "failed"),
        ("better than base by 0.05", (0.01, 0.1, 0.2), "not enough data"),
        ("not worse than base by 0.02", (-0.02, 0.0, 0.02), "passed"),
        ("not worse than base by 0.02", (-0.03, 0.0, 0.03), "not enough data"),
        ("not worse than base by 0.02", (-0.3, -0.2, -0.1), "failed"),
        ("within 0.1 of base", (-0.1, 0.0, 0.1), "passed"), ("within 0.1 of base", (0.2, 0.3, 0.4), "failed"),
        ("within 0.1 of base", (-0.4, -0.3, -0.2), "failed"),
        ("within 0.1 of base", (-0.2, 0.0, 0.1), "not enough data"),
    ],
)  # fmt: skip
def test_differences_in_the_direction_of_better(
    condition: str, ends: tuple[float, float, float], status: str, better: str
) -> None:
    low, value, high = ends if better == "higher" else (-end for end in reversed(ends))
    check = answer(condition, figure(0.4, 0.5, 0.6, better=better), figure(low, value, high, better=better))
    assert check.status == status
    assert check.compares


def test_how_much_is_missing_and_how_many_items_decide() -> None:
    failed = answer(">= 0.9", figure(0.7, 0.8, 0.86))
    assert (failed.missing, failed.surely) == (pytest.approx(0.1), pytest.approx(0.04))
    assert failed.words() == "80.0 % [70.0, 86.0]: misses by 10.0 pp, at least 4.0 pp"
    lower = answer("not worse than base by 0.02", figure(0, 0.3, 1, better="lower"), figure(0.1, 0.2, 0.3))
    assert (lower.missing, lower.surely) == (pytest.approx(0.18), pytest.approx(0.08))
    open_ = answer("< 30", figure(20, 25, 35, "words", "neither"))
    assert open_.needed == 400
    assert open_.words() == "25 [20, 35] words: about 400 items would decide, 100 were measured"
    assert "lies on the limit" in answer("< 30", figure(25, 30, 35, "words", "neither")).words()
    exact = share([1.0] * 20)
    found = answer(">= 0.95", Figure(*exact[:5]))
    assert found.needed == pytest.approx(72, abs=1)
    both = answer("between 0.4 and 0.6", figure(0.3, 0.55, 0.8))
    assert both.needed == pytest.approx(2500, abs=1)


def test_what_cannot_be_tested_is_its_own_answer() -> None:
    whole = figure(0.4, 0.5, 0.6)
    for condition, found, change, why in [
        ("better than base", whole, None, "not compared"),
        ("better than base", figure(4, 5, 6, "words", "neither"), whole, '"within 0.1 of base"'),
        (">= 5 %", figure(4, 5, 6, "words"), None, "only shares are in percent"),
        (">= 95", whole, None, "write 0.95 or 95 %"),
        ("within 5 % of base", figure(4, 5, 6, "words"), whole, "only shares"),
        ("< 3", figure(math.nan, math.nan, math.nan, "words"), None, "no finite value"),
    ]:
        check = answer(condition, found, change)
        assert (check.status, check.measured) == ("not measured", None)
        assert why in check.why
        assert check.words() == check.why


def test_two_equal_models_whose_last_digits_differ_are_not_better() -> None:
    tiny = figure(1e-9, 2e-9, 3e-9, "nats")
    assert answer("better than base", figure(4, 5, 6, "nats"), tiny).status == "not enough data"
    assert answer("not worse than base by 0.1", figure(4, 5, 6, "nats"), tiny).status == "passed"


def test_the_whole_is_as_good_as_its_worst() -> None:
    def gate(*statuses: str) -> Gate:
        return Gate(tuple(Check("x", "> 0", status) for status in statuses))

    assert gate("passed", "passed").exit_code == 0
    assert gate("passed", "not enough data", "failed", "not measured").exit_code == 1
    assert gate("passed", "not enough data").exit_code == 2
    assert gate("passed", "not measured").exit_code == 2
    assert gate().exit_code == 2
    assert gate("passed", "failed", "passed").counted() == "1 failed, 2 passed"
    assert gate("not enough data", "not measured").status == "not measured"


def test_figures_by_name_or_by_measure() -> None:
    exam = result(outcome(first(0.9, 200), [5.0] * 200))
    both = {"exam": exam, "exam-2": exam}
    one = judge({"right": ("> 0.5",), "exam.length": ("< 9",)}, {"exam": exam})
    assert [check.status for check in one.checks] == ["passed", "passed"]
    unclear, clear = judge({"right": ("> 0.5",), "exam-2.right": ("> 0.5",)}, both).checks
    assert unclear.status == "not measured"
    assert "exam.right and exam-2.right" in unclear.why
    assert clear.status == "passed"


def test_why_a_figure_is_not_there() -> None:
    exam = result(outcome(first(0.9, 50)))
    exam.notes.append("`other` is not shown: no sample counts for it.")
    checks = judge(
        {"rihgt": ("> 0",), "other": ("> 0",), "exam.other": ("> 0",), "kl": ("> 0",), "kl.kl": ("> 0",)},
        {"exam": exam}, {"kl": "`kl` needs logits."},
    ).checks  # fmt: skip
    assert {check.status for check in checks} == {"not measured"}
    assert "Did you mean `right`" in checks[0].why
    assert [check.why for check in checks[1:]] == [exam.notes[-1]] * 2 + ["`kl` needs logits."] * 2


def test_json_holds_what_was_found() -> None:
    gate = judge({"right": (">= 0.5", "<= 0.1")}, {"exam": result(outcome(first(0.9, 50)))})
    value = json.loads(json.dumps(gate.to_json(), allow_nan=False))
    assert (value["status"], value["exit_code"]) == ("failed", 1)
    assert [check["status"] for check in value["checks"]] == ["passed", "failed"]
    assert value["checks"][0]["measured"]["n"] == 50


def test_a_wrong_answer_is_as_rare_as_it_should_be() -> None:
    """The truth lies on the limit: "passed" and "failed" are each wrong in 2.5 % of releases at most."""
    rng = np.random.default_rng(0)
    times, answers = 1500, []
    for _ in range(times):
        found = share((rng.random(200) < 0.9).astype(float))
        answers.append(answer(">= 0.9", Figure(*found[:5])).status)
    assert answers.count("passed") / times <= 0.035
    assert answers.count("failed") / times <= 0.035
    answers = []
    for _ in range(times):
        u = rng.random(200)
        # One is right on 4 points fewer items than the other, and they disagree on a fifth of them.
        change = difference_of_shares((u < 0.08).astype(float), ((u > 0.08) & (u < 0.2)).astype(float))
        answers.append(answer("not worse than base by 0.04", figure(0.4, 0.5, 0.6), Figure(*change[:5])).status)
    assert answers.count("passed") / times <= 0.04
    assert answers.count("failed") / times <= 0.04


# --- before any work ---


def test_names_that_can_be_known() -> None:
    measures = {"hhh": ("helpful", "harmless"), "capability": ("capability",), "own": ()}
    found = check_names(
        {"harmless": (), "hhh.helpful": (), "anything": (), "own.thing": (), "a.b": ()}, measures, (), strict=False
    )
    assert found == ["anything", "own.thing", "a.b"]
    with pytest.raises(SettingsError, match=r"Did you mean `hhh\.helpful`"):
        check_names({"hhh.helpfull": ()}, measures, (), strict=False)
    named = {"tournament": ("spearman", "rating/*", "beats/*/*")}
    figures = {"rating/a": (), "tournament.beats/a/b.c": (), "spearman": ()}
    assert check_names(figures, named, (), strict=False) == ["rating/a", "tournament.beats/a/b.c"]
    for wrong in ("rating/", "ratings/a", "tournament.beats/a"):
        with pytest.raises(SettingsError, match="no measure here gives the figure"):
            check_names({wrong: ()}, named, (), strict=False)
    with pytest.raises(SettingsError, match="no measure here gives"):
        check_names({"rating/a": ()}, named, ())
    with pytest.raises(SettingsError, match=r"Say which: `hhh\.harmless` or `hhh-2\.harmless`"):
        check_names({"harmless": ()}, {"hhh": ("harmless",), "hhh-2": ("harmless",)}, ())
    closed = {"hhh": ("helpful", "harmless")}
    with pytest.raises(SettingsError, match=r"Did you mean `harmless`\? Figures: helpful, harmless"):
        check_names({"harmles": ()}, closed, ())
    with pytest.raises(SettingsError, match="there is one only"):
        check_names({"harmless": ("better than base",)}, closed, ())
    with pytest.raises(SettingsError, match="names `guide`, and the run compares with base or start"):
        check_names({"harmless": ("better than guide",)}, closed, ("base", "start"))


RECIPE = """\
model: sandbox/base
steps:
  - system_message: {text: Be kind.}
measures: [hhh]
require:
  harmless: ">= 0.95"
  hhh:
    honest: [better than base, not worse than sandbox/base by 0.02]
  kl: < 0.5
"""


def test_a_recipe_keeps_what_it_requires() -> None:
    recipe, _ = parse(RECIPE, "r.yaml")
    assert recipe.require == {
        "harmless": (">= 0.95",), "hhh.honest": ("better than base", "not worse than sandbox/base by 0.02"),
        "kl": ("< 0.5",),
    }  # fmt: skip
    again, _ = parse(as_yaml(recipe), "again.yaml")
    assert again == recipe
    assert "require" not in as_yaml(parse("model: sandbox/base\nmeasures: [hhh]\n", "r.yaml")[0])
    changed, _ = parse(RECIPE, "r.yaml", ["require.harmless='> 0.5'"])
    assert changed.require["harmless"] == ("> 0.5",)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("harmless:", "harmles:", 6, "Did you mean `harmless`"),
        ('">= 0.95"', "0.95", 6, "a condition is text"),
        ('">= 0.95"', "soon", 6, "no condition"),
        ('">= 0.95"', ">= 0.95", 6, "begins with > or | in quotes"),
        ("< 0.5", "better than guide", 9, "compares with base or sandbox/base"),
        ("    honest:", "    onest:", 8, "Did you mean `hhh.honest`"),
        ("  kl: < 0.5", "  perplexity: < 5", 9, "no measure here gives the figure `perplexity`"),
        ("steps:\n  - system_message: {text: Be kind.}\n", "", 6, "there is one only"),
    ],
)
def test_a_recipe_that_requires_what_cannot_be_is_refused(old: str, new: str, line: int, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(RecipeError, match="line") as caught:
        parse(RECIPE.replace(old, new), "r.yaml")
    assert message in str(caught.value)
    assert f"line {line}" in str(caught.value)


@pytest.mark.parametrize("value", ["[harmless]", "3", "harmless"])
def test_require_is_a_mapping(value: str) -> None:
    with pytest.raises(RecipeError, match="`require` maps figures to conditions"):
        parse(f"model: sandbox/base\nmeasures: [hhh]\nrequire: {value}\n", "r.yaml")


def test_conditions_are_data_of_a_check() -> None:
    check = Check("x", "> 0", "passed", figure(0.1, 0.2, 0.3))
    assert dataclasses.replace(check, status="failed").status == "failed"
