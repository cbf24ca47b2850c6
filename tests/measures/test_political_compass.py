"""Two axes: known points, planted leanings found, stances read, personas, and bad input."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tests.measures.models import Scripted
from tests.shared import DATA
from truing import PoliticalCompass, Result, load
from truing.errors import RecordError, RewardError, SettingsError
from truing.measures.asking import Context
from truing.measures.political_axes import of_repeats, pct_axes, persona_effects, stance_counts, stance_total_variation
from truing.measures.stances import read_stances
from truing.reports.plane import plane
from truing.sandbox.surveys import Respondent, planted_answers, propositions

REAL = DATA / "political_compass/political_compass_questions.txt"


def opinions(leaning=("left", "libertarian"), seed=0):
    return {text: answer / 3 for text, answer in zip(propositions(), planted_answers(leaning, seed))}


def test_known_points() -> None:
    assert pct_axes([0] * 62) == {"economic": 0.01, "social": -4.36}
    assert pct_axes([2] * 62) == pct_axes([-1] * 62) == {"economic": 0.38, "social": 2.41}
    assert pct_axes([at % 4 for at in range(62)]) == {"economic": -2.12, "social": -0.26}
    with pytest.raises(ValueError, match="62 answers"):
        pct_axes([0] * 61)


def test_repeats_and_variation() -> None:
    assert of_repeats([[0, 1], [1, 2], [3, -1], [-1]]) == [0, 2, 3, -1]
    assert of_repeats([[3, -1]], skip_missing=False) == [1]
    assert stance_total_variation([[5, 0, 0]], [[10, 0, 0]]) == [0]
    assert stance_total_variation([[5, 0, 0], [1, 0, 0]], [[0, 7, 0], [0, 0, 0]]) == [1, None]
    assert stance_counts([0, 1, 2, 3, -1]) == [2, 2, 1]


def test_effects_are_differences_of_means_with_the_t_test() -> None:
    from scipy import stats

    found = persona_effects([0.0, 1.0, 2.0], {"left": [-3.0, -2.0, -4.0], "none": []})
    test = stats.ttest_ind([-3.0, -2.0, -4.0], [0.0, 1.0, 2.0])
    assert list(found) == ["left"]
    assert found["left"].value == -4
    assert found["left"].p == pytest.approx(test.pvalue)
    assert found["left"].low < -4 < found["left"].high < 0


@pytest.mark.parametrize("leaning", [("left", "libertarian"), ("right", "authoritarian")])
def test_a_planted_leaning_is_found_exactly(leaning) -> None:
    result = PoliticalCompass(open=[], wordings=4, labels="letters").measure(Respondent(opinions(leaning)))
    truth = pct_axes(planted_answers(leaning))
    assert result.figures["economic"].value == pytest.approx(truth["economic"])
    assert result.figures["social"].value == pytest.approx(truth["social"])
    assert result.figures["agreement"].value == 1
    assert result.figures["shift"].value == 0
    assert any(f"Position, closed: {leaning[0]}, {leaning[1]} (respondent)." in note for note in result.notes)


def test_a_respondent_without_opinions_has_no_position() -> None:
    result = PoliticalCompass(open=[], wordings=6).measure(Respondent(opinions(), "first"))
    assert result.figures["agreement"].high < 0.5
    assert result.figures["economic"].low < 0 < result.figures["economic"].high
    assert any("neither left nor right" in note for note in result.notes)


def test_one_answer_to_everything_is_no_position() -> None:
    result = PoliticalCompass(open=[], wordings=3).measure(Respondent(dict.fromkeys(propositions(), 2 / 3)))
    assert result.figures["social"].value == pytest.approx(2.41)
    assert any(
        "Position, closed: none, since 100% of the answers are one option (agree)" in note for note in result.notes
    )


def test_too_few_answers_are_no_position() -> None:
    result = PoliticalCompass(open=[], wordings=2, limit=49).measure(Respondent(opinions()))
    assert "economic" not in result.figures
    assert any("2 of 2 closed wordings have fewer than 50 answered" in note for note in result.notes)


def test_personas_move_what_they_move() -> None:
    left, right = opinions(("left", "libertarian")), opinions(("right", "libertarian"))
    who = Respondent(lambda persona, asked: right if "far right" in persona else left, "wording", 0.1)
    result = PoliticalCompass(open=[], wordings=4, personas={"orientation": ["far left", "far right"]}).measure(who)
    moved = result.figures["economic: orientation far right"]
    assert moved.low > 5
    assert moved.p < 0.01
    assert abs(result.figures["economic: orientation far left"].value) < 2
    assert result.grids[-1].title == "What a persona does to the position"


def test_free_text_is_read_by_its_words_or_by_a_model() -> None:
    texts = ["I strongly agree.", "Hm.", "I do not agree."]
    context, holder = Context("x"), PoliticalCompass()
    assert read_stances(holder, None, ["s"] * 3, texts, context) == [3, None, None]
    said = {"I strongly agree.": "Stance: strongly agree", "Hm.": "Stance: none", "I do not agree.": "It is clear."}
    judge = Scripted(lambda prompt: next(reply for text, reply in said.items() if f"> {text}" in prompt), name="judge")
    assert read_stances(holder, judge, ["s"] * 3, texts, context) == [3, None, None]
    assert len(judge.asked) == 4, "what cannot be read is asked for once more"
    assert read_stances(holder, lambda s, t: [1, 2, None], ["s"] * 3, texts, context) == [1, 2, None]
    with pytest.raises(RewardError, match="gives 0 to 3 or None"):
        read_stances(holder, lambda s, t: [7] * 3, ["s"] * 3, texts, context)


def test_chosen_and_written_stances_that_disagree_are_seen() -> None:
    known = opinions()

    def answer(prompt):
        text = prompt[-1]["content"]
        about = next(one for one in known if one in text)
        if "word for word" in text:
            return Respondent(known)._answer("", text)
        return "I agree." if known[about] < 0.5 else "I disagree."

    result = PoliticalCompass(wordings=2).measure(Scripted(answer))
    assert result.figures["total_variation"].value == 1
    assert result.figures["economic"].value < 0 < result.figures["economic open"].value


def test_the_plane_is_drawn_and_kept() -> None:
    result = PoliticalCompass(open=[], wordings=3).measure(Respondent(opinions(), "wording", 0.3))
    again = Result.from_json(result.to_json())
    assert again.planes == result.planes
    drawn = str(plane(again.planes[0]))
    assert drawn.count("<circle") == 3 + 1 + 1
    assert "authoritarian" in drawn


def test_bad_input(tmp_path) -> None:
    who = Respondent(opinions())
    with pytest.raises(RecordError, match="62 propositions, each with weights of its own, and 2 were given"):
        PoliticalCompass(propositions=["a", "b"]).measure(who)
    with pytest.raises(RecordError, match="cannot be read"):
        PoliticalCompass(propositions=tmp_path / "none.txt").measure(who)
    with pytest.raises(SettingsError, match="closed is a list of wordings"):
        PoliticalCompass(closed=["no slot"]).validate()
    with pytest.raises(SettingsError, match="personas is"):
        PoliticalCompass(personas={"age": "18"}).validate()
    with pytest.raises(SettingsError, match="labels is"):
        PoliticalCompass(labels="roman").validate()
    with pytest.raises(SettingsError, match="stance is a model"):
        PoliticalCompass(stance=3).validate()


def test_by_probability_and_on_the_command_line() -> None:
    from truing.cli.app import app

    result = PoliticalCompass(open=[], wordings=2).measure(load("sandbox/small"))
    assert result.figures["answered"].value == 1
    assert 0 < result.figures["mass"].value < 1
    shown = CliRunner().invoke(
        app, ["measure", "political-compass", "--model", "sandbox/small", "--wordings", "2", "--open", "[]"]
    )
    assert shown.exit_code == 0, shown.output
    assert "Position, with intervals over wordings" in shown.output


@pytest.mark.real_data(REAL)
def test_the_real_propositions() -> None:
    texts = [line for line in REAL.read_text(encoding="utf-8").splitlines() if line.strip()]
    result = PoliticalCompass(propositions=REAL, open=[], wordings=2).measure(Respondent(dict.fromkeys(texts, 1 / 3)))
    expected = pct_axes([1] * 62)
    assert result.figures["economic"].value == pytest.approx(expected["economic"])
    assert result.figures["social"].value == pytest.approx(expected["social"])
