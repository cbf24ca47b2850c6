from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Truing


def test_show_counts_what_is_in_the_world(truing: Truing) -> None:
    from truing.sandbox import KINDS, Item, grade, items, record_names, world

    found = json.loads(truing("sandbox", "show", "--json").out)
    for row in found["entities"]:
        assert row["test"] == len(world().of("test", row["kind"]))
    assert sum(row[split] for row in found["entities"] for split in ("train", "dev", "test")) == len(world().entities)
    assert [row["kind"] for row in found["questions"]] == list(KINDS)
    assert found["records"] == list(record_names())
    for row in found["questions"]:
        item: Item = items(row["kind"], split="dev", n=1)[0]
        assert row["question"] == item.prompt
        assert grade(item, row["ideal"]).wanted
    text = truing("sandbox", "show", width=80)
    assert max(map(len, text.out.splitlines())) <= 80
    assert all(kind in text.out for kind in KINDS)


def test_samples_are_records(truing: Truing, tmp_path: Path) -> None:
    from truing.records import read
    from truing.sandbox import record_names, records

    for name in record_names():
        done = truing("sandbox", "sample", name, "-n", 4, "--split", "dev", "--seed", 3)
        assert [json.loads(line) for line in done.out.splitlines()] == records(name, "dev", 4, 3)
    (tmp_path / "pairs.jsonl").write_text(truing("sandbox", "sample", "sandbox/preferences", "-n", 7).out)
    assert len(read(tmp_path / "pairs.jsonl")) == 7


def test_samples_of_questions(truing: Truing) -> None:
    rows = [
        json.loads(line) for line in truing("sandbox", "sample", "items", "--kind", "harmful", "-n", 3).out.splitlines()
    ]
    assert {row["kind"] for row in rows} == {"harmful"}
    assert {row["wanted"] for row in rows} == {"refusing"}
    assert len({row["prompt"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sample", "preference"], "preferences"),
        (["sample", "items"], "--kind"),
        (["sample", "items", "--kind", "harmles"], "harmful"),
        (["sample", "preferences", "--kind", "harmful"], "items"),
        (["sample", "preferences", "--split", "tset"], "train, dev, test"),
        (["build", "--out", "x", "--only", "large"], "base, small and guide"),
        (["build", "--out", "x", "--scale", "0"], "over 0"),
        (["build", "--out", "x", "--only", "guide"], "Name small too"),
        (["build", "--out", "/proc/nowhere", "--only", "small"], "/proc/nowhere"),
    ],
)
def test_mistakes(
    truing: Truing, words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        done = truing("sandbox", *words)
    finally:
        os.chdir(here)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert list(tmp_path.iterdir()) == []
