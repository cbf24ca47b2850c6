"""Text brought to one form for matching."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.measures.normalise import HALF_SPACE, known_script, normalise, same_text, says, share_in_script


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("كتاب", "کتاب"),
        ("علي", "علی"),
        ("خانهٔ", "خانه"),
        ("مُدیر", "مدیر"),
        ("سـلام", "سلام"),
        ("۱۲۳", "123"),
        ("٤٥", "45"),
        ("ﻻ", "لا"),
        ("a\u200fb", "ab"),
        ("  two   spaces ", "two spaces"),
        ("ﬁ", "fi"),
    ],
)
def test_forms_of_one_text(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


def test_the_half_space_stays_where_it_parts_letters() -> None:
    assert normalise("می\u200cرود") == "می\u200cرود"
    assert normalise("می\u200c\u200cرود") == "می\u200cرود"
    assert normalise("می \u200cرود\u200c") == "می رود"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_a_second_time_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@given(st.text(alphabet="اأإآيىیكکةهۀۂۓؤئ\u0654\u0655\u064b\u0653\u0640\u200c\u200d 12۳٤é\u0301e\u0300", max_size=12))
def test_nor_in_what_marks_join(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_same_and_said() -> None:
    assert same_text("می‌روم!", "مي روم")
    assert same_text("The Cat.", "the  cat")
    assert not same_text("?", "!")
    assert not same_text("", "")
    assert says("باید نباشيد بگویید", ["نباشید"])
    assert says(f"آن را می{HALF_SPACE}گوید", ["می گوید"])
    assert says("ask for «۴۵» then", ["45"])
    assert not says("concatenate", ["cat"])
    assert not says("anything", ["", "?"])


def test_scripts() -> None:
    assert share_in_script("سلام hi", "Arabic") == pytest.approx(4 / 6)
    assert share_in_script("12 !", "Arabic") is None
    assert known_script("Arabic")
    assert not known_script("Persianish")
    assert not known_script("Arabic}|.")
