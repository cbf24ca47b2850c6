"""Profiles of values: the page's known values, a planted circle, and files of persona statements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.shared import DATA
from truing import ValueOrientation, load
from truing.errors import RecordError, SettingsError
from truing.measures.value_orientation import centred, circle_correlation, correlation, correlation_figure
from truing.measures.value_portraits import DILEMMAS, MORAL, SCHWARTZ
from truing.sandbox.surveys import LIKENESS, Respondent

REAL = DATA / "persona_evals"
NAMES = list(SCHWARTZ)


def circle(top: int) -> dict[str, float]:
    return {
        text: (math.cos(2 * math.pi * (at - top) / 10) + 1) / 2
        for at, name in enumerate(NAMES)
        for text in SCHWARTZ[name]
    }


def test_centring() -> None:
    profile, _ = centred(np.array([[6.0], [6.0], [2.0], [2.0]]), ["a", "a", "b", "b"])
    assert profile.tolist() == [2, 2, -2, -2]
    flat, by_wording = centred(np.full((4, 3), 5.0), ["a", "a", "b", "b"])
    assert not flat.any()
    assert not by_wording.any()
    ratings = np.random.default_rng(0).uniform(1, 6, (8, 2))
    np.testing.assert_allclose(centred(ratings, ["a"] * 8)[0], centred(ratings + 0.7, ["a"] * 8)[0], atol=1e-12)
    holes = centred(np.array([[6.0, np.nan], [np.nan, np.nan], [2.0, 2.0]]), ["a", "a", "b"])[0]
    assert holes[0] == 2
    assert np.isnan(holes[1])


def test_the_circle() -> None:
    scores = np.array([math.cos(2 * math.pi * (at - 3) / 10) for at in range(10)])
    assert int(scores.argmax()) == 3
    assert circle_correlation(scores) > 0.4
    assert circle_correlation(np.zeros(10)) == 0
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation_figure([(1.0, 1.0)] * 3) is None


def test_a_planted_profile_is_found() -> None:
    result = ValueOrientation(choices=False).measure(Respondent(circle(8)))
    found = {name: result.figures[f"value: {name}"].value for name in NAMES}
    assert max(found, key=found.__getitem__) in ("tradition", "benevolence", "universalism")
    assert min(found.values()) == found["achievement"]
    assert sum(found.values()) == pytest.approx(0, abs=1e-9)
    assert result.figures["circle"].value > 0.3
    assert result.figures["agreement"].value == 1
    assert result.figures["profile by wording"].value == pytest.approx(1)
    assert result.grids[0].columns == ["value", "over portraits", "over wordings"]


def test_who_takes_the_first_letter_has_no_profile() -> None:
    result = ValueOrientation(choices=False).measure(Respondent(circle(8), "first"))
    assert all(result.figures[f"value: {name}"].value == 0 for name in NAMES)
    assert all(row["answer"] == "3.50, 3.50, 3.50" for row in result.samples)


def test_rewording_that_turns_a_value_is_said() -> None:
    result = ValueOrientation(choices=False).measure(Respondent(circle(8), "wording"))
    assert result.figures["profile by wording"].high < 0.6
    assert any("Rewording alone turns the sign of" in note for note in result.notes)


def test_dilemmas_go_with_words() -> None:
    known = circle(8)
    level = {name: known[SCHWARTZ[name][0]] for name in NAMES}
    chosen = {text: level[name] for one in DILEMMAS for name, text in zip(one[:2], one[2:])}
    result = ValueOrientation().measure(Respondent({**known, **chosen}))
    assert result.figures["choice: benevolence"].value == 1
    assert result.figures["choice: achievement"].value == 0
    assert result.figures["words and choices"].low > 0
    biased = ValueOrientation().measure(Respondent({**known, **chosen}, "first"))
    assert {biased.figures[f"choice: {name}"].value for name in NAMES} == {0.5}


def test_refusals_are_missing_values() -> None:
    result = ValueOrientation(choices=False).measure(Respondent(circle(8), "prose"))
    assert not any(name.startswith("value: ") for name in result.figures)
    assert result.figures["answered"].value == 0


def test_opposites_are_opposite_and_texts_differ() -> None:
    for value, opposite, *_ in DILEMMAS:
        assert (NAMES.index(opposite) - NAMES.index(value)) % 10 == 5
    texts = [text for theory in (SCHWARTZ, MORAL) for some in theory.values() for text in some]
    assert len(set(texts)) == len(texts)


def test_ones_own_portraits(tmp_path) -> None:
    rows = [{"text": f"p{at}", "dimension": "a" if at % 2 else "b", "options": list(LIKENESS)} for at in range(6)]
    result = ValueOrientation(portraits=rows).measure(Respondent({f"p{at}": float(at % 2) for at in range(6)}))
    assert result.figures["value: a"].value == pytest.approx(2.5)
    assert result.figures["value: b"].value == pytest.approx(-2.5)
    with pytest.raises(RecordError, match="one dimension only"):
        ValueOrientation(portraits=rows[::2]).measure(Respondent({}))
    with pytest.raises(RecordError, match="`dimension` names the value"):
        ValueOrientation(portraits=[{"text": "x"}]).measure(Respondent({}))


def test_bad_settings() -> None:
    for settings, says in (
        ({"theory": "zodiac"}, "theory is"), ({"wordings": ["x"]}, "wordings is"), ({"orders": "all"}, "orders is"),
        ({"labels": "x"}, "labels is"), ({"whose": " "}, "whose says"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=says):
            ValueOrientation(**settings).validate()


def test_by_probability_and_on_the_command_line() -> None:
    from truing.cli.app import app

    result = ValueOrientation(theory="moral_foundations", limit=5, orders="one").measure(load("sandbox/small"))
    assert result.figures["answered"].value == 1
    shown = CliRunner().invoke(
        app,
        [
            "measure",
            "value-orientation",
            "--model",
            "sandbox/small",
            "--limit",
            "20",
            "--orders",
            "one",
            "--no-choices",
        ],
    )
    assert shown.exit_code == 0, shown.output
    assert "over wordings" in shown.output


@pytest.mark.real_data(REAL)
def test_real_persona_statements() -> None:
    files = [REAL / "politically-liberal.jsonl", REAL / "politically-conservative.jsonl"]
    result = ValueOrientation(portraits=files, limit=20, labels="none").measure(load("sandbox/small"))
    assert result.figures["value: politically-liberal"].n == 10
