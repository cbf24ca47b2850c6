"""Sentences, chunks and aggregation of AlignScore."""

from __future__ import annotations

import math

import numpy as np
import pytest

from truing.rewards.alignment_rule import aggregate, chunk_runs, chunks, head_values, sentences

P = [[0.1, 0.7, 0.3], [0.95, 0.1, 0.3], [0.5, 0.6, 0.3], [0.2, 0.05, 0.31]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rains. It pours!  Does it?", ["It rains.", "It pours!", "Does it?"]),
        ("Dr. Smith paid $3.5 to J. Doe. He left.", ["Dr. Smith paid $3.5 to J. Doe.", "He left."]),
        ('He said "Stop." Then he ran.', ['He said "Stop."', "Then he ran."]),
        ("fruit, e.g. apples. Also pears", ["fruit, e.g. apples.", "Also pears"]),
        ("A title\n\nA text. and more", ["A title", "A text. and more"]),
        ("它下雨了。它停了！好。", ["它下雨了。", "它停了！", "好。"]),
        ("آیا باران می‌بارد؟ بله.", ["آیا باران می‌بارد؟", "بله."]),
        ("No end", ["No end"]),
        ("So did I. We left.", ["So did I.", "We left."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def words(count: int) -> str:
    return " ".join(["w"] * (count - 1) + ["w."]).capitalize()


def test_seven_equal_sentences_of_700_words() -> None:
    found = chunks(" ".join([words(100)] * 7))
    assert [len(one.split()) // 100 for one in found] == [2, 2, 2, 1]


def test_one_word_decides_between_one_chunk_and_two() -> None:
    assert len(chunks(f"{words(175)} {words(175)}")) == 2
    assert len(chunks(f"{words(175)} {words(174)}")) == 1


def test_an_empty_context_is_one_empty_chunk_and_a_sentence_is_never_cut() -> None:
    assert chunks("") == [""]
    assert chunks([]) == [""]
    assert len(chunks(words(2000))) == 1
    assert chunk_runs(1, 5000) == [range(0, 1)]


def test_lists_of_sentences_and_another_splitter() -> None:
    assert chunks(["a b", "c"]) == ["a b c"]
    assert chunks("a;b;c", target_words=1, split=lambda text: text.split(";")) == ["a", "b", "c"]


def test_aggregate_by_hand() -> None:
    assert aggregate(P) == pytest.approx((0.95 + 0.7 + 0.31) / 3)
    assert math.isnan(aggregate(np.zeros((1, 0))))


def test_more_chunks_never_lower_the_score_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = rng.random((rng.integers(1, 5), rng.integers(1, 5)))
        more = np.vstack([found, rng.random((1, found.shape[1]))])
        assert aggregate(more) >= aggregate(found)
        assert aggregate(rng.permutation(found)) == aggregate(found)
        assert aggregate(rng.permutation(found.T).T) == pytest.approx(aggregate(found))


def test_heads_of_uniform_and_extreme_logits() -> None:
    found = head_values([[0, 0, 0, 0, 0, 2.5], [-900, 900, 900, 0, -900, -1]])
    assert found["bin"].tolist() == pytest.approx([0.5, 1])
    assert found["nli"].tolist() == pytest.approx([1 / 3, 1])
    assert found["reg"].tolist() == [2.5, -1]
