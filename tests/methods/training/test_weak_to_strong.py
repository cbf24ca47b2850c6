from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.training import toy
from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.measures.classification import label_metrics, performance_gap_recovered
from truing.measures.result import Figure
from truing.methods.training.classification import Classification
from truing.methods.training.reward_modelling import RewardModelling
from truing.methods.training.sft import SFT
from truing.methods.training.weak_to_strong import WeakToStrong, judged
from truing.methods.training.weak_to_strong_report import (
    MODELS,
    WeakToStrongReport,
    _label_metrics,
    compare,
    gap_recovered,
    weak_to_strong_report,
)
from truing.models.scored import ScoreModel
from truing.records import as_records

FAST: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "max_steps": 2}


def labels(n: int = 32) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{('look', 'cat')[at % 2]} {toy.THINGS[at // 2 % 8]} {'x' * (at // 16)}", "completion": "",
         "label": at % 2 == 0}
        for at in range(n)
    ]  # fmt: skip


def same(one, two) -> bool:
    return all(
        torch.equal(left, right)
        for left, right in zip(one.weights.state_dict().values(), two.weights.state_dict().values(), strict=True)
    )


def method(**changes: Any) -> WeakToStrong:
    return WeakToStrong(**{"weak": toy.model("llama", seed=5), **FAST, **changes})


def hide(rows: list[dict[str, Any]], one: WeakToStrong, change) -> list[dict[str, Any]]:
    """The records with what is true of the transfer part changed."""
    _, rest = one.split(as_records(rows, kinds=(), what="test"))
    transfer = {row["prompt"] for row in rest}
    return [change(row) if row["prompt"] in transfer else row for row in rows]


def test_the_parts_share_no_row_and_follow_the_seed() -> None:
    rows = as_records(labels(), kinds=("label",), what="test")
    first, rest = method().split(rows)
    assert first is not None
    assert (len(first), len(rest)) == (16, 16)
    assert not {row["prompt"] for row in first} & {row["prompt"] for row in rest}
    again, _ = method().split(rows)
    other, _ = method(seed=1).split(rows)
    assert again.fingerprint == first.fingerprint != other.fingerprint
    share, _ = method(weak_share=0.25).split(rows)
    assert len(share) == 8
    assert method(weak_share=0).split(rows) == (None, rows)


@pytest.mark.parametrize("kind", ["label", "preference"])
def test_true_labels_of_the_transfer_part_reach_neither_teacher_nor_student(kind: str) -> None:
    one = method()
    if kind == "label":
        rows = labels()
        changed = hide(rows, one, lambda row: {**row, "label": not row["label"]})
    else:
        rows = toy.preferences(24)
        changed = hide(rows, one, lambda row: {**row, "chosen": row["rejected"], "rejected": row["chosen"]})
    assert changed != rows
    assert same(one.align(toy.model(), rows), one.align(toy.model(), changed))


def test_a_student_is_the_chain_of_its_steps_done_by_hand() -> None:
    one, between = method(), toy.model("qwen3", seed=3)
    long = method(through=[between])
    rows = as_records(labels(), kinds=("label",), what="test")
    first, rest = one.split(rows)
    learner = Classification(**FAST, truncate="start")
    weak = learner.align(one.weak, first)

    def labelled(teacher):
        found = judged(teacher, list(rest))
        return [
            {"prompt": row["prompt"], "completion": "", "label": bool(p >= 0.5), "probability": float(p)}
            for row, p in zip(rest, found)
        ]

    assert same(one.align(toy.model(), rows), learner.align(toy.model(), labelled(weak)))
    middle = learner.align(between, labelled(weak))
    student = long.align(toy.model(), rows)
    assert same(student, learner.align(toy.model(), labelled(middle)))
    assert isinstance(student, ScoreModel)
    assert len(student.history) == 1


def test_preferences_are_put_in_the_teachers_order() -> None:
    rows = as_records(toy.preferences(8), kinds=("preference",), what="test")
    teacher = RewardModelling(**{**FAST, "max_steps": 12}).align(toy.model(), rows)
    wrong = as_records(
        [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows], kinds=(), what="test"
    )
    found = judged(teacher, list(wrong))
    assert (found < 0.5).all()
    turned = list(method().weak_labels(teacher, wrong))
    assert [row["chosen"] for row in turned] == [row["chosen"] for row in rows]
    assert not any(row["weak_is_right"] for row in turned)
    np.testing.assert_allclose([row["probability"] for row in turned], 1 - found)


def test_unsure_labels_are_left_out_and_counted(caplog) -> None:
    rows = as_records(labels(), kinds=("label",), what="test")
    teacher = Classification(**{**FAST, "max_steps": 8}).align(toy.model(), rows)
    found = judged(teacher, list(rows))
    middle = float(np.median(np.maximum(found, 1 - found)))
    kept = list(method(min_confidence=middle).weak_labels(teacher, rows))
    assert len(kept) == int((np.maximum(found, 1 - found) >= middle).sum()) < 32
    assert f"{32 - len(kept)} of 32 weak labels are less sure" in caplog.text
    with pytest.raises(RecordError, match="as sure as min_confidence"):
        method(min_confidence=1.0).weak_labels(teacher, rows)


def test_demonstrations_are_answered_by_the_teacher() -> None:
    rows = toy.demonstrations(8)
    one = method(max_new_tokens=5)
    records = as_records(rows, kinds=("demonstration",), what="test")
    first, rest = one.split(records)
    learner = SFT(**FAST, truncate="start")
    weak = learner.align(one.weak, first)
    answers = weak.generate([row["prompt"] for row in rest], max_new_tokens=5).texts
    by_hand = [{"prompt": row["prompt"], "completion": text} for row, text in zip(rest, answers)]
    student = one.align(toy.model(), rows)
    assert same(student, learner.align(toy.model(), by_hand))
    assert student.generate(["the cat"], max_new_tokens=2).texts
    as_it_is = method(weak_share=0, max_new_tokens=5).supervisor(records)
    assert not as_it_is.history, "a language model may write as it is"


def test_finished_parts_are_not_repeated(tmp_path, monkeypatch) -> None:
    one, rows = method(), labels()
    student = one.align(toy.model(), rows, out=tmp_path)
    assert list(tmp_path.glob("checkpoints/labels-*.json"))

    def never(*_: Any) -> None:
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(WeakToStrong, "_ask", never)
    again = one.align(toy.model(), rows, out=tmp_path)
    assert same(student, again)
    with pytest.raises(AssertionError, match="asked again"):
        one.align(toy.model(), labels(30), out=tmp_path / "other")


def test_a_supervisor_that_cannot_label_and_settings_that_cannot_work() -> None:
    with pytest.raises(UnsupportedError, match="gives no labels as it is"):
        method(weak_share=0).align(toy.model(), labels())
    scorer = Classification(**FAST).align(toy.model(), labels())
    student = method(weak=scorer, weak_share=0).align(toy.model(), labels())
    assert isinstance(student, ScoreModel)
    for settings, message in (
        ({"loss": "mse"}, "loss is one of"), ({"weak_share": 1.0}, "weak_share"), ({"weak": 3}, "models or their"),
        ({"min_confidence": 0.2}, "min_confidence"), ({"weak_settings": {"beta": 1}}, "no training has"),
        ({"loss": "logconf", "batch_size": 4}, "batch_size=8"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=message):
            method(**settings).validate()
    with pytest.raises(SettingsError, match="for label records"):
        method(loss="product").align(toy.model(), toy.preferences(8))


# --- the report ------------------------------------------------------------------------------------------------------


def test_metrics_of_many_tables_are_those_of_one() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        truth, said = random.random(12) < random.random(), random.random(12) < random.random()
        cells = [(truth & said).sum(), (~truth & said).sum(), (truth & ~said).sum(), (~truth & ~said).sum()]
        found = _label_metrics(np.array([cells, cells], dtype=float))
        for name, value in label_metrics(truth, said).items():
            assert found[name][1] == pytest.approx(value), name


def report_of(right: dict[str, int], n: int = 1000) -> WeakToStrongReport:
    """A report on n items, of which each model has the first so many right."""
    values = {name: (np.arange(n) < right[name]).astype(float) for name in MODELS}
    sums = {name: np.stack([found, np.ones(n)], 1) for name, found in values.items()}
    exact = {name: Figure(found.mean(), 0, 1, n, "") for name, found in values.items()}
    notes: list[str] = []
    figures, recovered = compare(sums, lambda totals: {"accuracy": totals[..., 0] / totals[..., 1]}, exact, 0, notes)
    return WeakToStrongReport("label", figures, recovered, [], notes)


def test_gap_recovered_its_limits_and_its_interval() -> None:
    found = gap_recovered(report_of({"weak": 600, "student": 720, "ceiling": 800}))
    assert found.value == pytest.approx(0.6)
    assert 0.5 < found.low < 0.6 < found.high < 0.7
    assert found == gap_recovered(report_of({"weak": 600, "student": 720, "ceiling": 800}), "accuracy")
    assert gap_recovered(report_of({"weak": 600, "student": 600, "ceiling": 800})).value == 0
    assert gap_recovered(report_of({"weak": 600, "student": 800, "ceiling": 800})).value == 1
    assert gap_recovered(report_of({"weak": 600, "student": 850, "ceiling": 800})).value == pytest.approx(1.25)
    equal = report_of({"weak": 600, "student": 650, "ceiling": 600})
    assert math.isnan(gap_recovered(equal).value)
    assert "not defined" in str(equal)
    assert any("100%" in note for note in equal.notes)
    few = report_of({"weak": 12, "student": 13, "ceiling": 14}, n=20)
    assert any("says little" in note for note in few.notes)


@pytest.mark.parametrize("kind", ["label", "preference", "demonstration"])
def test_reports_compare_the_three_on_the_same_items(kind: str, tmp_path) -> None:
    rows = {"label": labels, "preference": toy.preferences, "demonstration": toy.demonstrations}[kind](24)
    test = rows[:12]
    one = method(max_new_tokens=6)
    how = {"score": lambda prompts, answers: np.array([float(len(text)) for text in answers])}
    report = weak_to_strong_report(
        one, toy.model(), rows, test, out=tmp_path, **(how if kind == "demonstration" else {})
    )
    names = {
        "label": ["accuracy", "balanced_accuracy", "weighted_f1"], "preference": ["accuracy"],
        "demonstration": ["score"],
    }[kind]  # fmt: skip
    assert list(report.figures) == list(report.recovered) == names
    assert len(report.rows) == 12
    for by_model in report.figures.values():
        assert list(by_model) == list(MODELS)
        for figure in by_model.values():
            assert figure.low <= figure.value <= figure.high
            assert figure.low < figure.high
    values = [report.figures[names[0]][name].value for name in MODELS]
    expected = performance_gap_recovered(*values)
    assert gap_recovered(report).value == pytest.approx(expected, nan_ok=True)
    assert str(report).count("\n") >= len(names) + 1
    if kind == "demonstration":
        polite = weak_to_strong_report(
            one, toy.model(), rows, test, out=tmp_path, score=lambda prompts, answers: np.ones(len(answers))
        )
        figure = polite.figures["score"]["student"]
        assert (figure.unit, figure.high, figure.method) == ("share", 1.0, "Clopper-Pearson"), "no share is over 1"
        assert figure.low < 1
    if kind != "demonstration":
        student = one.align(toy.model(), rows)
        found = judged(student, test)
        np.testing.assert_allclose([row["student_probability"] for row in report.rows], found)
        return
    with pytest.raises(SettingsError, match="score"):
        weak_to_strong_report(one, toy.model(), rows, test)


def test_the_ceiling_learns_from_the_same_rows_with_true_labels() -> None:
    one, rows = method(loss="logconf"), as_records(labels(), kinds=("label",), what="test")
    _, rest = one.split(rows)
    by_hand = Classification(**FAST, truncate="start").align(toy.model(), rest)
    assert same(one.ceiling(toy.model(), rows), by_hand)
