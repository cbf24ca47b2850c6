"""Look-ahead over many prompts at once: few are in flight, little is held, and answers are those of any other order."""

from __future__ import annotations

import gc

import pytest

from tests.methods.decoding.lookahead_parts import Bounded, model, noisy
from truing import DeAL, TransferQ
from truing.methods.decoding import lookahead, lookahead_tree
from truing.methods.decoding.lookahead_search import Searches
from truing.methods.decoding.lookahead_tree import Trees

MANY = [f"the {first} {second} sat" for first in "abcdef" for second in ("cat", "red bird", "stone", "mat of course")]
HOW = {"max_new_tokens": 6}

METHODS = {
    "one model": lambda: DeAL(reward=Bounded(noisy), k=3, lookahead=4, weight=3.0).align(model()),
    "beam": lambda: DeAL(reward=noisy, k=2, lookahead=3, weight=3.0, beam=2).align(model()),
    "segments": lambda: DeAL(reward=noisy, k=3, lookahead=3, mode="segment").align(model()),
    "two models": lambda: TransferQ(reward=noisy, rollout=model("opt", 7), alpha=0.3, k=3, lookahead=4).align(model()),
}


class Watch:
    """The most that was in flight at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flights = self.read = self.held = self.enters = 0
        self.trees: list[Trees] = []
        read, enter, run = Searches._read, Trees.enter, Searches.run

        def reading(searches, asks):
            self.flights = max(self.flights, len(searches.asks))
            read(searches, asks)
            self.held = max(self.held, *(sum(len(rows.batch) for rows in each._held_rows) for each in searches.trees))

        def entering(trees, prompts):
            self.enters += 1
            enter(trees, prompts)

        def running(searches):
            found = run(searches)
            self.trees += searches.trees
            gc.collect()
            assert not any(len(trees._held_rows) for trees in searches.trees)
            return found

        monkeypatch.setattr(Searches, "_read", reading)
        monkeypatch.setattr(Searches, "run", running)
        monkeypatch.setattr(Trees, "enter", entering)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_is_in_flight_does_not_grow_with_the_prompts(method, temperature, monkeypatch):
    if temperature and method in ("beam", "segments"):
        pytest.skip("draws nothing")
    how = {**HOW, "temperature": temperature, "seed": 3}
    aligned = METHODS[method]()
    expected = aligned.generate(MANY, **how)
    alone = [aligned.generate([prompt], **how)[0] for prompt in MANY[:4]]
    rule = aligned.modifiers[-1].rule()
    monkeypatch.setattr(lookahead_tree, "HELD", 16)
    held = []
    for count in (8, len(MANY)):
        with monkeypatch.context() as patch:
            watch = Watch(patch)
            slots = max(len(aligned.encode_prompt(prompt)) for prompt in MANY[:count]) + 6 + rule.lookahead
            patch.setattr(lookahead, "TOKENS", 4 * rule.width * slots)  # four searches
            found = aligned.generate(MANY[:count], **how)
        assert watch.flights == 4
        assert watch.enters >= count / 4
        held.append(watch.held)
        assert [one.tokens for one in found] == [one.tokens for one in expected][:count]
        for one, other in zip(found, expected):
            # None where the last token was certain without a look ahead.
            if None not in (one.trace["score"], other.trace["score"]):
                assert one.trace["score"] == pytest.approx(other.trace["score"], abs=1e-4)
    assert held[1] <= 1.5 * held[0]
    assert [one.tokens for one in alone] == [one.tokens for one in expected][:4]


def test_a_batch_size_bounds_the_searches(monkeypatch):
    aligned = METHODS["one model"]()
    expected = aligned.generate(MANY, **HOW)
    watch = Watch(monkeypatch)
    found = aligned.generate(MANY, batch_size=7, **HOW)
    assert watch.flights == 2  # three rows each
    assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_searches_that_fit_enter_at_once(monkeypatch):
    watch = Watch(monkeypatch)
    METHODS["one model"]().generate(MANY, **HOW)
    assert (watch.enters, watch.flights) == (1, len(MANY))
