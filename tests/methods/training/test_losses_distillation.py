"""Distances between distributions: closed forms, limits, direction, ties and tokens that are ruled out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from truing.methods.training.losses.distillation import forward_kl, generalised_jsd, reverse_kl, top_scores, topk_kl


def scores(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def kl(p, q):
    return F.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def test_two_tokens_by_hand():
    teacher, student = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.5, 0.5]).log()
    assert forward_kl(teacher, student).item() == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4))
    assert reverse_kl(teacher, student).item() == pytest.approx(0.5 * math.log(0.625) + 0.5 * math.log(2.5))
    far = torch.tensor([50.0, 0.0]), torch.tensor([0.0, 50.0])
    assert generalised_jsd(*far).item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_agrees_with_torch_and_is_zero_for_the_same_model(temperature):
    teacher, student = scores(0, 2, 3, 7), scores(1, 2, 3, 7)
    for found, p, q in ((forward_kl, teacher, student), (reverse_kl, student, teacher)):
        expected = temperature**2 * kl(p / temperature, q / temperature)
        torch.testing.assert_close(found(teacher, student, temperature=temperature), expected)
        assert found(teacher, teacher, temperature=temperature).abs().max() < 1e-12
    mix = 0.3
    middle = (mix * teacher.softmax(-1) + (1 - mix) * student.softmax(-1)).log()
    expected = mix * kl(teacher, middle) + (1 - mix) * kl(student, middle)
    torch.testing.assert_close(generalised_jsd(teacher, student, mix=mix), expected)
    half = generalised_jsd(teacher, student, temperature=temperature)
    torch.testing.assert_close(half, generalised_jsd(student, teacher, temperature=temperature))


def test_the_mix_ends_at_the_two_divergences():
    teacher, student = scores(0, 5, 7), scores(1, 5, 7)
    torch.testing.assert_close(generalised_jsd(teacher, student, mix=0), forward_kl(teacher, student))
    torch.testing.assert_close(generalised_jsd(teacher, student, mix=1), reverse_kl(teacher, student))
    near = generalised_jsd(teacher, student, mix=1e-5) / 1e-5
    torch.testing.assert_close(near, forward_kl(teacher, student), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="from 0 to 1"):
        generalised_jsd(teacher, student, mix=1.5)


def test_gradient_and_its_size_over_temperatures():
    teacher, student = scores(0, 4, 6), scores(1, 4, 6).requires_grad_()
    (grad,) = torch.autograd.grad(forward_kl(teacher, student).sum(), student)
    torch.testing.assert_close(grad, student.softmax(-1) - teacher.softmax(-1))
    # At high temperature T^2 KL tends to half the variance of the centred differences: no T left.
    gap = (student - teacher).detach()
    limit = (gap - gap.mean(-1, keepdim=True)) / 6
    (hot,) = torch.autograd.grad(forward_kl(teacher, student, temperature=1e4).sum(), student)
    torch.testing.assert_close(hot, limit, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("distance", [forward_kl, reverse_kl, generalised_jsd])
def test_tokens_that_both_rule_out_do_no_harm(distance):
    teacher, student = scores(0, 3, 5).float(), scores(1, 3, 5).float()
    short = distance(teacher[:, :4], student[:, :4])
    teacher[:, 4] = student[:, 4] = -math.inf
    student.requires_grad_()
    found = distance(teacher, student)
    found.sum().backward()
    torch.testing.assert_close(found, short)
    assert torch.isfinite(student.grad).all()


def test_half_precision_is_read_in_full():
    teacher, student = scores(0, 3, 64).bfloat16(), scores(1, 3, 64).bfloat16()
    assert forward_kl(teacher, student).dtype == torch.float32
    torch.testing.assert_close(forward_kl(teacher, student), forward_kl(teacher.float(), student.float()))


def test_top_scores_are_best_first_and_ties_go_to_the_lower_id():
    found = top_scores(torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0], [5.0, 1.0, 1.0, 1.0, 9.0]]), 2)
    assert found.indices.tolist() == [[1, 2], [4, 0]]
    assert found.scores.tolist() == [[3, 3], [9, 5]]
    many = torch.randint(0, 5, (40, 30), generator=torch.Generator().manual_seed(0)).float()
    expected = many.sort(dim=-1, descending=True, stable=True).indices
    for k in (1, 7, 30, 99):
        torch.testing.assert_close(top_scores(many.reshape(4, 10, 30), k).indices.reshape(40, -1), expected[:, :k])


def test_top_k_kl():
    policy, reference = scores(0, 6, 9), scores(1, 6, 9)
    whole = topk_kl(policy, top_scores(reference, 9))
    torch.testing.assert_close(whole.kl, reverse_kl(reference, policy))
    assert whole.outside.abs().max() < 1e-12
    three = topk_kl(policy.requires_grad_(), top_scores(reference, 3))
    assert (three.kl >= 0).all()
    inside = policy.softmax(-1).gather(-1, top_scores(reference, 3).indices).sum(-1)
    torch.testing.assert_close(three.outside, 1 - inside.detach())
    assert topk_kl(reference, top_scores(reference, 4)).kl.abs().max() < 1e-12
    three.kl.sum().backward()
    assert (policy.grad == 0).sum() == 6 * 6  # only the three tokens of each row learn
