"""Every state a batch can be brought into gives the scores of each row read alone, without a cache."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.models import cache as caches
from truing.models.batch import Batch
from truing.models.cache import check
from truing.models.engine import Engine
from truing.models.local import Model

ROWS = [[*range(5, 45)], [60, 61, 62], [70], [*range(80, 104)]]  # longer and shorter than mistral's window of 16


@functools.cache
def model(architecture: str) -> Model:
    return Model(tiny.network(architecture), tiny.tokenizer())


def alone(architecture: str, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(architecture).weights(torch.tensor([tokens])).logits[0]


def check_rows(architecture: str, batch: Batch) -> None:
    assert batch.logits.shape == (len(batch.tokens), 320)
    assert batch.logits.dtype == torch.float32
    for tokens, logits in zip(batch.tokens, batch.logits):
        torch.testing.assert_close(logits, alone(architecture, tokens)[-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_verbs_are_exact(architecture: str) -> None:
    engine = Engine(model(architecture))
    batch = engine.prefill(ROWS)
    check_rows(architecture, batch)
    blocks = [[50, 51, 52], [], [53], [54, 55]]
    scores = batch.extend(blocks)
    assert batch.tokens == [row + block for row, block in zip(ROWS, blocks)]
    for tokens, block, found in zip(batch.tokens, blocks, scores):
        assert found.shape == (len(block), 320)
        if block:
            torch.testing.assert_close(found, alone(architecture, tokens)[-len(block) :], atol=1e-5, rtol=0)
    check_rows(architecture, batch)
    batch.append([1, 2, 3, 4])
    check_rows(architecture, batch)
    batch.rollback([30, 2, 1, 26])
    assert batch.tokens == [ROWS[0][:30], ROWS[1][:2], [70], [*ROWS[3], 54, 55]]
    check_rows(architecture, batch)
    branches = batch.select([3, 1, 1])
    branches.extend([[9] * 20, [8], []])
    batch.append([5, 6, 7, 8])
    both = branches.join(batch)
    check_rows(architecture, branches)
    check_rows(architecture, batch)
    both.append([11] * 7)
    both.rollback([len(row) - 1 for row in both.tokens])
    check_rows(architecture, both)
    check_rows(architecture, branches)
    again = both.select([0, 2, 6])
    again.extend([[20], [21, 22], [23, 24, 25]], keep=[7, 1, 2])
    assert again.tokens == [[*ROWS[3][:7], 20], [60, 21, 22], [*ROWS[3][:2], 23, 24, 25]]
    check_rows(architecture, again)
    again.rollback([7, 1, 2])
    check_rows(architecture, again)
    check_rows(architecture, both)


def test_large_caches_grow_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "SMALL", 0)
    test_verbs_are_exact("mistral")
    batch = Engine(model("mistral")).prefill(ROWS)
    batch.append([7] * 4)
    kept, memory = batch.select([0, 1, 2, 3]), batch._cache.layers[0]
    for step in range(100):
        batch.append([5 + step] * 4)
        assert memory.get_seq_length() == 42 + step
    kept.append([9] * 4)
    check_rows("mistral", batch)
    check_rows("mistral", kept)
    addresses = set()
    for _ in range(30):
        batch.append([6] * 4)
        addresses.add(memory.keys.data_ptr())
    assert len(addresses) <= 2


token = st.integers(5, 300)
block = st.lists(token, max_size=5)


@settings(max_examples=15, deadline=None)
@given(st.data())
@pytest.mark.parametrize("architecture", ["mistral"])
def test_any_order_of_verbs(architecture: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(token, min_size=1, max_size=24), min_size=1, max_size=4))
    batch = Engine(model(architecture)).prefill(rows)
    expected = [list(row) for row in rows]
    others: list[tuple[Batch, list[list[int]]]] = []
    for _ in range(data.draw(st.integers(1, 6))):
        verb = data.draw(st.sampled_from(["append", "extend", "rollback", "select", "join"]))
        count = len(expected)
        if verb == "append":
            new = data.draw(st.lists(token, min_size=count, max_size=count))
            batch.append(new)
            expected = [[*row, added] for row, added in zip(expected, new)]
        elif verb == "extend":
            blocks = data.draw(st.lists(block, min_size=count, max_size=count))
            batch.extend(blocks)
            expected = [row + added for row, added in zip(expected, blocks)]
        elif verb == "rollback":
            lengths = [data.draw(st.integers(max(1, len(row) - 7), len(row))) for row in expected]
            batch.rollback(lengths)
            expected = [row[:length] for row, length in zip(expected, lengths)]
        elif verb == "select":
            picked = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4))
            others.append((batch, expected))
            batch, expected = batch.select(picked), [list(expected[row]) for row in picked]
        elif others:
            other, its = others[-1]
            batch, expected = batch.join(other), [*(list(row) for row in expected), *(list(row) for row in its)]
        assert batch.tokens == expected
    for found, tokens in [(batch, expected), *others]:
        assert found.tokens == tokens
        check_rows(architecture, found)


def test_rollback_within_the_last_block_costs_nothing() -> None:
    engine = Engine(model("llama"))
    batch = engine.prefill(ROWS[:3])
    batch.extend([[7, 8, 9], [10], []])
    calls = engine.usage.calls["model"]
    batch.rollback([len(ROWS[0]) + 1, 3, 1])
    batch.rollback([len(ROWS[0]), 3, 1])
    assert engine.usage.calls["model"] == calls
    check_rows("llama", batch)
    batch.rollback([len(ROWS[0]) - 1, 3, 1])
    assert engine.usage.calls["model"] == calls + 1
    check_rows("llama", batch)


def test_usage_counts_calls_and_real_positions() -> None:
    engine = Engine(model("llama"), who="guide")
    batch = engine.prefill([[5, 6, 7], [8]])
    assert (engine.usage.calls, engine.usage.positions) == ({"guide": 1}, {"guide": 4})
    batch.extend([[9], [10, 11, 12]])
    assert (engine.usage.calls, engine.usage.positions) == ({"guide": 2}, {"guide": 8})
    batch.append([4, 4])
    batch.extend([[], []])
    batch.select([0]).join(batch)
    assert (engine.usage.calls, engine.usage.positions) == ({"guide": 3}, {"guide": 10})
    batch.rollback([2, 5])
    assert (engine.usage.calls, engine.usage.positions) == ({"guide": 4}, {"guide": 11})


def test_branches_share_no_memory() -> None:
    batch = Engine(model("llama")).prefill(ROWS[:2])
    batch.append([3, 3])
    same = batch.select([0, 1])
    same.rollback([len(row) - 1 for row in same.tokens])
    same.append([9, 9])
    batch.append([6, 6])
    check_rows("llama", batch)
    check_rows("llama", same)


def test_an_empty_batch_stays_empty() -> None:
    batch = Engine(model("llama")).prefill(ROWS[:2])
    none = batch.select([])
    none.append([])
    assert none.extend([]) == []
    none.rollback([])
    assert len(none) == 0
    assert len(none.join(batch)) == len(batch.join(none)) == 2


def test_errors() -> None:
    engine = Engine(model("llama"))
    with pytest.raises(SettingsError, match="at least one sequence"):
        engine.prefill([])
    with pytest.raises(RecordError, match="Sequence 1 has no tokens"):
        engine.prefill([[5], []])
    with pytest.raises(RecordError, match="257 tokens, and model reads 256"):
        engine.prefill([[5] * 257])
    batch = engine.prefill([[5] * 255, [6]])
    batch.append([7, 7])
    with pytest.raises(RecordError, match=r"Engine\.room"):
        batch.append([7, 7])
    assert [len(row) for row in batch.tokens] == [256, 2]
    for call, match in [
        (lambda: batch.append([1]), "one token for each of 2 rows"),
        (lambda: batch.extend([[1]]), "one block for each of 2 rows"),
        (lambda: batch.rollback([1]), "one length for each of 2 rows"),
        (lambda: batch.rollback([1, 0]), "Row 1 has 2 tokens"),
        (lambda: batch.rollback([257, 2]), "Row 0 has 256 tokens"),
        (lambda: batch.select([2]), "no row 2"),
        (lambda: batch.extend([[], [4]], keep=[9, 2]), "Row 0 is cut"),
        (lambda: batch.join(Engine(model("llama")).prefill([[5]])), "one engine"),
    ]:
        with pytest.raises(SettingsError, match=match):
            call()


def test_recurrent_layers_are_refused() -> None:
    from transformers import AutoModelForCausalLM, MambaConfig

    config = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, state_size=4)
    weights = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedError, match="mamba"):
        Engine(Model(weights, tiny.tokenizer()))
    hybrid = tiny.network("llama")
    hybrid.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UnsupportedError, match="linear_attention"):
        check(hybrid, "hybrid")


def test_scores_follow_rows_that_grow_branch_and_go_back() -> None:
    engine = Engine(model("mistral"))
    steps = [
        [ROWS[0], ROWS[1], ROWS[2]],
        [[*ROWS[0], 7], [*ROWS[1], 8], [*ROWS[2], 9]],
        [[*ROWS[1], 8, 9, 10], [*ROWS[1], 8, 9], [*ROWS[1], 11], [*ROWS[0], 7]],
        [ROWS[0][:30], [*ROWS[1], 11, 5], [200, 201]],
        [[200], [200], [200, 201, 202]],
    ]
    calls = []
    for prefixes in steps:
        before = engine.usage.calls.get("model", 0)
        found = engine.scores(prefixes)
        calls.append(engine.usage.calls["model"] - before)
        for prefix, scores in zip(prefixes, found):
            torch.testing.assert_close(scores, alone("mistral", prefix)[-1], atol=1e-5, rtol=0)
    assert calls[:3] == [1, 1, 1]
    assert engine.usage.positions["model"] < sum(len(prefix) for prefixes in steps for prefix in prefixes)
