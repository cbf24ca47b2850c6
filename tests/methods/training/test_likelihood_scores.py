"""Scores of answers under several models: against the models' own log-probabilities, closed forms, and the cache."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.training import toy
from truing import RemoteModel, SystemMessage
from truing.errors import SettingsError, UnsupportedError
from truing.methods.training.likelihood_scores import score_likelihood
from truing.models import Model
from truing.records import as_records

ROWS = [
    {"prompt": "what is the colour of the stone?", "completion": "it is grey, of course", "mark": 1},
    {"prompt": "the bird?", "completion": "small and red"},
    {"prompt": "the cat?", "completion": ""},
]
TALK = [
    {"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "on the mat"},
    {"role": "user", "content": "the bird?"}, {"role": "assistant", "content": "small"},
]  # fmt: skip


def uniform(vocabulary=320):
    """Every token has the probability 1 / vocabulary."""
    network = tiny.network(vocabulary=vocabulary)
    with torch.no_grad():
        network.get_output_embeddings().weight.zero_()
    return Model(network, tiny.tokenizer(min(vocabulary, 320)), source="uniform")


def other():
    """A model with another tokenizer and no chat template."""
    return Model(tiny.network(seed=3, vocabulary=290), tiny.tokenizer(290, chat=False), source="other")


def test_scores_are_means_over_content_tokens_of_each_models_own():
    models = [toy.model(), other()]
    scored = score_likelihood(models, ROWS)
    assert scored.kind == "demonstration"
    assert [row.get("mark") for row in scored] == [1, None, None]
    for at in (0, 1):
        row = scored[at]
        for model, score in zip(models, row["scores"]):
            tokens = model.logprobs(row["prompt"], [row["completion"]], per_token=True)[0]
            assert score == pytest.approx(tokens[:-1].mean(), abs=1e-5)
        assert row["mean_aligned_score"] == pytest.approx(np.mean(row["scores"]))
    assert scored[2]["scores"] == [None, None]
    assert "mean_aligned_score" not in scored[2]
    turned = score_likelihood(models[::-1], ROWS)
    assert [row.get("mean_aligned_score") for row in turned] == [row.get("mean_aligned_score") for row in scored]


def test_a_uniform_model_gives_the_log_of_its_vocabulary():
    scored = score_likelihood([uniform()], ROWS[:2])
    assert [row["scores"][0] for row in scored] == pytest.approx([-math.log(320)] * 2, abs=1e-5)
    for row in score_likelihood([uniform()], ROWS[:2], normaliser="character"):
        tokens = len(tiny.tokenizer()(row["completion"], add_special_tokens=False)["input_ids"])
        assert row["scores"][0] == pytest.approx(-tokens * math.log2(320) / len(row["completion"]), abs=1e-5)


def test_all_turns_of_a_conversation_or_the_last():
    model = toy.model()
    rows = [{"messages": TALK}]
    parts = model.logprobs([TALK[:1], TALK[:3]], ["on the mat", "small"], per_token=True)
    whole = np.concatenate([part[:-1] for part in parts])
    assert score_likelihood([model], rows)[0]["scores"] == pytest.approx([whole.mean()], abs=1e-5)
    last = score_likelihood([model], rows, turns="last")[0]["scores"]
    assert last == pytest.approx([parts[1][:-1].mean()], abs=1e-5)


def test_a_models_system_message_is_read():
    model = toy.model()
    spoken = SystemMessage(text="look at the mat").align(model)
    plain, with_it = (score_likelihood([one], ROWS[:1])[0]["scores"][0] for one in (model, spoken))
    tokens = spoken.logprobs(ROWS[0]["prompt"], [ROWS[0]["completion"]], per_token=True)[0]
    assert with_it == pytest.approx(tokens[:-1].mean(), abs=1e-5)
    assert with_it != pytest.approx(plain, abs=1e-3)


def test_what_a_model_cannot_read_whole_has_no_score():
    long = {"prompt": "the cat " * 200, "completion": "grey"}
    scored = score_likelihood([toy.model(), toy.model(max_position_embeddings=2000)], [long, ROWS[1]])
    assert scored[0]["scores"][0] is None
    assert scored[0]["scores"][1] < 0
    assert "mean_aligned_score" not in scored[0]
    assert None not in scored[1]["scores"]
    assert score_likelihood([toy.model()], ROWS[:2], max_length=12)[0]["scores"] == [None]


def test_scores_are_kept_by_model_and_text(tmp_path, monkeypatch):
    records = as_records(ROWS, kinds=("demonstration",), what="test")
    first = score_likelihood([toy.model()], records, out=tmp_path)
    asked = []
    real = Model.logprobs

    def counting(self, prompts, responses, **how):
        asked.extend(responses)
        return real(self, prompts, responses, **how)

    monkeypatch.setattr(Model, "logprobs", counting)
    again = score_likelihood([toy.model()], records, out=tmp_path)
    assert list(again) == list(first)
    assert asked == []
    by_character = score_likelihood([toy.model()], records, normaliser="character", out=tmp_path)
    assert asked == [], "both normalisers come from one scoring"
    assert by_character[0]["scores"] != first[0]["scores"]
    # A killed call leaves a cut line: that row is scored again, and nothing else.
    (path,) = tmp_path.glob("*.jsonl")
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    path.write_text("\n".join([lines[0], lines[1][: len(lines[1]) // 2]]))
    assert list(score_likelihood([toy.model()], records, out=tmp_path)) == list(first)
    assert asked == ["small and red"]
    assert list(score_likelihood([toy.model()], records, out=tmp_path)) == list(first)
    assert asked == ["small and red"]
    score_likelihood([toy.model(seed=1)], records, out=tmp_path)
    score_likelihood([toy.model()], [{**ROWS[0], "completion": "red"}], out=tmp_path)
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


def test_scoring_twice_gives_one_set_of_columns():
    once = score_likelihood([toy.model()], ROWS)
    twice = score_likelihood([other()], once)
    assert len(twice[0]["scores"]) == 1
    assert twice[0]["mean_aligned_score"] == twice[0]["scores"][0] != once[0]["scores"][0]


def test_bad_calls_are_clear():
    with pytest.raises(SettingsError, match="at least one model"):
        score_likelihood([], ROWS)
    with pytest.raises(SettingsError, match="normaliser"):
        score_likelihood([toy.model()], ROWS, normaliser="word")
    with pytest.raises(SettingsError, match="turns"):
        score_likelihood([toy.model()], ROWS, turns="first")
    remote = RemoteModel("nobody", base_url="http://127.0.0.1:9/v1", api_key="none")
    with pytest.raises(UnsupportedError, match="no log-probabilities"):
        score_likelihood([remote], ROWS)
