"""Beginnings that rows share are read once, and give what rows read whole give."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests import tiny
from truing.models import prefixes
from truing.models.batch import Batch
from truing.models.engine import Engine, generate
from truing.models.local import Model
from truing.models.modifiers import LogitsModifier, SearchModifier
from truing.models.prefixes import common, shared
from truing.models.types import Row, Sampling

LONG = [*range(5, 105)]
OTHER = [*range(105, 205)]


def make(architecture: str = "llama", *modifiers: Any, **changes: Any) -> Model:
    return Model(tiny.network(architecture, **changes), tiny.tokenizer(), modifiers)


def plain(model: Model, row: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.weights(torch.tensor([list(row)])).logits[0, -1]


def exact(batch: Batch, model: Model, rows: Sequence[Sequence[int]]) -> None:
    assert batch.tokens == [list(row) for row in rows]
    for scores, row in zip(batch.logits, rows):
        torch.testing.assert_close(scores, plain(model, row), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_branches_of_a_shared_beginning_are_exact(architecture: str) -> None:
    # Mistral's window here is shorter than the beginning.
    model = make(architecture)
    rows = [LONG + tail for tail in ([7], [8, 9, 10], [*range(60, 90)], [11, 12])] + [[3, 4, 5], [*OTHER, 9]]
    rows = [rows[at] for at in (4, 0, 1, 5, 2, 3)]
    engine = Engine(model)
    batch = engine.prefill(rows)
    exact(batch, model, rows)
    # The beginning once, of each row what is its own, and the two that share nothing whole.
    assert engine.usage.positions["model"] == 100 + (1 + 3 + 30 + 2) + 3 + 101
    assert engine.usage.calls["model"] == 3
    # The rows go on as others do: ragged blocks, roll-back, branches.
    batch.extend([[5], [6, 7, 8], [], [9, 9], [10], [11] * 5])
    exact(batch, model, batch.tokens)
    batch.rollback([3, 102, 90, 101, 120, 50])
    exact(batch, model, batch.tokens)
    exact(batch.select([2, 2, 0]), model, [batch.tokens[at] for at in (2, 2, 0)])


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_answers_are_those_without_sharing(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(architecture)
    rows = [Row(None, (*LONG, *range(60, 60 + at), 7), at) for at in range(1, 8)]
    sampling = Sampling(max_new_tokens=10, temperature=1.0, n=2, seed=4)
    for size in (None, 2):
        engine = Engine(model, batch_size=size)
        found = engine.generate(rows, sampling)
        with monkeypatch.context() as patch:
            patch.setattr(prefixes, "SAVES", 10**9)
            bare = Engine(model, batch_size=size)
            expected = bare.generate(rows, sampling)
        assert [[a.tokens for a in row] for row in found] == [[a.tokens for a in row] for row in expected]
        assert bare.usage.positions["model"] - engine.usage.positions["model"] == 6 * 101
        assert engine.usage.calls["model"] == bare.usage.calls["model"] + 1


def test_one_row_at_a_time_shares_what_the_call_shares() -> None:
    model = make()
    rows = [Row(None, (*LONG, 7 + at), at) for at in range(5)]
    engine = Engine(model, batch_size=1)
    engine.generate(rows, Sampling(max_new_tokens=1))
    assert engine.usage.positions["model"] == 100 + 5


class One(SearchModifier):
    """Reads each row by itself, as searches do."""

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Any]]:
        out = []
        for row in rows:
            batch = engine.prefill([row.tokens])
            out.append([engine.completion(row, [int(batch.logits.argmax())], sampling)] * sampling.n)
        return out


def test_searches_profit() -> None:
    rows = [Row(None, (*LONG, 7 + at), at) for at in range(5)]
    found = generate(make("llama", One()), rows, Sampling(max_new_tokens=1), batch_size=1)
    assert found.usage.positions["model"] == 100 + 5
    assert [a.tokens for a in found] == [a.tokens for a in generate(make(), rows, Sampling(max_new_tokens=1))]


class Asked(LogitsModifier):
    """Remembers after which prefixes it was asked."""

    seen: list[tuple[int, ...]]

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        self.seen.extend(map(tuple, prefixes))
        return logits


def test_logits_modifiers_are_asked_for_the_ends_of_rows_only() -> None:
    asked = Asked(seen=[])
    rows = [(*LONG, 7 + at) for at in range(5)]
    Engine(make("llama", asked)).prefill(rows)
    assert asked.seen == rows


def test_equal_rows_are_read_once() -> None:
    model = make()
    engine = Engine(model)
    exact(engine.prefill([LONG] * 6), model, [LONG] * 6)
    assert engine.usage.positions["model"] == 99 + 6


def test_what_is_held_serves_later_calls_and_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    engine = Engine(model)
    engine.prefill([(*LONG, 7 + at) for at in range(5)])
    before = engine.usage.positions["model"]
    # A single row that leaves the beginning half-way branches there.
    row = [*LONG[:80], 9, 9]
    exact(engine.prefill([row]), model, [row])
    assert engine.usage.positions["model"] - before == 2
    monkeypatch.setattr(prefixes, "HELD", 150)
    rows = [(*OTHER, 7 + at) for at in range(5)]
    exact(engine.prefill(rows), model, rows)
    assert engine._prefixes._tokens == [tuple(OTHER)]
    both = [(*LONG, 9), *rows]
    exact(engine.prefill(both), model, both)
    assert engine._prefixes._tokens == [tuple(OTHER)]


def test_short_or_rare_beginnings_are_not_worth_a_pass() -> None:
    assert shared([(*LONG[:63], at) for at in range(50)]) == []
    assert shared([(*LONG, 1), (*LONG, 2), (*LONG, 3)]) == []
    assert shared([(*LONG, at) for at in range(4)]) == [tuple(LONG)]
    assert shared([]) == shared([LONG]) == []


def test_the_level_that_saves_most_is_taken() -> None:
    # Two families of four share 30 more tokens within than between.
    first = [(*LONG, *range(30), at) for at in range(4)]
    second = [(*LONG, *range(50, 80), at) for at in range(4)]
    assert shared([*first, *second]) == [(*LONG, *range(30)), (*LONG, *range(50, 80))]  # 6 * 130 over 7 * 100
    assert shared([*first[:2], *second[:2], (*LONG, 99), (*LONG, 98)]) == [tuple(LONG)]


def test_common_is_the_naive_count() -> None:
    draw = random.Random(0)
    for _ in range(200):
        first, second = ([draw.randrange(2) for _ in range(draw.randrange(12))] for _ in range(2))
        naive = 0
        while naive < min(len(first), len(second)) and first[naive] == second[naive]:
            naive += 1
        assert common(first, tuple(second)) == naive
