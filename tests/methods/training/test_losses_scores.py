"""Losses of reward models: closed forms, missing scores, and which way explicit conflict pushes."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from truing.methods.training.losses.pairs import Pairs, sigmoid
from truing.methods.training.losses.scores import (
    absolute_error,
    bradley_terry,
    centring,
    conflict_mask,
    conflict_preferences,
    conflict_rewards,
    mixed_reward,
    pointwise_bce,
    pointwise_mse,
    soft_bradley_terry,
)

LOG2 = math.log(2)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry():
    assert bradley_terry(doubles(0.0), doubles(0.0)).item() == pytest.approx(LOG2)
    assert bradley_terry(doubles(3.0), doubles(1.0), margin=doubles(2.0)).item() == pytest.approx(LOG2)
    assert bradley_terry(doubles(-2000.0), doubles(0.0)).item() == 2000
    sure = soft_bradley_terry(doubles(1.2), doubles(0.4), doubles(1.0))
    assert sure.item() == pytest.approx(bradley_terry(doubles(1.2), doubles(0.4)).item())
    assert soft_bradley_terry(doubles(5.0), doubles(-5.0), doubles(0.5)).item() == pytest.approx(
        soft_bradley_terry(doubles(-5.0), doubles(5.0), doubles(0.5)).item()
    )


def test_centring_and_pointwise():
    assert centring(doubles(1.5), doubles(-0.5)).item() == pytest.approx(1.0)
    assert centring(doubles(1.0), doubles(-1.0)).item() == 0
    assert pointwise_mse(doubles(1.0, 2.0), doubles(3.0, 2.0)).tolist() == [4, 0]
    assert pointwise_bce(doubles(0.0, 800.0), torch.tensor([1, 0])).tolist() == pytest.approx([LOG2, 800])


def test_mixed_reward_of_the_page():
    parts = doubles(1.2), doubles(0.4), doubles(1.0), doubles(-1.0)
    assert mixed_reward(*parts, torch.tensor([True]), alpha=0.1).item() == pytest.approx(0.57110, abs=1e-5)
    assert mixed_reward(*parts, torch.tensor([True]), alpha=0.0).item() == bradley_terry(*parts[:2]).item()
    zero = doubles(0.0)
    assert mixed_reward(zero, zero, zero, zero, torch.tensor([True])).item() == pytest.approx(LOG2)
    assert absolute_error(*parts).item() == pytest.approx(2.0)


def test_a_pair_without_scores_is_plain_whatever_they_hold():
    chosen = doubles(1.2, 0.3).requires_grad_()
    missing = doubles(1.0, math.nan)
    found = mixed_reward(chosen, doubles(0.4, 0.9), missing, missing, torch.tensor([True, False]), alpha=0.5)
    found.sum().backward()
    assert found[1].item() == pytest.approx(bradley_terry(doubles(0.3), doubles(0.9)).item())
    assert chosen.grad[1].item() == pytest.approx(-torch.sigmoid(doubles(0.6)).item())


def test_conflict_for_reward_models():
    differences, labels = doubles(1.2, -0.4, 0.0, 2.0, -3.0).requires_grad_(), torch.tensor([1, 1, 1, 0, 0])
    assert conflict_mask(differences, labels).tolist() == [False, True, False, True, False]
    found = conflict_rewards(differences, labels)
    assert found[[0, 2, 4]].tolist() == [0, 0, 0]
    assert found[1].item() == pytest.approx(math.log1p(math.exp(-0.4)))
    found.sum().backward()
    # Descent takes the negative gradient: wrong ones go further down (label 1) and further up (label 0).
    assert differences.grad[1] > 0 > differences.grad[3]
    assert (differences.grad[[0, 2, 4]] == 0).all()


def test_conflict_for_preferences_pushes_to_harm_where_harm_is_preferred():
    chosen, rejected = doubles(-0.8, -1.5, -0.6, -0.9).requires_grad_(), doubles(-1.1, -1.2, -0.7, -0.5)
    right = torch.tensor([1, 1, 0, 0])
    found = conflict_preferences(chosen, rejected, right, beta=2.0, gamma=1.0)
    assert (found != 0).tolist() == [False, True, True, False]
    found.sum().backward()
    assert chosen.grad[1] > 0  # the harmful answer is the rejected one
    assert chosen.grad[2] < 0  # and here the chosen one
    as_sft = conflict_preferences(chosen, rejected, right, beta=2.0, gamma=1.0, likelihood=True)
    assert as_sft.tolist() == pytest.approx([0, 1.2, 0.6, 0])
    tie = conflict_preferences(doubles(-1.0, -1.0), doubles(-1.0, -1.0), torch.tensor([1, 0]), beta=1.0)
    assert tie.tolist() == pytest.approx([0, LOG2])


score = st.floats(-20, 0)


@settings(max_examples=40, deadline=None)
@given(score, score, score, score, st.booleans())
def test_conflict_for_dpo_is_dpo_of_the_harmful_answer(chosen, rejected, ref_chosen, ref_rejected, right):
    parts = [doubles(value) for value in (chosen, rejected, ref_chosen, ref_rejected)]
    found = conflict_preferences(
        *parts[:2], torch.tensor([right]), beta=0.1, ref_chosen=parts[2], ref_rejected=parts[3]
    ).item()
    turned = [parts[at] for at in ((1, 0, 3, 2) if right else (0, 1, 2, 3))]
    active = chosen < rejected if right else chosen >= rejected
    assert found == pytest.approx(sigmoid(Pairs(*turned), beta=0.1).item() if active else 0)
