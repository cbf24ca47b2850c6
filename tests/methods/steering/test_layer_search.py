"""Scores of layers: closed forms, symmetry, ties, and bad input."""

import math

import pytest
import torch

from truing.errors import SettingsError
from truing.methods.steering.layer_search import best_layer, contrastive_scores


def test_equal_activations_are_no_distance_apart_and_the_first_layer_wins():
    states = torch.randn(5, 4, 7, generator=torch.Generator().manual_seed(0))
    for score in ("jsd", "separation"):
        scores = contrastive_scores(states, states.clone(), score)
        assert scores.tolist() == [0.0] * 4
        assert best_layer(scores) == 0


def test_disjoint_distributions_are_ln_two_apart_and_the_sides_may_be_swapped():
    clean, adverse = torch.tensor([[[200.0, 0.0]]]), torch.tensor([[[0.0, 200.0]]])
    assert contrastive_scores(clean, adverse).item() == pytest.approx(math.log(2), abs=1e-12)
    clean, adverse = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(1))
    scores = contrastive_scores(clean, adverse)
    assert torch.equal(scores, contrastive_scores(adverse, clean))
    assert ((scores > 0) & (scores < math.log(2))).all()


def test_a_constant_changes_no_divergence_and_a_scale_changes_no_separation():
    clean, adverse = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(2)).double()
    assert torch.allclose(contrastive_scores(clean, adverse), contrastive_scores(clean + 3, adverse - 1))
    apart = contrastive_scores(clean, adverse, "separation")
    assert torch.allclose(apart, contrastive_scores(clean * 9, adverse * 9, "separation"))
    assert not torch.allclose(contrastive_scores(clean, adverse), contrastive_scores(clean * 9, adverse * 9))


def test_separation_is_the_distance_in_standard_deviations():
    clean = torch.tensor([[[3.0, 0.0]], [[5.0, 0.0]]])
    adverse = torch.tensor([[[-1.0, 0.0]], [[1.0, 0.0]]])
    # Means 4 and 0, both with a standard deviation of 1.
    assert contrastive_scores(clean, adverse, "separation").item() == pytest.approx(4.0)


def test_the_release_score_does_not_see_who_is_who():
    clean, adverse = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(3)).double()
    m = (clean.softmax(-1) + adverse.softmax(-1)) / 2
    assert torch.allclose(contrastive_scores(clean, adverse, "release"), (m * m.log() - m**2).mean((0, 2)))


@pytest.mark.parametrize(
    ("clean", "adverse", "score", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), "kl", "score is one of jsd"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), "jsd", "one shape"),
        (torch.zeros(0, 3, 4), torch.zeros(0, 3, 4), "jsd", "at least one pair"),
        (torch.full((1, 1, 2), math.nan), torch.zeros(1, 1, 2), "jsd", "not finite"),
    ],
)
def test_bad_input_is_named(clean, adverse, score, message):
    with pytest.raises(SettingsError, match=message):
        contrastive_scores(clean, adverse, score)
