"""The figures that a measure's class names are those that it gives."""

from __future__ import annotations

import pytest

from truing import KL, Keyword, Perplexity, PreferenceAccuracy, WinRate, load
from truing.measures.hhh import HHH
from truing.measures.side_effects import Capability, Diversity, Length, OverRefusal

MADE = [
    HHH(limit=10), OverRefusal(limit=8), Capability(limit=6), Length(limit=6), Diversity(limit=6), KL(limit=4),
    Perplexity(limit=4), PreferenceAccuracy(limit=6, reward=Keyword(words=["sorry"])),
    WinRate(limit=6, judge=Keyword(words=["sorry"])),
]  # fmt: skip


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_named_figures_are_those_measured(made) -> None:
    found = made.measure(load("sandbox/small"), load("sandbox/base"))
    assert set(found.figures) <= set(made.gives)
    assert set(made.gives) - set(found.figures) <= ASKED_FOR


ASKED_FOR = {"first_place", "length_controlled", "length_effect", "win_rate_corrected", "win_rate_judge_error"}
"""Figures of a win rate that need a setting, or a judge that sees both orders."""
