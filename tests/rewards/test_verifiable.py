from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing import AnswerLength, Combined, Keyword, Squashed, records
from truing.errors import RecordError, RewardError, SettingsError
from truing.rewards import checked
from truing.rewards.verifiable import Verifiable, bound, first_number, last_boxed, last_number, number, same


def grades(reward: Verifiable, answers, *responses: str) -> list[float]:
    known = reward.bind([{"prompt": "q", "answers": answers}])
    return known(["q"] * len(responses), list(responses)).tolist()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", 1000), ("1000.0", 1000), ("$1000$", 1000), ("-2.50", Fraction(-5, 2)), ("3/4", Fraction(3, 4)),
        (r"\frac{1}{2}", Fraction(1, 2)), (r"-\dfrac{3}{4}", Fraction(-3, 4)), (".5", Fraction(1, 2)), ("50%", 50),
        ("+7.", 7), ("(8)", 8), ("−3", -3), ("1,00", None), ("1/0", None), ("", None), ("-", None), (".", None),
        ("twelve", None), ("12 apples", None), ("1 2", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_numbers(text, value) -> None:
    assert number(text) == value


def test_the_last_number_and_the_last_box() -> None:
    assert last_number("From 3 and 4, 3-4 = -1, so 12,500.50 in all.") == "12,500.50"
    assert last_number("7 - 12 = -5.") == "-5"
    assert last_number("a3 v1.2b") is None
    assert first_number("3/4 of 12") == "3/4"
    assert last_boxed(r"\boxed{1} then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{\frac{1}{2}") is None
    assert last_boxed("none") is None


def test_auto_finds_the_final_answer() -> None:
    said = [
        "6 * 7 is 42.", "So the answer is 42, not 43.", "... #### 42", r"thus \boxed{42.0}. 17 more",
        "The answer: $42$", "42 or 43", "I cannot say.", "", "the answer is forty-two",
        r"\boxed{41} but the answer is 42",
    ]  # fmt: skip
    assert grades(Verifiable(), ["42"], *said) == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert grades(Verifiable(), ["Paris"], "Paris.", "The answer is  PARIS", "paris, France", "") == [1, 1, 0, 0]
    assert grades(Verifiable(), ["Paris", "Lyon"], "lyon") == [1]
    assert grades(Verifiable(), [r"\text{even}"], r"\boxed{even}") == [1]


def test_where_else_the_answer_may_be() -> None:
    assert grades(Verifiable(extract="boxed"), ["4"], "4", r"\boxed{4}") == [0, 1]
    assert grades(Verifiable(extract="number"), ["4"], "the answer is 4, of 5", "5 - 1 = 4") == [0, 1]
    assert grades(Verifiable(extract="text"), ["4"], "it is 4", " 4. ") == [0, 1]
    contains = Verifiable(extract="contains")
    assert grades(contains, ["old mill"], "The Old  Mill, of course", "an older mill", "", "old") == [1, 0, 0, 0]
    assert grades(contains, ["..."], "anything") == [0]
    tagged = Verifiable(extract=r"(?s)<answer>(.*?)</answer>")
    assert grades(tagged, ["4"], "<answer>3</answer><answer> 4 </answer>", "4") == [1, 0]
    assert grades(Verifiable(extract=r"\d+$"), ["4"], "3 4", "4!") == [1, 0]
    assert grades(Verifiable(right=2.0, wrong=-1.0), ["4"], "4", "5") == [2, -1]


def test_answers_go_by_the_conversation() -> None:
    reward = Verifiable().bind([
        {"prompt": "2 + 2?", "answers": ["4"]},
        {"prompt": [{"role": "user", "content": "2 + 2?"}], "answers": ["four"]},
        {"prompt": [{"role": "system", "content": "mod 3"}, {"role": "user", "content": "2 + 2?"}], "answers": ["1"]},
    ])  # fmt: skip
    plain, turn = "2 + 2?", {"role": "user", "content": "2 + 2?"}
    system = [{"role": "system", "content": "mod 3"}, turn]
    other = [{"role": "system", "content": "be brief"}, turn]
    assert reward([plain, [turn], system, system, other], ["4", "four", "1", "4", "4"]).tolist() == [1, 1, 1, 0, 1]
    with pytest.raises(RewardError, match="no right answer to the prompt of row 1: '3 \\+ 3"):
        reward([plain, "3 + 3?"], ["4", "6"])


def test_answers_of_demonstrations_are_in_their_completion() -> None:
    rows = [{"prompt": "q", "completion": "2 boxes of 3 are 6.\n#### 6"}]
    assert Verifiable().bind(rows)(["q", "q"], ["so 6", "so 5"]).tolist() == [1, 0]
    rows = [{"prompt": "q", "completion": "c", "target": "7"}]
    assert Verifiable(column="target").bind(rows)(["q"], ["7"]).tolist() == [1]
    with pytest.raises(RecordError, match="record 1 has none in the column `answers`"):
        Verifiable().bind([{"prompt": "q", "chosen": "a", "rejected": "b"}])


def test_where_the_answers_come_from() -> None:
    with pytest.raises(RewardError, match="knows no right answers here"):
        Verifiable()(["q"], ["a"])
    named = Verifiable(records="sandbox/questions:dev", extract="contains")
    row = next(iter(records.read("sandbox/questions:dev")))
    assert named([row["prompt"]], [row["answers"][0]]).tolist() == [1]
    assert bound(named, [{"prompt": "q", "answers": "a"}]) is named, "records of its own come first"
    assert bound(len, []) is len
    total = Combined(rewards=[Verifiable(), Combined(rewards=[Verifiable(), AnswerLength(target=1)])], weights=[1, 2])
    made = bound(total, [{"prompt": "q", "answers": "a"}])
    assert checked(made, ["q"], ["a"]).tolist() == [1 + 2 * 2]
    with pytest.raises(RewardError, match="knows no right answers"):
        total(["q"], ["a"])
    clipped = bound(Squashed(reward=Verifiable(), how="clip"), [{"prompt": "q", "answers": "a"}])
    assert checked(clipped, ["q", "q"], ["a", "b"]).tolist() == [1, 0]
    assert bound(Keyword(words=["a"]), [{"prompt": "q", "answers": "a"}]) == Keyword(words=["a"])


def test_binding_changes_no_setting() -> None:
    reward = Verifiable()
    assert reward.bind([{"prompt": "q", "answers": "a"}]) == reward
    assert "_answers" not in reward.__dict__


@pytest.mark.parametrize(
    "settings_",
    [{"extract": "box"}, {"extract": "("}, {"extract": ""}, {"right": 0.0}, {"wrong": float("nan")}, {"column": ""},
     {"seconds": 0}],
)  # fmt: skip
def test_settings_that_cannot_work(settings_) -> None:
    with pytest.raises(SettingsError):
        Verifiable(**settings_).bind([{"prompt": "q", "answers": "a"}])


def test_an_expression_that_backtracks_gives_up() -> None:
    with pytest.raises(RewardError, match="backtracks"):
        grades(Verifiable(extract="(a|aa)+$", seconds=0.2), ["a"], "a" * 45 + "!")


@given(st.text(max_size=200), st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_text_is_graded(response: str, answer: str) -> None:
    for extract in ("auto", "boxed", "number", "text", "contains"):
        assert grades(Verifiable(extract=extract), [answer], response)[0] in (0.0, 1.0)


@given(st.fractions(max_denominator=999), st.integers(-(10**6), 10**6))
@settings(max_examples=80, deadline=None)
def test_a_number_is_itself_however_written(value: Fraction, whole: int) -> None:
    assert same(str(value), f"{value.numerator}/{value.denominator}")
    assert same(f"{whole:,}", f"{whole}.00")
    assert not same(str(whole), str(whole + 1))
    assert grades(Verifiable(), [str(whole)], f"so we get {whole:,}.") == [1]
