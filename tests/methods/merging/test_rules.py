"""The merging rules on tensors: known values, limits, and what cannot be merged."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.errors import ModelError, SettingsError
from truing.methods.merging import rules
from truing.methods.merging.tensor_merge import NEEDS_BASE, USES, TensorMerge

BASE = torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.5, -0.1]], dtype=torch.float64)
ONE = torch.tensor([[0.3, -0.1, 0.4], [0.1, 0.6, -0.3]], dtype=torch.float64)
TWO = torch.tensor([[0.2, -0.3, 0.6], [0.1, 0.4, -0.2]], dtype=torch.float64)
HALVES = [torch.float16, torch.bfloat16]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rule(name, count=2, **options):
    made = TensorMerge(rule=name, count=count, based=name in NEEDS_BASE, **options)
    made.validate()
    return made


def apply(made, tensors, base):
    return made("the.weight", tensors, base if made.rule in NEEDS_BASE else None)


# --- known values ----------------------------------------------------------------------------------------------------


def test_linear_is_the_weighted_mean():
    expected = [[0.275, -0.15, 0.45], [0.1, 0.55, -0.275]]
    torch.testing.assert_close(rules.linear([ONE, TWO], [3.0, 1.0]), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(rules.linear([ONE, TWO], [3.0, 1.0], normalize=False), 3 * ONE + TWO)


def test_task_arithmetic_adds_weighted_offsets():
    expected = [[0.35, -0.15, 0.55], [0.15, 0.55, -0.35]]
    found = rules.task_arithmetic(BASE, [ONE, TWO], [1.0, 0.5])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    half = rules.task_arithmetic(BASE, [ONE, TWO], [1.0, 0.5], lam=0.5)
    torch.testing.assert_close(half - BASE, (found - BASE) / 2)
    mean = rules.task_arithmetic(BASE, [ONE, TWO], [2.0, 2.0], normalize=True)
    torch.testing.assert_close(mean, (ONE + TWO) / 2)
    apart = rules.task_arithmetic(BASE, [ONE, TWO], [1.0, -1.0], normalize=True)
    torch.testing.assert_close(apart, BASE + ONE - TWO)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_task_arithmetic_at_its_limits_is_exact(dtype):
    base, model = random(64, 9, seed=1, dtype=dtype), random(64, 9, seed=2, dtype=dtype) * 1e-4
    assert torch.equal(rules.task_arithmetic(base, [model], [1.0], lam=1.0), model)
    assert torch.equal(rules.task_arithmetic(base, [model], [1.0], lam=0.0), base)


def test_negating_and_adding_back_is_the_identity():
    base, model = random(50, seed=1, dtype=torch.float64), random(50, seed=2, dtype=torch.float64)
    without = rules.task_arithmetic(base, [model], [1.0], lam=-1.0)
    torch.testing.assert_close(without + (model - base), base)


def test_model_stock_known_values():
    merged, told = rules.model_stock(BASE, [ONE, TWO])
    assert told["pairwise_cos"] == pytest.approx([0.4629100498862758])
    assert told["mean_cos"] == pytest.approx(0.4629100498862758)
    assert told["t"] == pytest.approx(0.6328619451650656)
    expected = [[0.19492929177, -0.2, 0.42657238903], [0.0632861945, 0.5, -0.19492929177]]
    torch.testing.assert_close(merged, torch.tensor(expected, dtype=torch.float64))


def test_model_stock_limits():
    merged, told = rules.model_stock(BASE, [ONE, ONE])
    assert told["t"] == pytest.approx(1.0, abs=1e-15)
    torch.testing.assert_close(merged, ONE)
    merged, told = rules.model_stock(torch.zeros(2), [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
    assert (told["t"], merged.tolist()) == (0.0, [0.0, 0.0])
    # Three offsets with pairwise cosine 1/2: t = 3/2 / (1 + 2/2).
    three = [torch.tensor(v, dtype=torch.float64) for v in ([1.0, 1, 0], [1.0, 0, 1], [0.0, 1, 1])]
    merged, told = rules.model_stock(torch.zeros(3, dtype=torch.float64), three)
    assert told["pairwise_cos"] == pytest.approx([0.5] * 3)
    assert told["t"] == pytest.approx(0.75)
    torch.testing.assert_close(merged, torch.full((3,), 0.5, dtype=torch.float64))


def test_model_stock_filter_wise_is_model_stock_of_each_row():
    base, models = random(5, 7, dtype=torch.float64), [random(5, 7, seed=s, dtype=torch.float64) for s in (1, 2, 3)]
    merged, told = rules.model_stock(base, models, filter_wise=True)
    for row in range(5):
        alone, one = rules.model_stock(base[row], [model[row] for model in models])
        torch.testing.assert_close(merged[row], alone)
        assert told["t"][row] == pytest.approx(one["t"])
        assert [pair[row] for pair in told["pairwise_cos"]] == pytest.approx(one["pairwise_cos"])
    # A vector is one row, and rows that no model changed are the base's.
    vector, told = rules.model_stock(base[0], [model[0] for model in models], filter_wise=True)
    torch.testing.assert_close(vector, merged[0])
    assert len(told["t"]) == 1
    same = [torch.cat([base[:2], model[2:]]) for model in models]
    assert torch.equal(rules.model_stock(base, same, filter_wise=True)[0][:2], base[:2])


def test_model_stock_of_offsets_that_point_away():
    # cos = -1/2 and N = 2 give t = -2, which the reference implementation leaves so.
    base = torch.zeros(2, dtype=torch.float64)
    models = [torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([-0.5, math.sqrt(0.75)], dtype=torch.float64)]
    merged, told = rules.model_stock(base, models)
    assert told["t"] == pytest.approx(-2.0)
    torch.testing.assert_close(merged, -(models[0] + models[1]))
    merged, told = rules.model_stock(base, models, clamp=True)
    assert (told["t"], told["clamped"], merged.tolist()) == (0.0, 1, [0.0, 0.0])
    made = rule("model_stock")
    assert torch.equal(apply(made, models, base), base)
    assert made.counts["clamped"] == 1
    assert "1 of 1 tensors" in made.warnings()[0]


def test_model_stock_where_it_would_divide_by_zero():
    base, offset = random(3, 4, dtype=torch.float64), random(3, 4, seed=1, dtype=torch.float64)
    models = [base + offset, base - offset]
    with pytest.raises(ModelError, match=r"The tensor the.weight .*cancel out \(mean cosine -1/1\)"):
        apply(rule("model_stock"), models, base)
    made = rule("model_stock", on_degenerate="linear")
    torch.testing.assert_close(apply(made, models, base), base)
    assert "cancel out" in made.warnings()[0]
    odd = [models[0], torch.cat([base[:2] + offset[:2], base[2:] - offset[2:]])]
    with pytest.raises(ModelError, match="in row 2"):
        apply(rule("model_stock", filter_wise=True), odd, base)
    for few in ([], [base]):
        with pytest.raises(ModelError, match="at least two"):
            rules.model_stock(base, few)


def test_ties_elects_signs_by_mass_and_averages_those_that_agree():
    zero = torch.zeros(1)
    offsets = [torch.tensor([3.0]), torch.tensor([-1.0]), torch.tensor([1.0])]
    assert rules.ties(zero, offsets, [1.0, 1.0, 1.0], density=1.0).item() == 2.0
    assert rules.ties(zero, offsets, [1.0, 5.0, 1.0], density=1.0).item() == -1.0
    # By weight: (3 * 3 + 1 * 1) / 4.
    assert rules.ties(zero, offsets, [3.0, 0.0, 1.0], density=1.0).item() == 2.5


def test_ties_keeps_exactly_the_largest_offsets():
    base = random(10, 10)
    offset = torch.arange(1.0, 101.0).reshape(10, 10)
    merged = rules.ties(base, [base + offset], [1.0], density=0.2)
    changed = (merged != base).flatten()
    assert changed.sum() == 20
    assert changed[80:].all()
    # Equal magnitudes: still that many, the first ones.
    equal = rules.ties(torch.zeros(100), [torch.ones(100)], [1.0], density=0.3)
    assert equal.tolist() == [1.0] * 30 + [0.0] * 70
    assert rules.ties(torch.zeros(4), [torch.tensor([0.0, 0.0, 5.0, 0.0])], [1.0], density=0.5).tolist() == [0, 0, 5, 0]


def test_dare_keeps_the_expectation_within_a_percent():
    size, masks = 100, 10_000
    base, model = torch.zeros(size), torch.ones(size)
    # One long tensor holds 10,000 masks of 100 entries.
    merged = rules.dare(base.repeat(masks), [model.repeat(masks)], [1.0], drop=0.5, seed=3)
    assert set(merged.unique().tolist()) == {0.0, 2.0}
    means = merged.reshape(masks, size).mean(0)
    assert means.mean().item() == pytest.approx(1.0, rel=0.01)
    assert (means - 1).abs().max() < 0.05


def test_dare_masks_depend_on_seed_name_and_model_alone():
    base, models = torch.zeros(64), [torch.ones(64), torch.full((64,), 2.0)]
    how = {"drop": 0.5, "seed": 1, "name": "a.weight"}
    first = rules.dare(base, models, [1.0, 1.0], **how)
    torch.manual_seed(99)
    torch.rand(5)
    assert torch.equal(first, rules.dare(base, models, [1.0, 1.0], **how))
    for change in ({"seed": 2}, {"name": "b.weight"}):
        assert not torch.equal(first, rules.dare(base, models, [1.0, 1.0], **{**how, **change}))
    alone = [rules.dare(base, models, weights, **how) for weights in ([1.0, 0.0], [0.0, 1.0])]
    assert torch.equal(first, alone[0] + alone[1])
    assert not torch.equal(2 * alone[0], alone[1]), "two models have two masks"
    nothing = rules.dare(BASE, [ONE, TWO], [1.0, 0.5], drop=0.0)
    torch.testing.assert_close(nothing, rules.task_arithmetic(BASE, [ONE, TWO], [1.0, 0.5]))


def test_slerp_of_orthogonal_unit_vectors():
    one, two = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    half = rules.slerp(one, two, 0.5)
    assert half.norm().item() == pytest.approx(1.0)
    assert half.tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert rules.linear([one, two], [0.5, 0.5]).norm().item() == pytest.approx(math.sqrt(0.5))
    third = rules.slerp(one, two, 1 / 3)
    assert third.tolist() == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])


def test_slerp_ends_and_near_parallel_vectors():
    one, two = random(30, dtype=torch.float64), random(30, seed=1, dtype=torch.float64)
    torch.testing.assert_close(rules.slerp(one, two, 0.0), one)
    torch.testing.assert_close(rules.slerp(one, two, 1.0), two)
    near = one + 1e-4 * two
    torch.testing.assert_close(rules.slerp(one, near, 0.25), 0.75 * one + 0.25 * near)
    torch.testing.assert_close(rules.slerp(one, -one, 0.25), 0.5 * one)
    torch.testing.assert_close(rules.slerp(torch.zeros(30, dtype=torch.float64), two, 0.5), two / 2)


# --- what every rule keeps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("name", USES)
def test_merging_a_model_with_itself_returns_it(name, dtype):
    model, base = random(40, 30, seed=1, dtype=dtype), random(40, 30, seed=2, dtype=dtype)
    for origin in (base, model):
        merged = apply(rule(name), [model, model.clone()], origin)
        assert torch.equal(merged, model)
        assert merged.dtype == dtype
        assert merged.data_ptr() != model.data_ptr()


@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("name", sorted(set(USES) - {"dare"}))  # dare draws its masks a block at a time
def test_blocks_and_strides_do_not_show(name, filter_wise, monkeypatch):
    base, models = random(37, 53), [random(37, 53, seed=s) for s in (1, 2)]
    options = {"filter_wise": filter_wise} if name == "model_stock" else {}
    whole = apply(rule(name, **options), models, base)
    strided = [model.T.contiguous().T for model in models]
    for block in (rules.BLOCK, 50, 500):
        monkeypatch.setattr(rules, "BLOCK", block)
        torch.testing.assert_close(apply(rule(name, **options), models, base), whole)
        torch.testing.assert_close(apply(rule(name, **options), strided, base), whole)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", USES)
def test_half_precision_is_rounded_once(name, dtype):
    base, models = random(20, 11, dtype=dtype), [random(20, 11, seed=s, dtype=dtype) for s in (1, 2)]
    found = apply(rule(name), models, base)
    exact = apply(rule(name), [model.double() for model in models], base.double())
    assert found.dtype == dtype
    torch.testing.assert_close(found, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3, 4)])
@pytest.mark.parametrize("name", USES)
def test_every_shape(name, shape):
    base, models = random(*shape), [random(*shape, seed=s) for s in (1, 2)]
    made = rule(name, **({"on_degenerate": "linear"} if name == "model_stock" else {}))
    before = [model.clone() for model in models]
    assert apply(made, models, base).shape == shape
    assert all(torch.equal(model, kept) for model, kept in zip(models, before, strict=True))
    if name == "model_stock":
        assert apply(rule(name, filter_wise=True, on_degenerate="linear"), models, base).shape == shape


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.1, 5), min_size=2, max_size=4),
    st.sampled_from(["linear", "task_arithmetic", "ties"]),
    st.integers(0, 99),
)
def test_the_order_of_models_does_not_matter(weights, name, seed):
    base = random(6, 5, seed=seed, dtype=torch.float64)
    models = [random(6, 5, seed=seed + 1 + at, dtype=torch.float64) for at in range(len(weights))]
    ahead = apply(rule(name, len(weights), weights=weights), models, base)
    back = apply(rule(name, len(weights), weights=weights[::-1]), models[::-1], base)
    torch.testing.assert_close(ahead, back)


# --- what cannot be merged -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", USES)
def test_shapes_that_differ(name):
    with pytest.raises(ModelError, match=r"The tensor the.weight .*\[2, 3\] and \[3, 2\]"):
        apply(rule(name), [ONE, ONE.T], BASE)


def test_numbers_that_do_not_fit():
    big = torch.full((3,), 6e4, dtype=torch.float16)
    with pytest.raises(ModelError, match=r"the.weight .*too large for float16"):
        apply(rule("task_arithmetic", weights=[1.0, 1.0]), [big, big], torch.zeros(3, dtype=torch.float16))
    with pytest.raises(ModelError, match="not finite"):
        apply(rule("linear"), [torch.tensor([1.0, math.nan]), torch.ones(2)], None)
    with pytest.raises(ModelError, match="quantised"):
        apply(rule("linear"), [torch.ones(3, dtype=torch.int8)] * 2, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rule": "mean"}, "`rule` is one of linear"),
        ({"rule": "ties"}, "common ancestor"),
        ({"rule": "linear", "based": True}, "reads no `base`"),
        ({"rule": "slerp", "count": 3}, "between two models"),
        ({"rule": "linear", "count": 1}, "merges 2 models or more, got 1"),
        ({"rule": "model_stock", "based": True, "count": 1}, "merges 2 models or more"),
        ({"rule": "linear", "weights": [1.0]}, "one number for each of the 2"),
        ({"rule": "linear", "weights": [1.0, math.nan]}, "one number for each"),
        ({"rule": "linear", "weights": [1.0, -1.0]}, "must not sum to 0"),
        ({"rule": "ties", "based": True, "weights": [1.0, -1.0]}, "at least 0"),
        ({"rule": "slerp", "weights": [1.0, 1.0]}, "`weights` is not read by slerp"),
        ({"rule": "linear", "lam": 0.5}, "`lam` is not read by linear"),
        ({"rule": "ties", "based": True, "density": 0.0}, "`density` is a share, over 0"),
        ({"rule": "dare", "based": True, "drop": 1.0}, "`drop` is a share, from 0 to below 1"),
        ({"rule": "slerp", "t": 1.5}, "`t` is from 0 to 1"),
        ({"rule": "dare", "based": True, "lam": math.inf}, "`lam` is a finite number"),
        ({"rule": "dare", "based": True, "seed": -1}, "`seed`"),
        ({"rule": "model_stock", "based": True, "on_degenerate": "skip"}, "error or linear"),
    ],
)
def test_settings_that_cannot_work(options, expected):
    with pytest.raises(SettingsError, match=expected):
        TensorMerge(**{"count": 2, "based": False, **options}).validate()


def test_weights_of_pure_rules():
    with pytest.raises(SettingsError, match="one weight for each model, got 3 for 2"):
        rules.task_arithmetic(BASE, [ONE, TWO], [1.0, 1.0, 1.0])
    with pytest.raises(SettingsError, match="sum to 0"):
        rules.linear([ONE, TWO], [1.0, -1.0])
    with pytest.raises(ModelError, match="no model"):
        rules.linear([], [])
