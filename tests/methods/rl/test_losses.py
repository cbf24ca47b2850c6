"""Advantages and objectives at values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.errors import SettingsError
from truing.methods.rl.losses import (
    average,
    clipped_loss,
    group_advantages,
    grpo_loss,
    kl_estimate,
    leave_one_out,
    rloo_loss,
)

REWARDS = st.lists(st.lists(st.integers(-50, 50), min_size=3, max_size=3), min_size=1, max_size=4)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_advantages_of_the_survey_and_of_trl():
    assert group_advantages(f64(1, 0, 0, 1)).tolist() == [1, -1, -1, 1]
    sample = math.sqrt(1 / 3) + 1e-4
    found = group_advantages(f64([1, 0, 0, 1]), eps=1e-4, unbiased=True)
    torch.testing.assert_close(found, f64([0.5, -0.5, -0.5, 0.5]) / sample)
    two = f64([1, 0, 0, 1], [0, 0, 0, 4])
    torch.testing.assert_close(group_advantages(two, "none"), f64([0.5, -0.5, -0.5, 0.5], [-1, -1, -1, 3]))
    torch.testing.assert_close(group_advantages(two, "batch"), group_advantages(two, "none") / two.std(correction=0))


def test_equal_rewards_teach_nothing():
    for scale in ("group", "batch", "none"):
        # The mean of 0.1, 0.1, 0.1 is not 0.1.
        found = group_advantages(f64([0.1, 0.1, 0.1], [0.7, 0.7, 0.7]), scale)
        assert found.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert group_advantages(f64([2.0])).tolist() == [[0.0]]
    mixed = group_advantages(f64([0.1, 0.1, 0.1], [0, 0, 3]))
    assert mixed[0].tolist() == [0, 0, 0]
    assert mixed[1, 2] == pytest.approx(math.sqrt(2))


@given(REWARDS, st.integers(-9, 9), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_a_constant_or_a_scale_changes_nothing(rewards, constant, factor):
    given_ = torch.tensor(rewards, dtype=torch.float64)
    plain = group_advantages(given_)
    torch.testing.assert_close(group_advantages(given_ * factor + constant), plain)
    torch.testing.assert_close(plain.sum(1), torch.zeros(len(rewards), dtype=torch.float64))
    torch.testing.assert_close(leave_one_out(given_ + constant), leave_one_out(given_))
    # The baseline without oneself is a constant factor of the one with all.
    torch.testing.assert_close(leave_one_out(given_), group_advantages(given_, "none") * 3 / 2)


def test_leaving_one_out():
    assert leave_one_out(f64(1, 0, 0, 1)).tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert leave_one_out(f64(3, 1)).tolist() == [2, -2]
    with pytest.raises(SettingsError, match="2 or more"):
        leave_one_out(f64([1.0]))


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=5), st.floats(-3, 3))
@settings(max_examples=100, deadline=None)
def test_the_kl_estimate_is_never_negative(logps, gap):
    for dtype in (torch.float32, torch.float64):
        policy = torch.tensor(logps, dtype=dtype)
        assert (kl_estimate(policy, policy + gap) >= 0).all()
        assert (kl_estimate(policy, policy) == 0).all()


def test_the_kl_estimate_is_unbiased():
    policy, reference = f64(0.7, 0.2, 0.1), f64(0.3, 0.3, 0.4)
    expected = (policy * (policy / reference).log()).sum()
    found = (policy * kl_estimate(policy.log(), reference.log())).sum()
    torch.testing.assert_close(found, expected)
    assert kl_estimate(f64(math.log(0.5)), f64(math.log(0.25)))[0] == pytest.approx(0.5 + math.log(2) - 1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.1, 1, -1.1), (1.5, 1, -1.2), (1.5, -1, 1.5), (0.5, 1, -0.5), (0.5, -1, 0.8), (1.0, 2, -2.0)],
)
def test_the_clipped_objective(ratio, advantage, loss):
    found = clipped_loss(f64(math.log(ratio)), f64(0.0), f64(advantage))
    assert found.item() == pytest.approx(loss)


def test_the_upper_clip_can_be_wider():
    assert clipped_loss(f64(math.log(1.5)), f64(0.0), f64(1.0), 0.2, 0.28).item() == pytest.approx(-1.28)


def test_at_ratio_1_the_gradient_is_the_policy_gradient():
    logps = f64([-1.0, -2.0], [-0.5, -3.0]).requires_grad_()
    advantages = f64(2.0, -1.0)
    clipped_loss(logps, logps.detach(), advantages).sum().backward()
    assert logps.grad.tolist() == [[-2, -2], [1, 1]]


def test_averages():
    losses, mask = f64([1, 3, 9], [5, 9, 9]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert average(losses, mask, "grpo").item() == pytest.approx((2 + 5) / 2)
    assert average(losses, mask, "dapo").item() == pytest.approx(9 / 3)
    assert average(losses, mask, "bnpo").item() == pytest.approx(9 / 3)
    assert average(losses, mask, "dr_grpo", longest=4).item() == pytest.approx(9 / 8)
    assert average(losses, torch.zeros_like(mask), "grpo").item() == 0
    with pytest.raises(SettingsError, match="longest"):
        average(losses, mask, "dr_grpo")
    with pytest.raises(SettingsError, match="how is one of"):
        average(losses, mask, "mean")


def test_losses_of_a_whole_batch():
    logps, mask = f64([-1.0, -2.0], [-1.0, 0.0]), torch.tensor([[1, 1], [1, 0]])
    advantages, reference = f64(1.0, -1.0), logps + math.log(2)
    # At ratio 1 the estimate of each token is 2 - log 2 - 1.
    per_token = 1 - math.log(2)
    found = grpo_loss(logps, logps, mask, advantages, reference, beta=0.5, how="dapo")
    assert found.item() == pytest.approx((-2 + 1) / 3 + 0.5 * per_token)
    assert rloo_loss(logps, logps, mask, f64(3.0, 1.0)).item() == pytest.approx(-2.0)
    with pytest.raises(SettingsError, match="reference"):
        grpo_loss(logps, logps, mask, advantages, beta=0.5)


def test_the_ratio_on_the_estimate_gives_the_gradient_of_the_kl():
    """The expected gradient over all tokens, weighed by the policy that samples, against automatic differentiation."""
    reference = f64(0.3, 0.3, 0.4).log()

    def gradient(unbiased):
        scores = f64(0.4, -0.2, 0.9).requires_grad_()
        logps = scores.log_softmax(0)
        each = [
            logps.detach()[at].exp()
            * grpo_loss(
                logps[None, at : at + 1], logps[None, at : at + 1].detach(), torch.ones(1, 1), f64(0.0),
                reference[None, at : at + 1], beta=1.0, unbiased_kl=unbiased,
            )
            for at in range(3)
        ]  # fmt: skip
        sum(each).backward()
        return scores.grad

    scores = f64(0.4, -0.2, 0.9).requires_grad_()
    logps = scores.log_softmax(0)
    (logps.exp() * (logps - reference)).sum().backward()
    torch.testing.assert_close(gradient(True), scores.grad)
    assert not torch.allclose(gradient(False), scores.grad, atol=1e-3)
