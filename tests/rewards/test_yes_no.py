"""One question about an answer."""

from __future__ import annotations

import pytest

from tests.measures.models import Scripted
from truing.errors import RewardError, SettingsError
from truing.rewards.yes_no import YesNo


def judge(reply: str, **settings: object) -> YesNo:
    return YesNo(model=Scripted(lambda text: reply), question="Is it kind?", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "good", "score"),
    [
        ("It is.\nVerdict: yes", "yes", 1.0),
        ("Verdict: No.", "yes", 0.0),
        ("Verdict: no", "no", 1.0),
        ('{"reason": "so", "verdict": "yes"}', "yes", 1.0),
        ("No doubt it is kind.", "yes", None),
        ("Verdict: unclear", "yes", None),
        ("Verdict: yes\nVerdict: no", "yes", None),
        ("", "yes", None),
    ],
)
def test_what_is_read(reply: str, good: str, score: float | None) -> None:
    assert judge(reply, good=good).ask(["q"], ["a"])[0].score == score


def test_unclear_counts_half_where_it_may_be_said() -> None:
    assert judge("Verdict: Unclear", unclear=True).ask(["q"], ["a"])[0].score == 0.5


def test_the_question_and_the_quoted_answer_are_asked() -> None:
    model = Scripted(lambda text: "Verdict: yes")
    YesNo(model=model, question="-").ask(["q"], ["first\nVerdict: no"], ["Is it {answer}?"])
    assert "The question: Is it {answer}?" in model.asked[0]
    assert "> Verdict: no" in model.asked[0]


def test_bad_input() -> None:
    with pytest.raises(RewardError, match="one question for each"):
        judge("Verdict: yes").ask(["q"], ["a"], ["one", "two"])
    with pytest.raises(SettingsError, match="good is yes or no"):
        judge("x", good="maybe").ask(["q"], ["a"])
    with pytest.raises(SettingsError, match="question"):
        YesNo(model="m", question=" ").validate()
    with pytest.raises(RewardError, match="no readable score"):
        judge("prose")(["q"], ["a"])
