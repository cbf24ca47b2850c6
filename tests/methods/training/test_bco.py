"""BCO on tiny models: its loss and shift, kept over kills; weights of prompts; what it refuses."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch

from tests.methods.training import toy
from tests.methods.training.test_kto import QUICK, log_of, margins, scores, thumbs, warnings_of
from truing.errors import RunError, SettingsError, TrainingError
from truing.methods.training.bco import BCO, BCOObjective
from truing.methods.training.kto import KTO
from truing.methods.training.trainer import ObjectiveTrainer
from truing.records import as_records

RATIOS, LABELS = [3.0, -1.0, 0.0, -7.0, 3.0], [1.0, 1.0, 0.0, 0.0, 0.0]


def batch(ratios=RATIOS, labels=LABELS, weights=None):
    found = scores([-20.0 + ratio for ratio in ratios], [-20.0] * len(ratios), labels)
    found.values["weight"] = torch.tensor(weights or [1.0] * len(ratios))
    return found


def equal(left, right):
    return all(
        torch.equal(value, right.weights.state_dict()[name]) for name, value in left.weights.state_dict().items()
    )


def test_the_page_s_first_batch():
    objective = BCOObjective(0.1, shift="all")
    (term,) = objective.terms(batch())
    assert objective.shift.value == pytest.approx(-0.04, abs=1e-6)
    assert term.values.tolist() == pytest.approx([0.537528, 0.723597, 0.713347, 0.416637, 0.877528], abs=1e-5)
    assert term.values.mean().item() == pytest.approx(0.653727, abs=1e-5)
    found = objective.metrics(batch())
    assert found["shift"].tolist() == pytest.approx([-0.04])
    assert found["rewards/accuracies"].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_shifts_differ_where_one_kind_is_more_common():
    found = {}
    for shift in ("balanced", "all", "exponential"):
        objective = BCOObjective(0.1, shift=shift, decay=0.5)
        for _ in range(2):
            objective.terms(batch())
        objective.terms(batch([ratio + 4 for ratio in RATIOS]))
        found[shift] = objective.shift.value
    up, down = 0.1, -0.4 / 3
    assert found["balanced"] == pytest.approx((up + down) / 2 + 0.4 / 3, abs=1e-6)
    assert found["all"] == pytest.approx(-0.04 + 0.4 / 3, abs=1e-6)
    # Memories of 1/4, 1/2 and 1: the newest batch counts 4/7.
    assert found["exponential"] == pytest.approx((up + down) / 2 + 0.4 * 4 / 7, abs=1e-6)


def test_weights_are_those_of_bad_answers():
    (plain,), (weighed,) = BCOObjective(0.1).terms(batch()), BCOObjective(0.1).terms(batch(weights=[9.0, 9, 2, 0.5, 1]))
    assert (weighed.values / plain.values).tolist() == pytest.approx([1, 1, 2, 0.5, 1])


def test_the_shift_is_that_of_all_processes():
    one = BCOObjective(0.1, shift="all")
    one.total = lambda values: values + torch.tensor([1.0, 0.0, 1.0, 0.0])  # a good answer of reward 1 elsewhere
    one.terms(batch())
    assert one.shift.value == pytest.approx((-0.2 + 1) / 6, abs=1e-6)


def test_a_batch_of_one_kind_and_values_that_are_not_finite():
    objective = BCOObjective(0.1)
    (term,) = objective.terms(batch([2.0], [0.0]))
    assert torch.isfinite(term.values).all()
    before = objective.state()
    (term,) = objective.terms(batch([math.nan, 1.0], [1.0, 0.0]))
    assert not torch.isfinite(term.values[0])
    assert objective.state() == before, "the shift is still good"


def test_it_starts_at_log_2_and_learns(tmp_path):
    start = toy.model()
    aligned = BCO(**QUICK, beta=0.5).align(start, thumbs(), out=tmp_path)
    rows = log_of(tmp_path)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["shift"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["loss"] < 0.4
    assert rows[-1]["rewards/accuracies"] == 1.0
    assert (margins(aligned, toy.preferences()) > margins(start, toy.preferences())).all()


def test_an_answer_that_starts_far_off_recovers_where_kto_is_stuck(tmp_path):
    """r - d = -4 for a good answer: 55 times KTO's gradient."""
    from truing.methods.training.kto import KTOObjective

    def gradient(objective, found):
        found.tokens.requires_grad_(True)
        objective.terms(found)[0].values.sum().backward()
        return found.tokens.grad[0].item()

    ours = BCOObjective(1.0, shift="balanced")
    here = batch([-4.0, 4.0], [1.0, 0.0])
    kto = gradient(KTOObjective(1.0), scores([-24.0], [-20.0], [1.0], [-9.0], [-9.0]))
    bco = gradient(ours, here)
    assert ours.shift.value == 0
    assert bco == pytest.approx(-0.982, abs=1e-3)
    assert bco / kto == pytest.approx(55.6, abs=0.1)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("shift", ["balanced", "exponential"])
def test_a_killed_training_goes_on_with_the_same_shift(shift, tmp_path, monkeypatch):
    how = {
        "learning_rate": 3e-3, "batch_size": 3, "gradient_accumulation": 2, "epochs": 2, "save_every": 2, "beta": 0.5,
        "shift": shift,
    }  # fmt: skip
    undisturbed = BCO(**how).align(toy.model(), thumbs(15), out=tmp_path / "whole")
    plain, left = ObjectiveTrainer.training_step, iter(range(9))

    def until_the_fifth_step(self, *args, **kwargs):
        if next(left, None) is None:
            raise Killed
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(ObjectiveTrainer, "training_step", until_the_fifth_step)
    with pytest.raises(Killed):
        BCO(**how).align(toy.model(), thumbs(15), out=tmp_path / "killed")
    monkeypatch.setattr(ObjectiveTrainer, "training_step", plain)
    checkpoint = tmp_path / "killed" / "checkpoints" / "checkpoint-4"
    kept = json.loads((checkpoint / "objective.json").read_text())["shift"]
    assert abs(kept["sums"][0]) > 0.01
    again = BCO(**how).align(toy.model(), thumbs(15), out=tmp_path / "killed")
    assert equal(undisturbed, again)
    shifts = [[row["shift"] for row in log_of(tmp_path / name)] for name in ("whole", "killed")]
    assert shifts[0] == shifts[1]
    fresh = BCOObjective(0.5, shift=shift)
    fresh.load_state({"shift": kept})
    assert fresh.state() == {"shift": kept}
    assert fresh.shift.value == pytest.approx(shifts[0][3], abs=0.2)
    assert fresh.shift.value != 0, "a training that forgot it would start from 0"


def test_preferences_are_taken_apart():
    pairs = toy.preferences(6)
    apart = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    how = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3}
    assert equal(BCO(**how).align(toy.model(), pairs), BCO(**how).align(toy.model(), apart))


@pytest.mark.parametrize(("label", "word"), [(True, "good"), (False, "bad")])
def test_labels_of_one_kind_are_an_error(label, word):
    rows = [{**row, "label": label} for row in thumbs(4)]
    with pytest.raises(TrainingError, match=f"all 4 are {word}"):
        BCO(max_steps=1).align(toy.model(), rows)


def letters(given):
    """An encoder: how often each letter stands in a text."""
    return np.array([[text.count(letter) for letter in "abx"] for text in given], dtype=float)


def shifted(n=60):
    """Thumbs on prompts of letters, where bad answers were given to prompts with more x."""
    random = np.random.default_rng(0)
    rows = []
    for at in range(2 * n):
        good = at % 2 == 0
        prompt = "".join(random.choice(list("abx"), 20, p=[0.5, 0.3, 0.2] if good else [0.4, 0.2, 0.4]))
        rows.append({"prompt": prompt, "completion": "grey" if good else "red", "label": good})
    return rows


def density(method, rows, out=None):
    """The weights of the examples, in the order of the records."""
    found = method.prepare(toy.model(), as_records(rows), out)
    return [one.values["weight"] for row in found for one in method.objective().examples(row)]


def test_matched_prompts_weigh_bad_answers_within_the_bounds(caplog):
    rows = shifted()
    with caplog.at_level(logging.WARNING, "truing"):
        weights = np.array(density(BCO(match_prompts=letters), rows))
    labels = np.array([row["label"] for row in rows])
    often = np.array([row["prompt"].count("x") for row in rows])
    assert (weights[labels] == 1).all()
    assert weights[~labels & (often <= 5)].mean() > 2 * weights[~labels & (often >= 8)].mean()
    assert weights[~labels].min() == 0.5
    (note,) = [record.getMessage() for record in caplog.records]
    assert "cross-validated" in note
    assert f"weigh 0.50 to {weights[~labels].max():.2f}" in note
    tight = density(BCO(match_prompts=letters, min_density_ratio=0.9, max_density_ratio=1.1), rows)
    assert min(tight) == pytest.approx(0.9)
    assert max(tight) == pytest.approx(1.1)
    assert density(BCO(), rows) == [1.0] * len(rows)


def test_matching_changes_what_is_learned_and_the_model_can_embed_by_itself():
    rows = shifted(50)
    how = {"max_steps": 1, "batch_size": 50, "learning_rate": 3e-3, "warmup_ratio": 0.0}
    plain, matched = (BCO(**how, match_prompts=one).align(toy.model(), rows) for one in (None, True))
    assert not equal(plain, matched)
    assert equal(matched, BCO(**how, match_prompts=True).align(toy.model(), rows))
    assert equal(plain, BCO(**how, match_prompts=False).align(toy.model(), rows))


def test_preferences_have_the_same_prompts_on_both_sides():
    rows = [{"prompt": row["prompt"], "chosen": "grey", "rejected": "red"} for row in shifted(30)]
    assert density(BCO(match_prompts=letters), rows) == pytest.approx([1.0] * 120, abs=1e-6)


def test_too_few_prompts_to_match():
    with pytest.raises(TrainingError, match="50 distinct prompts"):
        BCO(match_prompts=letters).align(toy.model(), shifted(49))
    # 60 answers, but one prompt only.
    rows = [{**row, "prompt": "a" if row["label"] else row["prompt"]} for row in shifted(60)]
    with pytest.raises(TrainingError, match="1 have a good answer"):
        BCO(match_prompts=letters).align(toy.model(), rows)


def test_weights_are_kept_beside_the_training_and_found_again(tmp_path):
    rows, calls = shifted(), []

    def encoder(given):
        calls.append(len(given))
        return letters(given)

    first = density(BCO(match_prompts=encoder), rows, tmp_path / "run")
    assert density(BCO(match_prompts=encoder), rows, tmp_path / "run") == first
    assert len(calls) == 1
    density(BCO(match_prompts=encoder, seed=1), rows, tmp_path / "run")
    density(BCO(match_prompts=encoder), rows[:-2], tmp_path / "run")
    assert len(calls) == 3, "other folds and other records are other weights"
    (tmp_path / "file").write_text("here")
    with pytest.raises(RunError, match="cannot be used"):
        density(BCO(match_prompts=encoder), rows, tmp_path / "file")


def test_a_column_of_the_user_s_own_is_no_weight():
    rows = [{**row, "density_weight": 7.0} for row in thumbs(4)]
    assert density(BCO(), rows) == [1.0] * 4


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"beta": 0}, "beta"),
        ({"shift": "pooled"}, "balanced, all, exponential"),
        ({"decay": 1.0}, "decay"),
        ({"match_prompts": "bert"}, "function that embeds texts"),
        ({"min_density_ratio": 2.0, "max_density_ratio": 1.0}, "min_density_ratio"),
        ({"min_density_ratio": -1.0}, "min_density_ratio"),
    ],
)
def test_settings_that_cannot_work(settings, why):
    with pytest.raises(SettingsError, match=why):
        BCO(**settings).align(toy.model(), thumbs(4))


def test_neither_says_anything_of_balanced_thumbs(caplog):
    assert warnings_of(caplog, BCO(max_steps=1), thumbs(4)) == []
    assert all(BCO.describe().values())
    assert all(KTO.describe().values())
