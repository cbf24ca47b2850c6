"""Closed forms and limits of the pair losses; values and gradients of whole batches are in the vector files."""

from __future__ import annotations

import dataclasses
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from truing.methods.training import losses
from truing.methods.training.losses import pairs as pair_losses
from truing.methods.training.losses import unpaired
from truing.methods.training.losses.pairs import LOSSES, MIXTURES, Pairs

LOG2 = math.log(2)


def pairs(chosen, rejected, ref_chosen=None, ref_rejected=None, lengths=(4, 4), **more):
    def made(values):
        return None if values is None else torch.tensor(values, dtype=torch.float64)

    size = len(chosen)
    return Pairs(
        made(chosen),
        made(rejected),
        made(ref_chosen),
        made(ref_rejected),
        torch.full((size,), float(lengths[0])),
        torch.full((size,), float(lengths[1])),
        **more,
    )


SAME = pairs([-7.0], [-9.0], [-7.0], [-9.0])


@pytest.mark.parametrize(
    ("name", "beta", "value"),
    [
        ("sigmoid", 0.1, LOG2), ("robust", 0.1, LOG2), ("hinge", 0.1, 1.0), ("ipo", 0.1, 25.0),
        ("ipo_summed", 0.1, 25.0),
        ("nca_pair", 0.1, 2 * LOG2), ("bco_pair", 0.1, 2 * LOG2), ("sppo_hard", 0.1, 50.0), ("apo_zero", 0.1, 1.0),
        ("apo_down", 0.1, 1.0), ("aot", 0.1, LOG2), ("aot_unpaired", 0.1, LOG2), ("sigmoid_norm", 2.0, LOG2),
        ("discopop", 0.05, 0.5 * LOG2 + 0.5), ("dpop", 0.3, LOG2),
    ],
)  # fmt: skip
def test_value_where_policy_equals_reference(name, beta, value):
    assert LOSSES[name].function(SAME, beta=beta).item() == pytest.approx(value, rel=1e-9)


def test_gradient_at_start_is_half_beta():
    chosen = torch.tensor([-7.0], requires_grad=True)
    rejected = torch.tensor([-9.0], requires_grad=True)
    pair_losses.sigmoid(Pairs(chosen, rejected, chosen.detach(), rejected.detach()), beta=0.3).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.15)
    assert rejected.grad.item() == pytest.approx(0.15)


def test_kto_is_a_half_where_policy_equals_reference():
    policy, labels = torch.tensor([-3.0, -4.0]), torch.tensor([True, False])
    assert unpaired.kto(policy, policy, labels, 0.0).tolist() == pytest.approx([0.5, 0.5])
    assert unpaired.kto_reference_point(policy, policy + 1).item() == 0.0


finite = st.floats(-50, 0, allow_nan=False)
batch = st.lists(st.tuples(finite, finite, finite, finite), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(batch)
def test_limits_that_equal_dpo(rows):
    some = pairs(*map(list, zip(*rows)))
    dpo = pair_losses.sigmoid(some, beta=0.2)
    same = [
        pair_losses.robust(some, beta=0.2, label_smoothing=0.0),
        pair_losses.dpop(some, beta=0.2, lam=0.0),
        pair_losses.r_dpo(some, beta=0.2, alpha=0.0),
        pair_losses.sigmoid_norm(some, beta=0.8),  # all lengths are 4
        pair_losses.sigmoid(
            Pairs(
                some.chosen,
                some.rejected,
                some.ref_chosen,
                some.ref_rejected,
                f_divergence="alpha_divergence",
                f_alpha=1.0,
            ),
            beta=0.2,
        ),
    ]
    for other in same:
        torch.testing.assert_close(other, dpo)
    free = pair_losses.sigmoid(Pairs(some.chosen, some.rejected), beta=0.2)
    torch.testing.assert_close(pair_losses.simpo(some, beta=0.8, gamma=0.0), free)
    torch.testing.assert_close(pair_losses.cpo_sigmoid(some, beta=0.2), free)


@settings(max_examples=40, deadline=None)
@given(batch, st.floats(-5, 5))
def test_what_a_shifted_reference_changes(rows, shift):
    some = pairs(*map(list, zip(*rows)))
    moved = dataclasses.replace(some, ref_chosen=some.ref_chosen + shift, ref_rejected=some.ref_rejected + shift)
    for name in ("sigmoid", "hinge", "ipo", "ipo_summed", "robust", "exo_pair", "aot", "discopop", "r_dpo"):
        loss = LOSSES[name].function
        torch.testing.assert_close(loss(moved), loss(some), msg=name, rtol=1e-6, atol=1e-6)
    swapped = Pairs(some.rejected, some.chosen, some.ref_rejected, some.ref_chosen)
    torch.testing.assert_close(swapped.delta, -some.delta)


def test_a_shifted_reference_matters_to_losses_of_single_answers():
    some, moved = pairs([-7.0], [-9.0], [-7.5], [-8.0]), pairs([-7.0], [-9.0], [-5.5], [-6.0])
    for name in ("nca_pair", "bco_pair", "apo_zero", "sppo_hard"):
        assert abs(LOSSES[name].function(moved, beta=0.5) - LOSSES[name].function(some, beta=0.5)).item() > 1e-2, name


def test_robust_is_unbiased_under_flipped_labels():
    some, flipped = pairs([-3.0], [-8.0], [-4.0], [-6.0]), pairs([-8.0], [-3.0], [-6.0], [-4.0])
    e = 0.2
    mixed = (1 - e) * pair_losses.robust(some, label_smoothing=e) + e * pair_losses.robust(flipped, label_smoothing=e)
    torch.testing.assert_close(mixed, pair_losses.sigmoid(some))


def test_ld_dpo_with_alpha_one_is_the_plain_sum_and_alpha_zero_the_shared_part():
    tokens = torch.tensor([[-1.0, -2.0, -4.0], [-3.0, -5.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert pair_losses.desensitised_logps(tokens, mask, 1.0).tolist() == losses.sequence_logps(tokens, mask).tolist()
    assert pair_losses.desensitised_logps(tokens, mask, 0.0).tolist() == [-3.0, -8.0]


def test_every_loss_is_finite_with_finite_gradients_far_out():
    for name, loss in LOSSES.items():
        chosen = torch.tensor([-900.0, -0.0, -3.0], requires_grad=True)
        rejected = torch.tensor([-1.0, -900.0, -3.0], requires_grad=True)
        reference, lengths = torch.tensor([-2.0, -2.0, -3.0]), torch.tensor([3, 3, 3])
        value = loss.function(Pairs(chosen, rejected, reference, reference, lengths, lengths)).sum()
        value.backward()
        assert torch.isfinite(value), name
        assert torch.isfinite(chosen.grad).all(), name
        assert torch.isfinite(rejected.grad if rejected.grad is not None else torch.zeros(1)).all(), name


def test_mixtures_name_known_losses():
    assert all(set(parts) <= set(LOSSES) for parts in MIXTURES.values())


def test_tabular_optimum_is_the_tilted_reference():
    """Five responses, Bradley-Terry labels: the DPO optimum is pi_ref exp(r/beta)/Z."""
    reward, beta = torch.tensor([0.0, 0.5, 1.0, -0.7, 0.3], dtype=torch.float64), 0.5
    reference = torch.tensor([0.3, 0.1, 0.2, 0.25, 0.15], dtype=torch.float64).log()
    logits = reference.clone().requires_grad_()
    i, j = torch.combinations(torch.arange(5)).T
    sure = torch.sigmoid(reward[i] - reward[j])
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimiser.zero_grad()
        policy = logits.log_softmax(0)
        ahead = pair_losses.sigmoid(Pairs(policy[i], policy[j], reference[i], reference[j]), beta=beta)
        behind = pair_losses.sigmoid(Pairs(policy[j], policy[i], reference[j], reference[i]), beta=beta)
        loss = (sure * ahead + (1 - sure) * behind).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    expected = (reference + reward / beta).log_softmax(0)
    torch.testing.assert_close(logits.detach().log_softmax(0), expected, atol=1e-5, rtol=0)
