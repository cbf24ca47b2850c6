from __future__ import annotations

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.training import toy
from truing import SystemMessage, load
from truing.errors import ModelError, RecordError, SettingsError, TrainingError
from truing.methods.training.classification import Classification, ClassificationObjective
from truing.methods.training.encoding import encode
from truing.methods.training.losses import weak_labels
from truing.methods.training.policy import Scores
from truing.methods.training.reward_modelling import RewardModelling, RewardObjective
from truing.models import Model
from truing.models.scored import ScoreModel
from truing.rewards.model import RewardModel, encode_answered, logits

FAST = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 8}
STEPS = {
    "learning_rate": 1e-3, "batch_size": 4, "max_steps": 3, "schedule": "constant", "warmup_ratio": 0.0,
    "shuffle": False, "max_length": 200,
}  # fmt: skip


def scored(labels, owner, values, slot=None) -> Scores:
    owner = torch.tensor(owner)
    slot = (
        torch.tensor(slot)
        if slot is not None
        else torch.tensor([owner[:at].tolist().count(o) for at, o in enumerate(owner.tolist())])
    )
    nothing = torch.zeros(len(owner), 1)
    held = {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}
    return Scores(nothing, nothing.bool(), owner, slot, values=held, labels=torch.tensor(labels)[:, None])


def pairs(chosen, rejected, **more) -> Scores:
    n = len(chosen)
    values = {
        "rank": [1.0] * n + [0.0] * n, "target": [0.0] * 2 * n, "scored": [0.0] * n, "margin": [0.0] * n,
        "probability": [1.0] * n, **more,
    }  # fmt: skip
    return scored([*chosen, *rejected], [*range(n), *range(n)], values)


def value_of(objective, scores, counts=None) -> float:
    units = {"row": scores.rows, **(counts or {})}
    return float(sum(term.weight * term.values.sum() / units[term.unit] for term in objective.terms(scores)))


def test_bradley_terry_mixed_margin_soft_labels_and_centring_by_hand() -> None:
    two = pairs([1.2, 0.0], [0.4, 0.0])
    plain = RewardObjective("bradley_terry")
    assert value_of(plain, two) == pytest.approx((math.log1p(math.exp(-0.8)) + math.log(2)) / 2, abs=1e-6)
    # Page 23: rewards (1.2, 0.4), scores (1, -1), alpha 0.1 give 0.57110; alpha 0 is Bradley-Terry.
    page = pairs([1.2], [0.4], target=[1.0, -1.0], scored=[1.0])
    assert value_of(RewardObjective("mixed", absolute_weight=0.1), page) == pytest.approx(0.57110, abs=1e-5)
    bare = value_of(RewardObjective("mixed", absolute_weight=0.0), page)
    assert bare == pytest.approx(math.log1p(math.exp(-0.8)), abs=1e-6)
    unscored = pairs([1.2], [0.4], target=[9.0, -9.0], scored=[0.0])
    assert value_of(RewardObjective("mixed", absolute_weight=0.1), unscored) == pytest.approx(bare, abs=1e-6)
    assert value_of(plain, pairs([1.2], [0.4], margin=[0.8])) == pytest.approx(math.log(2), abs=1e-6)
    half = value_of(plain, pairs([1.2], [0.4], probability=[0.5]))
    assert half == pytest.approx((math.log1p(math.exp(-0.8)) + math.log1p(math.exp(0.8))) / 2, abs=1e-6)
    centred = value_of(RewardObjective("bradley_terry", center_coefficient=0.01), pairs([1.2], [0.4]))
    assert centred == pytest.approx(bare + 0.01 * 1.6**2, abs=1e-6)


def test_a_ranking_is_the_mean_over_its_pairs_and_ties_are_none() -> None:
    ranking = scored(
        [2.0, 1.0, 0.0], [0, 0, 0],
        {"rank": [1.0, 0.5, 0.5], "target": [1.0, 0.5, 0.5], "scored": [1.0], "margin": [0.0], "probability": [1.0]},
    )  # fmt: skip
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2
    assert value_of(RewardObjective("bradley_terry"), ranking) == pytest.approx(expected, abs=1e-6)
    error = (1 + 0.25 + 0.25) / 3
    assert value_of(RewardObjective("pointwise"), ranking, {"scored": 3}) == pytest.approx(error, abs=1e-6)
    mixed = value_of(RewardObjective("mixed", absolute_weight=0.5), ranking)
    assert mixed == pytest.approx(expected + 0.5 * 2 * error, abs=1e-6)
    row = {"prompt": "a", "completions": ["b", "c"], "scores": [1.0, 1.0]}
    assert RewardObjective("bradley_terry").examples(row) == []
    assert len(RewardObjective("pointwise").examples(row)) == 1


def test_a_pair_is_a_ranking_of_two() -> None:
    rows = toy.preferences(6)
    rankings = [
        {"prompt": row["prompt"], "completions": [row["rejected"], row["chosen"]], "scores": [0, 1]} for row in rows
    ]
    one = RewardModelling(**STEPS).align(toy.model(), rows)
    two = RewardModelling(**STEPS).align(toy.model(), rankings)
    for left, right in zip(one.weights.state_dict().values(), two.weights.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("adapter", [None, "lora"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_learns_and_the_start_is_left_alone(architecture: str, adapter: str | None) -> None:
    rows, model = toy.preferences(8), toy.model(architecture)
    before = toy.weights_of(model)
    rate = 1e-3 if adapter is None else 1e-2
    scorer = RewardModelling(**{**FAST, "learning_rate": rate}, adapter=adapter).align(model, rows)
    assert isinstance(scorer, ScoreModel)
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (scorer(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected"))
    assert (chosen > rejected).mean() == 1
    assert np.concatenate([chosen, rejected]).mean() == pytest.approx(0, abs=1e-4), "centred on what it learned from"
    assert not hasattr(scorer.weights, "peft_config")
    for name, value in model.weights.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [step.method for step in scorer.history] in (["reward_modelling"], ["RewardModelling"])


@pytest.mark.parametrize("kind", ["plain", "the end token pads", "no pad token", "no template"])
def test_training_reads_what_the_reward_reads(kind: str) -> None:
    model = toy.model()
    tokenizer = tiny.tokenizer(chat=kind != "no template")
    if kind == "the end token pads":
        tokenizer.pad_token = tokenizer.eos_token
    elif kind == "no pad token":
        tokenizer.pad_token = None
    model = Model(model.weights, tokenizer, source="tiny")
    rows = [*toy.preferences(3), {"prompt": "the bird?", "chosen": "", "rejected": "grey<|end|>"}]
    encoded, counts, _ = encode(model, rows, RewardObjective("bradley_terry"), max_length=200, truncate="start")
    assert counts.left_out == 0
    scorer = RewardModelling(**STEPS).align(model, rows)
    for row, held in zip(rows, encoded):
        for side, (prompt, answer) in zip(("chosen", "rejected"), held.answers):
            whole = encode_answered(tokenizer, row["prompt"], row[side])
            assert whole[: len(prompt) + len(answer)] == [*prompt, *answer]
            assert prompt, "the prompt is known apart, so that its start can be cut"
            # What the head is trained at, and what it is read at.
            trained = logits(scorer.weights, [[*prompt, *answer]])[0, 0]
            with torch.inference_mode():
                hidden = scorer.weights.base_model(input_ids=torch.tensor([[*prompt, *answer]])).last_hidden_state
                at_last = scorer.weights.score(hidden[0, -1]).item()
            assert at_last == pytest.approx(trained, abs=1e-5)
            assert scorer([row["prompt"]], [row[side]])[0] + scorer.center == pytest.approx(trained, abs=1e-5)


def test_absolute_scores_their_forms_and_their_scale() -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    mixed = RewardObjective("mixed", score_range=(1, 5))
    (one,) = mixed.examples({**pair, "score_chosen": 5, "score_rejected": 3})
    assert one.values["target"] == [1.0, 0.0]
    assert one.values["scored"] == 1.0
    (two,) = mixed.examples({**pair, "scores": [5, 3]})
    assert two == one
    for row in (pair, {**pair, "score_chosen": 5, "score_rejected": 3, "has_absolute": False}):
        assert mixed.examples(row)[0].values["scored"] == 0.0
    with pytest.raises(RecordError, match="an absolute score for each answer"):
        mixed.examples({**pair, "score_chosen": 5})
    with pytest.raises(RecordError, match="needs absolute scores"):
        RewardObjective("pointwise").examples(pair)
    with pytest.raises(RecordError, match="from 0 to 1"):
        mixed.examples({**pair, "probability": 1.5})


def test_pointwise_reaches_the_scores_and_labels_become_probabilities() -> None:
    rows = [
        {"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"]], "scores": [0.75, -0.5]}
        for row in toy.preferences(8)
    ]
    scorer = RewardModelling(**{**FAST, "epochs": 20}, loss="pointwise").align(toy.model(), rows)
    found = scorer([row["prompt"] for row in rows], [row["completions"][0] for row in rows])
    assert scorer.center == 0
    assert found.mean() == pytest.approx(0.75, abs=0.15)
    labels = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in toy.preferences(8)
        for side in ("chosen", "rejected")
    ]
    judge = RewardModelling(**FAST, loss="pointwise").align(toy.model(), labels)
    found = judge.probabilities([row["prompt"] for row in labels], [row["completion"] for row in labels])
    assert ((found > 0.5) == [row["label"] for row in labels]).all()
    with pytest.raises(RecordError, match="labels rank none"):
        RewardModelling(**FAST).align(toy.model(), labels)


def test_what_cannot_teach_is_said(caplog) -> None:
    rows = [{**row, "score_chosen": 5, "score_rejected": 1} for row in toy.preferences(4)]
    RewardModelling(**STEPS, loss="mixed").align(toy.model(), rows)
    assert "score_range=(1, 5)" in caplog.text
    caplog.clear()
    RewardModelling(**STEPS, loss="mixed", score_range=(1, 5)).align(toy.model(), rows)
    assert "score_range" not in caplog.text
    RewardModelling(**STEPS, loss="mixed").align(toy.model(), toy.preferences(4))
    assert "No row has absolute scores" in caplog.text
    tie = {"prompt": "a", "completions": ["b", "c"], "scores": [1, 1]}
    with pytest.raises(TrainingError, match="No row is left"):
        RewardModelling(**STEPS).align(toy.model(), [tie])
    assert "1 of 1 rankings score all answers alike" in caplog.text


def test_a_score_model_is_trained_on_and_modifiers_stay_behind(caplog) -> None:
    rows = toy.preferences(8)
    first = RewardModelling(**FAST).align(SystemMessage(text="look").align(toy.model()), rows)
    assert "SystemMessage" in caplog.text
    assert first.modifiers == ()
    before = toy.weights_of(first)
    second = RewardModelling(**FAST).align(first, rows)
    prompts = [row["prompt"] for row in rows]

    def gap(scorer):
        return (scorer(prompts, [r["chosen"] for r in rows]) - scorer(prompts, [r["rejected"] for r in rows])).mean()

    assert gap(second) > gap(first) > 0
    for name, value in first.weights.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert len(second.history) == 3
    wide = copy.deepcopy(first.weights)
    wide.config.num_labels = 2
    with pytest.raises(ModelError, match="2 labels"):
        RewardModelling(**FAST).align(dataclasses.replace(first, weights=wide), rows)


def test_a_finished_training_is_read_back_with_its_centre(tmp_path) -> None:
    rows, method = toy.preferences(8), RewardModelling(**FAST)
    whole = method.align(toy.model(), rows, out=tmp_path / "a")
    again = method.align(toy.model(), rows, out=tmp_path / "a")
    assert again.center == whole.center
    for left, right in zip(whole.weights.state_dict().values(), again.weights.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    whole.save(tmp_path / "scorer")
    assert load(tmp_path / "scorer").fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, "loss is one of"), ({"absolute_weight": -1}, "absolute_weight"),
        ({"score_range": (5, 1)}, "lowest and the highest"), ({"center_coefficient": float("nan")}, "center"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RewardModelling(**settings).validate()


# --- the same steps as TRL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["plain", "margin", "centred"])
def test_steps_equal_those_of_trl(extra: str, tmp_path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    from truing.methods.training.policy import score_model

    rows, model = toy.preferences(12), toy.model()
    if extra == "margin":
        rows = [{**row, "margin": 0.1 * at} for at, row in enumerate(rows)]
    policy = score_model(model.weights, 1, 0, model.tokenizer.pad_token_id)
    center = 0.05 if extra == "centred" else None
    args = trl.RewardConfig(
        str(tmp_path), learning_rate=1e-3, per_device_train_batch_size=4, max_steps=3, lr_scheduler_type="constant",
        weight_decay=0.0, max_grad_norm=1.0, bf16=False, gradient_checkpointing=False, logging_steps=1,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, max_length=200,
        train_sampling_strategy="sequential", center_rewards_coefficient=center,
    )  # fmt: skip

    def talk(row, side):
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]

    theirs = [
        {
            **{side: talk(row, side) for side in ("chosen", "rejected")},
            **({"margin": row["margin"]} if "margin" in row else {}),
        }
        for row in rows
    ]
    trainer = trl.RewardTrainer(
        model=policy, args=args, train_dataset=Dataset.from_list(theirs), processing_class=model.tokenizer
    )
    held = trainer.train_dataset[0]
    assert held["chosen_ids"] == encode_answered(model.tokenizer, rows[0]["prompt"], rows[0]["chosen"])
    trainer.train()
    expected = [row for row in trainer.state.log_history if "loss" in row]
    method = RewardModelling(**STEPS, center_coefficient=center or 0.0)
    scorer = method.align(model, rows, out=tmp_path / "ours")
    lines = [json.loads(line) for line in (tmp_path / "ours" / "log.jsonl").read_text().splitlines()]
    found = [line for line in lines if "step" in line]
    assert len(found) == len(expected) == 3
    for mine, other in zip(found, expected):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert mine["rewards/accuracies"] == pytest.approx(other["accuracy"], abs=1e-6)
        assert mine["rewards/margins"] == pytest.approx(other["margin"], abs=1e-4)
    assert found[-1]["loss"] != pytest.approx(found[0]["loss"], abs=1e-3)
    for name, value in scorer.weights.state_dict().items():
        torch.testing.assert_close(value, policy.state_dict()[name], atol=5e-4, rtol=1e-2)


# --- classification --------------------------------------------------------------------------------------------------


def labelled(z, p) -> Scores:
    return scored(z, [*range(len(z))], {"label": p})


def test_one_score_is_two_classes() -> None:
    z, p = [1.0, -2.0, 0.5], [1.0, 0.25, 0.0]
    both = torch.stack([torch.zeros(3), torch.tensor(z)], 1)
    target = torch.stack([1 - torch.tensor(p), torch.tensor(p)], 1)
    (term,) = ClassificationObjective().terms(labelled(z, p))
    torch.testing.assert_close(term.values, weak_labels.xent(both, target))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(z), torch.tensor(p), reduction="none")
    torch.testing.assert_close(term.values, bce)
    (same,) = ClassificationObjective("product", alpha=1.0, beta=0.0).terms(labelled(z, p))
    torch.testing.assert_close(same.values, term.values)


def test_logconf_grows_with_progress_and_needs_a_batch() -> None:
    z, p = torch.linspace(-2, 2, 8).tolist(), [0.4] * 8
    objective = ClassificationObjective("logconf", aux_coef=0.5, warmup_frac=0.2)
    plain = ClassificationObjective().terms(labelled(z, p))[0].values
    torch.testing.assert_close(objective.terms(labelled(z, p))[0].values, plain)
    objective.progress = 1.0
    both = torch.stack([torch.zeros(8), torch.tensor(z)], 1)
    target = torch.tensor([[0.6, 0.4]] * 8)
    torch.testing.assert_close(objective.terms(labelled(z, p))[0].values, weak_labels.logconf(both, target, 0.5))
    few = objective.terms(labelled(z[:4], p[:4]))[0].values
    torch.testing.assert_close(few, plain[:4], msg="too few rows for a threshold: the labels alone")
    with pytest.raises(SettingsError, match="batch_size=8"):
        Classification(loss="logconf", batch_size=4).validate()
    with pytest.raises(SettingsError, match="batch_size=8"):
        Classification(loss="logconf", tokens_per_batch=100).validate()


@pytest.mark.parametrize("loss", ["xent", "logconf", "product"])
def test_classifies_prompts_by_hard_and_by_soft_labels(loss: str) -> None:
    rows = [
        {"prompt": f"{word} the {thing}", "completion": "", "label": word == "look"}
        for thing in toy.THINGS
        for word in ("look", "cat")
    ]
    prompts, empty = [row["prompt"] for row in rows], [""] * len(rows)
    truth = np.array([row["label"] for row in rows])
    method = Classification(learning_rate=1e-3, batch_size=8, epochs=12, loss=loss)
    hard = method.align(toy.model(), rows)
    assert ((hard.probabilities(prompts, empty) > 0.5) == truth).all()
    # The column wins over the label: here it says the contrary.
    soft = method.align(toy.model(), [{**row, "probability": 0.2 if row["label"] else 0.9} for row in rows])
    assert ((soft.probabilities(prompts, empty) > 0.5) == ~truth).all()
    np.testing.assert_array_equal(
        RewardModel(model=(soft.weights, soft.tokenizer))(prompts, empty), soft(prompts, empty)
    )


def test_one_class_and_a_small_last_batch_are_said(caplog) -> None:
    rows = [{"prompt": f"the cat {at}", "completion": "", "label": True} for at in range(10)]
    Classification(learning_rate=1e-3, batch_size=8, max_steps=1, loss="logconf").align(toy.model(), rows)
    assert "All labels are true" in caplog.text
    assert "The last batch of an epoch has 2 rows" in caplog.text
    with pytest.raises(SettingsError, match="loss is one of"):
        Classification(loss="mse").validate()
