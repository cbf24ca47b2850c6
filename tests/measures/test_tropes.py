"""Arguments that come again: known clusters, planted arguments, chatter, a judge, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.measures.models import Scripted
from truing import Tropes, load
from truing.errors import RecordError, RewardError, SettingsError
from truing.measures.trope_clusters import cluster, jaccard, kept_clusters
from truing.measures.tropes import sentences, word_vectors
from truing.sandbox.surveys import ARGUMENTS, planted_texts


def tight(*sizes: int) -> np.ndarray:
    """Tight clusters of unit vectors at right angles."""
    rows = [
        np.eye(len(sizes))[at] + 1e-3 * np.eye(len(sizes))[(at + 1) % len(sizes)] * n
        for at, size in enumerate(sizes)
        for n in range(size)
    ]
    return np.array(rows)


def test_a_cluster_with_half_of_all_is_dropped_and_so_is_a_small_one() -> None:
    vectors = tight(40, 12, 11)
    labels = cluster(vectors)
    assert [int((labels == name).sum()) for name in range(3)] == [40, 12, 11]
    assert sorted(kept_clusters(vectors, labels)) == [1, 2]
    vectors = tight(10, 12, 13, 11)
    assert sorted(kept_clusters(vectors, cluster(vectors))) == [1, 2, 3]


def test_order_changes_nothing_but_numbers() -> None:
    vectors = tight(15, 14, 13)
    order = np.random.default_rng(0).permutation(len(vectors))
    one, other = cluster(vectors), cluster(vectors[order])
    pairs = {(int(a), int(b)) for a, b in zip(one[order], other)}
    assert len(pairs) == 3
    assert cluster(np.zeros((0, 4))).tolist() == []


def test_jaccard_and_sentences() -> None:
    assert jaccard({"a"}, {"a"}) == jaccard(set(), set()) == 1
    assert jaccard({"a"}, {"b"}) == 0
    assert sentences("Short one. This one has more than twenty letters! And") == [
        "This one has more than twenty letters!"
    ]
    assert word_vectors(["a b", "a b"])[0] @ word_vectors(["a b", "a b"])[1] == pytest.approx(1)


def test_planted_arguments_are_found_on_both_sides() -> None:
    rows, _ = planted_texts()
    result = Tropes(texts=rows).measure()
    shown = [name for name in result.figures if name.startswith("trope: ")]
    assert len(shown) == len(ARGUMENTS)
    assert {row["argument"] for row, text in zip(rows, result.samples) if text["with trope"]} == set(ARGUMENTS)
    assert result.figures["both sides"].value >= 0.8
    assert result.figures["shared"].value == 1


def test_chatter_holds_none_and_texts_without_stance_are_left_out() -> None:
    rows, _ = planted_texts(share=0.0)
    result = Tropes(texts=rows).measure()
    assert result.figures["with trope"].value == 0
    assert "0 tropes." in result.notes
    lost = Tropes(texts=[{**row, "stance": "none"} if at < 5 else row for at, row in enumerate(rows)]).measure()
    assert any("5 of 600 texts take no stance" in note for note in lost.notes)


def test_a_judge_drops_and_rewrites() -> None:
    rows, _ = planted_texts()

    def judge(prompt: str) -> str:
        if "order" in prompt or "peace" in prompt.split("The sentence:")[1]:
            return 'Trope: "No argument"'
        return "It argues.\nTrope: Custom and need decide."

    result = Tropes(texts=rows, judge=Scripted(judge, name="judge")).measure()
    assert [name for name in result.figures if name.startswith("trope: ")] == ["trope: Custom and need decide."]
    assert any("The judge found no argument in" in note for note in result.notes)


def test_an_embedding_of_ones_own() -> None:
    rows = [
        {"response": f"{'one' if at % 2 else 'two'} long sentence number {at}.", "stance": "agree"} for at in range(60)
    ]
    rows += [{"response": f"a third long sentence number {at}.", "stance": "strongly agree"} for at in range(20)]

    def embed(texts):
        return [[float(text.startswith(word)) for word in ("one", "two", "a")] for text in texts]

    result = Tropes(texts=rows, embed=embed).measure()
    assert sum(name.startswith("trope: ") for name in result.figures) == 3
    with pytest.raises(RewardError, match="one vector of finite numbers for each"):
        Tropes(texts=rows, embed=lambda texts: [[1.0]]).measure()


def test_bad_input() -> None:
    with pytest.raises(RecordError, match="no sentence of more than 20 letters"):
        Tropes(texts=[{"response": "Short.", "stance": "agree"}]).measure()
    with pytest.raises(RecordError, match="`response` is a text"):
        Tropes(texts=[{"stance": "agree"}]).measure()
    with pytest.raises(SettingsError, match="eps is a cosine distance"):
        Tropes(eps=0).validate()
    with pytest.raises(SettingsError, match="asks no model"):
        Tropes().measure(load("sandbox/small"))


def test_on_the_command_line() -> None:
    from truing.cli.app import app

    shown = CliRunner().invoke(app, ["measure", "tropes", "--limit", "300", "--more-than", "5", "--min-samples", "5"])
    assert shown.exit_code == 0, shown.output
    assert "tropes" in shown.output
