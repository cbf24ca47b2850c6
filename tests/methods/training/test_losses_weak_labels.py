"""Losses on soft labels: limits, the ramp, the balance of hardened labels, and a student that passes its teacher."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from truing.methods.training.losses.weak_labels import (
    confidence_threshold,
    confidence_weight,
    hardened,
    logconf,
    product,
    xent,
)


def batch(n=16, seed=0, classes=2):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=draw, dtype=torch.float64)
    return logits, torch.randn(n, classes, generator=draw, dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("classes", [2, 5])
def test_limits_that_are_cross_entropy(classes):
    logits, labels = batch(classes=classes)
    plain = xent(logits, labels)
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels, reduction="none"))
    torch.testing.assert_close(product(logits, labels, alpha=1.0, beta=0.0), plain)
    if classes == 2:
        torch.testing.assert_close(logconf(logits, labels, 0.0), plain)
    own = product(logits, labels, alpha=0.0, beta=1.0)
    torch.testing.assert_close(own, xent(logits, logits.softmax(1)))
    hard = torch.eye(classes, dtype=torch.float64)[:1].expand_as(labels)
    torch.testing.assert_close(product(logits, hard), -logits.log_softmax(1)[:, 0])


def test_ramp():
    assert confidence_weight(0.05) == pytest.approx(0.25)
    assert confidence_weight(0.05, as_published=True) == pytest.approx(0.025)
    assert confidence_weight(0.1) == pytest.approx(0.5)
    assert confidence_weight(0.1, as_published=True) == pytest.approx(0.05)
    assert confidence_weight(0.9, aux_coef=0.75) == confidence_weight(0.9, aux_coef=0.75, as_published=True) == 0.75
    assert confidence_weight(0.0, warmup_frac=0.0) == 0.5


def test_hardened_labels_keep_the_weak_labels_balance():
    logits, labels = batch(1000)
    labels = 0.5 * labels + 0.5 * torch.tensor([0.9, 0.1])
    hard = hardened(logits, confidence_threshold(logits, labels))
    assert hard.mean(0).tolist() == pytest.approx(labels.mean(0).tolist(), abs=2e-3)
    assert set(hard.flatten().tolist()) == {0.0, 1.0}


def test_targets_have_no_gradient_and_a_given_threshold_is_used():
    logits, labels = batch()
    logits.requires_grad_()
    threshold = confidence_threshold(logits, labels)
    (grad,) = torch.autograd.grad(logconf(logits, labels, 0.4).sum(), logits)
    target = 0.6 * labels + 0.4 * hardened(logits, threshold)
    torch.testing.assert_close(grad, logits.softmax(1).detach() - target)
    parts = [logconf(logits[at], labels[at], 0.4, threshold) for at in (slice(0, 4), slice(4, None))]
    torch.testing.assert_close(torch.cat(parts), logconf(logits, labels, 0.4))
    assert hardened(logits, 2.0)[:, 1].all()


def test_a_student_passes_its_teacher_where_it_sees_better():
    """The weak model sees x with noise, the strong one x: 10 dimensions, labels by a hyperplane."""
    draw = torch.Generator().manual_seed(0)
    rule = torch.randn(10, generator=draw)
    sets = [torch.randn(2000, 10, generator=draw) for _ in range(3)]
    labels = [(x @ rule > 0).long() for x in sets]
    dim = [x + 1.5 * torch.randn(x.shape, generator=draw) for x in sets]

    def fit(x, targets, loss):
        weights = torch.zeros(10, 2, requires_grad=True)
        steps = torch.optim.Adam([weights], lr=0.05)
        for at in range(150):
            steps.zero_grad()
            loss(x @ weights, targets, at / 150).mean().backward()
            steps.step()
        return weights.detach()

    def plain(logits, targets, _):
        return xent(logits, targets)

    def confident(logits, targets, done):
        return logconf(logits, targets, confidence_weight(done))

    def accuracy(weights, seen):
        return ((seen[2] @ weights).argmax(1) == labels[2]).double().mean().item()

    teacher = fit(dim[0], F.one_hot(labels[0], 2).float(), plain)
    weak = (dim[1] @ teacher).softmax(1)
    ceiling = accuracy(fit(sets[1], F.one_hot(labels[1], 2).float(), plain), sets)
    start = accuracy(teacher, dim)
    for loss in (plain, confident):
        recovered = (accuracy(fit(sets[1], weak, loss), sets) - start) / (ceiling - start)
        assert recovered > 0.7
    assert math.isclose(start, 0.69, abs_tol=0.04)
