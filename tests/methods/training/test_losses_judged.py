"""CUT: the worked contrast, its gradients, and a copy task where the judgment names the wrong token."""

from __future__ import annotations

import math

import pytest
import torch

from truing.methods.training.losses import sequence_logps
from truing.methods.training.losses.judged import cut_contrast, cut_mean, flagged_tokens, log1mexp

PLAIN = (0.03, 0.94, 0.93, 0.99, 0.03, 0.85)
JUDGED = (0.82, 0.94, 0.76, 0.99, 0.02, 0.89)


def logs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def ones(logps):
    return torch.ones_like(logps, dtype=torch.bool)


def test_the_worked_answer_of_the_page():
    plain, judged = logs(PLAIN), logs(JUDGED)
    found = cut_contrast(judged, plain, ones(plain), threshold=1.1, alpha=1.0, gamma=1.0)
    assert found.flagged[0].tolist() == [True] + [False] * 5
    assert found.loss.item() / 6 == pytest.approx(0.639758, abs=1e-6)


@pytest.mark.parametrize("threshold", [1.0, 1.1])
def test_the_same_context_flags_nothing(threshold):
    plain = logs(PLAIN)
    found = cut_contrast(plain + 1e-8, plain, ones(plain), threshold=threshold)
    assert not found.flagged.any()
    assert found.loss.item() == pytest.approx(-plain.sum().item())
    assert not flagged_tokens(logs(JUDGED), plain, ones(plain), math.inf).any()


def test_gradients():
    plain, judged = logs(PLAIN).requires_grad_(), logs(JUDGED).requires_grad_()
    cut_contrast(judged, plain, ones(plain), alpha=0.5, gamma=2.0).loss.sum().backward()
    assert judged.grad is None
    # By b_t itself: alpha w / (1 - b) for the flagged token, -1 / b for the others.
    by_b = plain.grad[0] / plain.detach().exp()[0]
    assert by_b[0].item() == pytest.approx(0.5 * 0.82**2 / (1 - 0.03))
    assert by_b[1:].tolist() == pytest.approx([-1 / b for b in PLAIN[1:]])


def test_one_weight_per_answer_and_padding_of_any_value():
    plain, judged = logs((0.1, 0.5), (0.1, 0.5)), logs((0.9, 0.5), (0.9, 0.5))
    plain[1, 1], judged[1, 1] = math.nan, -math.inf
    plain.requires_grad_()
    mask = torch.tensor([[True, True], [True, False]])
    found = cut_contrast(judged, plain, mask, alpha=torch.tensor([1.0, 0.25]), gamma=1.0)
    found.loss.sum().backward()
    flagged = -0.9 * math.log(0.9)
    assert found.loss.tolist() == pytest.approx([flagged + math.log(2), flagged / 4])
    assert plain.grad[1, 1].item() == 0
    assert torch.isfinite(plain.grad).all()


def test_log_of_one_minus_exp_is_exact_at_both_ends():
    x = torch.tensor([0.0, -1e-3, -0.5, -1.0, -30.0, -math.inf], requires_grad=True)
    found = log1mexp(x)
    expected = [math.log(1e-6), *(math.log(-math.expm1(v)) for v in (-1e-3, -0.5, -1.0)), -math.exp(-30), 0.0]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_batch_mean_with_and_without_criticism():
    likelihood, contrast = torch.tensor([4.0, 2.0]), torch.tensor([3.0])
    assert cut_mean(likelihood, 6, contrast, 3).item() == pytest.approx(1.0)
    assert cut_mean(likelihood, 6, torch.zeros(0), 0).item() == 1.0


def test_a_copy_task_loses_the_named_token_and_keeps_the_rest():
    """A table model: the plain prompt makes token 1 wrong; the judged prompt expects exactly that."""
    answer, width = torch.tensor([0, 3, 2, 1]), 5
    table = torch.zeros(2, 4, width)  # judged, plain
    table[:, torch.arange(4), answer] = 2.0
    table[1, 1, 3] = 1.0
    table.requires_grad_()
    steps = torch.optim.Adam([table], lr=0.05)

    def read():
        return table.log_softmax(-1)[:, torch.arange(4), answer]

    before = read()[1].exp().tolist()
    mask = torch.ones(1, 4, dtype=torch.bool)
    for _ in range(60):
        judged, plain = read()
        found = cut_contrast(judged[None], plain[None], mask, threshold=1.1)
        loss = cut_mean(-sequence_logps(judged[None], mask), 4, found.loss, 4)
        steps.zero_grad()
        loss.backward()
        steps.step()
    after = read()[1].exp().tolist()
    assert after[1] < 0.5 * before[1]
    assert all(after[at] > before[at] for at in (0, 2, 3))
