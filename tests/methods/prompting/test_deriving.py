"""What can be used of what a writer wrote, and how near it is to the original."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.methods.prompting.deriving import (
    INSTRUCTION,
    cleaned,
    question_of,
    shortened,
    similarity,
    unfit,
    with_question,
)
from truing.methods.prompting.writers import check_slots, count_words
from truing.safe_text import quoted


def test_the_instruction_has_one_place_for_the_question() -> None:
    check_slots("instruction", INSTRUCTION, ("prompt",))
    assert INSTRUCTION.index("Do not answer it") < INSTRUCTION.index("{prompt}")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("What is red?", "What is red?"), ("  New question: What is red?\n", "What is red?"),
        ("Here is a better version of the question:\n\nWhat is red?", "What is red?"),
        ("Sure! This is the new prompt, as you asked:\nWhat is red?", "What is red?"),
        ("**Rewritten prompt:**\nWhat is red?", "What is red?"), ('"What is red?"', "What is red?"),
        ("Question: “What is red?”", "What is red?"), ("The question is hard.", "The question is hard."),
        ("A question: what is red?", "A question: what is red?"), ("", ""), ("Prompt:", ""),
        ("Explain the question mark: what is it for?", "Explain the question mark: what is it for?"),
    ],
)  # fmt: skip
def test_labels_and_lines_before_the_question_are_taken_off(text: str, left: str) -> None:
    assert cleaned(text) == left


def test_a_label_that_the_prompt_has_itself_stays() -> None:
    assert cleaned("Question: what is red, exactly?", "Question: what is red?") == "Question: what is red, exactly?"


@pytest.mark.parametrize(
    ("derived", "why"),
    [
        ("What colour is the bird, and why?", ""), ("", "empty"), (" \n", "empty"), ("the   bird?\n", "copy"),
        ("Yes, it is red.", "answers the prompt"), ("Here is what I know.", "answers the prompt"),
        ("I'm sorry, I cannot do that.", "answers the prompt"), ("word " * 9, "too long"),
    ],
)  # fmt: skip
def test_what_cannot_stand_for_a_prompt(derived: str, why: str) -> None:
    assert unfit("the bird?", derived, max_words=8) == why


def test_a_prompt_that_begins_like_an_answer_may_be_derived_to_one_that_does() -> None:
    assert unfit("Ok, what is red?", "Ok, what is red, and why?", 20) == ""


def test_similarity_at_values_worked_by_hand() -> None:
    assert similarity("the red bird", "The BIRD, the red!") == pytest.approx(4 / math.sqrt(3 * 6))
    assert similarity("a b", "c d") == 0
    assert similarity("what is it", "What, is it?") == 1
    assert (similarity("", ""), similarity("?", "a"), similarity("?", "!")) == (1, 0, 1)
    # In scripts without spaces each character is a word.
    assert similarity("天空是蓝色", "蓝色的天空，是吗") == pytest.approx(5 / math.sqrt(5 * 7))


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_symmetric_and_within_its_bounds(one: str, other: str) -> None:
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, other) == similarity(other, one)
    assert similarity(one, one) == pytest.approx(1)


def test_the_last_message_of_the_user_is_the_question() -> None:
    talk = [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"}, {"role": "user", "content": "c", "name": "x"},
    ]  # fmt: skip
    assert (question_of("q"), question_of(" "), question_of(talk), question_of(talk[:1])) == ("q", None, "c", None)
    changed = with_question(talk, "d")
    assert changed == [*talk[:3], {"role": "user", "content": "d", "name": "x"}]
    assert talk[3]["content"] == "c"
    before = [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]
    assert with_question("q", "q", before) == [*before, {"role": "user", "content": "q"}]
    assert with_question("q", "d") == "d"


@given(st.text(max_size=80), st.integers(0, 12))
def test_a_shortened_text_is_a_beginning_of_it(text: str, words: int) -> None:
    short = shortened(text, words)
    assert text.startswith(short)
    assert count_words(short) <= words or short == text


def test_sentences_stay_whole_where_one_ends_in_the_second_half() -> None:
    text = "One two three. Four five six seven eight nine."
    assert shortened(text, 5) == "One two three."
    assert shortened(text, 8) == "One two three. Four five six seven eight"
    assert shortened(text, 9) == text
    assert shortened("一二三。四五六", 5) == "一二三。"
    assert shortened(text, 0) == ""


@given(st.text(max_size=60))
def test_no_line_of_a_quoted_text_lacks_its_mark(text: str) -> None:
    assert all(line.startswith("> ") for line in quoted(text).splitlines())
