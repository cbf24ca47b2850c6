"""The forms of the trade-off: closed forms, bounds, fits that recover what made the data, and the best strength."""

import math

import numpy as np
import pytest

from truing.errors import SettingsError
from truing.measures import tradeoff_curves as forms
from truing.measures.substring_rules import agree_or_refuse, choice_letter

R = np.linspace(-5, 5, 41)


@pytest.mark.parametrize(("a", "b0"), [(0.9, -1.2), (0.3, 0.5), (2.5, 0.0), (-0.6, 0.4)])
def test_the_fit_of_behaviour_recovers_its_form(a, b0):
    found = forms.fit_alignment(R, forms.alignment_curve(R, a, b0))
    assert found == (pytest.approx(a, abs=1e-6), pytest.approx(b0, abs=1e-6))


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize(("a", "b"), [(0.6, 0.8), (0.05, 0.3), (3.0, 2.0), (1.0, 0.02)])
def test_the_fit_of_ability_recovers_its_form(a, b, four):
    found = forms.fit_helpfulness(R, forms.helpfulness_curve(R, a, b, four), four)
    assert found == (pytest.approx(a, rel=1e-5), pytest.approx(b, rel=1e-4))


def test_many_curves_are_fitted_at_once():
    a, b = np.array([[0.2, 0.5], [1.0, 2.0]]), np.array([[0.3, 0.6], [0.9, 1.2]])
    found = forms.fit_helpfulness(R, forms.helpfulness_curve(R, a, b))
    np.testing.assert_allclose(found[0], a, rtol=1e-5)
    np.testing.assert_allclose(found[1], b, rtol=1e-4)
    rises = forms.fit_alignment(R, forms.alignment_curve(R, a, b))
    np.testing.assert_allclose(rises[0], a, rtol=1e-5)


def test_flat_and_noisy_curves_are_fitted_within_reason():
    a, b = forms.fit_helpfulness(R, np.full_like(R, 0.5))
    assert a == pytest.approx(1, abs=1e-3)
    assert 0 <= b < 1e-2
    noise = np.random.default_rng(0).normal(0, 0.02, len(R))
    a, b = forms.fit_helpfulness(R, forms.helpfulness_curve(R, 0.6, 0.8) + noise)
    assert (a, b) == (pytest.approx(0.6, abs=0.05), pytest.approx(0.8, abs=0.08))


def test_two_tokens_on_the_direction_follow_the_tanh_exactly():
    found = forms.last_layer_steering(
        np.array([[1.0], [-1.0], [0.0]]), np.array([0.3]), np.array([1.0]), [0], [1], 2, R
    )
    start = math.tanh(0.3)
    np.testing.assert_allclose(found["behaviour"], np.tanh(R + math.atanh(start)), atol=1e-12)
    np.testing.assert_allclose(found["behaviour"], found["bound"], atol=1e-12)


def test_the_bound_holds_for_random_last_layers_and_ability_falls_quadratically():
    rng = np.random.default_rng(1)
    exponents = []
    for _ in range(20):
        direction = rng.normal(size=8)
        rows = rng.normal(size=(40, 8))
        rows[0:2] += direction
        rows[2:4] -= direction
        found = forms.last_layer_steering(rows, rng.normal(size=8) / 4, direction, [0, 1], [2, 3], 4, R)
        if found["gap"] > 0:
            assert (found["behaviour"][R >= 0] >= found["bound"][R >= 0] - 1e-12).all()
        assert len(found["shift"]) == 39
        # Balanced: every wrong token's shift has its opposite.
        shifts = rng.normal(size=30)
        odds = np.exp(np.multiply.outer(R, np.concatenate([shifts, -shifts]))).mean(1)
        exponents.append(forms.loss_exponent(R[np.abs(R) <= 0.5], (1 / (1 + 0.5 * odds))[np.abs(R) <= 0.5]))
    assert np.mean(exponents) == pytest.approx(2, abs=0.1)


def test_slope_of_behaviour_at_0_is_that_of_the_line():
    a, b0 = 0.4, -0.6
    near = R[np.abs(R) <= 0.5]
    slope = forms.line_through(near, forms.alignment_curve(near, a, b0))
    assert slope == pytest.approx(a * (1 - math.tanh(b0) ** 2), rel=0.01)
    quadratic = forms.line_through(near, 1 - 3 * near**2, 2)
    assert quadratic == pytest.approx(-3)


def test_gaussian_projections():
    exact, bound = forms.gaussian_helpfulness(0.8, [0.0, 1.0], 0.6)
    assert exact == pytest.approx([0.8, 0.769643], abs=1e-6)
    assert bound == pytest.approx([0.8, 0.772201], abs=1e-6)
    many = np.random.default_rng(0).normal(0, 0.6, 400_000)
    assert 0.8 / (0.8 + 0.2 * np.exp(many).mean()) == pytest.approx(exact[1], abs=2e-3)
    with pytest.raises(SettingsError, match="p0"):
        forms.gaussian_helpfulness(0.0, [1.0], 1.0)


def test_the_best_strength_is_reached_without_losing_more_on_the_way():
    r = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    behaviour = np.array([-0.9, -0.5, 0.0, 0.4, 0.7, 0.9])
    ability = np.array([0.1, 0.79, 0.8, 0.79, 0.5, 0.8])
    assert forms.best_strength(r, behaviour, ability, 0.02) == 1.0
    assert forms.best_strength(r, behaviour, ability, 0.5) == 3.0
    assert forms.best_strength(r, -behaviour, ability, 0.02) == -1.0
    assert forms.best_strength(r, behaviour, ability, 1e-6) == 0.0
    turned = forms.best_strength(r[::-1], behaviour[::-1], ability[::-1], 0.02)
    assert turned == 1.0
    both = forms.best_strength(r, np.stack([behaviour, -behaviour]), np.stack([ability, ability]), 0.02)
    assert both.tolist() == [1.0, -1.0]


def test_what_cannot_be_fitted():
    for fit in (forms.fit_alignment, forms.fit_helpfulness):
        with pytest.raises(SettingsError, match="two strengths"):
            fit([1.0, -1.0], np.array([0.5, 0.5]))
        with pytest.raises(SettingsError, match="one value for each"):
            fit([1.0, 2.0], np.array([0.5]))
    with pytest.raises(SettingsError, match="3 strengths"):
        forms.line_through([0.0, 1.0], np.zeros(2))
    with pytest.raises(SettingsError, match="two pairs"):
        forms.loss_exponent([0.0, 1.0, 2.0], np.ones(3))
    assert math.isnan(forms.loss_exponent(R, np.ones_like(R)))


@pytest.mark.parametrize(
    ("answer", "chat", "raw"),
    [("Yes, I agree.", -1, -1), ("No.", 1, 1), ("Sure, no.", -1, 1), ("Perhaps", -1, 1), ("YES", -1, -1),
     ("Yes and No", -1, 1), ('I can "not" say', 1, 1)],
)  # fmt: skip
def test_substring_rules(answer, chat, raw):
    assert (agree_or_refuse(answer, "chat"), agree_or_refuse(answer, "raw")) == (chat, raw)
    assert agree_or_refuse("No", refuses=5) == 5
    with pytest.raises(SettingsError, match="rule is"):
        agree_or_refuse(answer, "other")


def test_choice_letters():
    assert choice_letter(["▁The", "▁answer", "▁is", "▁C"]) == ("C", 3)
    assert choice_letter(["A", "▁B"]) == ("A", 0)
    assert choice_letter(["▁An", "ABC", "▁E"]) == ("NONE", -1)
