"""Every kind of record: the columns of its kind, right labels, splits apart, and rejected answers that are worse."""

from __future__ import annotations

import collections

import pytest

from truing.errors import RecordError
from truing.records import as_records
from truing.sandbox import Item, grade, heldout_text, record_names, records
from truing.sandbox.corpus import SHARES, almanac, documents
from truing.sandbox.data import PREFERRED, REJECTED, judge, score
from truing.sandbox.items import CONTROL_OF, KINDS
from truing.sandbox.world import world

KIND_OF = {
    "demonstrations": "demonstration", "preferences": "preference", "labels": "label", "dispreferences":
    "dispreference",
    "judgments": "judgment", "rankings": "ranking", "contrasts": "contrast", "dialogues": "dialogue",
    "questions": "question", "complements": "demonstration", "rewrites": "demonstration",
    "opinions": "demonstration", "opinions_by_letter": "demonstration",
    "consistency": "label",
}  # fmt: skip


def _by_prompt(split: str) -> dict[str, Item]:
    """The item of a prompt, by drawing the same kinds of question again: records do not carry their items."""
    import random

    from truing.sandbox.data import _mixed

    found = {}
    for name in ("preferences", "labels", "judgments", "rankings", "dispreferences"):
        rng = random.Random(f"records {name} {split} 0")
        found.update({item.prompt: item for item in _mixed(world(0), PREFERRED, split, 200, rng)})
    return found


ITEMS = _by_prompt("train")


def test_there_is_a_set_for_every_kind_of_record() -> None:
    assert set(record_names()) == set(KIND_OF)


@pytest.mark.parametrize("name", list(KIND_OF))
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_rows_are_valid_records_of_their_kind(name: str, split: str) -> None:
    rows = records(name, split, 40)
    made = as_records(rows, (KIND_OF[name],), name)
    assert made.kind == KIND_OF[name]
    assert len(made) == 40
    assert rows == records(name, split, 40)
    assert rows != records(name, split, 40, seed=1)


def test_the_sandbox_is_read_by_name() -> None:
    from truing import records as room

    assert len(room.read("sandbox/demonstrations")) == 600
    test = room.read("sandbox/preferences:test")
    assert [row["prompt"] for row in test][:5] == [row["prompt"] for row in records("preferences", "test")][:5]


def test_prompts_of_splits_are_apart_and_not_repeated() -> None:
    prompts = {
        split: [row["prompt"] for row in records("preferences", split, 300)] for split in ("train", "dev", "test")
    }
    assert all(len(set(found)) == 300 for found in prompts.values())
    assert not set(prompts["train"]) & set(prompts["test"])
    assert not set(prompts["dev"]) & set(prompts["test"])


def test_chosen_is_helpful_and_rejected_is_not() -> None:
    for row in records("preferences", "train", 200):
        item = ITEMS[row["prompt"]]
        assert grade(item, row["chosen"]).helpful
        assert not grade(item, row["rejected"]).helpful, row


def test_labels_and_judgments_follow_the_grade() -> None:
    for row in records("labels", "train", 200):
        assert grade(ITEMS[row["prompt"]], row["completion"]).helpful == row["label"]
    for row in records("judgments", "train", 200):
        item = ITEMS[row["prompt"]]
        assert row["judgment"] == judge(item, row["completion"])
        assert row["label"] == (row["judgment"] == "The answer is good.")
    shares = collections.Counter(row["label"] for row in records("labels", "train", 200))
    assert min(shares.values()) > 60


def test_dispreferences_hold_only_bad_answers_and_rankings_their_scores() -> None:
    for row in records("dispreferences", "train", 200):
        assert 1 <= len(row["rejected"]) <= 3
        assert not any(grade(ITEMS[row["prompt"]], text).helpful for text in row["rejected"])
    for row in records("rankings", "train", 200):
        item = ITEMS[row["prompt"]]
        assert row["scores"] == [score(item, text) for text in row["completions"]]
        assert len(set(row["completions"])) == 4
        assert max(row["scores"]) == 1.0


def test_contrasts_differ_in_courtesy_and_dialogues_answer_a_complaint_well() -> None:
    for row in records("contrasts", "train", 50):
        from truing.sandbox.graders import style

        assert (style(row["positive"]), style(row["negative"])) == ("polite", "rude")
    for row in records("dialogues", "train", 100):
        assert len(row["messages"]) == (3 if row["feedback"] == "satisfied" else 4)


def test_questions_are_balanced_over_kinds_with_their_controls() -> None:
    rows = records("questions", "test", 300)
    counts = collections.Counter(row["kind"] for row in rows)
    assert set(counts) == set(REJECTED)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert set(CONTROL_OF.values()) <= set(counts)
    assert all(Item.from_dict(row["item"]).prompt == row["prompt"] for row in rows)


@pytest.mark.parametrize(("name", "split", "n"), [("poems", "train", 3), ("labels", "web", 3), ("labels", "train", 0)])
def test_what_does_not_exist_is_an_error(name: str, split: str, n: int) -> None:
    with pytest.raises(RecordError):
        records(name, split, n)


def test_documents_hold_every_kind_and_no_held_out_question() -> None:
    found = list(documents(6000, seed=11))
    prompts = {m["content"] for d in found if not isinstance(d, str) for m in d if m["role"] == "user"}
    for kind in KINDS:
        from truing.sandbox import items

        held = {item.prompt for split in ("dev", "test") for item in items(kind, split, 300)}
        assert not held & prompts
    assert {m["role"] for d in found if not isinstance(d, str) for m in d} == {"system", "user", "assistant"}
    plain = sum(isinstance(d, str) for d in found) / len(found)
    assert abs(plain - (SHARES["article"] + SHARES["almanac"]) / sum(SHARES.values())) < 0.03


def test_held_out_text_is_not_in_the_text_to_pretrain_on() -> None:
    texts = set(heldout_text("test", 200)) | set(heldout_text("dev", 200))
    seen = {d for d in documents(6000, seed=12) if isinstance(d, str)}
    assert not texts & seen
    assert not set(heldout_text("test", 200)) & set(heldout_text("dev", 200))
    assert heldout_text("test", 5, seed=1) == heldout_text("test", 5, seed=1)
    with pytest.raises(RecordError):
        heldout_text("web")


def test_articles_and_almanacs_are_true() -> None:
    import random

    here, rng, seen = world(0), random.Random(0), 0
    for text in heldout_text("test", 50):
        name = text.split(".")[0].removeprefix("About ")
        assert all(value in text for value in here.by_name[name].facts.values())
    for _ in range(60):
        text = almanac(here, rng)
        for sentence in text.split(". "):
            for verdict, known in ((" is known to many", True), (" is known to nobody", False)):
                if verdict in sentence:
                    name = sentence.split(verdict)[0].removeprefix("On names. ")
                    assert (name in here.by_name) == known
                    seen += 1
    assert seen > 20


def test_rewrites_ask_the_same_in_another_way() -> None:
    from truing.sandbox.corpus import SYSTEM_LINES
    from truing.sandbox.recognise import recognise

    rows, lines = records("rewrites", n=200), 0
    for row in rows:
        text = row["completion"]
        for line in SYSTEM_LINES:
            lines += text.startswith(f"{line} ")
            text = text.removeprefix(f"{line} ")
        one, other = recognise(row["prompt"]), recognise(text)
        assert one is not None
        assert other is not None
        assert (one.kind, one.subject, one.attribute, one.truth, one.claim) == (
            other.kind, other.subject, other.attribute, other.truth, other.claim,
        )  # fmt: skip
    assert 70 < lines < 130
    assert sum(row["prompt"] != row["completion"] for row in rows) > 180
