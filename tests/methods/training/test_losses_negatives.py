"""D2O: closed forms, limits, ragged samples, and what it does to a distribution."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from truing.methods.training.losses import pairs as pair_losses
from truing.methods.training.losses.negatives import d2o, d2o_instance, d2o_margin
from truing.methods.training.losses.pairs import Pairs


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 3, 11])
def test_start_is_log_two_with_known_gradients(k):
    own, negative = doubles([-9.0] * k).requires_grad_(), doubles(-4.0).requires_grad_()
    loss = d2o(own, own.detach(), negative, negative.detach(), alpha=0.2, beta=0.3)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert own.grad[0].tolist() == pytest.approx([-0.3 / (2 * k)] * k)
    assert negative.grad.item() == pytest.approx(0.1)


def test_the_worked_row_of_the_page():
    parts = doubles([1.0, -1.0, -1.0]), doubles([0.0] * 3), doubles(-2.0), doubles(0.0)
    assert d2o_margin(*parts).item() == pytest.approx(1 / 6)
    assert d2o(*parts).item() == pytest.approx(0.613282, abs=1e-6)


values = st.floats(-60, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(values, values), min_size=1, max_size=6), values, values)
def test_limits_and_jensen(samples, negative, reference_negative):
    own, reference = (doubles([row[at] for row in samples]) for at in range(2))
    bad = doubles(negative), doubles(reference_negative)
    one = d2o(own[:, :1], reference[:, :1], *bad, alpha=0.1, beta=0.1)
    dpo = pair_losses.sigmoid(Pairs(own[:, 0], bad[0], reference[:, 0], bad[1]), beta=0.1)
    assert one.item() == pytest.approx(dpo.item())
    assert d2o(own, reference, *bad).item() <= d2o_instance(own, reference, *bad).item() + 1e-9
    moved = d2o(own + 3, reference + 3, bad[0] - 2, bad[1] - 2)
    assert moved.item() == pytest.approx(d2o(own, reference, *bad).item(), abs=1e-9)
    forgetting = d2o(own, reference, *bad, beta=0.0, alpha=0.4)
    assert forgetting.item() == pytest.approx(math.log1p(math.exp(0.4 * (negative - reference_negative))), abs=1e-9)


@pytest.mark.parametrize("loss", [d2o, d2o_instance])
def test_a_mask_leaves_out_padding_whatever_it_holds(loss):
    own = torch.tensor([[-3.0, math.nan], [-2.0, -5.0], [math.inf, math.nan]]).requires_grad_()
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    rest = torch.zeros(3, 2), torch.tensor([-1.0, -2.0, -3.0]), torch.zeros(3)
    found = loss(own, *rest, mask=mask)
    found.sum().backward()
    short = loss(torch.tensor([[-3.0]]), torch.zeros(1, 1), torch.tensor([-1.0]), torch.zeros(1))
    assert found[0].item() == pytest.approx(short.item())
    assert torch.isfinite(found).all()
    assert (own.grad[~mask] == 0).all()
    assert (own.grad[mask] != 0).all()


def test_it_removes_the_negative_and_its_weight_fades():
    logits = torch.tensor([1.5, 1.0, 0.5, 0.0, -0.5, 2.0], dtype=torch.float64)
    logits[5] += math.log(0.4 / 0.6) - (logits[5] - logits[:5].logsumexp(0))
    start = logits.log_softmax(0)
    assert start[5].exp().item() == pytest.approx(0.4)
    drawn = torch.multinomial(start[:5].exp(), 11, True, generator=torch.Generator().manual_seed(0))
    free = start.clone().requires_grad_()
    steps = torch.optim.Adam([free], lr=0.05)
    weights = []
    for _ in range(300):
        policy = free.log_softmax(0)
        parts = policy[drawn][None], start[drawn][None], policy[5:], start[5:]
        weights.append(torch.sigmoid(-d2o_margin(*parts)).item())
        steps.zero_grad()
        d2o(*parts).sum().backward()
        steps.step()
    after = free.log_softmax(0).exp()
    assert after[5].item() < 1e-6
    assert weights[-1] < 0.8 * weights[0]
