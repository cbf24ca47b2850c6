"""Three tests of a survey: known values, a sound respondent on which they stay quiet, and planted flaws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from truing import CulturalAlignment
from truing.errors import RecordError, SettingsError
from truing.measures import reliability
from truing.measures.cultural_alignment import cross, partners, read_survey
from truing.sandbox.surveys import LANDS, Respondent, land_survey

ROWS = land_survey()
QUICK = {"permutations": 200}


def opinions(persona: str, asked: str, rows=ROWS) -> dict[str, float]:
    land = next((name for name in LANDS if name in persona), LANDS[0])
    return {row["text"]: row["human_means"][land] for row in rows}


def notes(result, test: str) -> str:
    return next(note for note in result.notes if note.startswith(test))


def test_known_effects() -> None:
    found = reliability.format_effect([1, 2, 2, 3, 3, 4, 4, 4], ["a"] * 4 + ["b"] * 4)
    assert found["weighted_mean_difference"] == 0.875
    assert found["mean_difference"] == 1.75
    assert found["p_exact_weighted"] == pytest.approx(4 / 70)
    uneven = reliability.format_effect([2, 2, 2, 2], ["a", "a", "a", "b"])
    assert (uneven["weighted_mean_difference"], uneven["mean_difference"]) == (1.0, 0.0)
    assert reliability.multi_condition_effect([1, 2, 3, 4, 5, 6], list("aabbcc")) == pytest.approx(1.63299316)
    with pytest.raises(ValueError, match="exactly two levels"):
        reliability.format_effect([1, None], ["a", "b"])
    assert reliability.category_shift([(None, 1)], 4) is None


def test_p_values_of_noise_are_uniform() -> None:
    rng = np.random.default_rng(3)
    paired = [reliability.paired_p(rng.normal(size=30).tolist(), permutations=300, seed=at) for at in range(200)]
    groups = [
        reliability.format_effect(rng.normal(size=30).tolist(), ["a", "b"] * 15, permutations=300, seed=at)["p"]
        for at in range(200)
    ]
    assert stats.kstest(paired, "uniform").pvalue > 0.01
    assert stats.kstest(groups, "uniform").pvalue > 0.01
    assert reliability.paired_p([0.0, 0.0]) == 1
    assert reliability.paired_p([1.0, 1.0, 1.0]) == pytest.approx(2 / 8)


def test_dimensions_and_clusters() -> None:
    assert set(reliability.vsm2013_dimensions([3.0] * 24).values()) == {0}
    with pytest.raises(ValueError, match="24 questions"):
        reliability.vsm2013_dimensions([3.0] * 23)
    assert reliability.adjusted_rand_index([0, 0, 1, 1], [1, 1, 0, 0]) == 1
    assert reliability.adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)
    points = np.array([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]])
    assert reliability.k_means(points, 2).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    assert reliability.silhouette(points, np.array([0, 0, 1, 1])) > 0.9
    with pytest.raises(ValueError, match="alike"):
        reliability.extrapolability(np.ones((5, 3)), ["a", "b", "c"])


def test_spread_of_personas() -> None:
    human = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert reliability.steerability_spread(human, [np.full((3, 2), 0.4)])["pooled_model_ratio"] == 0
    assert reliability.steerability_spread(human, [human])["pooled_model_ratio"] == pytest.approx(1)
    with pytest.raises(ValueError, match="two countries that differ"):
        reliability.steerability_spread(np.zeros((3, 2)), [human])


def test_forms_are_paired_by_one_factor_alone() -> None:
    forms = cross()
    assert len(forms) == 8
    for factor in ("labels", "direction", "reply"):
        assert len(partners(forms, factor)) == 4


def test_quiet_where_nothing_was_planted() -> None:
    result = CulturalAlignment(**QUICK).measure(Respondent(opinions))
    for factor in ("labels", "direction", "reply"):
        assert result.figures[f"shift: {factor}"].value == 0
        assert result.figures[f"difference: {factor}"].p == 1
    assert notes(result, "Stability").startswith("Stability holds")
    assert notes(result, "Extrapolability").startswith("Extrapolability holds")
    assert notes(result, "Steerability").startswith("Steerability holds")
    assert "8 of 8 forms find" in notes(result, "8 of 8")


def test_a_position_bias_is_found_that_a_plain_score_trusts() -> None:
    result = CulturalAlignment(**QUICK, tests=["stability"]).measure(Respondent(opinions, "first"))
    assert result.figures["shift: direction"].value == 1
    assert result.figures["shift: labels"].value == 0
    # The sign test over 24 pairs that all move one way is at the floor of the draws.
    assert result.figures["difference: direction"].p == pytest.approx(1 / 201)
    assert notes(result, "Stability").startswith("Stability fails: a change of direction")
    plain = [figure for name, figure in result.figures.items() if name.startswith("agreement: ")]
    assert len(plain) == 8
    assert plain[0].low > 0.25


def test_labels_that_matter_are_found() -> None:
    result = CulturalAlignment(**QUICK, tests=["stability"]).measure(Respondent(opinions, "letters"))
    assert result.figures["shift: labels"].low > result.figures["between countries"].high
    assert result.figures["shift: reply"].value == 0


def test_unrelated_dimensions_do_not_extrapolate() -> None:
    rows = land_survey(related=False)
    who = Respondent(lambda persona, asked: opinions(persona, asked, rows))
    result = CulturalAlignment(survey=rows, tests=["extrapolability"], **QUICK).measure(who)
    assert result.figures["few dimensions: people"].value < 0.5
    assert not notes(result, "Extrapolability").startswith("Extrapolability holds")


def test_a_persona_that_does_nothing_is_found() -> None:
    result = CulturalAlignment(tests=["extrapolability", "steerability"], **QUICK).measure(Respondent(opinions("", "")))
    assert result.figures["spread of personas"].value == 0
    assert notes(result, "Steerability").startswith("Steerability fails")
    assert any("its personas hardly differ" in note for note in result.notes)


def test_answers_that_cannot_be_read_are_counted_and_never_guessed() -> None:
    result = CulturalAlignment(**QUICK).measure(Respondent(opinions, "prose"))
    assert result.figures["answered"].value == 0
    assert "shift: labels" not in result.figures
    assert any("could not be read" in note for note in result.notes)


def test_dimensions_of_ones_own() -> None:
    rows = [
        {"text": f"q{at}", "options": ["no", "yes"], "dimension": "a" if at < 3 else "b",
         "human_means": {land: (land in "UV") * 0.8 + 0.1 for land in "UVWXY"}}
        for at in range(6)
    ]  # fmt: skip
    who = Respondent(
        lambda persona, asked: {f"q{at}": float("U" in persona.split() or "V" in persona.split()) for at in range(6)}
    )
    result = CulturalAlignment(survey=rows, few=1, **QUICK).measure(who)
    assert result.figures["few dimensions: people"].value == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"human_means": {"U": 1.5, "V": 0.0}}, "means are from 0 to 1"),
        ({"human_means": None}, "object from country"),
        ({"human_means": {"U": 0.5}}, "1 of them has a mean in every row"),
        ({"options": ["one"]}, "2 to 26 different texts"),
        ({"text": ""}, "`text` is a text"),
    ],
)
def test_bad_surveys(change, says) -> None:
    row = {"text": "q", "options": ["no", "yes"], "human_means": {"U": 0.1, "V": 0.2}}
    with pytest.raises(RecordError, match=says):
        read_survey([{**row, **change}])
    with pytest.raises(RecordError, match="same `question_id`"):
        read_survey([{**row, "question_id": "a"}, {**row, "question_id": "a"}])


def test_bad_settings() -> None:
    for settings, says in (
        ({"tests": ["luck"]}, "tests are"), ({"persona": "x"}, "persona is"), ({"few": 0}, "few is"),
        ({"ari_needed": 3}, "ari_needed"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=says):
            CulturalAlignment(**settings).validate()


def test_on_the_command_line() -> None:
    from truing.cli.app import app

    shown = CliRunner().invoke(
        app,
        [
            "measure",
            "cultural-alignment",
            "--model",
            "sandbox/small",
            "--tests",
            '["stability"]',
            "--limit",
            "6",
            "--permutations",
            "50",
        ],
    )
    assert shown.exit_code == 0, shown.output
    assert "What a change of format does" in shown.output
