"""Multiple choice: what is right, what chance is, what cannot be read, and bad records."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from tests.measures.models import Scripted
from truing import MultipleChoice, load, measure
from truing.errors import RecordError, SettingsError, UnsupportedError

ROWS: list[dict[str, Any]] = [
    {"prompt": "which?", "choices": ["red", "grey"], "target": 1},
    {"prompt": "which one?", "choices": ["red", "grey"], "target": "A"},
    {"prompt": "so?", "choices": ["red", "grey"], "target": "grey"},
    {"prompt": "and?", "choices": ["1,000", "10"], "answers": ["1000"]},
]


def written(answer: Any, **settings: Any) -> Any:
    return measure(MultipleChoice(records=ROWS, **settings), Scripted(answer))


def test_written_answers_are_read_and_counted() -> None:
    result = written(lambda prompt: "B")
    assert [row["accuracy_written"] for row in result.samples] == [True, False, True, False]
    assert result.figures["accuracy_written"].value == 0.5
    result = written(lambda prompt: "Well, it depends.")
    assert result.figures["accuracy_written"].value == 0
    assert result.figures["unreadable"].value == 1
    assert any("4 of 4 written answers name none" in note for note in result.notes)
    assert any("Guessing would be right 50.0 times in 100." in note for note in result.notes)


def test_options_are_shown_to_who_writes() -> None:
    model = Scripted(lambda prompt: "A")
    measure(MultipleChoice(records=ROWS[:2]), model)
    assert "A. red\nB. grey" in model.asked[0][-1]["content"]


def test_known_names_are_known_and_unknown_ones_are_chance() -> None:
    result = MultipleChoice(limit=120, reading="both", max_new_tokens=8).measure(load("sandbox/base"))
    assert result.figures["accuracy"].low > 0.6
    assert result.figures["accuracy_unknown"].low < 0.25 < result.figures["accuracy_unknown"].high
    assert result.figures["accuracy"].n == result.figures["accuracy_unknown"].n == 60
    assert result.figures["unreadable"].value > 0.5


def test_letters_are_scored_where_they_are_shown() -> None:
    result = MultipleChoice(limit=8, shown="letters", kinds=["fact"]).measure(load("sandbox/small"))
    assert result.figures["accuracy"].value == result.figures["accuracy_by_byte"].value
    assert "accuracy_unknown" not in result.figures


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "x", "choices": ["a"], "target": 0}, "2 to 26 different texts, got 1"),
        ({"prompt": "x", "choices": ["a", "a"], "target": 0}, "different texts"),
        ({"prompt": "x", "choices": ["a", ""], "target": 0}, "not empty"),
        ({"prompt": "x", "target": 0}, "`choices` is a list of texts"),
        ({"prompt": "x", "choices": ["a", "b"], "target": 2}, "`target` is the place of the right choice from 0 to 1"),
        ({"prompt": "x", "choices": ["a", "b"], "answers": []}, "names none of the choices"),
        ({"prompt": "x", "choices": ["a", "b"], "answers": ["a", "b"]}, "names 2 of the choices"),
    ],
)
def test_bad_records(row: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError, match=says):
        measure(MultipleChoice(records=[row]), Scripted(lambda prompt: "A"))


def test_bad_settings() -> None:
    with pytest.raises(SettingsError, match="shown is none or letters"):
        MultipleChoice(shown="all").validate()
    with pytest.raises(SettingsError, match="reading is auto, probabilities, written, both"):
        MultipleChoice(reading="mind").validate()
    with pytest.raises(SettingsError, match="kinds are fact, unknown or both"):
        MultipleChoice(kinds=["era"]).validate()
    with pytest.raises(UnsupportedError, match="needs logits"):
        written(lambda prompt: "A", reading="both")


def test_on_the_command_line() -> None:
    from truing.cli.app import app

    shown = CliRunner().invoke(app, ["measure", "multiple-choice", "--model", "sandbox/small", "--limit", "8"])
    assert shown.exit_code == 0, shown.output
    assert "accuracy by byte" in shown.output
