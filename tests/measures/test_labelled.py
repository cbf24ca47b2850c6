"""Figures of a judge corrected by labels, in the measures that take them; and win rates at equal length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.measures.models import Scripted
from tests.measures.test_win_rate import ROWS, Ruled, good
from truing.errors import RecordError, SettingsError
from truing.measures.just_eval import JustEval
from truing.measures.prediction_powered import corrected_mean
from truing.measures.run import measure
from truing.measures.win_rate import WinRate
from truing.rewards.aspects import ASPECTS

MODELS = (Scripted(good, name="good"), Scripted(lambda prompt: "g", name="other"))


def won(**more: Any) -> Any:
    return measure(WinRate(judge=Ruled(), records=ROWS, **more), *MODELS)


def labelled(said: list[Any]) -> list[dict[str, Any]]:
    samples = won().samples
    return [
        {name: row[name] for name in ("prompt", "answer", "against_answer")} | {"label": label}
        for row, label in zip(samples, said)
    ]


def test_a_win_rate_corrected_by_people(tmp_path: Path) -> None:
    # The judge says won of questions 0 to 14; people say so of every other one of the first ten.
    rows = labelled(["won", "lost"] * 5)
    expected = corrected_mean([1.0, 0.0] * 5, [1.0] * 10, [1.0] * 5 + [0.0] * 5, bounds=(0, 1))
    found = won(labels=rows)
    assert found.figures["win_rate"].value == 0.75
    assert found.figures["win_rate_corrected"].value == pytest.approx(expected.estimate.value)
    assert found.figures["win_rate_corrected"].low == pytest.approx(expected.estimate.low)
    assert found.figures["win_rate_judge_error"].value == pytest.approx(0.5)
    assert found.figures["win_rate_judge_error"].unit == "points"
    assert any(note.startswith("`win_rate_corrected`: 10 of 20 answers have labels") for note in found.notes)
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert won(labels=str(file)).figures == found.figures
    numbers = [{**row, "label": {"won": 1, "lost": 0.0}[row["label"]]} for row in rows]
    assert won(labels=numbers).figures == found.figures


def test_several_people_of_one_answer_are_averaged() -> None:
    rows = labelled(["won", "lost", "tie", "won"])
    twice = won(labels=[*rows, *labelled(["won", "lost", "tie", "lost"])])
    assert twice.figures["win_rate_corrected"].value == won(
        labels=[*rows[:3], {**rows[3], "label": "tie"}]
    ).figures["win_rate_corrected"].value  # fmt: skip


def test_labels_of_other_answers_are_counted() -> None:
    rows = [*labelled(["won", "lost", "won"]), {"prompt": "?", "answer": "x", "against_answer": "y", "label": 1}]
    assert "1 of 4 labelled answers are none of those judged here." in won(labels=rows).notes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "q", "answer": "a", "label": 1}], r"labels, row 1: a label has .*lacking: against_answer"),
        ([{"prompt": "q", "answer": "a", "against_answer": "b"}], "lacking: `label`"),
        ([{"prompt": "q", "answer": 3, "against_answer": "b", "label": 1}], "`answer` is text, not 3"),
        ([{"prompt": "q", "answer": "a", "against_answer": "b", "label": 2}], "from 0 to 1, or won, tie or lost"),
        ([{"prompt": "q", "answer": "a", "against_answer": "b", "label": "good"}], "not 'good'"),
        ([{"prompt": "q", "answer": "a", "against_answer": "b", "label": 1}], "No label is of an answer"),
        ("absent.jsonl", "no such file"),
    ],
)  # fmt: skip
def test_labels_that_cannot_work(rows: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        won(labels=rows)


def test_too_few_labels_and_wrong_types() -> None:
    with pytest.raises(RecordError, match=r"at least 2 answers.*there are 1"):
        won(labels=labelled(["won"]))
    with pytest.raises(SettingsError, match="labels is a file of rows"):
        won(labels=3)
    with pytest.raises(SettingsError, match="labels is a file of rows"):
        won(labels=["won"])


def test_aspects_corrected_by_people() -> None:
    rows = [{"prompt": f"question {at}", "kind": "fact", "answers": ["x"]} for at in range(12)]
    judge: Any = lambda prompts, answers: [dict.fromkeys(ASPECTS, 4)] * len(prompts)  # noqa: E731
    labels = [{"prompt": f"question {at}", "answer": "a", "label_depth": 2 + at % 2, "label": 3} for at in range(6)]
    found = measure(JustEval(records=rows, judge=judge, labels=labels), Scripted(lambda prompt: "a"))
    # A judge that gives one score to all tells nothing: the labels' own means are what is known.
    assert found.figures["depth_corrected"].value == pytest.approx(2.5)
    assert found.figures["depth_judge_error"].value == pytest.approx(1.5)
    assert found.figures["overall_corrected"].value == pytest.approx(3)
    assert found.figures["overall_corrected"].low < 3 < found.figures["overall_corrected"].high
    assert "clarity_corrected" not in found.figures
    with pytest.raises(RecordError, match="number from 1 to 5, not 6"):
        measure(JustEval(records=rows, judge=judge, labels=[{**labels[0], "label": 6}]), Scripted(lambda prompt: "a"))


def test_labels_are_about_the_measured_model_alone() -> None:
    rows = [{"prompt": f"question {at}", "kind": "fact", "answers": ["x"]} for at in range(4)]
    judge: Any = lambda prompts, answers: [dict.fromkeys(ASPECTS, len(a)) for a in answers]  # noqa: E731
    labels = [{"prompt": f"question {at}", "answer": "aa", "label": 3} for at in range(3)]
    models = Scripted(lambda prompt: "aa", name="one"), Scripted(lambda prompt: "bbb", name="two")
    found = measure(JustEval(records=rows, judge=judge, labels=labels), *models)
    assert found.figures["overall_corrected"].value == pytest.approx(3)
    assert found.differences is not None
    assert found.differences["overall"].value == -1


def test_a_win_rate_at_equal_length() -> None:
    """A judge that takes the longer answer, and a model that writes long ones: at equal length they are even."""

    class Longer(Ruled):
        """Counts all letters; on every fourth question it knows better, and takes the shorter answer."""

        def prefer(self, prompts: Any, first: Any, second: Any) -> list[str | None]:
            turn = [-1 if int(prompt.split()[-1]) % 4 == 0 else 1 for prompt in prompts]
            return ["first" if t * (len(a) - len(b)) > 0 else "second" for t, a, b in zip(turn, first, second)]

    rows = [{"prompt": f"question {at}", "answers": ["x"]} for at in range(200)]

    def words(most: int, step: int) -> Any:
        return lambda prompt: "w" * (10 + int(prompt.split()[-1]) * step % most)

    models = Scripted(words(61, 17), name="long"), Scripted(words(29, 13), name="short")
    found = measure(WinRate(judge=Longer(), records=rows, length_controlled=True), *models)
    raw, fair = found.figures["win_rate"], found.figures["length_controlled"]
    assert raw.low > 0.5
    assert fair.low < 0.5 < fair.high
    assert found.figures["length_effect"].low > 0
    assert "length_controlled" not in measure(WinRate(judge=Longer(), records=rows), *models).figures


def test_a_win_rate_at_equal_length_where_all_is_won() -> None:
    found = measure(WinRate(judge=Ruled(), records=ROWS[:15], length_controlled=True), *MODELS)
    assert found.figures["length_controlled"].value == 1
    assert "`length_effect` is not shown: no pair went the other way." in found.notes
