"""Perplexity, PreferenceAccuracy and KL, on real tiny models, against sums written out here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.measures.models import lines, small
from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.measures.perplexity import Perplexity
from truing.measures.preference import PreferenceAccuracy
from truing.measures.run import measure
from truing.measures.side_effects import KL
from truing.models import Model, SearchModifier
from truing.models.modifiers import LogitsModifier
from truing.models.sampling import choose, noise_stream
from truing.models.types import Sampling

TEXTS = ["the cat sat on the mat", "what is the colour of the stone?", "it is grey, of course.", "a small red bird"]
PAIRS = [
    {"prompt": f"the {word}", "chosen": f"the cat looked at the {word}", "rejected": f"of course it is {word}"}
    for word in ("mat", "bird", "stone", "cat", "colour")
]


class FirstAnswer(SearchModifier):
    """Searches nothing; stands for any search."""

    def search(self, engine: Any, rows: Any, sampling: Any) -> Any:
        return engine.generate(rows, sampling)


class Tilted(LogitsModifier):
    """Adds a bonus to one token."""

    token: int = 100
    bonus: float = 3.0

    def adjust(self, logits: torch.Tensor, prefixes: Any, session: Any) -> torch.Tensor:
        logits = logits.clone()
        logits[:, self.token] += self.bonus
        return logits


def nll(model: Model, text: str) -> tuple[float, int]:
    """Summed negative log-likelihood by transformers' own loss."""
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        loss = model.weights(input_ids=ids, labels=ids).loss
    return float(loss) * (ids.shape[1] - 1), ids.shape[1] - 1


def test_perplexity_is_that_of_transformers() -> None:
    one, two = small(0), small(1)
    result = measure("perplexity", one, two, texts=TEXTS)
    for figures, model in ((result.figures, one), (result.against or {}, two)):
        sums = [nll(model, text) for text in TEXTS]
        expected = math.exp(sum(total for total, _ in sums) / sum(count for _, count in sums))
        assert figures["perplexity"].value == pytest.approx(expected, rel=1e-4)
        assert figures["perplexity"].low < expected < figures["perplexity"].high
    assert result.differences is not None
    assert result.differences["perplexity"].value == pytest.approx(
        result.figures["perplexity"].value - (result.against or {})["perplexity"].value
    )
    assert (result.figures["perplexity"].unit, result.figures["perplexity"].better) == ("perplexity", "lower")


def test_perplexity_reads_text_files_and_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS) + "\n\n\n")
    model = small()
    from_list = measure(Perplexity(texts=TEXTS), model)
    from_file = measure(Perplexity(texts=tmp_path / "texts.txt"), model)
    assert from_file.figures == from_list.figures
    assert measure("perplexity", model, limit=3).figures["perplexity"].n == 3
    notes = measure(Perplexity(texts=[*TEXTS, "a"]), model).notes
    assert notes == ["1 texts hold a single token, which nothing predicts; they do not count."]
    with pytest.raises(RecordError, match="cannot be read as text"):
        measure(Perplexity(texts=str(tmp_path / "absent.txt")), model)
    with pytest.raises(RecordError, match="Text 2 has 301 tokens, and tiny 0 reads 256 at most"):
        measure(Perplexity(texts=["the cat", "the" + " the" * 300]), model)
    with pytest.raises(RecordError, match="no text"):
        measure(Perplexity(texts=["", " "]), model)
    with pytest.raises(RecordError, match="number 2 is int"):
        measure(Perplexity(texts=["a", 3]), model)  # type: ignore[list-item]


def test_perplexities_of_other_tokens_are_marked() -> None:
    other = Model(tiny.network(vocabulary=300), tiny.tokenizer(300), source="other")
    notes = measure(Perplexity(texts=TEXTS), small(), other).notes
    assert any("cannot be compared" in note for note in notes)


def test_preference_accuracy_by_log_probabilities() -> None:
    one, two = small(0), small(1)
    result = measure(PreferenceAccuracy(records=PAIRS), one, two)
    prompts = [pair["prompt"] for pair in PAIRS]
    chosen = [model.logprobs(prompts, [pair["chosen"] for pair in PAIRS]) for model in (one, two)]
    rejected = [model.logprobs(prompts, [pair["rejected"] for pair in PAIRS]) for model in (one, two)]
    assert result.figures["preference_accuracy"].value == np.mean(chosen[0] > rejected[0])
    assert result.against is not None
    assert result.against["preference_accuracy"].value == np.mean(chosen[1] > rejected[1])
    margin = (chosen[0] - chosen[1]) - (rejected[0] - rejected[1])
    assert result.figures["implicit_accuracy"].value == np.mean(margin > 0)
    assert result.figures["margin"].value == pytest.approx(margin.mean(), abs=1e-4)
    assert result.against["margin"].value == 0
    assert result.differences is not None
    assert result.differences["implicit_accuracy"].value == pytest.approx(np.mean(margin > 0) - 0.5)
    assert result.samples[0]["chosen_score"] == pytest.approx(chosen[0][0], abs=1e-4)
    alone = measure(PreferenceAccuracy(records=PAIRS), one)
    assert list(alone.figures) == ["preference_accuracy"]


def test_preference_scores_by_token_and_ties() -> None:
    model = small()
    pair = {"prompt": "the", "chosen": "cat", "rejected": "the cat sat on the mat and looked"}
    result = measure(PreferenceAccuracy(records=[pair], normalise=True), model)
    (per_token,) = model.logprobs(["the"], [pair["chosen"]], per_token=True)
    assert result.samples[0]["chosen_score"] == pytest.approx(per_token.mean(), abs=1e-5)
    tie = measure(PreferenceAccuracy(records=[{**pair, "rejected": "cat"}]), model, small())
    assert tie.figures["preference_accuracy"].value == 0.5
    assert tie.samples[0]["grade"] == "tie"
    assert tie.figures["implicit_accuracy"].value == 0.5
    with pytest.raises(RecordError, match="works on preference records"):
        measure(PreferenceAccuracy(records=[{"prompt": "a", "completion": "b"}]), model)


def test_a_reward_is_tested_on_the_same_pairs() -> None:
    from truing.rewards.functions import Keyword

    result = measure(PreferenceAccuracy(records=PAIRS, reward=Keyword(words=["looked"])), small(), small(1))
    assert result.figures["reward_accuracy"].value == 1
    assert "reward_accuracy" not in (result.against or {})
    plain = measure(PreferenceAccuracy(records=PAIRS, reward=lambda prompts, texts: np.zeros(len(texts))), small())
    assert plain.figures["reward_accuracy"].value == 0.5


def answered_by_hand(model: Model, start: Model, prompt: str, sampling: Sampling) -> tuple[int, float]:
    """Tokens of the sampled answer and its divergence, one uncached forward pass for each token and model."""
    answer: list[int] = []
    total = 0.0
    while len(answer) < sampling.max_new_tokens and answer[-1:] != [model.tokenizer.eos_token_id]:
        rows = []
        for one in (model, start):
            ids = torch.tensor([one.encode_prompt(prompt) + answer])
            with torch.no_grad():
                rows.append(one.weights(input_ids=ids).logits[:, -1])
        mine, theirs = (row[0].double().log_softmax(0) for row in rows)
        total += float((mine.exp() * (mine - theirs)).sum())
        answer += choose(rows[0], sampling, [noise_stream(model.encode_prompt(prompt))], len(answer))
    return len(answer), total


def test_kl_is_exact_over_the_vocabulary() -> None:
    model, start = small(0), small(1)
    prompts = [{"prompt": text, "answers": ["x"]} for text in TEXTS]
    result = measure(KL(records=prompts, max_new_tokens=6), model, start)
    for row in result.samples:
        count, by_hand = answered_by_hand(model, start, row["prompt"], Sampling(6, 1.0))
        assert row["tokens"] == count
        assert row["kl"] * count == pytest.approx(by_hand, rel=1e-4)
    total = sum(row["kl"] * row["tokens"] for row in result.samples)
    assert result.figures["kl"].value == pytest.approx(total / sum(row["tokens"] for row in result.samples))
    assert result.figures["kl"].low > 0
    assert (result.against or {})["kl"].value == 0
    assert result.differences is not None
    assert result.differences["kl"].low == result.figures["kl"].low


def test_kl_of_a_model_to_itself_is_nothing() -> None:
    result = measure("kl", small(0), small(0), limit=6, max_new_tokens=8)
    assert result.figures["kl"].value == pytest.approx(0, abs=1e-6)


def test_kl_does_not_depend_on_batches_and_follows_the_seed() -> None:
    model, start = small(0), small(1)
    rows = [{"prompt": text, "answers": ["x"]} for text in TEXTS]
    together = measure(KL(records=rows, max_new_tokens=8), model, start).samples
    alone = [measure(KL(records=[row], max_new_tokens=8), model, start).samples[0] for row in rows]
    assert [row["answer"] for row in together] == [row["answer"] for row in alone]
    assert [row["kl"] for row in together] == pytest.approx([row["kl"] for row in alone], rel=1e-3)
    other = measure(KL(records=rows, max_new_tokens=8, seed=1), model, start).samples
    assert [row["answer"] for row in other] != [row["answer"] for row in together]


def test_kl_sees_logits_modifiers() -> None:
    start = small(0)
    rows = [{"prompt": text, "answers": ["x"]} for text in TEXTS]
    tilted = measure(KL(records=rows, max_new_tokens=4), start.with_modifier(Tilted()), start)
    more = measure(KL(records=rows, max_new_tokens=4), start.with_modifier(Tilted(bonus=6.0)), start)
    assert 0 < tilted.figures["kl"].value < more.figures["kl"].value


def test_what_searches_is_left_out_and_said() -> None:
    start = small(0)
    searching = start.with_modifier(FirstAnswer())
    found = measure("kl", searching, start, limit=4, max_new_tokens=4)
    assert found.figures["kl"].value == pytest.approx(0, abs=1e-6)
    assert found.notes == ["`kl` is that of tiny 0 without FirstAnswer, which searches and defines no probability."]
    assert measure(Perplexity(texts=TEXTS), searching).notes
    assert measure(PreferenceAccuracy(records=PAIRS), searching).notes


def test_kl_needs_another_model_with_the_same_vocabulary() -> None:
    with pytest.raises(SettingsError, match="Give the start model too"):
        measure("kl", small())
    other = Model(tiny.network(vocabulary=300), tiny.tokenizer(300), source="other")
    with pytest.raises(UnsupportedError, match="different vocabularies"):
        measure("kl", small(), other)


@pytest.mark.parametrize(
    "one", [Perplexity(texts=TEXTS * 20), PreferenceAccuracy(records=PAIRS * 20), KL(limit=8, max_new_tokens=4)]
)
def test_scores_are_journaled(tmp_path: Path, one: Any) -> None:
    first = measure(one, small(0), small(1), out=tmp_path)
    done = lines(tmp_path)
    assert done > 3
    again = measure(one, small(0), small(1), out=tmp_path)
    assert lines(tmp_path) == done
    assert again.usage["calls"] == {}
    assert again.figures == first.figures
    assert again.samples == first.samples
