from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reports.examples import difference, figure, hhh, side_effect
from truing.measures.result import Figure
from truing.reports.rows import Line, change, interval, lines, number, told_apart
from truing.reports.texts import conversation, word_diff
from truing.safe_text import visible


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        ("higher", 0.2, "better"),
        ("higher", -0.2, "worse"),
        ("lower", 0.2, "worse"),
        ("lower", -0.2, "better"),
        ("neither", 0.2, "changed"),
        ("higher", 0.01, "unclear"),
    ],
)
def test_verdict_follows_the_interval_and_the_direction(better: str, value: float, verdict: str) -> None:
    line = Line(
        "m", "f", figure(0.5, better=better), figure(0.5 - value, better=better), difference(value, better=better)
    )
    assert line.verdict == verdict
    assert line.sign == {"better": "▲", "worse": "▼", "changed": "◆", "unclear": "·"}[verdict]


def test_no_difference_gives_no_verdict() -> None:
    line = Line("m", "f", figure(0.5), None, None)
    assert (line.verdict, line.sign, line.words) == ("", "", "")


def test_an_interval_that_touches_zero_is_no_clear_change() -> None:
    line = Line("m", "f", figure(0.5), figure(0.4), Figure(0.1, 0.0, 0.2, 100, "bootstrap"))
    assert line.verdict == "unclear"


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(0.1234, "share", "12.3 %"), (0.0, "words", "0"), (6.4321, "perplexity", "6.43"), (123.456, "words", "123.5"),
     (12345.6, "words", "12,346"), (float("nan"), "share", "not defined"), (-0.00123, "nats per token", "-0.00123")],
)  # fmt: skip
def test_numbers_for_people(value: float, unit: str, shown: str) -> None:
    assert number(value, unit) == shown


def test_intervals_and_changes() -> None:
    assert interval(Figure(0.412, 0.36, 0.466, 100, "x")) == "41.2 % [36.0, 46.6]"
    assert change(Figure(-0.05, -0.1, 0.0, 100, "x")) == "−5.0 pp [−10.0, +0.0]"
    assert change(Figure(0.5, -0.25, 1.0, 100, "x", unit="words")) == "+0.5 [−0.25, +1]"


def test_lines_keep_order_and_mark_side_effects() -> None:
    found = lines({"hhh": hhh(), "kl": side_effect("kl", 0, 1, "nats", "neither", 0.1)}, frozenset({"kl"}))
    assert [line.name for line in found] == ["helpful", "harmless", "honest", "kl"]
    assert [line.side_effect for line in found] == [False, False, False, True]


def test_lines_of_one_measure_several_times_say_whose_they_are() -> None:
    kl = side_effect("kl", 0, 1, "nats", "neither", 0.1)
    other = dataclasses.replace(hhh(), name="own", figures={"honest": figure(0.5), "kind": figure(0.5)})
    found = lines({"hhh": hhh(), "hhh-2": hhh(), "own": other, "kl": kl, "kl-2": kl})
    assert [line.name for line in found] == [
        "hhh: helpful", "hhh: harmless", "hhh: honest", "hhh-2: helpful", "hhh-2: harmless", "hhh-2: honest",
        "own: honest", "kind", "kl", "kl-2",
    ]  # fmt: skip
    assert [line.measure for line in found][3:7] == ["hhh-2"] * 3 + ["own"]


def test_several_of_one_measure_are_told_apart_by_their_settings() -> None:
    def made(**settings):
        return dataclasses.replace(hhh(), settings={"limit": 60, "seed": 0, **settings})

    results = {"hhh": made(), "hhh-2": made(limit=20, records="x" * 80), "kl": side_effect("kl", 0, 1, "nats", "n", 1)}
    assert told_apart(results)[0] == "hhh: limit 60."
    results["hhh"].settings["records"] = None
    assert told_apart(results) == ["hhh: limit 60, records null.", f'hhh-2: limit 20, records "{"x" * 58}….']
    assert told_apart({"hhh": made(), "hhh-2": made()})[1] == "hhh-2: as the others of its kind."
    assert told_apart({"hhh": made(), "own": dataclasses.replace(made(), name="own")}) == []


@given(st.text(alphabet="ab \n", max_size=60), st.text(alphabet="ab \n", max_size=60))
def test_diff_pieces_join_to_the_texts(before: str, after: str) -> None:
    left, right = word_diff(before, after)
    assert "".join(text for _, text in left) == before
    assert "".join(text for _, text in right) == after
    if before == after:
        assert not any(differs for differs, _ in left + right)


def test_diff_marks_what_changed() -> None:
    left, right = word_diff("the red stone", "the grey stone")
    assert left == [(False, "the"), (True, " red"), (False, " stone")]
    assert right == [(False, "the"), (True, " grey"), (False, " stone")]


def test_long_texts_are_compared_as_wholes() -> None:
    long = "word " * 700
    left, right = word_diff(long, long + "x")
    assert (len(left), len(right)) == (1, 1)
    assert left[0][0]


@given(st.text(max_size=200))
def test_visible_text_can_be_written_and_hides_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not any(letter in shown for letter in "\x00\x1b\u2028\u202e\u2066")


def test_visible_cuts_and_says_so() -> None:
    assert visible("x" * 30, most=10) == "x" * 10 + "… (20 more characters)"


def test_conversations() -> None:
    assert conversation([{"role": "user", "content": "hello"}]) == "hello"
    assert (
        conversation([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}])
        == "system: be kind\nuser: hello"
    )
    told = conversation([{"role": "system", "content": "x"}, {"role": "user", "content": "سلام.\nhello."}])
    assert told == "system: x\nuser: \u2068سلام.\u2069\nhello.", "a full stop stays with its language"


def test_signs_that_join_letters_reach_the_terminal_and_others_do_not() -> None:
    from truing.safe_text import inert

    assert inert("می\u200cرود\u202e!\x1b") == "می\u200cرود\ufffd!\ufffd"


def test_rounding_is_no_change() -> None:
    tiny = Figure(6e-9, 4e-9, 8e-9, 100, "bootstrap", "nats per token", "neither")
    assert Line("kl", "kl", tiny, Figure(0.0, 0.0, 0.0, 100, "bootstrap"), tiny).verdict == "unclear"
