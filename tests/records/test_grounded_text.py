"""The text form of grounded reports, and boxes."""

from __future__ import annotations

import pytest

from truing.errors import RecordError
from truing.records.grounded_text import BINS, Phrase, checked_boxes, parse, to_original, write


def test_decoding_then_encoding_a_bin_gives_the_bin() -> None:
    for start in range(0, BINS, 4):
        text = f"<obj>Seen.<box><x{start}><y{start + 1}><x{start + 2}><y{start + 3}></box></obj>"
        phrases = parse(text)
        assert isinstance(phrases, list)
        assert phrases[0].boxes == (tuple((start + at + 0.5) / 100 for at in range(4)),)
        assert write(phrases) == text
    assert write([Phrase("x", ((0.0, 0.0, 1.0, 1.0),))]) == "<obj>x<box><x0><y0><x99><y99></box></obj>"


def test_phrases_with_no_one_and_several_boxes() -> None:
    box = "<box><x10><y20><x30><y40></box>"
    found = parse(f"<obj>A.</obj><obj>B. {box}</obj><obj>C < D.{box}{box}</obj>")
    assert [(one.text, len(one.boxes or ())) for one in found if isinstance(one, Phrase)] == [
        ("A.", 0), ("B.", 1), ("C < D.", 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "<obj>A.</obj> <obj>B.</obj>",
        "<obj>A.</obj>,",
        "Yes: <obj>A.</obj>",
        "<obj>A.",
        "<obj>A.<box><x1><y2><x3><y4></box>",
        "<obj>A.<box><x1><y2><x3></box></obj>",
        "<obj>A.<box><x1><y2><x3><y100></box></obj>",
        "<obj>A.<box><y1><x2><x3><y4></box></obj>",
        "<obj>A.<box><x1><y2><x3><y4></box>B.</obj>",
        "<obj>A.<box><x1><y2><x3><y4></box> <box><x1><y2><x3><y4></box></obj>",
        "<obj><obj>A.</obj></obj>",
        "<obj> </obj>",
        "A.</obj>",
        "<box><x1><y2><x3><y4></box>",
    ],
)
def test_what_is_no_grounded_text_is_refused(text: str) -> None:
    with pytest.raises(RecordError):
        parse(text)


def test_plain_text_is_given_back() -> None:
    assert parse("  Lungs are clear. ") == "Lungs are clear."
    assert parse("") == ""
    assert parse("a < b and <x1> stand in plain words") == "a < b and <x1> stand in plain words"


@pytest.mark.parametrize(
    ("boxes", "why"),
    [
        ([], "at least one box"), ("x", "at least one box"), ([[0, 0, 1]], "x_min, y_min"),
        ([[0, 0, 1, True]], "x_min"),
        ([[0, 0, 1, 1.1]], "reaches out of the image"), ([[-0.1, 0, 1, 1]], "reaches out"),
        ([[0.7, 0, 0.2, 1]], "corners reversed"), ([[0, 0.5, 1, 0.4]], "corners reversed"),
        ([[0, 0, 1, float("nan")]], "x_min"), ([{"x_min": 0, "y_min": 0, "x_max": 1}], "x_min"),
    ],
)  # fmt: skip
def test_boxes_that_are_none(boxes: object, why: str) -> None:
    with pytest.raises(RecordError, match=why):
        checked_boxes(boxes, "phrase 1")


def test_boxes_in_both_forms() -> None:
    assert checked_boxes(None, "x") is None
    held = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}
    assert checked_boxes([held, [0, 0, 1, 1]], "x") == ((0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 1.0, 1.0))


def test_a_phrase_that_holds_a_marker_is_not_written() -> None:
    with pytest.raises(RecordError, match="holds a marker"):
        write([Phrase("a</obj>")])


def test_boxes_on_the_image_before_it_was_cut() -> None:
    whole = to_original((0.0, 0.0, 1.0, 1.0), 1000, 800)
    assert whole == (0.1, 0.0, 0.9, 1.0)
    assert to_original((0.0, 0.0, 1.0, 1.0), 800, 1000) == (0.0, 0.1, 1.0, 0.9)
    with pytest.raises(RecordError, match="0 by 8"):
        to_original((0, 0, 1, 1), 0, 8)
