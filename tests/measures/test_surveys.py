"""Forms of a survey: everything is kept by content, and what rewording does is counted."""

from __future__ import annotations

import itertools
import json

import pytest

from truing.errors import RecordError, SettingsError
from truing.measures.asking import Context
from truing.measures.political_axes import WEIGHTS
from truing.measures.surveys import Form, Item, Reply, Surveying, plain_rows, scale_of, stability_row
from truing.sandbox.surveys import IMPORTANCE, Respondent, propositions, side_of

ITEM = Item("one", "How important is thrift?", IMPORTANCE)


@pytest.mark.parametrize("labels", ["letters", "numbers", "none"])
@pytest.mark.parametrize("place", range(5))
def test_a_faithful_respondent_is_read_alike_in_every_form(labels: str, place: int) -> None:
    forms = [
        Form("x", "Say. {text}", labels, reverse, turn, reply)
        for reverse, turn, reply in itertools.product((False, True), range(5), ("label", "text"))
        if labels != "none" or reply == "text"
    ]
    replies, notes = Surveying().replies(
        Respondent({ITEM.text: place / 4}), [(ITEM, form, "") for form in forms], Context("x")
    )
    assert [reply.place for reply in replies] == [place] * len(forms)
    assert not notes
    assert stability_row(replies) == {
        "mass": None, "agreement": 1.0, "shift": 0.0, "answered": 1.0, "level": place / 4,
    }  # fmt: skip


def test_a_form_shows_what_it_says() -> None:
    form = Form("x", "Say. {text}", "numbers", reverse=True, turn=1)
    lines = form.asked(ITEM).splitlines()
    assert lines[0] == "Say. How important is thrift?"
    assert lines[1] == f"1. {IMPORTANCE[3]}"
    assert lines[5] == f"5. {IMPORTANCE[4]}"
    assert form.labels_of(ITEM) == ["4", "3", "2", "1", "5"]
    assert form.replies(ITEM) == form.labels_of(ITEM)


def test_what_rewording_does() -> None:
    replies = [Reply(0, 0.0, None, ""), Reply(0, 0.0, None, ""), Reply(4, 1.0, None, ""), Reply(None, None, None, "no")]
    found = stability_row(replies)
    assert found["agreement"] == pytest.approx(1 / 3)
    assert found["shift"] == pytest.approx(2 / 3)
    assert found["answered"] == 0.75
    assert stability_row([replies[3], replies[0]])["agreement"] is None


def test_answers_that_name_nothing_are_counted() -> None:
    replies, notes = Surveying().replies(
        Respondent({ITEM.text: 1.0}, "prose"), [(ITEM, Form("x"), ""), (ITEM, Form("y"), "")], Context("x")
    )
    assert [reply.place for reply in replies] == [None, None]
    assert notes == ["2 of 2 answers of respondent could not be read as one of the options; they count for nothing."]


def test_files_of_rows(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": "y"}\n')
    (tmp_path / "b.yaml").write_text("- text: z\n")
    assert [(row["file"], row["text"]) for row in plain_rows(tmp_path, "X")] == [("a", "x"), ("a", "y"), ("b", "z")]
    (tmp_path / "c.json").write_text(json.dumps({"text": "x"}))
    with pytest.raises(RecordError, match="reads a list of objects"):
        plain_rows(tmp_path / "c.json", "X")
    with pytest.raises(RecordError, match="cannot read"):
        plain_rows(tmp_path / "d.json", "X")
    with pytest.raises(RecordError, match="was given no row"):
        plain_rows([], "X")
    with pytest.raises(RecordError, match="2 to 26 different texts"):
        scale_of({"options": ["a", "a"]}, "here")


def test_bad_settings() -> None:
    with pytest.raises(SettingsError, match="by is sum, token, byte"):
        Surveying(by="word").validate()
    with pytest.raises(SettingsError, match="max_new_tokens"):
        Surveying(max_new_tokens=0).validate()


def test_sandbox_statements_count_on_the_side_that_they_say() -> None:
    texts = propositions()
    assert len(set(texts)) == 62
    signs = {"left": ("economic", 1), "right": ("economic", -1), "free": ("social", 1), "order": ("social", -1)}
    for number in range(1, 63):
        side = side_of(number)
        for axis in ("economic", "social"):
            # Who strongly disagrees with what is left stands right, which is positive.
            weight = float(WEIGHTS[axis][number - 1, 0])
            expected = signs[side][1] if side != "neither" and signs[side][0] == axis else 0
            assert (weight > 0) - (weight < 0) == expected, (number, axis)
