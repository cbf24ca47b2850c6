from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.measures.models import Scripted
from truing.contracts import Settings
from truing.errors import RewardError, SettingsError
from truing.measures.run import measure
from truing.measures.win_rate import WinRate, win_rate
from truing.rewards.functions import AnswerLength
from truing.rewards.judge import Judge
from truing.rewards.pairwise import first_place, pair_score, two_order_verdict

ROWS = [{"prompt": f"question {number}", "answers": ["x"]} for number in range(20)]


class Ruled(Settings):
    """A judge by a rule: the answer with more of a letter, the first one, none that can be read.

    Args:
        letter: what it counts.
        lean: takes the first answer where both have as many.
        blind: prompts with this text it does not understand.
    """

    letter: str = "g"
    lean: bool = False
    blind: str = "no such text"

    def __call__(self, prompts: Sequence[Any], responses: Sequence[str]) -> np.ndarray:
        return np.array([text.count(self.letter) for text in responses], dtype=float)

    def prefer(self, prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[str | None]:
        found: list[str | None] = []
        for prompt, one, two in zip(prompts, first, second):
            ahead = one.count(self.letter) - two.count(self.letter)
            even = "first" if self.lean else "tie"
            found.append(None if self.blind in prompt else "first" if ahead > 0 else "second" if ahead < 0 else even)
        return found


def good(prompt: str) -> str:
    return "gg" if int(prompt.split()[-1]) < 15 else "x"


def test_a_win_rate_by_hand() -> None:
    model, other = Scripted(good, name="good"), Scripted(lambda prompt: "g", name="other")
    result = measure(WinRate(judge=Ruled(), records=ROWS), model, other)
    assert result.figures["win_rate"].value == 0.75
    assert result.figures["win_minus_lose"].value == 0.5
    assert result.against is not None
    assert result.against["win_minus_lose"].value == 0
    assert result.against is not None
    assert result.against["win_rate"].value == 0.5
    assert result.differences is not None
    assert result.differences["win_rate"].value == 0.25
    assert result.differences["win_rate"].low == pytest.approx(result.figures["win_rate"].low - 0.5)
    assert result.figures["first_place"].value == 0.5
    assert [row["grade"] for row in result.samples[13:17]] == ["won", "won", "lost", "lost"]
    assert result.samples[0]["against_answer"] == "g"
    assert result.notes == []


def test_a_judge_that_leans_to_a_place_gives_ties_and_is_shown() -> None:
    same = Scripted(lambda prompt: "g"), Scripted(lambda prompt: "g")
    result = measure(WinRate(judge=Ruled(lean=True), records=ROWS), *same)
    assert result.figures["win_rate"].value == 0.5
    assert result.figures["first_place"].value == 1.0
    assert result.differences is not None
    assert result.differences["first_place"].low > 0.2
    assert result.notes == ["20 of 20 pairs got another verdict in the other order and count as ties."]


def test_verdicts_that_cannot_be_read_are_counted() -> None:
    result = measure(
        WinRate(judge=Ruled(blind="question 1"), records=ROWS), Scripted(good), Scripted(lambda prompt: "g")
    )
    # Questions 1 and 10 to 19.
    assert result.figures["win_rate"].n == 9
    assert result.figures["win_rate"].value == 1
    assert result.notes == ["22 of 40 verdicts could not be read; the 11 pairs they belong to do not count."]
    assert [row["grade"] for row in result.samples].count("not read") == 11


def test_prompts_asked_twice_are_one_cluster() -> None:
    twice = measure(WinRate(judge=Ruled(), records=ROWS * 3), Scripted(good), Scripted(lambda prompt: "g"))
    once = measure(WinRate(judge=Ruled(), records=ROWS), Scripted(good), Scripted(lambda prompt: "g"))
    assert twice.figures["win_rate"].method == "Clopper-Pearson, clustered"
    assert twice.figures["win_rate"].value == once.figures["win_rate"].value
    width = once.figures["win_rate"].high - once.figures["win_rate"].low
    assert twice.figures["win_rate"].high - twice.figures["win_rate"].low == pytest.approx(width, rel=0.2)


def test_any_reward_can_judge() -> None:
    model, other = Scripted(lambda prompt: "one two three"), Scripted(lambda prompt: "one")
    result = measure(WinRate(judge=AnswerLength(target=3, tolerance=4), records=ROWS), model, other)
    assert result.figures["win_rate"].value == 1
    assert list(result.figures) == ["win_rate", "win_minus_lose"]
    even = measure(WinRate(judge=AnswerLength(target=2, tolerance=4), records=ROWS), model, other)
    assert even.figures["win_rate"].value == 0.5


def test_a_judge_is_a_model_that_answers_in_its_form() -> None:
    def verdict(text: str) -> str:
        first, second = text.split("Answer A:\n> ")[1].split("\n")[0], text.split("Answer B:\n> ")[1].split("\n")[0]
        return f"I count.\nBetter: {'A' if len(first) > len(second) else 'B' if len(first) < len(second) else 'tie'}"

    judge = Judge(model=Scripted(verdict, name="judge"))  # type: ignore[arg-type]
    result = measure(WinRate(judge=judge, records=ROWS), Scripted(good), Scripted(lambda prompt: "gg"))
    assert result.figures["win_rate"].value == pytest.approx((15 * 0.5) / 20)
    assert result.settings["judge"]["type"] == "Judge"


def test_verdicts_are_journaled(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(Ruled):
        """Counts what it is asked."""

        def prefer(self, prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[str | None]:
            asked.append(len(prompts))
            return super().prefer(prompts, first, second)

    for _ in range(2):
        models = Scripted(good, name="good"), Scripted(str.upper, name="upper")
        measure(WinRate(judge=Counting(), records=ROWS), *models, out=tmp_path)
    assert sum(asked) == 40


@pytest.mark.parametrize(
    ("forward", "backward", "score", "place"),
    [("first", "second", 1.0, 0.5), ("second", "first", 0.0, 0.5), ("tie", "tie", 0.5, None),
     ("first", "first", 0.5, 1.0), ("second", "second", 0.5, 0.0), ("first", "tie", 0.5, 1.0),
     (None, "first", None, 1.0), ("tie", None, None, None)],
)  # fmt: skip
def test_two_verdicts_make_one(forward: Any, backward: Any, score: Any, place: Any) -> None:
    assert pair_score(forward, backward) == score
    assert first_place(forward, backward) == place


def test_what_cannot_judge_is_refused() -> None:
    with pytest.raises(SettingsError, match="compares two models"):
        measure(WinRate(judge=Ruled(), records=ROWS), Scripted(good))
    with pytest.raises(SettingsError, match="`judge` is a Judge"):
        measure(WinRate(judge="me", records=ROWS), Scripted(good), Scripted(good))  # type: ignore[arg-type]

    class Odd(Ruled):
        """Says something else."""

        def prefer(self, prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[str | None]:
            return ["A"] * len(prompts)

    with pytest.raises(RewardError, match=r"Odd\.prefer gave \['A', 'A', 'A'\]"):
        measure(WinRate(judge=Odd(), records=ROWS), Scripted(good), Scripted(good))


@pytest.mark.parametrize(
    ("first", "swapped", "verdict"),
    [
        ("A", "B", ("A", True)), ("B", "A", ("B", True)), ("tie", "tie", ("tie", True)), ("A", "A", ("tie", False)),
        ("B", "B", ("tie", False)), ("A", "tie", ("tie", False)), ("tie", "B", ("tie", False)),
    ],
)  # fmt: skip
def test_verdicts_in_both_orders(first: str, swapped: str, verdict: tuple[str, bool]) -> None:
    assert two_order_verdict(first, swapped) == verdict


def test_win_rates_of_verdicts() -> None:
    found = win_rate(["A", "A", "B", "tie"])
    assert found == {"a_win": 50, "b_win": 25, "tie": 25, "win_rate_difference": 25}
    for wrong in ([], ["first"]):
        with pytest.raises(SettingsError):
            win_rate(wrong)
    with pytest.raises(SettingsError, match="A, B or tie"):
        two_order_verdict("A", "second")


def test_losing_more_than_winning_keeps_its_interval() -> None:
    model, other = Scripted(lambda prompt: "gg" if prompt.endswith(" 3") else ""), Scripted(lambda prompt: "g", "other")
    figure = measure(WinRate(judge=Ruled(), records=ROWS), model, against=other).figures["win_minus_lose"]
    assert figure.low < figure.value < figure.high < 0
