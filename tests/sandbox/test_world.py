"""The world, its templates and items: splits are apart, controls are there, nothing is given away by spelling."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from truing.errors import RecordError
from truing.sandbox import KINDS, Item, items, world
from truing.sandbox.items import CONTROL_OF
from truing.sandbox.templates import BODIES, FAMILY, UNALIGNED, templates
from truing.sandbox.world import UNKNOWABLE, UNKNOWABLE_SPLITS

SPLITS = ("train", "dev", "test")


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    world.cache_clear()
    first = world(0)
    world.cache_clear()
    again = world(0)
    assert first == again
    assert {e.name for e in first.entities} != {e.name for e in world(1).entities}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_names_are_unique_and_unknown_names_of_splits_are_apart(seed: int) -> None:
    here = world(seed)
    known = [entity.name for entity in here.entities]
    assert len(set(known)) == len(known)
    for pools in here.unknown.values():
        assert set(pools) == {"web", *SPLITS}
        apart = [name for split in SPLITS for name in pools[split]]
        assert len(set(apart)) == len(apart)
        assert set(pools["web"]) == set(apart)
        assert not set(apart) & set(known)
        assert all(len(pool) >= 6 for pool in pools.values())


@pytest.mark.parametrize("seed", [0, 1])
def test_known_and_unknown_names_share_their_first_words_and_no_second_word(seed: int) -> None:
    here = world(seed)
    for kind, pools in here.unknown.items():
        known = [entity.name.rsplit(" ", 1) for entity in here.of("web", kind)]
        unknown = [name.rsplit(" ", 1) for name in pools["web"]]
        lefts = {left for left, _ in known}, {left for left, _ in unknown}
        assert len(lefts[0] & lefts[1]) >= 0.75 * len(lefts[0] | lefts[1])
        rights = [right for _, right in (*known, *unknown)]
        assert len(set(rights)) == len(rights)


def test_facts_and_stock_answers_are_values_of_their_attribute() -> None:
    here = world(0)
    for entity in here.entities:
        assert set(entity.facts) == set(here.values[entity.kind])
        assert all(value in here.values[entity.kind][name] for name, value in entity.facts.items())
    for kind, stock in here.stock.items():
        assert all(value in here.values[kind][name] for name, value in stock.items())
    names = [name for attributes in here.values.values() for name in attributes] + list(UNKNOWABLE)
    assert len(set(names)) == len(names)


def test_procedures_of_splits_are_apart_and_complete() -> None:
    for kind, pools in world(0).pairs.items():
        every = [pair for split in SPLITS for pair in pools[split]]
        assert len(set(every)) == len(every) == (288 if kind == "borderline" else 144)


@pytest.mark.parametrize("family", list(BODIES))
def test_templates_of_splits_are_apart_and_share_their_parts(family: str) -> None:
    train, dev, test = (set(templates(family, split)) for split in SPLITS)
    web = set(templates(family, "web"))
    assert (len(train), len(dev), len(test)) == (12, 6, 6)
    assert train <= web
    assert not web & (dev | test)
    assert not dev & test
    assert not {t.opening for t in train} & set(UNALIGNED)
    for found in (dev, test):
        assert sum(t.forum for t in found) == 2
        assert sum(t.opening in UNALIGNED for t in found) == 1
        assert {t.opening for t in found} <= {t.opening for t in web}
    assert sum(t.forum for t in train) == 4


def test_items_of_splits_share_neither_prompts_nor_subjects() -> None:
    for kind in KINDS:
        found = {split: items(kind, split, 150, seed=3) for split in SPLITS}
        prompts = [item.prompt for split in SPLITS for item in found[split]]
        assert len(set(prompts)) == len(prompts)
        assert all(item.split == split for split in SPLITS for item in found[split])
        if FAMILY[kind] in ("fact", "premise", "context"):
            subjects = [{item.subject for item in found[split]} for split in SPLITS]
            assert not subjects[0] & subjects[1] | subjects[0] & subjects[2] | subjects[1] & subjects[2]
        if FAMILY[kind] == "procedure":
            pairs = [{(item.attribute, item.subject) for item in found[split]} for split in SPLITS]
            assert not pairs[0] & pairs[1] | pairs[0] & pairs[2] | pairs[1] & pairs[2]
        if kind == "unknowable":
            assert all(UNKNOWABLE_SPLITS[item.attribute] == split for split in SPLITS for item in found[split])


def test_items_tell_the_truth_of_the_world() -> None:
    here = world(0)
    for item in items("fact", "test", 100) + items("premise_true", "test", 50) + items("premise_false", "test", 50):
        assert here.by_name[item.subject].facts[item.attribute] == item.truth
    assert all(item.claim == item.truth for item in items("premise_true", "test", 50))
    assert all(item.claim != item.truth for item in items("premise_false", "test", 50))
    assert all(item.subject not in here.by_name for item in items("unknown", "test", 100))
    assert all(f"of {item.subject} is {item.truth}." in item.prompt for item in items("context", "test", 50))
    assert all(f"The {item.attribute} of" not in item.claim for item in items("unanswerable", "test", 50))


def test_every_restraint_has_a_control_that_exists() -> None:
    assert set(CONTROL_OF) == {"unknown", "unknowable", "premise_false", "unanswerable", "harmful"}
    assert set(CONTROL_OF.values()) <= set(KINDS)
    for kind, control in CONTROL_OF.items():
        assert FAMILY[kind] == FAMILY[control]
        assert items(kind, "dev", 1)[0].control == control


def test_items_are_sampled_by_seed_and_are_different() -> None:
    first = items("harmful", "test", 120, seed=5)
    assert first == items("harmful", "test", 120, seed=5)
    assert first != items("harmful", "test", 120, seed=6)
    assert len({item.prompt for item in first}) == 120
    assert len(items("opinion", "dev", 10_000)) < 10_000  # the world is small, and the sampler ends
    assert items("fact", "dev", 0) == []


def test_items_travel_as_json() -> None:
    for kind in KINDS:
        for item in items(kind, "dev", 5):
            assert Item.from_dict(json.loads(json.dumps(item.to_dict()))) == item
    for bad in (None, {}, {**item.to_dict(), "kind": "riddle"}, {**item.to_dict(), "truth": 3}):
        with pytest.raises(RecordError):
            Item.from_dict(bad)


@pytest.mark.parametrize(("kind", "split", "n"), [("riddle", "test", 3), ("fact", "all", 3), ("fact", "test", -1)])
def test_what_does_not_exist_is_an_error(kind: str, split: str, n: int) -> None:
    with pytest.raises(RecordError):
        items(kind, split, n)


def test_importing_and_sampling_loads_nothing_heavy() -> None:
    code = (
        "import sys; from truing import sandbox; sandbox.records('questions', n=20); sandbox.checkpoint;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'datasets', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
