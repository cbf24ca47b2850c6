from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.training import toy
from truing import DPO
from truing.errors import RecordError, SettingsError
from truing.methods.training.batches import collate
from truing.methods.training.conflict import (
    ConflictDPO,
    ConflictPairObjective,
    ConflictRewardModelling,
    ConflictRewardObjective,
    policy_labels,
    weak_preferences,
)
from truing.methods.training.encoding import encode
from truing.methods.training.policy import Scores
from truing.methods.training.reward_modelling import RewardModelling
from truing.records import as_records

FAST: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 2}
VECTORS = Path(__file__).parents[2] / "vectors" / "weak-to-strong-deception.json"


def weakly(n: int = 12, wrong: int = 3) -> list[dict[str, Any]]:
    """Preferences in a weak model's order: every ``wrong``-th is turned, and less sure."""
    out = []
    for at, row in enumerate(toy.preferences(n)):
        right = at % wrong != 0
        sides = {"chosen": row["chosen"], "rejected": row["rejected"]}
        if not right:
            sides = {"chosen": row["rejected"], "rejected": row["chosen"]}
        out.append({"prompt": row["prompt"], **sides, "probability": 0.9 if right else 0.6, "weak_is_right": right})
    return out


def records(rows: list[dict[str, Any]]) -> Any:
    return as_records(rows, kinds=("preference",), what="test")


def same(one: Any, two: Any) -> bool:
    return all(
        torch.equal(left, right)
        for left, right in zip(one.weights.state_dict().values(), two.weights.state_dict().values(), strict=True)
    )


def case_of(function: str) -> dict[str, Any]:
    return next(case for case in json.loads(VECTORS.read_text())["cases"] if case["function"] == function)


def test_the_reward_objective_gives_the_known_loss_and_gradient() -> None:
    case = case_of("reward modelling with explicit conflict")
    gaps = torch.tensor(case["inputs"]["reward_differences"])
    truth, soft = torch.tensor(case["inputs"]["true_labels"]).float(), torch.tensor(case["inputs"]["weak_soft_labels"])
    n = len(gaps)
    # In the weak order: chosen is what the weak model prefers.
    prefers = soft >= 0.5
    sign = torch.where(prefers, 1.0, -1.0)
    chosen = (gaps * sign).clone().requires_grad_()
    values = {
        "rank": torch.cat([torch.ones(n), torch.zeros(n)]), "target": torch.zeros(2 * n), "scored": torch.zeros(n),
        "margin": torch.zeros(n), "probability": torch.where(prefers, soft, 1 - soft),
        "right": (prefers == truth.bool()).float(), "conflicts": torch.ones(n),
    }  # fmt: skip
    nothing, owner = torch.zeros(2 * n, 1), torch.arange(n).repeat(2)
    scores = Scores(
        nothing, nothing.bool(), owner, torch.arange(2).repeat_interleave(n), values=values,
        labels=torch.cat([chosen, torch.zeros(n)])[:, None],
    )  # fmt: skip
    terms = ConflictRewardObjective(case["hyperparameters"]["alpha"]).terms(scores)
    loss = sum(term.weight * term.values.sum() / n for term in terms)
    expected = case["expected"]
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    assert terms[0].values.mean().item() == pytest.approx(expected["base_loss"], abs=1e-5)
    assert terms[1].values.mean().item() == pytest.approx(expected["conflict_loss"], abs=1e-5)
    loss.backward()
    np.testing.assert_allclose((chosen.grad * sign).numpy(), expected["grad_logits"], atol=1e-5)


def test_the_pair_objective_gives_the_known_loss_and_gradient() -> None:
    case = case_of("SimPO with explicit conflict (reverse reward)")
    given, how, expected = case["inputs"], case["hyperparameters"], case["expected"]
    chosen = torch.tensor(given["average_logp_weak_chosen"]).requires_grad_()
    rejected = torch.tensor(given["average_logp_weak_rejected"]).requires_grad_()
    n = len(chosen)
    # Answers of three tokens: their mean is what is given.
    tokens = torch.cat([chosen, rejected])[:, None].expand(2 * n, 3)
    values = {"right": torch.tensor(given["weak_label_is_right"]).float(), "conflicts": torch.ones(n)}
    scores = Scores(
        tokens, torch.ones(2 * n, 3, dtype=torch.bool), torch.arange(n).repeat(2),
        torch.arange(2).repeat_interleave(n), values=values,
    )  # fmt: skip
    objective = ConflictDPO(
        loss="simpo", beta=how["beta"], gamma=how["gamma"], conflict_weight=how["alpha"]
    ).objective()
    assert isinstance(objective, ConflictPairObjective)
    terms = objective.terms(scores)
    loss = sum(term.weight * term.values.sum() / n for term in terms)
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    assert terms[1].values.mean().item() == pytest.approx(expected["conflict_loss"], abs=1e-5)
    loss.backward()
    np.testing.assert_allclose(chosen.grad.numpy(), expected["grad_weak_chosen"], atol=1e-5)
    np.testing.assert_allclose(rejected.grad.numpy(), expected["grad_weak_rejected"], atol=1e-5)


def test_dpo_reverses_its_margin_with_the_reference_and_likelihood_its_sign() -> None:
    tokens = torch.tensor([[-1.0, -1.0], [-2.0, -3.0], [-3.0, -1.0], [-1.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    values = {"right": torch.tensor([1.0, 1.0]), "conflicts": torch.ones(2)}
    scores = Scores(
        tokens, mask, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]), values=values,
        reference=torch.tensor([-2.5, -4.0, -3.0, -2.0]),
    )  # fmt: skip
    # Sums: chosen -2, -5; rejected -4, -1: only the second pair prefers harm.
    plain = ConflictDPO(beta=0.5, conflict_weight=1.0).objective().terms(scores)[1].values
    margin = (-1 + 2.0) - (-5 + 4.0)
    torch.testing.assert_close(plain, torch.tensor([0.0, float(np.log1p(np.exp(-0.5 * margin)))]))
    liked = ConflictDPO(beta=0.5, conflict_likelihood=True).objective().terms(scores)[1].values
    torch.testing.assert_close(liked, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("kind", ["reward", "dpo"])
def test_without_weight_and_helpful_records_it_is_the_plain_method(kind: str) -> None:
    rows = weakly()
    if kind == "reward":
        bare = {"schedule": "cosine", **FAST}
        one = ConflictRewardModelling(**FAST, conflict_weight=0.0).align(toy.model(), rows)
        assert same(one, RewardModelling(**bare).align(toy.model(), rows))
        other = ConflictRewardModelling(**FAST, conflict_weight=5.0).align(toy.model(), rows)
    else:
        bare = {"schedule": "constant", "loss": "simpo", "beta": 2.0, **FAST}
        one = ConflictDPO(**FAST, loss="simpo", beta=2.0, conflict_weight=0.0).align(toy.model(), rows)
        assert same(one, DPO(**bare).align(toy.model(), rows))
        other = ConflictDPO(**FAST, loss="simpo", beta=2.0, conflict_weight=5.0).align(toy.model(), rows)
    assert not same(one, other)


def test_an_explicit_conflict_pushes_existing_mistakes_further() -> None:
    """What the model starts with wrong it has more wrong after training with the term than without."""
    true = [{**row, "probability": 0.5, "weak_is_right": True} for row in toy.preferences(16)]
    # A probability of 0.5 teaches nothing about the order: what moves it is the conflict.
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in toy.preferences(16)]
    start = RewardModelling(**FAST).align(toy.model(), turned)
    prompts = [row["prompt"] for row in true]

    def gap(scorer: Any) -> float:
        found = [scorer(prompts, [row[side] for row in true]) for side in ("chosen", "rejected")]
        return float((found[0] - found[1]).mean())

    how = {**FAST, "epochs": 4}
    without = ConflictRewardModelling(**how, conflict_weight=0.0).align(start, true)
    with_it = ConflictRewardModelling(**how, conflict_weight=2.0).align(start, true)
    assert gap(start) < 0
    assert gap(with_it) < gap(start) < gap(without)


def test_the_filter_the_oracle_and_the_helpful_records(caplog) -> None:
    rows = records(weakly(12))
    assert len(weak_preferences(rows)) == 12
    kept = weak_preferences(rows, min_confidence=0.75)
    assert [row["probability"] for row in kept] == [0.9] * 8
    assert "4 of 12 weak labels are left out" in caplog.text
    exact = records([{**row, "probability": 0.75} for row in weakly(6)])
    assert len(weak_preferences(exact, min_confidence=0.75)) == 6, "0.75 itself is sure enough"
    assert len(weak_preferences(exact, min_confidence=0.75, oracle=True)) == 4
    helpful = [{"prompt": f"help {at}", "chosen": "yes", "rejected": "no", "margin": 3} for at in range(20)]
    both = list(weak_preferences(rows, helpful=helpful))
    assert len(both) == 12 + 20, "concatenated whole where nothing is filtered"
    shrunk = list(weak_preferences(rows, min_confidence=0.75, helpful=helpful))
    assert [row["supervised"] for row in shrunk] == [True] * 8 + [False] * 8
    assert shrunk == list(weak_preferences(rows, min_confidence=0.75, helpful=helpful))
    other = list(weak_preferences(rows, min_confidence=0.75, helpful=helpful, seed=1))
    assert {row["prompt"] for row in other} != {row["prompt"] for row in shrunk}
    with pytest.raises(RecordError, match=r"min_confidence=0\.95"):
        weak_preferences(rows, min_confidence=0.95)


def test_helpful_records_are_learned_and_have_no_explicit_term() -> None:
    helpful = [{"prompt": f"the {thing}", "chosen": "the cat", "rejected": "look"} for thing in toy.THINGS]
    method = ConflictRewardModelling(**{**FAST, "epochs": 8}, helpful=helpful)
    scorer = method.align(toy.model(), weakly())
    prompts = [row["prompt"] for row in helpful]
    assert (scorer(prompts, ["the cat"] * 8) > scorer(prompts, ["look"] * 8)).all()
    mixed = weak_preferences(records(weakly(4)), helpful=helpful[:2])
    objective = method.objective()
    rows, _, _ = encode(toy.model(), mixed, objective, max_length=100, truncate="start")
    batch = collate(rows, 0)
    assert batch.values["conflicts"].tolist() == [1, 1, 1, 1, 0, 0]
    assert objective.units(batch)["conflicting"] == 4


def test_a_language_model_prefers_what_it_is_likelier_to_write() -> None:
    model, rows = toy.model(), records(toy.preferences(8))
    found = list(policy_labels(model, rows, average=False))
    for row, label in zip(rows, found):
        one, two = (model.logprobs([row["prompt"]], [row[side]])[0] for side in ("chosen", "rejected"))
        assert label["weak_is_right"] == (one >= two)
        assert label["probability"] == pytest.approx(1 / (1 + np.exp(-abs(one - two))), abs=1e-5)
        assert label["chosen"] == (row["chosen"] if one >= two else row["rejected"])
    means = list(policy_labels(model, rows))
    assert [row["probability"] for row in means] != [row["probability"] for row in found]
    ConflictDPO(**FAST).align(toy.model(), found)


def test_what_cannot_work_is_said() -> None:
    plain = toy.preferences(4)
    with pytest.raises(RecordError, match="weak_is_right"):
        ConflictRewardModelling(**FAST).align(toy.model(), plain)
    ConflictRewardModelling(**FAST, conflict_weight=0.0).align(toy.model(), plain)
    for made, message in (
        (ConflictDPO(loss="ipo"), "'sigmoid' or 'simpo'"), (ConflictDPO(wpo=True), "wpo has no part"),
        (ConflictDPO(conflict_weight=-1), "conflict_weight"), (ConflictRewardModelling(loss="mixed"), "bradley_terry"),
        (ConflictRewardModelling(min_confidence=0.4), "min_confidence"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=message):
            made.validate()
