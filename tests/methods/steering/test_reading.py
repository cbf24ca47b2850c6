"""Reading vectors: what each recovers, signs, orders, the probe, and states without a direction."""

import math

import pytest
import torch

from truing.errors import SettingsError
from truing.methods.steering import reading
from truing.methods.steering.reading import Probe, pca_center, pca_differences, probe_scores, reading_vector


def shifted(pairs=40, width=12, noise=0.4, seed=0):
    """States that share a topic within a pair and are parted by 2 along the first unit."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randn(pairs, 1, width, generator=generator)
    states = topic + noise * torch.randn(pairs, 2, width, generator=generator)
    states[:, 0, 0] += 1
    states[:, 1, 0] -= 1
    return states


def along(vector):
    return float(vector[0] / vector.norm())


def test_every_default_method_finds_the_shift_and_centred_pca_of_one_order_loses_it():
    states = shifted()
    for method in reading.METHODS:
        assert along(reading_vector(states, method)) > (0.8 if method == "probe" else 0.95), method
    assert along(pca_differences(states, "alternating")) > 0.9
    assert abs(along(pca_differences(states, "same"))) < 0.6


def test_mean_difference_has_its_own_length_and_the_others_have_1():
    states = shifted()
    assert torch.equal(reading_vector(states, "mean"), (states[:, 0].double() - states[:, 1].double()).mean(0).float())
    for method in ("pca_center", "pca", "probe"):
        assert reading_vector(states, method).norm() == pytest.approx(1, abs=1e-6)


def test_swapped_sides_turn_the_sign():
    states = shifted()
    for method in reading.METHODS:
        found, turned = reading_vector(states, method), reading_vector(states.flip(1), method)
        torch.testing.assert_close(found, -turned, rtol=0, atol=1e-5)


def test_pca_about_the_middle_is_uncentred_pca_of_differences_and_their_negatives():
    states = shifted()
    differences = (states[:, 0] - states[:, 1]).double()
    found = torch.linalg.svd(torch.cat([differences, -differences]), full_matrices=False).Vh[0].float()
    torch.testing.assert_close(pca_center(states).abs(), found.abs(), rtol=0, atol=1e-5)


def test_the_shuffled_order_follows_the_seed():
    states = shifted(9, noise=1.5)
    assert torch.equal(pca_differences(states, seed=3), pca_differences(states, seed=3))
    assert any(not torch.equal(pca_differences(states, seed=3), pca_differences(states, seed=at)) for at in range(5))


def test_a_probe_is_the_optimum_of_its_loss():
    states = shifted(10, 3)
    probe = Probe(states, penalty=0.5)
    inputs = (states.double().flatten(0, 1) - probe.mean) / probe.spread
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(10)
    pull = signs * torch.sigmoid(-signs * (inputs @ probe.weights + probe.bias))
    torch.testing.assert_close(inputs.T @ pull, 0.5 * probe.weights, rtol=0, atol=1e-4)
    assert float(pull.sum()) == pytest.approx(0, abs=1e-4)


def test_probes_tell_the_layer_that_holds_the_difference():
    generator = torch.Generator().manual_seed(1)
    layers = torch.stack([torch.randn(40, 2, 12, generator=generator), shifted()], 2)
    empty, full = probe_scores(layers, 0.25, seed=0)
    assert full[0] > 0.8 > empty[0]
    assert full[1] < math.log(2)
    assert reading.best_by_probe([empty, full]) == 1
    assert reading.best_by_probe([(1.0, 0.3), (1.0, 0.1), (1.0, 0.1)]) == 1
    learn, test = reading.held_out(40, 0.25, 0)
    assert sorted([*learn, *test]) == list(range(40))
    assert len(test) == 10


def test_a_tie_of_signs_leaves_the_largest_entry_above_0():
    states = torch.tensor([[[2.0, 0.1], [0.0, 0.0]], [[-2.0, -0.1], [0.0, 0.0]]])
    assert pca_center(states)[0] > 0


@pytest.mark.parametrize(
    ("states", "method", "message"),
    [
        (torch.ones(3, 2, 4), "mean", "no direction"),
        (torch.ones(3, 4), "mean", "shape"),
        (torch.ones(0, 2, 4), "mean", "at least one pair"),
        (torch.full((2, 2, 4), math.inf), "mean", "not finite"),
        (torch.tensor([[[1.0], [0.0]]]), "pca", "at least 2 pairs"),
        (torch.ones(3, 2, 4), "lda", "method is one of"),
    ],
)
def test_states_without_a_direction(states, method, message):
    with pytest.raises(SettingsError, match=message):
        reading_vector(states, method)
    with pytest.raises(SettingsError, match="order is one of"):
        pca_differences(shifted(), "random")
