from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import tiny
from tests.methods.training import toy
from truing import DPO, BestOfN, load
from truing.errors import ModelError, RewardError, UnsupportedError
from truing.measures.preference import PreferenceAccuracy
from truing.methods.training.policy import score_model
from truing.models.scored import CENTER, ScoreModel
from truing.rewards import checked
from truing.rewards.model import RewardModel, load_scorer

PROMPTS = ["the bird?", "what sat on the mat?", "the stone"]
ANSWERS = ["it is small and red, of course.", "", "the cat"]


def scorer(architecture: str = "llama", labels: int = 1, center: float = 0.0) -> ScoreModel:
    weights = score_model(tiny.network(architecture), labels, 0, 0)
    with torch.no_grad():
        weights.score.weight.mul_(20)
    setattr(weights.config, CENTER, center)
    return ScoreModel(weights, tiny.tokenizer(), source="tiny")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_saved_it_is_read_by_truing_by_the_reward_and_by_transformers(architecture: str, tmp_path) -> None:
    model = scorer(architecture, center=0.25)
    expected = model(PROMPTS, ANSWERS)
    model.save(tmp_path / "scorer")
    for again in (load(tmp_path / "scorer"), ScoreModel.load(tmp_path / "scorer")):
        assert isinstance(again, ScoreModel)
        assert again.center == 0.25
        assert again.fingerprint == model.fingerprint
        np.testing.assert_allclose(again(PROMPTS, ANSWERS), expected, rtol=0, atol=1e-6)
    reward = RewardModel(model=str(tmp_path / "scorer"), center=model.center)
    np.testing.assert_allclose(reward(PROMPTS, ANSWERS), expected, rtol=0, atol=1e-6)
    assert load_scorer(tmp_path / "scorer")[0].config.num_labels == 1
    # As somebody without truing reads it: the whole conversation, right-padded.
    weights = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scorer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "scorer", padding_side="right")
    talks = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt, answer in zip(PROMPTS, ANSWERS)
    ]
    batch = tokenizer.apply_chat_template(talks, padding=True, return_dict=True, return_tensors="pt")
    with torch.inference_mode():
        found = weights(**batch).logits[:, 0].numpy()
    np.testing.assert_allclose(found - 0.25, expected, rtol=0, atol=1e-5)


def test_a_score_is_the_logit_less_its_centre_and_probabilities_are_sigmoids() -> None:
    plain, moved = scorer(), scorer(center=0.5)
    raw = plain.logits(PROMPTS, ANSWERS)
    assert raw.shape == (3, 1)
    assert raw.dtype == np.float64
    np.testing.assert_allclose(moved(PROMPTS, ANSWERS), raw[:, 0] - 0.5, atol=1e-9)
    np.testing.assert_allclose(moved.probabilities(PROMPTS, ANSWERS), 1 / (1 + np.exp(-raw[:, 0])), atol=1e-9)
    gap = plain(PROMPTS, ANSWERS) - plain(PROMPTS, ANSWERS[::-1])
    both = [model.preferences(PROMPTS, ANSWERS, ANSWERS[::-1]) for model in (plain, moved)]
    np.testing.assert_allclose(both[0], 1 / (1 + np.exp(-gap)), atol=1e-9)
    np.testing.assert_allclose(both[0], both[1], atol=1e-9)
    assert plain([], []).shape == (0,)
    np.testing.assert_array_equal(checked(plain, PROMPTS, ANSWERS), raw[:, 0])


def test_it_cannot_write_and_says_so() -> None:
    model = scorer()
    for ask in (model.generate, model.logprobs, model.text_logprobs):
        with pytest.raises(UnsupportedError, match="tiny scores"):
            ask(PROMPTS)
    with pytest.raises(UnsupportedError, match="does not offer"):
        DPO().align(model, toy.preferences(4))


def test_too_long_several_labels_and_language_models_are_clear_errors(tmp_path) -> None:
    with pytest.raises(RewardError, match=r"Row 1 has \d+ tokens with its prompt, and tiny reads 256"):
        scorer()(["a", "a"], ["b", "the cat " * 300])
    with pytest.raises(RewardError, match="2 prompts and 1 responses"):
        scorer()(["a", "a"], ["b"])
    three = scorer(labels=3)
    assert three.logits(PROMPTS, ANSWERS).shape == (3, 3)
    with pytest.raises(UnsupportedError, match="LABEL_0, LABEL_1, LABEL_2"):
        three(PROMPTS, ANSWERS)
    toy.model().save(tmp_path / "lm")
    with pytest.raises(ModelError, match="has no score"):
        ScoreModel.load(tmp_path / "lm")


def test_its_card_and_notes_say_what_it_is(tmp_path) -> None:
    scorer().save(tmp_path / "scorer")
    card = (tmp_path / "scorer" / "README.md").read_text()
    assert "text-classification" in card
    assert "scorer([" in card
    assert "generate" not in card
    assert json.loads((tmp_path / "scorer" / "truing.json").read_text())["kind"] == "full"


def test_it_goes_along_inside_a_modifier(tmp_path) -> None:
    model, reward = toy.model(), scorer()
    best = BestOfN(reward=reward, n=3).align(model)
    texts = best.generate(PROMPTS, max_new_tokens=6).texts
    best.save(tmp_path / "best")
    again = load(tmp_path / "best")
    assert again.generate(PROMPTS, max_new_tokens=6).texts == texts
    assert best.history[-1].settings["reward"] == {"model": "tiny"}


def test_preference_accuracy_ranks_by_the_score() -> None:
    rows, model = toy.preferences(12), scorer()
    prompts = [row["prompt"] for row in rows]
    ahead = model(prompts, [row["chosen"] for row in rows]) > model(prompts, [row["rejected"] for row in rows])
    alone = PreferenceAccuracy(records=rows).measure(model)
    assert alone.figures["preference_accuracy"].value == pytest.approx(ahead.mean())
    assert set(alone.figures) == {"preference_accuracy"}
    compared = PreferenceAccuracy(records=rows).measure(model, toy.model())
    assert set(compared.figures) == {"preference_accuracy"}
    other = PreferenceAccuracy(records=rows).measure(toy.model()).figures["preference_accuracy"].value
    assert compared.differences is not None
    assert compared.differences["preference_accuracy"].value == pytest.approx(ahead.mean() - other)
