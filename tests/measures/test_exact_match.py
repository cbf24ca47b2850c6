"""Exact match and F1 of words: known values, what is ignored, what is taken out, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import truing as tr
from tests.measures.models import Scripted
from truing.cli.app import app
from truing.errors import RecordError, RewardError, SettingsError
from truing.measures.exact_match import f1_of_words, form, match


def asked(answers: dict[str, str], rows: list[dict[str, Any]], **settings: Any) -> tr.Result:
    return tr.measure("exact_match", Scripted(lambda prompt: answers[prompt]), records=rows, **settings)


@pytest.mark.parametrize(
    ("text", "ignore", "expected"),
    [
        ("The  Eiffel Tower!", ("case", "punctuation", "articles"), "eiffel tower"),
        ("The  Eiffel Tower!", (), "The Eiffel Tower!"),
        ("The Eiffel Tower!", ("case",), "the eiffel tower!"),
        ("The Eiffel Tower!", ("punctuation",), "The Eiffel Tower"),
        ("The Eiffel Tower!", ("articles",), "Eiffel Tower!"),
        ("A", ("case", "punctuation", "articles"), "a"),
        ("A.", ("case", "punctuation", "articles"), "a"),
        ("«東京»。", ("case", "punctuation", "articles"), "東京"),
        ("?!", ("punctuation",), "?!"),
        ("Straße", ("case",), "strasse"),
        ("Another theory", ("articles",), "Another theory"),
    ],
)
def test_forms(text: str, ignore: tuple[str, ...], expected: str) -> None:
    assert form(text, ignore) == expected


def test_f1_by_hand() -> None:
    # Two of three words said are among the four wanted: precision 2/3, recall 2/4.
    assert f1_of_words("red green blue", "red blue white black") == pytest.approx(
        2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2)
    )
    # A word counts as often as it stands in both.
    assert f1_of_words("go go go", "go go") == pytest.approx(0.8)
    assert f1_of_words("", "") == 1
    assert f1_of_words("", "x") == 0


@given(st.text(max_size=20), st.text(max_size=20))
def test_f1_is_symmetric_bounded_and_1_for_equal_texts(one: str, other: str) -> None:
    assert f1_of_words(one, other) == f1_of_words(other, one)
    assert 0 <= f1_of_words(one, other) <= 1
    assert match(one, [one]) == (True, 1.0)
    assert form(form(one)) == form(one)


def test_figures_of_own_questions() -> None:
    rows = [
        {"prompt": "capital?", "answers": ["Paris", "the city of Paris"]},
        {"prompt": "letter?", "answers": ["B"]},
        {"prompt": "who?", "answers": ["Ada Lovelace"]},
    ]
    result = asked({"capital?": "paris.", "letter?": "C", "who?": "Ada"}, rows)
    assert result.figures["exact_match"].value == pytest.approx(1 / 3)
    assert result.figures["exact_match"].method == "Clopper-Pearson"
    assert result.figures["f1"].value == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert 0 <= result.figures["f1"].low < result.figures["f1"].high <= 1
    assert [row["grade"] for row in result.samples] == ["right", "wrong", "wrong"]
    strict = asked({"capital?": "paris.", "letter?": "C", "who?": "Ada"}, rows, ignore=[])
    assert strict.figures["exact_match"].value == 0


def test_what_is_taken_out_of_the_text_and_what_is_not_found() -> None:
    rows = [{"prompt": str(at), "answers": ["42"]} for at in range(4)]
    said = {"0": "so #### 41\n#### 42", "1": "#### 41", "2": "It is 42", "3": "#### 42"}
    result = asked(said, rows, extract=r"#### *(\S+)")
    assert [row["taken"] for row in result.samples] == ["42", "41", None, "42"]
    assert result.figures["exact_match"].value == 0.5
    assert "`extract` found no answer in 1 of 4 texts; they are not right." in result.notes
    with pytest.raises(RewardError, match="backtracks too much"):
        asked({"0": "a" * 200 + "b"}, rows[:1], extract=r"(a|aa)+$", seconds=0.05)


def test_rows_of_one_prompt_are_one_cluster() -> None:
    rows = [{"prompt": "p", "answers": ["x"]}, {"prompt": "p", "answers": ["y"]}, {"prompt": "q", "answers": ["x"]}]
    result = asked({"p": "x", "q": "x"}, rows)
    assert result.figures["exact_match"].method == "Clopper-Pearson, clustered"


@pytest.mark.parametrize("answers", [[], [" "], None])
def test_questions_without_answers(answers: Any) -> None:
    row = {"prompt": "p"} if answers is None else {"prompt": "p", "answers": answers}
    with pytest.raises(RecordError, match="answers"):
        asked({"p": "x"}, [row])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": "case"}, "list of any of case"),
        ({"ignore": ["accents"]}, "list of any of case"),
        ({"extract": "("}, "no regular expression"),
        ({"extract": ""}, "regular expression or None"),
        ({"seconds": 0}, "seconds"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        asked({"p": "x"}, [{"prompt": "p", "answers": ["x"]}], **settings)


def test_on_the_sandbox_and_the_command_line() -> None:
    result = tr.measure("exact_match", tr.load("sandbox/small"), limit=12, split="dev")
    truth = tr.measure("capability", tr.load("sandbox/small"), limit=12, split="dev")
    assert len(result.samples) == 12
    assert {row["kind"] for row in result.samples} == {"fact", "context"}
    right = {row["prompt"] for row in truth.samples if row["capability"] and row["kind"] != "benign"}
    both = {row["prompt"]: row["exact_match"] for row in result.samples if row["prompt"] in right}
    assert both
    assert all(both.values())
    done = CliRunner().invoke(app, ["measure", "exact-match", "--model", "sandbox/small", "--limit", "6"])
    assert done.exit_code == 0, done.output
    assert "f1" in done.output
