"""AlignScore as a reward: the rule around a scorer whose values are known, and around a real small model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests import tiny
from truing import AlignScore, load
from truing.errors import RewardError, SettingsError
from truing.models import Model
from truing.models.alignment import with_heads


class Words:
    """A scorer that aligns a claim with a context by its words, and counts what it is asked."""

    name = "words"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def pair_logits(self, pairs: Sequence[tuple[str, str]], **how: Any) -> np.ndarray:
        self.asked += pairs
        out = np.full((len(pairs), 6), -9.0)
        for row, (context, claim) in enumerate(pairs):
            known = set(context.lower().replace(".", "").split())
            there = np.mean([word in known for word in claim.lower().replace(".", "").split()] or [0.0])
            out[row, 2:5] = [math.log(max(there, 1e-30)), math.log(max(1 - there, 1e-30)), -99]
            out[row, 5] = 10 * there
        return out


CONTEXT = "The cat sat. The dog ran."


def test_each_sentence_counts_with_its_best_chunk() -> None:
    rule = AlignScore(scorer=Words(), target_words=2)
    found = rule.score([CONTEXT], ["The cat sat. The dog sat."])[0]
    assert found.chunks == ["The cat sat.", "The dog ran."]
    assert np.array(found.matrix) == pytest.approx(np.array([[1, 2 / 3], [1 / 3, 2 / 3]]))
    assert found.score == pytest.approx((1 + 2 / 3) / 2)
    assert found.evidence == ["The cat sat.", "The cat sat."]
    assert found.best == pytest.approx([1, 2 / 3])
    shown = str(found)
    assert shown.startswith("AlignScore 0.833")
    assert "1.000  The cat sat." in shown
    assert "0.333  chunk 2: The dog ran." in shown


def test_one_chunk_and_one_sentence_are_the_whole_pair() -> None:
    whole, split = (AlignScore(scorer=Words(), mode=mode) for mode in ("nli", "nli_sp"))
    for claim in ("The cat ran.", "A bird."):
        assert whole.score([CONTEXT], [claim])[0].score == split.score([CONTEXT], [claim])[0].score
    assert whole.score([CONTEXT], ["The cat sat. A bird."])[0].matrix == [[pytest.approx(3 / 5)]]


def test_the_regression_head_is_not_bounded() -> None:
    assert AlignScore(scorer=Words(), mode="reg_sp").score([CONTEXT], ["The cat."])[0].score == pytest.approx(10)


def test_lists_of_sentences_are_taken_as_they_are() -> None:
    found = AlignScore(scorer=Words()).score([["a b", "c"]], [["a", " ", "c d"]])[0]
    assert found.sentences == ["a", "c d"]
    assert found.chunks == ["a b c"]


def test_claims_without_a_sentence_and_empty_contexts() -> None:
    rule = AlignScore(scorer=Words(), empty=-1.0)
    found = rule.score([CONTEXT, ""], ["", "The cat."])
    assert math.isnan(found[0].score)
    assert "no sentence" in str(found[0])
    assert found[1].score == pytest.approx(0)
    assert rule([CONTEXT, CONTEXT], [" ", "The cat sat."]).tolist() == [-1.0, 1.0]


def test_contexts_come_from_records_else_from_the_prompt() -> None:
    rule = AlignScore(scorer=Words())
    ask = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": CONTEXT}]
    assert rule([ask], ["The dog ran."]).tolist() == [1.0]
    bound = rule.bind([{"prompt": "What ran?", "answers": ["dog"], "context": CONTEXT}])
    assert bound(["What ran?", "The bird."], ["The dog ran.", "The bird."]).tolist() == [1.0, 1.0]
    assert rule(["What ran?"], ["The dog ran."])[0] == pytest.approx(0)
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What ran?"}]
    assert bound([system], ["The dog ran."]).tolist() == [1.0]


def test_bad_input_is_one_clear_error() -> None:
    with pytest.raises(SettingsError, match="mode is one of nli_sp"):
        AlignScore(scorer=Words(), mode="smart").score([""], [""])
    with pytest.raises(SettingsError, match="scorer is a model trained by AlignScoreTraining"):
        AlignScore(scorer=3).validate()
    with pytest.raises(SettingsError, match="has no heads that judge pairs"):
        AlignScore(scorer="sandbox/small").score(["a"], ["b"])
    with pytest.raises(RewardError, match="needs one response for each prompt"):
        AlignScore(scorer=Words()).score(["a"], [])
    with pytest.raises(RewardError, match="claim 1 is 3"):
        AlignScore(scorer=Words()).score(["a", "b"], ["a", 3])
    with pytest.raises(RewardError, match="was given a string"):
        AlignScore(scorer=Words()).score("a", "b")


def test_values_that_are_not_finite_are_refused() -> None:
    scorer = Words()
    scorer.pair_logits = lambda pairs, **how: np.full((len(pairs), 6), np.nan)  # type: ignore[method-assign]
    with pytest.raises(RewardError, match="not finite"):
        AlignScore(scorer=scorer).score(["a"], ["b"])


def test_in_a_recipe_a_scorer_is_named_by_its_folder(tmp_path: Any) -> None:
    from truing.rewards import reward_from

    made = with_heads(Model(tiny.network(), tiny.tokenizer(), source="tiny"))
    made.save(tmp_path / "scorer")
    reward = reward_from({"align_score": {"scorer": str(tmp_path / "scorer"), "mode": "bin_sp"}})
    found = reward(["the cat sat on the mat"], ["the cat sat."])
    assert found == pytest.approx(AlignScore(scorer=load(tmp_path / "scorer"), mode="bin_sp")(
        ["the cat sat on the mat"], ["the cat sat."]))  # fmt: skip
    assert 0 < found[0] < 1
