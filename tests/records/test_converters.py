from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records.rows import EXAMPLES, text, valid_rows
from tests.shared import DATA
from truing.errors import RecordError
from truing.records import RowError, check_file, convert_file, from_trl, read, to_trl
from truing.records.converters import apply, detect, find_format, from_hh, hh_turns
from truing.records.kinds import normalise
from truing.records.reading import from_rows

HH = DATA / "hh_rlhf/harmless_base.jsonl"


def dialogue(*turns: str) -> str:
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[at % 2]}: {said}" for at, said in enumerate(turns))


def test_hh_pairs() -> None:
    row, notes = from_hh(
        {"chosen": dialogue("a", "b", "c", "good"), "rejected": dialogue("a", "b", "c", "bad"), "id": 4}
    )
    assert row == {
        "prompt": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "chosen": "good",
        "rejected": "bad",
        "id": 4,
    }
    assert notes == []


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "responses", "note"),
    [
        (("a", "x", "c", "d"), ("a", "y", "e", "f"), 1, ("x", "y"), "cut at their first difference"),
        (("a", "x"), ("a", "y", "e", "f"), 1, ("x", "y"), "cut at their first difference"),
        (("a", ""), ("a", "y"), 1, ("", "y"), "empty response"),
        (("a", "y"), ("a", "y"), 1, ("y", "y"), "two responses are equal"),
    ],
)
def test_hh_odd_pairs_are_counted(chosen: tuple, rejected: tuple, prompt: int, responses: tuple, note: str) -> None:
    row, notes = from_hh({"chosen": dialogue(*chosen), "rejected": dialogue(*rejected)})
    assert (len(row["prompt"]), (row["chosen"], row["rejected"])) == (prompt, responses)
    assert len(notes) == 1
    assert note in notes[0]


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        (dialogue("a", "b", "c", "d"), dialogue("a", "b", "e", "f"), "first differ in what the assistant says"),
        (dialogue("a", "b"), dialogue("c", "d"), "begin with the same turn"),
        (dialogue("a", "b", "c"), dialogue("a", "b", "c"), "ends with the assistant"),
        (dialogue("a", "b"), "Just text", "begins with"),
        (dialogue("a", "b"), 5, "one text"),
    ],
)
def test_hh_pairs_that_cannot_be_compared(chosen: Any, rejected: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        apply(find_format("hh"), {"chosen": chosen, "rejected": rejected})


def test_hh_turns_of_one_speaker_become_one() -> None:
    assert hh_turns("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "chosen") == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "c"},
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "Human:", " ", "\n"]) | text, max_size=8).map("".join),
    text,
)
def test_any_dialogue_text_converts_or_is_a_row_error(chosen: str, tail: str) -> None:
    row = {"chosen": chosen, "rejected": chosen + tail}
    try:
        converted, _ = apply(find_format("hh"), row)
    except RowError:
        return
    assert normalise(converted, "preference")["prompt"]


def test_sharegpt() -> None:
    raw = {
        "id": "1",
        "system": "Be kind.",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
    }
    assert detect(raw) is find_format("sharegpt")
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert list(from_rows([raw])) == [{"prompt": prompt, "completion": "Hello", "id": "1"}]
    assert from_rows([raw], "dialogue")[0]["messages"] == [*prompt, {"role": "assistant", "content": "Hello"}]
    raw["conversations"].append({"from": "alien", "value": "?"})
    with pytest.raises(RowError, match=r"column `conversations\[2\].from`: expected one of human"):
        from_rows([raw])


def test_alpaca() -> None:
    raws = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
    ]
    rows = list(from_rows(raws))
    assert rows == [{"prompt": "Add.\n\n1 and 2", "completion": "3"}, {"prompt": "Greet.", "completion": "Hi"}]


def test_ultrafeedback() -> None:
    completions = [
        {"model": "a", "response": "one", "overall_score": 8.5, "fine-grained_score": 4.0},
        {"model": "b", "response": "two", "overall_score": None, "fine-grained_score": 3},
    ]
    raw = {"source": "s", "instruction": "Why?", "models": ["a", "b"], "completions": completions}
    records = from_rows([raw])
    assert records.kind == "ranking"
    assert records[0] == {
        "prompt": "Why?",
        "completions": ["one", "two"],
        "scores": [8.5, 3.0],
        "models": ["a", "b"],
        "source": "s",
    }
    del completions[1]["fine-grained_score"]
    with pytest.raises(RowError, match=r"completions\[1\].overall_score"):
        from_rows([raw])


def test_ultrafeedback_binarized() -> None:
    user = {"role": "user", "content": "Why?"}
    chosen, rejected = ([user, {"role": "assistant", "content": said}] for said in ("one", "two"))
    raw = {
        "prompt": "Why?",
        "prompt_id": "x",
        "chosen": chosen,
        "rejected": rejected,
        "messages": chosen,
        "score_chosen": 8.0,
        "score_rejected": 5.5,
    }
    records = from_rows([raw])
    assert (records.kind, len(records)) == ("preference", 1)
    assert records[0] == {
        "prompt": "Why?",
        "chosen": "one",
        "rejected": "two",
        "prompt_id": "x",
        "score_chosen": 8.0,
        "score_rejected": 5.5,
        "margin": 2.5,
    }
    raw["rejected"] = [{"role": "user", "content": "Who?"}, rejected[1]]
    with pytest.raises(RowError, match="same conversation"):
        from_rows([raw])


@pytest.mark.parametrize("kind", ["demonstration", "preference", "label", "dialogue", "question"])
def test_trl_round_trip_of_any_rows(kind: str) -> None:
    @settings(max_examples=25, deadline=None)
    @given(valid_rows(kind))
    def check(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row = normalise(row, kind)
            theirs = to_trl(row, kind)
            assert from_trl(theirs, kind) == row
            both = to_trl(row, kind, conversational=True)
            assert to_trl(from_trl(both, kind), kind, conversational=True) == both
            if kind != "dialogue":
                assert isinstance(both["prompt"], list)

    check()


def test_trl_takes_what_we_write() -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    row = to_trl(EXAMPLES["preference"], "preference", conversational=True)
    assert data_utils.is_conversational(row)
    implicit = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
    explicit = data_utils.extract_prompt(implicit)
    assert normalise(implicit, "preference") == normalise(explicit, "preference")
    with pytest.raises(RecordError, match="TRL has no format for ranking"):
        to_trl(EXAMPLES["ranking"], "ranking")


def test_check_file_counts_problems_duplicates_and_lengths(tmp_path: Path) -> None:
    good = {"prompt": "abc", "chosen": "xy", "rejected": "z"}
    rows = [good, good, {**good, "chosen": "z"}, {**good, "chosen": 1}, {**good, "chosen": 2}, {"prompt": "a"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    before = sorted(tmp_path.iterdir())
    report = check_file(path)
    assert (report.kind, report.rows, report.bad, report.ok) == ("preference", 3, 4, False)
    assert list(report.problems.values()) == [2, 1, 1]
    assert (report.duplicates, report.repeated_prompts) == (1, 2)
    assert report.columns == {"prompt": 3, "chosen": 3, "rejected": 3}
    assert report.notes == {"rows whose chosen and rejected are equal": 1}
    assert (report.lengths["chosen"].least, report.lengths["chosen"].most) == (1, 2)
    assert "line 4" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["rows"] == 3
    assert sorted(tmp_path.iterdir()) == before


def test_convert_file(tmp_path: Path) -> None:
    src = tmp_path / "hh.jsonl"
    pair = {"chosen": dialogue("a", "b"), "rejected": dialogue("a", "c")}
    src.write_text(json.dumps(pair) + "\n" + json.dumps({**pair, "rejected": dialogue("z", "c")}) + "\n")
    with pytest.raises(RowError, match="line 2"):
        convert_file(src, tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hh.jsonl"]
    done = convert_file(src, tmp_path / "out.parquet", on_error="set_aside")
    assert (done.kind, done.rows, done.set_aside) == ("preference", 1, 1)
    assert done.set_aside_path == tmp_path / "out.parquet.set-aside.jsonl"
    assert done.set_aside_path.exists()
    convert_file(tmp_path / "out.parquet", tmp_path / "trl.jsonl", to="trl")
    assert json.loads((tmp_path / "trl.jsonl").read_text())["chosen"] == [{"role": "assistant", "content": "b"}]
    assert list(read(tmp_path / "trl.jsonl")) == list(read(tmp_path / "out.parquet"))
    with pytest.raises(RecordError, match="is the file to read"):
        convert_file(src, src)
    with pytest.raises(RecordError, match="not to `xml`"):
        convert_file(src, tmp_path / "o.jsonl", to="xml")


@pytest.mark.real_data(HH)
def test_hh_rlhf_as_it_is_published() -> None:
    records = read(HH)
    assert (records.kind, len(records), records.set_aside) == ("preference", 1500, 0)
    assert records.notes["pairs with an empty response"] == 2
    raw = [json.loads(line) for line in HH.read_text(encoding="utf-8").splitlines()]
    for row, source in zip(records, raw, strict=True):
        assert row["prompt"][-1]["role"] == "user"
        for side in ("chosen", "rejected"):
            said = [turn["content"] for turn in row["prompt"]]
            assert "".join("".join([*said, row[side]]).split()) == "".join(
                source[side].replace("\n\nHuman:", "").replace("\n\nAssistant:", "").split()
            )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(name, message, marks=pytest.mark.real_data(DATA / name))
        for name, message in (
            ("beavertails/train_500.jsonl", "no kind of record has the columns"),
            ("gsm8k/problems.jsonl", "no kind of record"),
        )
    ],
)
def test_data_of_no_kind_says_what_is_missing(name: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read(DATA / name)
