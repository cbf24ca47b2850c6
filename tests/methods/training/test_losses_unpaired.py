"""BCO: closed forms, the running shift, and what a batch of one class does."""

from __future__ import annotations

import json
import math

import pytest
import torch

from truing.methods.training.losses.unpaired import RunningShift, bco, density_weights, implicit_rewards, kto


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


UP, DOWN = torch.tensor([True]), torch.tensor([False])


def test_start_is_log_two_with_half_beta_gradients():
    policy = doubles(-7.0, -9.0, -4.0).requires_grad_()
    labels = torch.tensor([True, False, False])
    running = RunningShift()
    shift = running.update(implicit_rewards(policy, policy.detach(), 0.3), labels)
    values = bco(policy, policy.detach(), labels, shift, beta=0.3)
    values.mean().backward()
    assert shift == 0
    assert values.tolist() == pytest.approx([math.log(2)] * 3)
    assert policy.grad.tolist() == pytest.approx([-0.05, 0.05, 0.05])


def test_the_worked_batch_of_the_page():
    rewards, labels = doubles(0.3, -0.1, 0.0, -0.7, 0.3), torch.tensor([True, True, False, False, False])
    pooled = RunningShift("pooled").update(rewards, labels)
    assert pooled == pytest.approx(-0.04)
    losses = bco(rewards / 0.1, torch.zeros(5), labels, pooled, beta=0.1)
    assert losses.tolist() == pytest.approx([0.537528, 0.723597, 0.713347, 0.416637, 0.877528], abs=1e-6)
    assert losses.mean().item() == pytest.approx(0.653727, abs=1e-6)
    # (0.1 + -0.4 / 3) / 2: each class counts the same, however many answers it has.
    assert RunningShift().update(rewards, labels) == pytest.approx((0.1 - 0.4 / 3) / 2)


@pytest.mark.parametrize(("shift", "total"), [(0.0, 1.361849), (1.0, 0.820075), (3.0, 0.820075), (2.0, 0.626523)])
def test_bound_on_dpo_is_tightest_half_way(shift, total):
    up = bco(doubles(3.0), doubles(0.0), UP, shift, beta=1.0)
    down = bco(doubles(1.0), doubles(0.0), DOWN, shift, beta=1.0)
    assert (up + down).item() == pytest.approx(total, abs=1e-6)
    assert (up + down).item() > 0.126928  # DPO on the same pair


@pytest.mark.parametrize("kind", ["balanced", "pooled"])
def test_a_constant_in_all_rewards_is_absorbed_by_the_first_update(kind):
    policy, labels = doubles(-3.0, -5.0, -1.0, 2.0), torch.tensor([True, False, False, True])
    plain, moved = RunningShift(kind), RunningShift(kind)
    losses = [
        bco(values, torch.zeros(4), labels, running.update(0.1 * values, labels), beta=0.1)
        for running, values in ((plain, policy), (moved, policy + 50))
    ]
    assert losses[0].tolist() == pytest.approx(losses[1].tolist(), rel=1e-9)


def test_density_weights_and_that_only_bad_answers_read_them():
    found = density_weights(doubles(0.9, 0.5, 0.02, 1.0, 0.0))
    assert found.tolist() == pytest.approx([9, 1, 0.5, 10, 0.5], rel=1e-6)
    policy, labels = doubles(-1.0, -1.0), torch.tensor([True, False])
    plain = bco(policy, torch.zeros(2), labels, 0.0)
    weighted = bco(policy, torch.zeros(2), labels, 0.0, weights=doubles(7.0, 7.0))
    assert (weighted / plain).tolist() == pytest.approx([1, 7])


def test_a_wrong_answer_is_pulled_55_times_harder_than_by_kto():
    policy = doubles(-4.0).requires_grad_()
    (mine,) = torch.autograd.grad(bco(policy, doubles(0.0), UP, 0.0, beta=1.0).sum(), policy)
    (other,) = torch.autograd.grad(kto(policy, doubles(0.0), UP, 0.0, beta=1.0).sum(), policy)
    assert mine.item() == pytest.approx(-0.982, abs=1e-3)
    assert (mine / other).item() == pytest.approx(55.6, abs=0.1)


@pytest.mark.parametrize("kind", ["balanced", "pooled"])
def test_one_class_and_empty_batches(kind):
    running = RunningShift(kind)
    none = torch.zeros(0)
    assert running.update(none, none.bool()) == 0
    alone = running.update(doubles(2.0, 4.0), torch.tensor([True, True]))
    assert alone == pytest.approx({"balanced": 1.5, "pooled": 3.0}[kind])
    assert running.update(none, none.bool()) == alone
    assert running.update(doubles(-1.0), DOWN) == pytest.approx({"balanced": (3 - 1) / 2, "pooled": 5 / 3}[kind])


def test_state_goes_through_json_and_ranks_add_up():
    rewards, labels = torch.randn(12, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3 == 0
    whole = RunningShift(decay=0.9)
    whole.update(rewards[:6], labels[:6])
    resumed = RunningShift(decay=0.9)
    resumed.load(json.loads(json.dumps(whole.state())))
    expected = whole.update(rewards[6:], labels[6:])

    seen = []

    def from_two_ranks(mine):
        seen.append(mine)
        other = rewards[9:]
        up = labels[9:]
        return mine + torch.stack([other[up].sum(), other[~up].sum(), up.sum(), (~up).sum()])

    assert resumed.update(rewards[6:9], labels[6:9], from_two_ranks) == pytest.approx(expected, rel=1e-6)
    assert len(seen) == 1


def test_decay_follows_rewards_that_move_and_outlives_an_absent_class():
    fast, slow = RunningShift("pooled", decay=0.5), RunningShift("pooled")
    for running in (fast, slow):
        for at in range(50):
            running.update(doubles(float(at >= 40)), UP)
    assert slow.value == pytest.approx(0.2)
    assert fast.value == pytest.approx(1.0, abs=1e-2)
    gone = RunningShift(decay=0.5)
    gone.update(doubles(3.0), DOWN)
    for _ in range(5000):
        gone.update(doubles(1.0), UP)
    assert gone.value == pytest.approx(2.0)


def test_refuses():
    with pytest.raises(ValueError, match="Known: balanced, pooled"):
        RunningShift("mean")
    with pytest.raises(ValueError, match="between 0 and 1"):
        RunningShift(decay=1.0)
    running = RunningShift()
    running.update(doubles(1.0), UP)
    with pytest.raises(ValueError, match="not finite"):
        running.update(doubles(math.nan), UP)
    assert running.value == 0.5
