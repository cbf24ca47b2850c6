from __future__ import annotations

import dataclasses

import pytest

from truing.sandbox import KINDS, items, records
from truing.sandbox.recognise import LONGEST, recognise


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_question_gives_its_item_back(kind: str, split: str) -> None:
    asked = items(kind, split, 150, seed=11)
    assert len(asked) > 5
    assert [recognise(item.prompt) for item in asked] == asked


@pytest.mark.parametrize("kind", KINDS)
def test_text_to_pretrain_on_is_recognised_too(kind: str) -> None:
    for item in items(kind, "web", 150, seed=3):
        found = recognise(item.prompt)
        assert found is not None
        # The web shares its train templates with the train split.
        assert found.split in ("web", "train")
        assert dataclasses.replace(found, split="web") == item


@pytest.mark.parametrize("name", ["preferences", "demonstrations", "contrasts", "questions"])
def test_prompts_of_records_are_recognised(name: str) -> None:
    assert all(recognise(row["prompt"]) for row in records(name, "dev", 60, seed=2))


def test_what_the_sandbox_does_not_ask_is_none() -> None:
    good = items("fact", "test", 1)[0].prompt
    assert recognise(good) is not None
    changed = [good + " ", good.lower() if good != good.lower() else good.upper(), good[:-1], "", " ", "\n" + good]
    for text in (*changed, "What is the capital of France?", "{attribute}", "Thanks.", good + good):
        assert recognise(text) is None, text


def test_long_text_is_refused_at_once() -> None:
    longest = max(len(item.prompt) for kind in KINDS for item in items(kind, "web", 300, seed=5))
    assert longest < 200 < LONGEST
    assert recognise("is it right that the " + "a of b is " * 20_000 + "?") is None


def test_a_claim_is_judged_against_the_truth() -> None:
    false, true = items("premise_false", "test", 40), items("premise_true", "test", 40)
    for item in false:
        corrected = recognise(item.prompt.replace(f" is {item.claim}", f" is {item.truth}"))
        assert corrected is not None
        assert (corrected.kind, corrected.truth) == ("premise_true", item.truth)
    assert all(item.claim == item.truth for item in true)


def test_another_world_has_other_truths() -> None:
    item = items("fact", "test", 1, world_seed=1)[0]
    assert recognise(item.prompt, world_seed=1) == item
    assert recognise(item.prompt) != item
