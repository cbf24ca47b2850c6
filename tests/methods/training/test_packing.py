"""Packed rows give what separate rows give, forward and backward, for every architecture."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig

from tests import tiny
from truing.methods.training import attention
from truing.methods.training.batches import BatchOrder, collate
from truing.methods.training.encoding import Row
from truing.methods.training.policy import Policy, prepared
from truing.methods.training.tree import plant

ARCHITECTURES = (*tiny.ARCHITECTURES, "gemma2", "gemma3")


def network(architecture):
    common = {
        "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "intermediate_size": 64, "sliding_window": 8, "pad_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    if architecture not in ("gemma2", "gemma3"):
        return tiny.network(architecture)
    torch.manual_seed(0)
    kind = Gemma2Config if architecture == "gemma2" else Gemma3TextConfig
    return AutoModelForCausalLM.from_config(kind(**common), dtype=torch.float32).eval()


def ids(random, count):
    return random.integers(3, 320, count).tolist()


def rows(seed=0):
    """Pairs, an answer that continues another, equal answers, an empty prompt, a row with four answers."""
    random = np.random.default_rng(seed)
    prompt, long = ids(random, 9), ids(random, 21)
    one, two = ids(random, 7), ids(random, 12)
    return [
        Row(0, ((prompt, one), (prompt, two))),
        Row(1, ((long, one), (long, one[:3] + two))),
        Row(2, ((prompt, one), (prompt, one))),
        Row(3, (([], two), ([], two[:5]))),
        Row(4, ((prompt, one), (prompt + one + long[:4], two), (long, one), (prompt, ids(random, 3)))),
    ]


def outcome(weights, made, packed, dense=None, monkeypatch=None):
    if dense is not None:
        monkeypatch.setattr(attention.Layout, "dense", dense)
    weights.zero_grad()
    with prepared(weights, 0) if packed else contextlib.nullcontext(False) as can:
        assert can == packed
        batch = collate(made, 0, packed=packed)
        scores = Policy(weights)(batch, True)
        pull = torch.linspace(-1, 1, int(scores.mask.sum()))
        (scores.tokens[scores.mask] * pull).sum().backward()
    gradients = {name: p.grad.clone() for name, p in weights.named_parameters() if p.grad is not None}
    return batch, scores, gradients


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dense", [True, False])
def test_a_packed_row_equals_separate_rows(architecture, dense, monkeypatch):
    weights, made = network(architecture), rows()
    plain, apart, wanted = outcome(weights, made, False)
    batch, together, found = outcome(weights, made, True, dense, monkeypatch)
    assert batch.input_ids.shape[0] == 1
    assert batch.tokens < plain.tokens
    torch.testing.assert_close(together.tokens, apart.tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.collisions, apart.collisions, atol=1e-5, rtol=0)
    assert torch.equal(together.mask, apart.mask)
    assert found.keys() == wanted.keys()
    # Some gradients are sums to zero (a key's bias): what is left of those is rounding.
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6 * largest, rtol=1e-3, msg=name)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_gradient_checkpointing_changes_nothing(architecture, monkeypatch):
    weights, made = network(architecture), rows()
    _, one, plain = outcome(weights, made, True, True, monkeypatch)
    weights.gradient_checkpointing_enable({"use_reentrant": False})
    weights.train()
    _, two, saved = outcome(weights, made, True, True, monkeypatch)
    torch.testing.assert_close(one.tokens, two.tokens)
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient)


def test_a_model_that_mixes_rows_is_padded(caplog):
    weights = network("llama")
    with caplog.at_level("WARNING", logger="truing"):
        plain = attention.Layout.pieces
        try:
            # As a model would that attends over all it is given.
            attention.Layout.pieces = property(
                lambda self: ([self.runs[-1].end], [[0]]) if len(self.runs) == 1 else plain.func(self)
            )
            weights.model.layers[0].self_attn.forward = _leaking(weights.model.layers[0].self_attn)
            with prepared(weights, 0) as packed:
                assert not packed
        finally:
            attention.Layout.pieces = plain
    assert "padded, not packed" in caplog.text
    assert weights.config._attn_implementation == "sdpa"


def _leaking(module):
    plain = module.forward

    def forward(hidden_states, **more):
        out, weights = plain(hidden_states=hidden_states, **more)
        return out + hidden_states.cumsum(1), weights

    return forward


def test_linear_attention_layers_are_padded(caplog):
    weights = network("qwen3")
    weights.config.layer_types = ["full_attention", "linear_attention"]
    with caplog.at_level("WARNING", logger="truing"), prepared(weights, 0) as packed:
        assert not packed
    assert "linear_attention" in caplog.text


def varlen_by_loops(q, k, v, cu_q, cu_k, most_q, most_k, *, scale, window_size, enable_gqa):
    """What `torch.nn.attention.varlen.varlen_attn` computes on a GPU, in its own layout."""
    out, times = [], q.shape[1] // k.shape[1]
    assert enable_gqa == (times > 1)
    for (a, b), (c, d) in zip(itertools.pairwise(cu_q.tolist()), itertools.pairwise(cu_k.tolist())):
        assert b - a <= most_q
        assert d - c <= most_k
        distance = torch.arange(d - c - (b - a), d - c)[:, None] - torch.arange(d - c)[None]
        left = window_size[0] if window_size[0] >= 0 else d
        seen = (distance >= 0) & (distance <= left)
        keys, values = k[c:d].repeat_interleave(times, 1), v[c:d].repeat_interleave(times, 1)
        scores = torch.einsum("qhd,khd->hqk", q[a:b], keys) * scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(out)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_the_gpu_path_asks_the_kernel_for_the_same(architecture, monkeypatch):
    from torch.nn.attention import varlen

    weights, made = network(architecture), rows()
    _, wanted, _ = outcome(weights, made, False)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_loops)
    monkeypatch.setattr(attention, "_dense", attention._varlen)
    monkeypatch.setattr(attention, "_apart", attention._varlen)
    _, found, _ = outcome(weights, made, True)
    torch.testing.assert_close(found.tokens, wanted.tokens, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=7))
def test_a_tree_holds_every_sequence_and_no_beginning_twice(sequences):
    tree = plant(sequences)
    for sequence, places in zip(sequences, tree.places):
        assert tree.tokens[places].tolist() == sequence
        assert tree.positions[places].tolist() == list(range(len(sequence)))
    beginnings = {tuple(one[: at + 1]) for one in sequences for at in range(len(one))}
    assert len(tree.tokens) == len(beginnings)
    covered = [at for run in tree.runs for at in range(run.start, run.end)]
    assert covered == list(range(len(tree.tokens)))
    for run in tree.runs:
        assert tree.positions[run.start] == run.before


def test_batches_by_tokens():
    widths = np.random.default_rng(0).integers(5, 60, 200)
    order = BatchOrder(widths, 8, 3, True, tokens=100)
    epochs = []
    for epoch in range(2):
        order.set_epoch(epoch)
        batches = list(order)
        assert len(batches) == len(order)
        assert sorted(at for batch in batches for at in batch) == list(range(200))
        assert all(sum(widths[batch]) <= 100 for batch in batches)
        epochs.append(batches)
    assert epochs[0] != epochs[1]
    assert sorted(map(tuple, epochs[0])) == sorted(map(tuple, epochs[1]))
    assert BatchOrder([150, 20], 8, 0, False, tokens=100)._fixed == [[0], [1]]


@pytest.mark.parametrize("tokens", [None, 100])
def test_processes_share_the_batches(tokens):
    widths = np.random.default_rng(0).integers(5, 60, 90)
    alone = list(BatchOrder(widths, 4, 3, True, tokens=tokens))
    parts = [list(BatchOrder(widths, 4, 3, True, tokens=tokens, rank=rank, world=2)) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1])
    merged = [batch for pair in zip(*parts) for batch in pair]
    assert merged[: len(alone)] == alone
    assert merged[len(alone) :] == alone[: len(merged) - len(alone)]
