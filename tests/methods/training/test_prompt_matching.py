"""Density ratios of prompts: known distributions, alike and disjoint sets, and what is asked of an encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.methods.training import toy
from truing.errors import SettingsError, TrainingError
from truing.methods.training.losses.unpaired import density_weights
from truing.methods.training.prompt_matching import _fit, embed, match, prompt_weights, texts
from truing.models.activations import record


def one_each(good, bad):
    """Counts for prompts of which the first are good and the rest bad."""
    return np.r_[np.ones(good), np.zeros(bad)], np.r_[np.zeros(good), np.ones(bad)]


def gaussians(good, bad, gap, width=6, seed=0):
    """Two kinds of prompt, ``gap`` apart along the first axis."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(good + bad, width))
    x[:good, 0] += gap
    return x


def test_weights_of_known_probabilities():
    found = density_weights(torch.tensor([0.9, 0.5, 0.02, 1.0, 0.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([9, 1, 0.5, 10, 0.5], abs=1e-5)


def test_the_fit_is_the_minimum_of_the_penalised_loss():
    """One feature of two values: the offset and the weight solve two equations in closed form, up to the penalty."""
    x = np.array([[-1.0], [1.0]])
    shares = np.array([[0.25, 0.75], [0.75, 0.25]])
    weights, offset = _fit(x, shares, 1e-9)
    assert weights[0] == pytest.approx(np.log(3), abs=1e-4)
    assert offset == pytest.approx(0, abs=1e-5)
    assert _fit(x, 7 * shares, 1e-9)[0] == pytest.approx(weights), "only shares count"
    small = _fit(x, shares, 1e3)[0]
    assert abs(small[0]) < 1e-2


def test_probabilities_of_gaussians_are_those_of_bayes():
    gap, good, bad = 1.5, 600, 300
    x = gaussians(good, bad, gap)
    found = match(x, *one_each(good, bad))
    true = 1 / (1 + np.exp(-(gap * x[:, 0] - gap**2 / 2)))  # with both kinds as many
    assert np.abs(found.probabilities - true).mean() < 0.04
    assert found.accuracy == pytest.approx(0.773, abs=0.03)  # the normal distribution below gap / 2
    bad_ratio = found.probabilities[good:] / (1 - found.probabilities[good:])
    assert bad_ratio.mean() == pytest.approx(1, abs=0.2), "density ratios are 1 on average under the bad prompts"


@pytest.mark.parametrize("width", [6, 200])
def test_sets_of_one_distribution_have_weights_near_1(width):
    """With 200 features and 200 prompts an unpenalised classifier tells any two sets apart without an error."""
    x = gaussians(100, 100, 0.0, width)
    weights, offset = _fit((x - x.mean(0)) / x.std(0), np.stack(one_each(100, 100)), 1e-6)
    told = ((x - x.mean(0)) / x.std(0) @ weights + offset > 0) == (np.arange(200) < 100)
    found = match(x, *one_each(100, 100))
    ratios = density_weights(torch.from_numpy(found.probabilities))
    assert told.mean() > (0.99 if width == 200 else 0.5)
    assert found.accuracy == pytest.approx(0.5, abs=0.12)
    assert ratios.min() > 0.8
    assert ratios.max() < 1.25


def test_identical_prompts_of_both_kinds_have_weights_of_1():
    x = gaussians(60, 0, 0.0)
    found = match(x, np.ones(60), np.ones(60))
    np.testing.assert_allclose(found.probabilities, 0.5, atol=1e-6)
    assert found.accuracy == pytest.approx(0.5, abs=1e-9)


def test_disjoint_prompts_end_at_the_bounds():
    found = match(gaussians(60, 60, 40.0), *one_each(60, 60))
    assert found.accuracy == 1.0
    assert density_weights(torch.from_numpy(found.probabilities))[60:].tolist() == [0.5] * 60


def test_a_prompt_counts_as_often_as_it_was_answered():
    x = gaussians(80, 80, 1.0)
    good, bad = one_each(80, 80)
    seen = match(x, 5 * good, 3 * bad)
    np.testing.assert_allclose(seen.probabilities, match(x, good, bad).probabilities, atol=1e-7)
    assert not np.allclose(match(x, good + 2 * bad, bad).probabilities, seen.probabilities, atol=1e-2)


def test_the_seed_settles_the_folds_and_constant_features_do_no_harm():
    x = gaussians(60, 60, 1.0)
    first = match(x, *one_each(60, 60), seed=1).probabilities
    np.testing.assert_array_equal(first, match(x, *one_each(60, 60), seed=1).probabilities)
    assert not np.array_equal(first, match(x, *one_each(60, 60), seed=2).probabilities)
    np.testing.assert_allclose(first, match(np.c_[x, np.full(120, 3.0)], *one_each(60, 60), seed=1).probabilities)


@pytest.mark.parametrize(("good", "bad", "word"), [(49, 80, "49 have a good"), (80, 0, "0 have a bad")])
def test_too_few_prompts_are_an_error(good, bad, word):
    with pytest.raises(TrainingError, match=f"50 distinct prompts.*{word} answer"):
        match(gaussians(good, bad, 1.0), *one_each(good, bad))


def test_embeddings_are_the_means_of_the_last_layer_alone_or_together():
    model = toy.model()
    prompts = ["the cat", "what is the colour of the small red stone?", [{"role": "user", "content": "the bird"}]]
    found = embed(model, prompts, 200)
    assert found.shape == (3, 32)
    for prompt, row in zip(prompts, found):
        states = record(model, [model.encode_prompt(prompt)], [-1], "all")[0][:, 0]
        np.testing.assert_allclose(row, states.mean(0).numpy(), atol=1e-5)
    cut = embed(model, prompts[1:2], 4)[0]
    ids = model.encode_prompt(prompts[1])[-4:]
    np.testing.assert_allclose(cut, record(model, [ids], [-1], "all")[0][:, 0].mean(0).numpy(), atol=1e-5)


def test_modifiers_do_not_act_on_embeddings():
    from truing import SystemMessage

    model = toy.model()
    spoken = SystemMessage(text="look at the mat").align(model)
    np.testing.assert_array_equal(embed(spoken, ["the cat"], 99), embed(model, ["the cat"], 99))


def test_conversations_as_text():
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert texts(["plain", said]) == ["plain", "user: a\n\nassistant: b\n\nuser: c"]


def count_letters(given):
    """An encoder: how often each of a few letters stands in a text."""
    return np.array([[text.count(letter) for letter in "abxy"] for text in given], dtype=np.float32)


def varied(n, seed):
    """Prompts of the letters a, b and x; those of seed 1 have more x."""
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list("abx"), 24, p=[0.4, 0.3, 0.3] if seed else [0.5, 0.3, 0.2])) for _ in range(n)]


def test_bad_answers_weigh_what_their_prompts_are_among_good_ones():
    good, bad = varied(120, 0), varied(120, 1)
    asked = []

    def encoder(given):
        asked.extend(given)
        return count_letters(given)

    prompts, labels = [*good, *bad, *bad], [True] * 120 + [False] * 240
    weights, note = prompt_weights(toy.model(), prompts, labels, encoder=encoder)
    assert len(asked) == len(set(asked)) == len(set(prompts)), "each distinct prompt is embedded once"
    assert weights[120:240] == weights[240:]
    often = np.array([prompt.count("x") for prompt in bad])
    by = np.array(weights[120:240])
    assert by[often <= 6].mean() > 1.5 * by[often >= 9].mean()
    assert 0.5 <= by.min() < by.max() <= 10
    assert f"{by.min():.2f} to {by.max():.2f}" in note
    assert "alike" not in note


def test_torch_encoders_and_the_model_itself():
    prompts, labels = [*varied(60, 0), *varied(60, 1)], [True] * 60 + [False] * 60
    plain = prompt_weights(toy.model(), prompts, labels, encoder=count_letters)
    torched = prompt_weights(
        toy.model(), prompts, labels, encoder=lambda given: torch.tensor(count_letters(given), requires_grad=True)
    )
    assert plain == torched
    own, note = prompt_weights(toy.model(), prompts, labels)
    assert own == prompt_weights(toy.model(), prompts, labels)[0]
    assert len(own) == 120
    assert "cross-validated" in note


@pytest.mark.parametrize(
    ("encoder", "why"),
    [
        (lambda given: np.zeros(len(given)), r"shape \[120\]"),
        (lambda given: np.zeros((3, 4)), r"shape \[3, 4\]"),
        (lambda given: np.full((len(given), 2), np.nan), "not finite"),
        (lambda given: np.array([["a", "b"]] * len(given)), "shape"),
    ],
)
def test_encoders_that_give_something_else(encoder, why):
    prompts, labels = [*varied(60, 0), *varied(60, 1)], [True] * 60 + [False] * 60
    with pytest.raises(SettingsError, match=why):
        prompt_weights(toy.model(), prompts, labels, encoder=encoder)


def test_the_note_says_when_matching_cannot_help():
    alike = [f"{text}{at}" for at, text in enumerate(varied(120, 0))]
    _, note = prompt_weights(toy.model(), alike, [at % 2 == 0 for at in range(120)], encoder=count_letters)
    apart = ["a" * (at + 1) for at in range(60)] + ["y" * (at + 30) for at in range(60)]
    _, other = prompt_weights(toy.model(), apart, [True] * 60 + [False] * 60, encoder=count_letters)
    assert "told apart in 5" in note or "told apart in 4" in note
    assert "hardly overlap" in other
    assert "100% of them are at a bound" in other
