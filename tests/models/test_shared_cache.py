"""Beginnings that rows share in one cache: every verb gives what rows read alone give, and nothing is stored twice."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import tiny
from truing.models import branching, shared_attention, shared_cache
from truing.models import cache as caches
from truing.models.batch import Batch
from truing.models.engine import Engine
from truing.models.local import Model
from truing.models.shared_attention import Pass, attend, attending, possible
from truing.models.shared_cache import Share, Store
from truing.models.tree import branch_logprobs
from truing.models.types import Row, Sampling

ROWS = [[*range(5, 45)], [60, 61, 62], [70], [*range(80, 104)]]
SHARING = ("llama", "qwen3", "gemma", "full mistral", "gpt_neox", "opt")  # the plain Mistral has a window


@functools.cache
def model(architecture: str) -> Model:
    if architecture == "full mistral":
        return Model(tiny.network("mistral", sliding_window=None), tiny.tokenizer())
    return Model(tiny.network(architecture), tiny.tokenizer())


def alone(architecture: str, tokens: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(architecture).weights(torch.tensor([list(tokens)])).logits[0]


def check_rows(architecture: str, batch: Batch) -> None:
    for tokens, logits in zip(batch.tokens, batch.logits):
        torch.testing.assert_close(logits, alone(architecture, tokens)[-1], atol=1e-5, rtol=0)


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "NUMBERS", 0)
    monkeypatch.setattr(branching, "BRANCHES", 1)


@pytest.fixture
def by_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention without the fused kernel, a few rows at a time."""
    if request.param:
        monkeypatch.setattr(shared_attention, "_fused", lambda *args: None)
        monkeypatch.setattr(shared_attention, "CHUNK", 64)


@pytest.mark.parametrize("by_parts", [False, True], indirect=True)
@pytest.mark.parametrize("architecture", [*SHARING, "mistral"])
def test_verbs_are_exact(architecture: str, by_parts: None) -> None:
    engine = Engine(model(architecture))
    prompts = engine.prefill(ROWS)
    batch = prompts.select([0, 0, 0, 1, 3, 3, 2, 3])
    assert (batch._cache.share is not None) == (architecture in SHARING)
    check_rows(architecture, batch)
    batch.append(range(10, 18))
    check_rows(architecture, batch)
    found = batch.extend([[50, 51, 52], [], [53], [], [54] * 7, [55], [], []])
    for tokens, scores in zip(batch.tokens, found):
        if len(scores):
            torch.testing.assert_close(scores, alone(architecture, tokens)[-len(scores) :], atol=1e-5, rtol=0)
    check_rows(architecture, batch)
    # Within what is the rows' own, and into the beginnings, down to the first token.
    batch.rollback([41, 30, 1, 4, 31, 20, 1, 24])
    assert batch.tokens == [[*ROWS[0], 10], ROWS[0][:30], [5], [60, 61, 62, 13], [*ROWS[3], 14, *[54] * 6],
                            ROWS[3][:20], [70], ROWS[3]]  # fmt: skip
    check_rows(architecture, batch)
    again = batch.select([2, 2, 4, 0, 7])
    again.extend([[9], [8, 7], [], [], [6]], keep=[1, 1, 31, 41, 3])
    check_rows(architecture, again)
    both = again.join(batch).join(engine.prefill([[90, 91], [92]]))
    check_rows(architecture, both)
    both.append([11] * len(both))
    check_rows(architecture, both)
    branched = both.select([0, 0, 0, 14, 14, 5, 5, 5])
    branched.append(range(20, 28))
    for each in (branched, both, again, batch, prompts):
        check_rows(architecture, each)
        each.append([30] * len(each))
        check_rows(architecture, each)


token = st.integers(5, 300)
block = st.lists(token, max_size=5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_any_order_of_verbs(architecture: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(token, min_size=1, max_size=24), min_size=1, max_size=4))
    engine = Engine(model(architecture))
    prompts = engine.prefill(rows)
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=8))
    batch, expected = prompts.select(picked), [list(rows[row]) for row in picked]
    others: list[tuple[Batch, list[list[int]]]] = [(prompts, [list(row) for row in rows])]
    for _ in range(data.draw(st.integers(1, 7))):
        verb = data.draw(st.sampled_from(["append", "extend", "cut", "rollback", "select", "select", "join"]))
        count = len(expected)
        if verb == "append":
            new = data.draw(st.lists(token, min_size=count, max_size=count))
            batch.append(new)
            expected = [[*row, added] for row, added in zip(expected, new)]
        elif verb == "extend":
            blocks = data.draw(st.lists(block, min_size=count, max_size=count))
            batch.extend(blocks)
            expected = [row + added for row, added in zip(expected, blocks)]
        elif verb in ("cut", "rollback"):
            lengths = [data.draw(st.integers(max(1, len(row) - 20), len(row))) for row in expected]
            expected = [row[:length] for row, length in zip(expected, lengths)]
            if verb == "rollback":
                batch.rollback(lengths)
            else:
                batch.extend([[7 + row] for row in range(count)], keep=lengths)
                expected = [[*row, 7 + at] for at, row in enumerate(expected)]
        elif verb == "select":
            picked = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))
            others.append((batch, expected))
            batch, expected = batch.select(picked), [list(expected[row]) for row in picked]
        elif count < 12:
            other, its = data.draw(st.sampled_from(others))
            batch, expected = batch.join(other), [*(list(row) for row in expected), *(list(row) for row in its)]
        assert batch.tokens == expected
    for found, tokens in [(batch, expected), *others]:
        assert found.tokens == tokens
        check_rows(architecture, found)


def held(*batches: Any) -> int:
    """Numbers in the memory that caches hold, each piece of it once."""
    sizes = {}
    for cache in batches:
        states = [part for layer in cache.layers for part in (layer.keys, layer.values)]
        if cache.share is not None:
            states += [*cache.share.store.keys, *cache.share.store.values]
        sizes.update((part.untyped_storage().data_ptr(), part.untyped_storage().nbytes() // 4) for part in states)
    return sum(sizes.values())


def test_what_is_common_is_stored_once() -> None:
    engine = Engine(model("llama"))
    prompt = engine.prefill([[*range(5, 205)]])
    before = held(prompt._cache)
    batch = prompt.select([0] * 16)
    assert held(prompt._cache, batch._cache) == before
    batch.append(range(5, 21))
    assert held(prompt._cache, batch._cache) - before == 16 * batch._cache.numbers
    kept = batch.select([3, 9, 4])
    for each in (kept, kept.join(batch)):
        assert each._cache.share is not None
        assert each._cache.share.store.keys[0].data_ptr() == prompt._cache.layers[0].keys.data_ptr()
    # The last row alone has nothing to share with.
    assert batch.select([2])._cache.share is None
    check_rows("llama", batch.select([2]))


def test_shared_beginnings_of_a_prefill_stay_where_they_are() -> None:
    long = [*range(5, 165)]
    engine = Engine(model("llama"))
    batch = engine.prefill([[*long, 7 + at, *range(at)] for at in range(6)])
    share, prefix = batch._cache.share, engine._prefixes._cache
    assert share is not None
    assert share.store.keys[0].data_ptr() == prefix.layers[0].keys.data_ptr()
    check_rows("llama", batch)
    samples = batch.select([row for row in range(6) for _ in range(3)])
    samples.append(range(20, 38))
    check_rows("llama", samples)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_answers_are_those_of_copies(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(None, (*range(5, 105), *range(60, 60 + at), 7), at) for at in range(1, 6)]
    sampling = Sampling(max_new_tokens=10, temperature=1.0, n=4, seed=4)
    for size in (None, 7):
        passes = count(monkeypatch)
        found = Engine(model(architecture), batch_size=size).generate(rows, sampling)
        assert bool(passes) == (architecture != "mistral")
        with monkeypatch.context() as patch:
            patch.setattr(shared_cache, "NUMBERS", 10**12)
            passes.clear()
            expected = Engine(model(architecture), batch_size=size).generate(rows, sampling)
            assert not passes
        assert [[a.tokens for a in row] for row in found] == [[a.tokens for a in row] for row in expected]


def count(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    passes: list[Pass] = []

    def noting(share: Share) -> Pass:
        passes.append(Pass(share))
        return passes[-1]

    monkeypatch.setattr("truing.models.engine.Pass", noting)
    return passes


@pytest.mark.parametrize("architecture", SHARING)
def test_continuations_of_shared_rows(architecture: str) -> None:
    batch = Engine(model(architecture)).prefill(ROWS).select([0, 0, 3, 3, 1])
    batch.extend([[4], [], [5, 6], [7], []])
    assert batch._cache.share is not None
    branches = [[[9, 8], [9, 7, 6], [3]]] * 5
    for tokens, values, row in zip(batch.tokens, branch_logprobs(batch, branches), branches):
        for value, branch in zip(values, row):
            scores = alone(architecture, [*tokens, *branch]).double().log_softmax(1)[-len(branch) - 1 : -1]
            expected = scores.gather(1, torch.tensor(branch)[:, None]).sum()
            torch.testing.assert_close(value, expected, atol=1e-4, rtol=0)
    check_rows(architecture, batch)


def test_small_models_keep_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    batch = Engine(model("llama")).prefill(ROWS).select([0] * 64)
    assert batch._cache.share is None


def test_the_models_own_attention_comes_back() -> None:
    made = model("llama")
    share = Engine(made).prefill(ROWS).select([0, 0])._cache.share
    assert share is not None
    with attending(made.weights, Pass(share)):
        assert made.weights.config._attn_implementation == shared_attention.NAME
    assert made.weights.config._attn_implementation == "sdpa"

    def broken() -> None:
        raise KeyboardInterrupt

    engine = Engine(made)
    batch = engine.prefill(ROWS).select([0, 0])
    engine._between = broken
    with pytest.raises(KeyboardInterrupt):
        batch.append([5, 6])
    assert made.weights.config._attn_implementation == "sdpa"


def test_only_plain_attention_is_done_in_two_parts() -> None:
    for architecture in SHARING:
        assert possible(model(architecture).weights, caches.empty, "cache")
    assert not possible(tiny.network("mistral"), caches.empty, "cache")
    eager = tiny.network("llama")
    eager.set_attn_implementation("eager")
    assert not possible(eager, caches.empty, "cache")
    windows = tiny.network("qwen3")
    windows.config.layer_types = ["full_attention", "sliding_attention"]
    assert not possible(windows, caches.empty, "cache")
    capped = tiny.network("llama")
    for layer in capped.model.layers:
        inner = layer.self_attn.forward
        layer.self_attn.forward = functools.partial(inner, softcap=5.0)
    assert not possible(capped, caches.empty, "cache")
    odd = tiny.network("llama")

    def of_its_own(hidden_states: torch.Tensor, cache: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        states = hidden_states.view(*hidden_states.shape[:2], 4, 8).transpose(1, 2)
        keys, values = cache.update(states, states, 1)
        out = torch.nn.functional.scaled_dot_product_attention(states, keys, values)
        return out.transpose(1, 2).flatten(2), None

    odd.model.layers[1].self_attn.forward = of_its_own
    assert not possible(odd, caches.empty, "cache")


@pytest.mark.parametrize("fused", [True, False])
def test_attention_and_its_weight(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr(shared_attention, "_fused", lambda *args: None)
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, size, 8, generator=draw) for size in (5, 7, 7))
    mask = torch.randn(2, 1, 5, 7, generator=draw)
    scores = query @ key.transpose(2, 3) * 0.3 + mask
    out, log = attend(query, key, value, mask, 0.3)
    torch.testing.assert_close(out, scores.softmax(-1) @ value)
    torch.testing.assert_close(log, scores.logsumexp(-1, keepdim=True))


def test_uneven_numbers_of_rows_attend_alike() -> None:
    draw = torch.Generator().manual_seed(0)
    store = Store([torch.randn(5, 2, 9, 4, generator=draw)], [torch.randn(5, 2, 9, 4, generator=draw)], [9, 4, 1, 6, 9])
    for of in ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [4, 0, 4, 2, 1, 3, 3], [3] * 20 + [0], [2, 2]):
        share = Share(store, of, [store.lengths[at] for at in of])
        query = torch.randn(len(of), 4, 3, 4, generator=draw)
        near = [torch.randn(len(of), 2, 3, 4, generator=draw) for _ in range(2)]
        found = shared_attention._two_parts(Pass(share), 0, query, *near, None, 0.5)
        for row, at in enumerate(of):
            keys, values = (
                torch.cat([part[0][at, :, 9 - store.lengths[at] :], mine[row]], 1).repeat_interleave(2, 0)
                for part, mine in zip((store.keys, store.values), near)
            )
            scores = query[row] @ keys.transpose(1, 2) * 0.5
            later = torch.ones(3, 3, dtype=torch.bool).triu(1)
            scores[:, :, -3:] = scores[:, :, -3:].masked_fill(later, -torch.inf)
            torch.testing.assert_close(found[row], scores.softmax(-1) @ values)


def test_held_beginnings_are_not_written_to() -> None:
    engine = Engine(model("llama"))
    prompts = engine.prefill(ROWS[:1])
    batch = prompts.select([0, 0, 0])
    prompts.append([5])
    prompts.rollback([20])
    prompts.append([6])
    batch.append([7, 8, 9])
    check_rows("llama", batch)
    check_rows("llama", prompts)
