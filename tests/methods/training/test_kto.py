"""KTO on tiny models: its loss, its mismatched pairs, its weights, and what it says of odd labels."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.methods.training import toy
from truing.errors import ModelError, RecordError, SettingsError, TrainingError
from truing.methods.training.encoding import Row
from truing.methods.training.kto import KTO, KTOObjective, mismatched
from truing.methods.training.losses import unpaired
from truing.methods.training.policy import Scores

QUICK = {"learning_rate": 3e-3, "batch_size": 8, "epochs": 4, "warmup_ratio": 0.0}


def thumbs(n=16):
    """The toy's pairs taken apart: an answer each, good and bad in turns."""
    return [
        {"prompt": row["prompt"], "completion": row["rejected" if at % 2 else "chosen"], "label": at % 2 == 0}
        for at, row in enumerate(toy.preferences(n))
    ]


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "step" in row]


def margins(model, rows):
    prompts = [row["prompt"] for row in rows]
    return model.logprobs(prompts, [r["chosen"] for r in rows]) - model.logprobs(prompts, [r["rejected"] for r in rows])


def scores(policy, reference, labels, mismatched_policy=(), mismatched_reference=()):
    """Answers of one token each, the mismatched ones after the others."""
    tokens = torch.tensor([*policy, *mismatched_policy])[:, None]
    count = len(policy)
    order = [*range(count), *range(len(mismatched_policy))]
    return Scores(
        tokens, torch.ones_like(tokens, dtype=torch.bool), torch.tensor(order),
        torch.tensor([0] * count + [1] * len(mismatched_policy)),
        reference=torch.tensor([*reference, *mismatched_reference]), values={"label": torch.tensor(labels)},
    )  # fmt: skip


def test_the_loss_at_the_reference_is_a_half_and_then_falls(tmp_path):
    start = toy.model()
    before = toy.weights_of(start)
    aligned = KTO(**QUICK, beta=0.5).align(start, thumbs(), out=tmp_path)
    rows = log_of(tmp_path)
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["loss"] < 0.4
    assert rows[-1]["rewards/accuracies"] == 1.0
    assert rows[-1]["rewards/chosen"] > rows[-1]["rewards/rejected"]
    assert (margins(aligned, toy.preferences()) > margins(start, toy.preferences())).all()
    assert all(torch.equal(value, before[name]) for name, value in start.weights.state_dict().items())


def test_terms_are_the_loss_with_the_batch_s_own_reference_point():
    objective = KTOObjective(0.1, desirable_weight=1.0, undesirable_weight=2.0)
    given_ = scores([-20.0, -31.0, -15.0], [-23.0, -30.0, -15.0], [1.0, 0.0, 1.0], [-9.0, -8.0, -7.0], [-10.0] * 3)
    (term,) = objective.terms(given_)
    z = 2.0  # the mean of 1, 2 and 3
    expected = [
        1 / (1 + math.exp(0.1 * (3 - z))), 2 / (1 + math.exp(0.1 * (z + 1))), 1 / (1 + math.exp(0.1 * (0 - z)))
    ]  # fmt: skip
    assert term.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert (term.unit, term.weight) == ("row", 1.0)
    found = objective.metrics(given_)
    assert found["kl"].tolist() == [2.0]
    assert found["rewards/chosen"].tolist() == pytest.approx([0.3, 0.0], abs=1e-6)
    assert found["rewards/rejected"].tolist() == pytest.approx([-0.1], abs=1e-6)
    assert found["rewards/accuracies"].tolist() == [1.0, 1.0, 0.0], (
        "0 lies below z, so the third is not told to be good"
    )


def test_the_reference_point_is_clamped_and_carries_no_gradient():
    objective = KTOObjective(0.1)
    ratios = torch.tensor([-3.0, 1.0], requires_grad=True)
    assert objective.reference_point(ratios).item() == 0
    z = objective.reference_point(ratios + 5)
    assert (z.item(), z.requires_grad) == (4.0, False)
    assert z == unpaired.kto_reference_point(ratios + 5, torch.zeros(2))


def test_the_reference_point_of_halos_divides_by_pairs_that_moved():
    ratios = torch.tensor([3.0, 0.0, 0.0, 1.0])
    assert KTOObjective(0.1).reference_point(ratios).item() == 1.0
    assert KTOObjective(0.1, nonzero_only=True).reference_point(ratios).item() == 2.0
    assert KTOObjective(0.1, nonzero_only=True).reference_point(torch.zeros(3)).item() == 0.0


@pytest.mark.parametrize(("nonzero_only", "expected"), [(False, 2.0), (True, 3.0)])
def test_the_reference_point_is_that_of_all_processes(nonzero_only, expected):
    here, there = torch.tensor([1.0, 0.0]), torch.tensor([5.0])
    objective = KTOObjective(0.1, nonzero_only=nonzero_only)
    objective.total = lambda values: values + torch.tensor([there.sum(), len(there)])
    assert objective.reference_point(here).item() == expected


def test_apo_zero_has_no_mismatched_answers_and_no_z(tmp_path):
    objective = KTOObjective(0.1, loss="apo_zero_unpaired", undesirable_weight=0.5)
    rows = [Row(at, (([at], [9]),), {"label": float(at % 2)}) for at in range(4)]
    assert all(len(row.answers) == 1 for row in objective.arrange(rows))
    (term,) = objective.terms(scores([-20.0, -31.0], [-23.0, -30.0], [1.0, 0.0]))
    assert term.values.tolist() == pytest.approx([1 / (1 + math.exp(0.3)), 0.5 / (1 + math.exp(0.1))], abs=1e-6)
    KTO(max_steps=2, batch_size=4, loss="apo_zero_unpaired").align(toy.model(), thumbs(4), out=tmp_path)
    assert "kl" not in log_of(tmp_path)[0]


def test_each_answer_meets_the_next_prompt():
    rows = [Row(at, (([at, 7], [10 + at, 1]),), {"label": 1.0}) for at in range(3)]
    assert [row.answers[1] for row in mismatched(rows)] == [([0, 7], [12, 1]), ([1, 7], [10, 1]), ([2, 7], [11, 1])]


def test_halves_of_a_pair_do_not_meet_each_other_and_no_answer_is_left_out():
    rows = [Row(at // 2, (([at // 2], [10 + at]),), {"label": 1.0}) for at in range(6)]
    pairs = [row.answers[1] for row in mismatched(rows)]
    assert [answer for _, (answer,) in pairs] == [14, 15, 10, 11, 12, 13]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12).filter(lambda prompts: len(set(prompts)) > 1))
def test_a_mismatched_answer_is_always_of_another_prompt(prompts):
    rows = [Row(at, (([prompt], [100 + prompt] * (at + 1)),), {"label": 0.0}) for at, prompt in enumerate(prompts)]
    longest = max(row.width for row in rows)
    for before, after in zip(rows, mismatched(rows)):
        (prompt, _), (same, answer) = after.answers
        assert same == prompt
        assert answer[0] != 100 + prompt[0]
        assert after.width <= longest
        assert (after.index, after.values, after.answers[0]) == (before.index, before.values, before.answers[0])


def test_a_mismatched_answer_never_outgrows_the_longest_row():
    rows = [Row(0, (([1] * 9, [2]),), {"label": 1.0}), Row(1, (([3], [4] * 8),), {"label": 0.0})]
    assert [row.answers[1] for row in mismatched(rows)] == [([1] * 9, [4]), ([3], [2])]


def test_one_prompt_alone_is_an_error_that_names_the_way_out():
    rows = [{"prompt": "what?", "completion": text, "label": text == "red"} for text in ("red", "grey")]
    with pytest.raises(TrainingError, match=r"all 2 records have the same prompt.*apo_zero_unpaired"):
        KTO(max_steps=1).align(toy.model(), rows)
    KTO(max_steps=1, loss="apo_zero_unpaired").align(toy.model(), rows)


def test_preferences_are_taken_apart(tmp_path):
    pairs = toy.preferences(6)
    apart = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    how = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3, "shuffle": False}
    one = KTO(**how).align(toy.model(), pairs)
    other = KTO(**how).align(toy.model(), apart)
    assert all(torch.equal(value, other.weights.state_dict()[name]) for name, value in one.weights.state_dict().items())


def test_columns_of_a_preference_are_not_taken_for_a_thumb():
    from truing.records.reading import from_rows

    rows = [{**row, "completion": "grey", "label": True} for row in toy.preferences(4)]
    named = KTO(max_steps=2, batch_size=4).align(toy.model(), from_rows(rows, kind="preference"))
    plain = KTO(max_steps=2, batch_size=4).align(toy.model(), toy.preferences(4))
    for name, value in plain.weights.state_dict().items():
        assert torch.equal(value, named.weights.state_dict()[name])


def warnings_of(caplog, method, rows):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "truing"):
        method.align(toy.model(), rows)
    return [record.getMessage() for record in caplog.records]


def test_unbalanced_labels_are_told_with_the_weights_that_balance_them(caplog):
    rows = [{**row, "label": at >= 9} for at, row in enumerate(thumbs(12))]
    (line,) = warnings_of(caplog, KTO(max_steps=1), rows)
    assert "3 answers are good and 9 bad" in line
    assert "0.33 to 1" in line
    assert "undesirable_weight from 0.25 to 0.33, or desirable_weight from 3.00 to 4.00" in line
    assert warnings_of(caplog, KTO(max_steps=1, desirable_weight=3.5), rows) == []
    assert warnings_of(caplog, KTO(max_steps=1, undesirable_weight=0.3), rows) == []
    assert warnings_of(caplog, KTO(max_steps=1), thumbs(12)) == []


@pytest.mark.parametrize(("label", "word"), [(True, "good"), (False, "bad")])
def test_labels_of_one_kind_train_and_are_told(label, word, caplog):
    rows = [{**row, "label": label} for row in thumbs(4)]
    (line,) = warnings_of(caplog, KTO(max_steps=1), rows)
    assert f"All 4 answers are {word}" in line


def test_good_answers_that_became_unlikely_are_told():
    (line,) = KTOObjective(0.1).verdict([{"logratio/chosen": -3.0}, {"logratio/chosen": -1.0}, {"loss": 0.5}])
    assert "2.0 nats" in line
    assert KTOObjective(0.1).verdict([{"logratio/chosen": -0.5}, {"loss": 0.4}]) == []


def test_a_batch_of_one_kind_has_no_metric_of_the_other():
    found = KTOObjective(0.1).metrics(scores([-20.0], [-23.0], [0.0], [-9.0], [-10.0]))
    assert "rewards/chosen" not in found
    assert found["rewards/rejected"].tolist() == pytest.approx([0.3])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"beta": 0}, "beta"),
        ({"loss": "dpo"}, "kto, apo_zero_unpaired"),
        ({"desirable_weight": -1.0}, "desirable_weight"),
        ({"undesirable_weight": float("nan")}, "undesirable_weight"),
        ({"desirable_weight": 0.0, "undesirable_weight": 0.0}, "Both weights are 0"),
        ({"loss": "apo_zero_unpaired", "nonzero_only": True}, "nonzero_only has no effect"),
    ],
)
def test_settings_that_cannot_work(settings, why):
    with pytest.raises(SettingsError, match=why):
        KTO(**settings).align(toy.model(), thumbs(4))


def test_another_reference_is_compared_with_and_must_share_the_tokens(tmp_path):
    KTO(max_steps=1, batch_size=4, reference=toy.model(seed=5)).align(toy.model(), thumbs(4), out=tmp_path)
    assert abs(log_of(tmp_path)[0]["logratio/chosen"]) > 0.1
    from tests import tiny
    from truing.models import Model

    other = Model(tiny.network(vocabulary=300), tiny.tokenizer(size=300), source="other")
    with pytest.raises(ModelError, match="different vocabularies"):
        KTO(reference=other).align(toy.model(), thumbs(4))


def test_other_kinds_of_record_are_refused():
    with pytest.raises(RecordError, match="label or preference"):
        KTO().align(toy.model(), toy.demonstrations(4))
