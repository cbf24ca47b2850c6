"""Pairs made from plain texts: what is supported is, and the rest differs by what it should."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from truing import ConsistencyPairs, sandbox
from truing.errors import RecordError, SettingsError

TEXTS = sandbox.heldout_text("train", 60)


def test_supported_claims_are_stretches_that_lost_words() -> None:
    pairs = ConsistencyPairs(n=300, exchange=0.0).build(TEXTS)
    assert pairs.kind == "label"
    assert 100 < sum(row["label"] for row in pairs) < 200
    for row in pairs:
        words = iter(row["prompt"].split())
        within = all(word in words for word in row["completion"].split())  # in this order, others between
        if row["label"]:
            assert within
        assert row["completion"].strip()
    other = [row for row in pairs if not row["label"]]
    known = [set(row["completion"].split()) <= set(row["prompt"].split()) for row in other]
    assert 0.1 < sum(known) / len(known) < 0.45, "some only change places, most hold other words"


def test_each_kind_of_change_alone() -> None:
    def held(**settings: Any) -> float:
        rows = ConsistencyPairs(n=80, supported=0.0, exchange=0.0, **settings).build(TEXTS)
        same = [sorted(row["completion"].split()) for row in rows]
        return sum(set(one) <= set(row["prompt"].split()) for one, row in zip(same, rows)) / len(rows)

    assert held(replaced=0.0, near=0.0) == 1.0
    assert held(replaced=1.0, near=0.0) < 0.1
    assert held(replaced=0.0, near=1.0) < 0.2


def test_small_words_give_way_to_small_words() -> None:
    rows = list(ConsistencyPairs(n=200, supported=1.0, exchange=0.5).build(TEXTS))
    new = [word for row in rows for word in row["completion"].split() if word not in row["prompt"].split()]
    counts = Counter(word.lower() for text in TEXTS for word in text.split())
    least = sorted(counts.values(), reverse=True)[len(counts) // 10]
    assert new
    assert all(counts[word] >= least for word in new)


def test_seeds() -> None:
    one, again, other = (list(ConsistencyPairs(n=20, seed=seed).build(TEXTS)) for seed in (0, 0, 1))
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    "settings",
    [{"n": 0}, {"supported": 2}, {"replaced": 0.8, "near": 0.3}, {"drop": 0.5}, {"seed": -1}, {"near": "x"}],
)
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        ConsistencyPairs(**settings).build(TEXTS)


@pytest.mark.parametrize("source", ["a text", [3], [], ["Too short. To use."]])
def test_sources_that_hold_no_texts(source: Any) -> None:
    with pytest.raises(RecordError, match=r"list of texts|three sentences"):
        ConsistencyPairs().build(source)
