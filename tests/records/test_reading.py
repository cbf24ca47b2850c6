from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tests.records.rows import EXAMPLES
from truing import progress
from truing.errors import RecordError
from truing.records import KINDS, Records, RowError, as_records, read, stream, write
from truing.records.reading import from_rows

SUFFIXES = ["jsonl", "json", "csv", "parquet", "jsonl.gz", "json.gz", "csv.gz", "parquet.gz"]
GOOD = EXAMPLES["preference"]


def lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_survives_every_format(kind: str, suffix: str, tmp_path: Path) -> None:
    row = EXAMPLES[kind]
    mixed = {**row, "prompt": [{"role": "user", "content": "a"}]} if "prompt" in row else row
    records = from_rows([row, {**mixed, "note": [1, {"deep": "x"}]}, {**row, "note": "1"}], kind)
    again = read(write(records, tmp_path / f"rows.{suffix}"), kind)
    assert list(again) == list(records)
    assert again.fingerprint == records.fingerprint
    assert list(tmp_path.iterdir()) == [tmp_path / f"rows.{suffix}"]


def test_fingerprint_follows_content_and_order() -> None:
    a, b = EXAMPLES["demonstration"], {"prompt": "x", "completion": "y"}
    one = from_rows([a, b])
    assert one.fingerprint == from_rows([dict(reversed(a.items())), b]).fingerprint
    assert one.fingerprint != from_rows([b, a]).fingerprint
    assert one.fingerprint != from_rows([a, {**b, "completion": "z"}]).fingerprint


@pytest.mark.parametrize(
    ("bad", "column", "found"),
    [
        ({**GOOD, "rejected": 7}, "rejected", "found 7"),
        ('{"prompt": "a", "chosen": "b", "rejected": NaN}', "rejected", "found nan"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "rejected": "d"}', "", "twice"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "margin": ' + "9" * 5000 + "}", "margin", "5000 digits"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1e999}', "margin", "found inf"),
        ('{"prompt": "a"', "", "Expecting"),
        ("[" * 100000, "", "nested too deeply"),
        ("[1, 2]", "", r"\[1, 2\]"),
        ("null", "", "found None"),
        ({"prompt": "a", "chosen": "b"}, "rejected", "only 'prompt', 'chosen'"),
    ],
)
def test_a_bad_row_names_file_line_column_and_what_was_found(
    bad: object, column: str, found: str, tmp_path: Path
) -> None:
    path = lines(tmp_path / "pairs.jsonl", GOOD, "", bad, GOOD)
    with pytest.raises(RowError, match=found) as caught:
        read(path)
    assert caught.value.place == f"{path}, line 3"
    assert caught.value.column == column
    assert len(str(caught.value)) < 400


def test_bad_bytes_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff\xfe", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(RowError, match="line 2, column `prompt`: expected text in UTF-8"):
        read(path)


def test_bad_rows_are_set_aside_whole_counted_and_said(tmp_path: Path) -> None:
    broken, wrong = '{"prompt": "a', {**GOOD, "chosen": None, "id": 9}
    path = lines(tmp_path / "pairs.jsonl", broken, GOOD, wrong, GOOD)
    said: list[str] = []

    class Listener(progress.SilentListener):
        def say(self, text: str) -> None:
            said.append(text)

    with progress.listening(Listener()):
        records = read(path, on_error="set_aside")
    assert len(records) == 2
    assert records.set_aside == 2
    aside = [json.loads(line) for line in (tmp_path / "pairs.jsonl.set-aside.jsonl").read_text().splitlines()]
    assert [row["text"] for row in aside] == [broken, json.dumps(wrong)]
    assert aside[1]["place"].endswith("line 3")
    assert "2 bad rows set aside" in said[0]
    assert list(stream(path, on_error="set_aside")) == list(records)
    with pytest.raises(RecordError, match="all 1 rows are bad"):
        read(lines(tmp_path / "all.jsonl", wrong), "preference", on_error="set_aside")


def test_a_broken_row_at_the_top_does_not_decide_the_format(tmp_path: Path) -> None:
    pair = {side: f"\n\nHuman: Hi\n\nAssistant: {side}" for side in ("chosen", "rejected")}
    path = lines(tmp_path / "hh.jsonl", {"chosen": "Yes no", "rejected": "Yes so"}, pair, pair)
    records = read(path, on_error="set_aside")
    assert (len(records), records.set_aside) == (2, 1)
    assert records[0] == {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "chosen", "rejected": "rejected"}


def test_files_that_cannot_be_read_as_a_whole(tmp_path: Path) -> None:
    whole = gzip.compress((json.dumps(EXAMPLES["demonstration"]) + "\n").encode() * 2000)
    cases = {
        "cut.jsonl.gz": (whole[: len(whole) // 2], "damaged or cut off"),
        "not.jsonl.gz": (b"plain text", "damaged or cut off"),
        "empty.jsonl": (b"", "no row"),
        "bom.jsonl": (b"\xef\xbb\xbf", "no row"),
        "empty.json": (b" ", "no row"),
        "none.json": (b"[]", "no row"),
        "head.csv": (b"prompt,completion\n", "no row"),
        "twice.csv": (b"prompt,prompt\na,b\n", "each once"),
        "wide.json": ('{"prompt": ["a"], "completion": []}'.encode("utf-16"), "UTF-16"),
        "uneven.json": (b'{"prompt": ["a"], "completion": []}', "lists of one length"),
        "word.json": (b'"word"', "a list of objects"),
        "bad.json": (b"{", "expected JSON"),
        "bad.parquet": (b"PAR1 no", "expected a Parquet file"),
        "notes.txt": (b"hello", r"\.jsonl"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordError, match=message):
            read(tmp_path / name, "demonstration")
    with pytest.raises(RecordError, match="no file or folder"):
        read(tmp_path / "absent.jsonl")


def test_forms_that_people_write(tmp_path: Path) -> None:
    rows = [{"prompt": "é\u2028", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    texts = {
        "bom.jsonl": "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "array.json": json.dumps(rows),
        "columns.json": json.dumps(columns),
        "data.json": json.dumps({"data": rows, "version": 1}),
        "lines.json": "\n".join(json.dumps(row) for row in rows),
        "bom.csv": "\ufeffprompt,completion\né\u2028,b\nc,d\n",
    }
    for name, content in texts.items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        assert list(read(tmp_path / name)) == rows, name


def test_csv_cells(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        'prompt,completion,label,score,tags\n42,"[1, 2]",True,0.5,"[""a""]"\n'
        '"[{""role"": ""user"", ""content"": ""x""}]",,false,,007\n'
    )
    assert list(read(path)) == [
        {"prompt": "42", "completion": "[1, 2]", "label": True, "score": 0.5, "tags": ["a"]},
        {"prompt": [{"role": "user", "content": "x"}], "completion": "", "label": False, "tags": "007"},
    ]
    path.write_text("prompt,completion\na,b\nc\n")
    with pytest.raises(RowError, match="line 3: expected 2 cells"):
        read(path)


def test_csv_refuses_text_that_would_read_back_as_messages(tmp_path: Path) -> None:
    tricky = from_rows([{"prompt": '[{"role": "user", "content": "x"}]', "completion": "b"}])
    with pytest.raises(RecordError, match="row 1, column `prompt`: a CSV cell cannot hold"):
        write(tricky, tmp_path / "rows.csv")
    assert not list(tmp_path.iterdir())
    assert list(read(write(tricky, tmp_path / "rows.jsonl"))) == list(tricky)


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    lines(folder / "b.jsonl", EXAMPLES["label"])
    write(from_rows([{**EXAMPLES["label"], "prompt": "first"}]), folder / "a.parquet")
    (folder / "README.md").write_text("about")
    assert [row["prompt"] for row in read(folder)] == ["first", "Hi"]
    datasets.Dataset.from_list([EXAMPLES["label"]]).save_to_disk(tmp_path / "saved")
    assert list(read(tmp_path / "saved")) == [EXAMPLES["label"]]
    (tmp_path / "none").mkdir()
    with pytest.raises(RecordError, match="holds no file"):
        read(tmp_path / "none")


def test_a_hub_name_without_a_connection_is_one_message(tmp_path: Path) -> None:
    code = (
        "from truing.records import read\nfrom truing.errors import RecordError\n"
        "try:\n    read('nobody/nothing-here')\nexcept RecordError as error:\n    print('OK', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": ""},
        timeout=100,
    )
    assert done.stdout.startswith("OK There is no file nobody/nothing-here"), done.stderr


def test_as_records_accepts_what_users_have_and_refuses_other_kinds(tmp_path: Path) -> None:
    row = EXAMPLES["preference"]
    path = lines(tmp_path / "pairs.jsonl", row)
    sources = [from_rows([row]), [row], datasets.Dataset.from_list([row]), path, str(path)]
    assert len({as_records(source, kinds=["preference"]).fingerprint for source in sources}) == 1
    with pytest.raises(RecordError, match="DPO works on preference records, and rows in memory holds label records"):
        as_records([EXAMPLES["label"]], kinds=("preference",), what="DPO")
    for odd in ({"prompt": "a"}, 5, None, "absent.jsonl", "a\0b"):
        with pytest.raises(RecordError):
            as_records(odd, kinds=("preference",), what="DPO")
    with pytest.raises(RecordError, match="no row"):
        as_records([], kinds=("preference",))


def test_select_split_and_index() -> None:
    records = from_rows([{"prompt": f"p{at}", "completion": "c"} for at in range(10)])
    rest, test = records.split(0.3, seed=1)
    assert (len(rest), len(test)) == (7, 3)
    assert {row["prompt"] for row in rest}.isdisjoint(row["prompt"] for row in test)
    assert records.split(0.3, seed=1)[1].fingerprint == test.fingerprint != records.split(0.3, seed=2)[1].fingerprint
    assert len(records.split(4)[1]) == 4
    assert [row["prompt"] for row in records.select([3, 1])] == ["p3", "p1"]
    assert records[-1]["prompt"] == "p9"
    with pytest.raises(IndexError):
        records[10]
    for call in (lambda: records.split(10), lambda: records.split(0.0), lambda: records.select([10])):
        with pytest.raises(RecordError):
            call()
    assert isinstance(rest, Records)


def test_columns_that_change_type_after_many_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "id": at} for at in range(5000)]
    rows += [{"prompt": [{"role": "user", "content": "p"}], "completion": "c", "id": "last", "late": True}]
    records = from_rows(rows)
    assert list(records) == rows
    assert list(read(write(records, tmp_path / "x.parquet"))) == rows


def test_stream_holds_one_row_at_a_time(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", *[EXAMPLES["label"]] * 3, "broken")
    rows = stream(path)
    assert [next(rows) for _ in range(3)] == [EXAMPLES["label"]] * 3
    with pytest.raises(RowError, match="line 4"):
        next(rows)


def test_prompts_alone_are_questions_for_who_wants_no_more(tmp_path) -> None:
    from truing.records import as_records

    rows = [{"prompt": "a", "id": 1}, {"prompt": [{"role": "user", "content": "b"}], "id": 2}]
    found = as_records(rows, ("question", "demonstration"), "a test")
    assert found.kind == "question"
    assert [row["answers"] for row in found] == [[], []]
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b", "answers": ["c"]}\n')
    assert [row["answers"] for row in as_records(file, ("question",), "a test")] == [[], ["c"]]
    for kinds in (("preference",), ()):
        with pytest.raises(RecordError, match="no kind of record has the columns `prompt`"):
            as_records([{"prompt": "a"}], kinds, "a test")
    with pytest.raises(RecordError, match="no kind of record has the columns `prompt`, `chosen`"):
        as_records([{"prompt": "a", "chosen": "b"}], ("question",), "a test")
    with pytest.raises(RecordError, match=r"row 2.*prompt"):
        as_records([{"prompt": "a"}, {"prompt": 3}], ("question",), "a test")
    with pytest.raises(RecordError, match="row 2"):
        as_records([{"prompt": "a"}, "b"], ("question",), "a test")
