from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.records.rows import EXAMPLES
from truing.errors import RecordError
from truing.records.kinds import KINDS, RowError, candidates, normalise, recognise


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_recognised_and_normalising_changes_nothing(kind: str) -> None:
    row = EXAMPLES[kind]
    among = [kind]
    assert recognise(row, among) == kind
    assert normalise(row, kind) == row
    assert normalise(normalise(row, kind), kind) == row


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_required_column_is_missed_by_name(kind: str) -> None:
    for column in KINDS[kind].required:
        row = {name: value for name, value in EXAMPLES[kind].items() if name != column}
        if kind == "preference" and column == "prompt":
            continue  # an implicit prompt: tested below
        with pytest.raises(RowError) as caught:
            normalise(row, kind)
        assert caught.value.column == column


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_column_refuses_another_type_and_shows_it(kind: str) -> None:
    for column in KINDS[kind].required:
        with pytest.raises(RowError, match=r"12345\.75") as caught:
            normalise({**EXAMPLES[kind], column: {"odd": 12345.75}}, kind)
        assert column in caught.value.column


def test_more_specific_kinds_win_and_messages_alone_are_ambiguous() -> None:
    assert candidates(["prompt", "completion", "label", "judgment"]) == ["judgment"]
    assert candidates(["prompt", "completion", "label"]) == ["label"]
    assert candidates(["prompt", "chosen", "rejected"]) == ["preference"]
    assert candidates(["prompt", "rejected"]) == ["dispreference"]
    assert set(candidates(["messages"])) == {"dialogue", "demonstration"}
    with pytest.raises(RecordError, match="kind="):
        recognise(["messages"])
    assert recognise(["messages"], among=["demonstration"]) == "demonstration"
    with pytest.raises(RecordError, match="no kind of record has the columns `a`"):
        recognise(["a"])


def test_implicit_prompts_become_explicit() -> None:
    user = {"role": "user", "content": "Hi"}
    chosen = [user, {"role": "assistant", "content": "Hello"}]
    rejected = [user, {"role": "assistant", "content": "No"}]
    assert normalise({"chosen": chosen, "rejected": rejected}, "preference") == {
        "prompt": [user],
        "chosen": "Hello",
        "rejected": "No",
    }
    texts = normalise({"chosen": "The sky is blue.", "rejected": "The sky is black."}, "preference")
    assert texts == {"prompt": "The sky is", "chosen": " blue.", "rejected": " black."}
    with pytest.raises(RowError, match="two different beginnings"):
        normalise({"chosen": "Yes", "rejected": "No"}, "preference")


def test_a_conversation_becomes_prompt_and_completion() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    last = {"role": "assistant", "content": "d"}
    assert normalise({"messages": [*turns, last]}, "demonstration") == {"prompt": turns, "completion": "d"}
    with pytest.raises(RowError, match="ends with the assistant"):
        normalise({"messages": turns}, "demonstration")


def test_parts_are_checked_and_kept() -> None:
    parts = [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "What is it?"}]
    row = {"prompt": [{"role": "user", "content": parts}], "completion": "A cat."}
    assert normalise(row, "demonstration") == row
    row["prompt"][0]["content"] = [{"type": "smell"}]
    with pytest.raises(RowError) as caught:
        normalise(row, "demonstration")
    assert caught.value.column == "prompt[0].content[0]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (2**63, "64 bits"),
        (10**60, "64 bits"),
        ("\ud800", "UTF-8"),
        ({1: 2}, "keys"),
        (b"raw", "plain JSON"),
        (object(), "plain JSON"),
    ],
)
def test_values_that_no_file_can_hold_are_refused_in_metadata_too(value: object, expected: str) -> None:
    for extra in (value, [value], {"inside": value}):
        with pytest.raises(RowError, match=expected) as caught:
            normalise({**EXAMPLES["label"], "extra": extra}, "label")
        assert caught.value.column == "extra"
        str(caught.value).encode("utf-8")


def test_a_column_name_that_arrow_would_cut_is_refused() -> None:
    with pytest.raises(RowError, match="null characters"):
        normalise({**EXAMPLES["preference"], "\0note": 1}, "preference")


def test_deep_nesting_is_refused() -> None:
    nested: list = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(RowError, match="levels of nesting"):
        normalise({**EXAMPLES["label"], "extra": nested}, "label")


def test_numpy_values_become_plain_and_nulls_are_absent() -> None:
    row = normalise({**EXAMPLES["label"], "label": np.bool_(True), "ids": np.arange(2), "none": None}, "label")
    assert row["label"] is True
    assert row["ids"] == [0, 1]
    assert "none" not in row


def test_scores_must_match_completions() -> None:
    with pytest.raises(RowError, match="one score for each of 2"):
        normalise({**EXAMPLES["ranking"], "scores": [1]}, "ranking")


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, truing.records; print(sorted({'datasets','pandas','pyarrow','numpy','torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
