"""BiAlign's ranking loss: worked values, invariances, ties, flat scores, and what each gradient learns."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from truing.methods.training.losses.ranking import (
    bialign_ranking,
    preference_agreement,
    ranking_terms,
    score_range,
    teacher_ranks,
)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_the_worked_sample_of_the_page():
    student, teacher = row(-4.0, -7.0, -5.0, -9.0), row(-3.0, -8.0, -6.0, -2.0)
    assert teacher_ranks(teacher)[0].tolist() == [2, 4, 3, 1]
    terms = ranking_terms(student, teacher)[0]
    found = [terms[i, j].item() for i, j in ((0, 1), (0, 2), (2, 1), (3, 0), (3, 1), (3, 2))]
    assert found == pytest.approx([0.066667, 0.133333, 0, 1.333333, 1.4, 1.466667], abs=1e-6)
    assert bialign_ranking(student, teacher).item() == pytest.approx(4.4)
    assert score_range(student).item() == 5


def test_small_closed_forms():
    down = row(-1.0, -2.0, -3.0, -4.0)
    assert bialign_ranking(down, down).item() == 0
    assert bialign_ranking(row(-9.0, -6.0, -3.0), row(-1.0, -2.0, -3.0)).item() == pytest.approx(4)
    assert bialign_ranking(row(-1.0, -5.0), row(-1.0, -2.0)).item() == 0
    assert bialign_ranking(row(-5.0, -1.0), row(-1.0, -2.0)).item() == pytest.approx(2)


some = st.lists(st.tuples(st.integers(-90, 0), st.integers(-90, 0)), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(some, st.floats(0.1, 9), st.floats(-50, 50), st.booleans())
def test_invariances(pairs, scale, offset, through):
    student, teacher = (row(*map(float, values)) for values in zip(*pairs))
    loss = bialign_ranking(student, teacher, through_range=through)
    assert bialign_ranking(scale * student + offset, teacher).item() == pytest.approx(loss.item(), abs=1e-6)
    assert bialign_ranking(student, (teacher / 30).exp()).item() == pytest.approx(loss.item(), abs=1e-9)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    assert bialign_ranking(student[:, order], teacher[:, order]).item() == pytest.approx(loss.item(), abs=1e-9)
    padded = [torch.cat([values, row(math.nan, math.inf)], 1) for values in (student, teacher)]
    mask = torch.arange(len(pairs) + 2)[None] < len(pairs)
    assert bialign_ranking(*padded, mask=mask).item() == pytest.approx(loss.item(), abs=1e-9)


def test_teacher_ties_are_no_pairs():
    terms = ranking_terms(row(-1.0, -9.0, -5.0), row(-2.0, -2.0, -7.0))[0]
    assert terms[0, 1] == terms[1, 0] == 0
    # Better than the worst by 2 ranks of N - 1 = 2 steps, both of them.
    assert terms[1, 2].item() == pytest.approx((-5 + 9) / 8 + 1)
    assert terms[0, 2].item() == pytest.approx((-5 + 1) / 8 + 1)


@pytest.mark.parametrize("through", [False, True])
def test_flat_scores_are_left_out_without_nan_and_nan_is_seen(through):
    student = torch.tensor([[-3.0, -3.0, -3.00005], [-1.0, -3.0, -2.0]], requires_grad=True)
    losses = bialign_ranking(student, torch.tensor([[-1.0, -2.0, -3.0]] * 2), through_range=through)
    losses.sum().backward()
    assert losses[0] == 0
    assert (student.grad[0] == 0).all()
    assert losses[1] > 0
    assert bialign_ranking(row(math.nan, -1.0), row(-1.0, -2.0)).isnan().all()
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert bialign_ranking(row(-1.0, -2.0), row(-1.0, -2.0), mask=nothing).item() == 0


def test_the_literal_gradient_is_dead_where_the_detached_one_is_not():
    for student, teacher in ((row(-5.0, -1.0), row(-1.0, -2.0)), (row(-9.0, -6.0, -3.0), row(-1.0, -2.0, -3.0))):
        student.requires_grad_()
        literal, detached = (
            torch.autograd.grad(bialign_ranking(student, teacher, through_range=through).sum(), student)[0]
            for through in (True, False)
        )
        assert literal.abs().max().item() == pytest.approx(0, abs=1e-12)
        assert detached[0, 0] < 0 < detached[0, -1]


def test_every_start_reaches_the_teachers_order():
    starts = torch.tensor(list(itertools.permutations([-1.0, -2.0, -3.0, -4.0])))
    free = (starts + 0.1 * torch.randn(starts.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    teacher = torch.tensor([-1.0, -2.0, -3.0, -4.0]).expand(len(starts), 4)
    steps = torch.optim.Adam([free], lr=0.05)
    for _ in range(500):
        steps.zero_grad()
        loss = bialign_ranking(free, teacher).sum()
        loss.backward()
        steps.step()
    assert (free.diff(dim=1) < 0).all()
    assert loss.item() / len(starts) < 0.1
    best, worst = preference_agreement(free, teacher)
    assert best.all()
    assert worst.all()
