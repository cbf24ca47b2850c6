"""One of several options: order, letters, probabilities and writing."""

from __future__ import annotations

import pytest

from tests.measures.models import Scripted, small
from truing.errors import UnsupportedError
from truing.measures.asking import Context
from truing.measures.choosing import Choice, choose
from truing.models.types import Sampling

ASKED = [Choice(f"q{at}", "Which?", ("red", "green", "blue")) for at in range(12)]


def test_the_order_follows_from_seed_and_key() -> None:
    orders = {tuple(one.order(0)) for one in ASKED}
    assert len(orders) > 2
    assert ASKED[0].order(3) == ASKED[0].order(3)
    assert Choice("q", "?", ("a", "b"), fixed=True).order(5) == [0, 1]
    assert ASKED[0].listed(0)[-1]["content"].startswith("Which?\nA) ")


def test_written_choices_are_kept_by_content() -> None:
    def answer(prompt: object) -> str:
        text = prompt[-1]["content"]  # type: ignore[index]
        return next(line[0] for line in text.splitlines() if line.endswith(") blue")) + ")"

    found, _ = choose(Scripted(answer), ASKED, Sampling(), Context("t"))
    assert {one.place for one in found} == {2}
    assert len({one.letter for one in found}) > 1
    lost, _ = choose(Scripted(lambda prompt: "any of them"), ASKED, Sampling(), Context("t"))
    assert {one.place for one in lost} == {None}


def test_probabilities_are_in_the_order_given() -> None:
    model = small()
    shown, _ = choose(model, ASKED, Sampling(), Context("t"))
    for one in shown:
        assert one.probabilities is not None
        assert sum(one.probabilities) == pytest.approx(1)
        assert one.place == max(range(3), key=one.probabilities.__getitem__)
    unseen = [
        Choice("a", "Which?", ("red", "green"), shown=False),
        Choice("b", "Which?", ("green", "red"), shown=False),
    ]
    (first, second), _ = choose(model, unseen, Sampling(), Context("t"))
    assert first.probabilities is not None
    assert first.probabilities == pytest.approx(second.probabilities[::-1])  # type: ignore[index]


def test_other_letters() -> None:
    asked = [Choice("q", "کدام؟", ("سرخ", "سبز"), fixed=True, letters=("الف", "ب"))]
    assert "\nالف) سرخ\nب) سبز\n" in asked[0].listed(0)[-1]["content"]
    found, _ = choose(Scripted(lambda prompt: "ب"), asked, Sampling(), Context("t"))
    assert found[0].place == 1


def test_probabilities_of_a_model_that_has_none() -> None:
    with pytest.raises(UnsupportedError, match="logits"):
        choose(Scripted(lambda prompt: "A"), ASKED, Sampling(), Context("t"), reading="probabilities")
    assert choose(Scripted(lambda prompt: "A"), [], Sampling(), Context("t")) == ([], [])
