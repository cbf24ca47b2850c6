"""Averages, layouts and plans of mixtures of instructions: by hand, and as invariants."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from truing.methods.training.losses.instructions import (
    attention_layout,
    balanced_chunks,
    chunk_means,
    fit_chunks,
    reduced,
    response_weights,
)
from truing.methods.training.packing import pack_bfd

# --- averages


def test_the_worked_averages_of_the_page():
    sums, lengths = torch.tensor([2.0, 8.0, 0.5, 4.0]), torch.tensor([2, 4, 1, 1])
    chunks = torch.tensor([0, 0, 1, 1])
    assert reduced(sums, lengths, "sequence").item() == pytest.approx(1.875)
    assert reduced(sums, lengths).item() == pytest.approx(1.8125)
    assert reduced(sums, lengths, "chunk", chunks).item() == pytest.approx(1.95833, abs=1e-5)
    assert chunk_means(sums, lengths, chunks).tolist() == pytest.approx([10 / 6, 2.25])
    assert response_weights(lengths).tolist() == [0.25, 0.5, 0.125, 0.125]


counts = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any)


@settings(max_examples=50, deadline=None)
@given(counts, st.integers(1, 4), st.sampled_from(["token", "chunk", "sequence"]))
def test_weights_sum_to_one_and_skip_what_is_empty(lengths, per_chunk, reduction):
    sizes, chunks = torch.tensor(lengths), torch.arange(len(lengths)) // per_chunk
    weights = response_weights(sizes, reduction, chunks)
    assert weights.sum().item() == pytest.approx(1)
    assert ((weights == 0) == (sizes == 0)).all()
    same = reduced(3.0 * sizes, sizes, reduction, chunks)
    assert same.item() == pytest.approx(3)  # every token costs 3, however it is averaged
    one_each = response_weights(sizes, "chunk", torch.arange(len(lengths)))
    torch.testing.assert_close(one_each, response_weights(sizes, "sequence"))
    all_together = response_weights(sizes, "chunk", torch.zeros(len(lengths), dtype=torch.long))
    torch.testing.assert_close(all_together, response_weights(sizes, "token"))


def test_unknown_averages():
    with pytest.raises(ValueError, match="Known: token, chunk, sequence"):
        response_weights(torch.tensor([1]), "row")
    with pytest.raises(ValueError, match="needs the chunk"):
        response_weights(torch.tensor([1]), "chunk")


# --- attention


@pytest.mark.parametrize(("mode", "pairs"), [("chunk", 12), ("none", 21), ("isolated", 8)])
def test_the_worked_layout_of_the_page(mode, pairs):
    layout = attention_layout([2, 1, 2, 1], 2, mode)
    assert layout.attended_pairs == pairs == int(layout.dense_mask().sum())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=7), st.integers(1, 4))
def test_layouts(lengths, per_chunk):
    layout = attention_layout(lengths, per_chunk)
    mask = layout.dense_mask()
    assert mask.shape == (sum(lengths),) * 2
    # A token at position p of its block sees exactly p + 1 tokens, itself included.
    assert mask.sum(1).tolist() == [at + 1 for at in layout.positions]
    assert mask.diagonal().all()
    assert len(layout.positions) == layout.cu_seqlens[-1]
    assert attention_layout(lengths, 1) == attention_layout(lengths, per_chunk, "isolated")
    assert attention_layout(lengths, len(lengths)) == attention_layout(lengths, per_chunk, "none")


def test_a_chunk_in_a_row_scores_as_a_row_of_its_own():
    """Blocks with positions from 0 equal separate rows; a change in the first member reaches its own chunk alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=2,
            )
        ).eval()  # fmt: skip
    lengths = [3, 2, 4, 2]
    layout = attention_layout(lengths, 2)
    ids = torch.randint(0, 30, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))

    def scores(tokens, layout):
        bias = torch.zeros(layout.dense_mask().shape).masked_fill(~layout.dense_mask(), torch.finfo(torch.float32).min)
        positions = torch.tensor([layout.positions])
        with torch.no_grad():
            return model(tokens, attention_mask=bias[None, None], position_ids=positions, use_cache=False).logits[0]

    row = scores(ids, layout)
    for start, end in zip(layout.cu_seqlens, layout.cu_seqlens[1:]):
        with torch.no_grad():
            alone = model(ids[:, start:end], use_cache=False).logits[0]
        torch.testing.assert_close(row[start:end], alone, rtol=1e-5, atol=1e-5)
    other = ids.clone()
    other[0, 0] = (other[0, 0] + 1) % 30
    changed = (scores(other, layout) != row).any(1)
    assert changed[:5].all()
    assert not changed[5:].any()


def test_unknown_layouts():
    with pytest.raises(ValueError, match="Known: chunk, none, isolated"):
        attention_layout([1], 1, "open")
    with pytest.raises(ValueError, match="at least one"):
        attention_layout([1], 0)


# --- groups


def test_the_worked_groups_of_the_page():
    plan = balanced_chunks({"chat": 3, "code": 2, "math": 4, "tool": 1})
    assert len(plan.chunks) == 4
    assert [chunk[3] for chunk in plan.chunks] == [("tool", 0)] * 4
    assert plan.chunks[3] == [("chat", 0), ("code", 1), ("math", 3), ("tool", 0)]
    assert plan.repeats == {"chat": 2, "code": 2, "math": 1, "tool": 4}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 20), st.none() | st.integers(0, 99))
def test_every_domain_as_often_and_every_item_within_one(sizes, chunks, seed):
    domains = {f"d{at}": size for at, size in enumerate(sizes)}
    plan = balanced_chunks(domains, chunks=chunks, seed=seed)
    assert all([name for name, _ in chunk] == list(domains) for chunk in plan.chunks)
    for name, size in domains.items():
        used = Counter(item for chunk in plan.chunks for domain, item in chunk if domain == name)
        times = [used[item] for item in range(size)]
        assert sum(times) == plan.uses[name] == chunks
        assert max(times) - min(times) <= 1
        assert max(times) == plan.repeats[name]


def test_seeds_and_orders():
    domains = {"a": 20, "b": 5}
    plan = balanced_chunks(domains, seed=1)
    assert plan == balanced_chunks(domains, seed=1)
    assert plan != balanced_chunks(domains, seed=2)
    small = [item for chunk in plan.chunks for name, item in chunk if name == "b"]
    passes = [small[at : at + 5] for at in range(0, 20, 5)]
    assert len({tuple(one) for one in passes}) > 1  # each pass in an order of its own
    assert [name for name, _ in balanced_chunks(domains, ["b", "a"]).chunks[0]] == ["b", "a"]
    firsts = {chunk[0][0] for chunk in balanced_chunks(domains, seed=1, shuffle_members=True).chunks}
    assert firsts == {"a", "b"}
    with pytest.raises(ValueError, match="give one"):
        balanced_chunks(domains, shuffle_members=True)
    with pytest.raises(ValueError, match="No items in b"):
        balanced_chunks({"a": 1, "b": 0})
    with pytest.raises(ValueError, match="each domain once"):
        balanced_chunks(domains, ["a"])


def test_long_chunks_lose_their_longest_members_and_are_packed_whole():
    lengths = [[3, 2], [9, 4, 4], [30, 1], [6, 6, 6]]
    groups = fit_chunks(lengths, 10)
    assert groups == [
        [(0, 0), (0, 1)],
        [(1, 1), (1, 2)], [(1, 0)],
        [(2, 1)], [(2, 0)],
        [(3, 2)], [(3, 0)], [(3, 1)],
    ]  # fmt: skip
    sizes = [sum(lengths[chunk][member] for chunk, member in group) for group in groups]
    rows = pack_bfd([size for size in sizes if size <= 10], 10)
    assert sum(len(row) for row in rows) == 7  # all but the member that is longer than a row
