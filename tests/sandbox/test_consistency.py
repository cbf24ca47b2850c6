"""Claims about notes, and pairs of reports: what is said to be true of them is."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from truing import sandbox
from truing.measures import radfact_rule as rule
from truing.sandbox.corpus import statement
from truing.sandbox.reports import reports
from truing.sandbox.world import world

FORMS = [
    re.compile("^" + re.escape(statement("ATTRIBUTE", "NAME", "VALUE", form)).replace("ATTRIBUTE", "(?P<a>.+?)")
               .replace("NAME", "(?P<n>.+?)").replace("VALUE", "(?P<v>.+?)") + "$")
    for form in range(4)
]  # fmt: skip


def facts(text: str) -> list[tuple[str, str, str]]:
    """(name, attribute, value) of each sentence, read from its words alone."""
    out = []
    for sentence in re.split(r"(?<=\.) ", text):
        found = next(match for form in FORMS[1:] + FORMS[:1] if (match := form.match(sentence)))
        out.append((found["n"], found["a"], found["v"]))
    return out


def test_verdicts_are_what_the_words_say() -> None:
    rows = sandbox.records("consistency", "train", 400)
    assert set(Counter(row["verdict"] for row in rows)) == {"aligned", "neutral", "contradicted"}
    assert {row["head"] for row in rows} == {"nli", "bin", "reg"}
    for row in rows:
        known = {(name, attribute): value for name, attribute, value in facts(row["prompt"])}
        found = []
        for name, attribute, value in facts(row["completion"]):
            held = known.get((name, attribute))
            found.append("neutral" if held is None else "aligned" if held == value else "contradicted")
        assert found == row["verdicts"]
        assert row["support"] == found.count("aligned") / len(found)
        assert row["label"] == (row["support"] == 1)
        assert row["verdict"] == next((v for v in ("contradicted", "neutral") if v in found), "aligned")


def test_no_name_of_one_split_is_in_another() -> None:
    here = world(0)
    names = {
        split: {one.name for one in here.of(split)}.union(*(kind[split] for kind in here.unknown.values()))
        for split in ("train", "test")
    }
    for split in ("train", "test"):
        for row in sandbox.records("consistency", split, 100):
            assert {name for name, _, _ in facts(row["prompt"])} <= names[split]
    assert not names["train"] & names["test"]


def test_reports_hold_what_was_planted() -> None:
    rows = reports("test", 40)
    assert reports("test", 40) == rows
    assert reports("test", 40, seed=1) != rows
    for row in rows:
        texts: dict[str, Any] = {
            side: [facts(one["text"])[0] for one in row[side]] for side in ("candidate", "reference")
        }
        for side, other in (("candidate", "reference"), ("reference", "candidate")):
            for phrase, fact in zip(row[side], texts[side]):
                assert phrase["entailed"] == (fact in texts[other])
                assert all(texts[other][at] == fact for at in phrase["evidence"])
        assert len(row["candidate"]) == len(row["reference"]) - row["planted"]["left out"]
    assert all(sum(row["planted"][kind] for row in rows) > 5 for kind in ("right", "wrong", "made up", "left out"))


def test_boxes_that_were_hardly_moved_are_covered() -> None:
    moved = [
        rule.box_metrics(one["boxes"], row["reference"][one["evidence"][0]]["boxes"])["precision"]
        for row in reports("test", 80)
        for one in row["candidate"]
        if one["entailed"] and one["boxes"] and row["reference"][one["evidence"][0]]["boxes"]
    ]
    share = sum(value > 0.5 for value in moved) / len(moved)
    assert 0.6 < share < 0.95
