"""PoFT: closed forms, its gradient as a weight on cross-entropy, and a task with flipped labels."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from truing.methods.training.losses.likelihood import mean_aligned_score, mean_logps, poft, poft_weight


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_worked_scores_of_the_page():
    aligned = mean_aligned_score(doubles([-1.1, -0.9, -2.5]))
    assert aligned.item() == pytest.approx(-1.5)
    assert mean_aligned_score(doubles([-2.5, -1.1, -0.9])).item() == pytest.approx(-1.5)
    assert poft(doubles(-1.0), aligned).item() == pytest.approx(0.474077, abs=1e-6)
    assert poft_weight(doubles(-1.0), aligned).item() == pytest.approx(0.377541, abs=1e-6)
    assert poft(aligned, aligned).item() == pytest.approx(math.log(2))
    assert mean_aligned_score(doubles([-1.0, math.nan])).isnan().all()


scores = st.floats(-12, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=5), st.floats(0.1, 3), st.floats(-2, 2))
def test_gradient_is_beta_tau_times_cross_entropys(rows, beta, gamma):
    score, aligned = doubles([a for a, _ in rows])[0].requires_grad_(), doubles([b for _, b in rows])[0]
    poft(score, aligned, beta=beta, gamma=gamma).sum().backward()
    expected = -beta * poft_weight(score, aligned, beta=beta, gamma=gamma)
    assert score.grad.tolist() == pytest.approx(expected.tolist())


def test_limits_are_fine_tuning_and_nothing():
    score = doubles(-2.0, -2.0, -2.0).requires_grad_()
    aligned = doubles(1e4, -1e4, -2.0)
    losses = poft(score, aligned)
    losses.sum().backward()
    assert score.grad.tolist() == pytest.approx([-1.0, 0.0, -0.5])
    assert torch.isfinite(losses).all()
    assert losses[0].item() == pytest.approx(10002)  # log s(x) as log(sigmoid(x)) would be -inf here
    (shifted,) = torch.autograd.grad(poft(score, aligned, gamma=-1e5)[2], score)
    assert shifted[2].item() == -1.0


def test_padding_changes_nothing_and_no_token_has_no_mean():
    tokens, mask = torch.tensor([[-1.0, -2.0, 7.0], [0.0, 0.0, 0.0]]), torch.tensor([[True, True, False], [False] * 3])
    found = mean_logps(tokens, mask)
    assert found[0].item() == -1.5
    assert found[1].isnan()


def test_it_resists_flipped_labels():
    """600 points in 10 dimensions, 35 % of the labels flipped; aligned scores from a soft form of the true rule."""

    def accuracy(seed, aligned_loss):
        draw = torch.Generator().manual_seed(seed)
        rule = torch.randn(10, generator=draw)
        x, test = torch.randn(600, 10, generator=draw), torch.randn(2000, 10, generator=draw)
        true = (x @ rule > 0).long()
        label = torch.where(torch.rand(600, generator=draw) < 0.35, 1 - true, true)
        aligned = torch.nn.functional.logsigmoid((2 * label - 1) * (x @ rule) * 2)
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
        steps = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(300):
            score = net(x).log_softmax(1).gather(1, label[:, None])[:, 0]
            loss = poft(score, aligned).mean() if aligned_loss else -score.mean()
            steps.zero_grad()
            loss.backward()
            steps.step()
        return (net(test).argmax(1) == (test @ rule > 0)).double().mean().item()

    for seed in range(2):
        assert accuracy(seed, True) > accuracy(seed, False) + 0.12
