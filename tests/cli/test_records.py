from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Truing

GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({**GOOD, "prompt": f"question {n}"}) + "\n" for n in range(5)))
    return file


def spoil(file: Path) -> None:
    with file.open("a") as stream:
        stream.write(json.dumps({**GOOD, "chosen": 5}) + "\n")


def test_check(truing: Truing, pairs: Path) -> None:
    done = truing("records", "check", pairs)
    assert (done.code, done.err) == (0, "")
    assert "5 preference records" in done.out
    spoil(pairs)
    bad = truing("records", "check", pairs)
    assert bad.code == 2
    assert "1 bad rows" in bad.out
    assert "line 6" in bad.out
    found = json.loads(truing("records", "check", pairs, "--json").out)
    assert (found["kind"], found["rows"], found["bad"]) == ("preference", 5, 1)


def test_check_says_what_it_cannot_read(truing: Truing, tmp_path: Path) -> None:
    done = truing("records", "check", tmp_path / "none.jsonl")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: There is no file")
    wrong = truing("records", "check", tmp_path, "--kind", "preferenc")
    assert wrong.code == 2


def test_convert(truing: Truing, pairs: Path, tmp_path: Path) -> None:
    from truing.records import read

    done = truing("records", "convert", pairs, tmp_path / "pairs.parquet")
    assert done.code == 0
    assert "5 preference records" in done.out
    assert list(read(tmp_path / "pairs.parquet")) == list(read(pairs))
    spoil(pairs)
    refused = truing("records", "convert", pairs, tmp_path / "bad.jsonl")
    assert refused.code == 2
    assert "line 6" in refused.err
    assert not (tmp_path / "bad.jsonl").exists()
    aside = truing("records", "convert", pairs, tmp_path / "good.jsonl", "--on-error", "set-aside", "--to", "trl")
    assert aside.code == 0
    assert "1 bad rows set aside" in aside.out
    first = json.loads((tmp_path / "good.jsonl").read_text().splitlines()[0])
    assert first["chosen"] == [{"role": "assistant", "content": "b"}]
    assert json.loads((tmp_path / "good.jsonl.set-aside.jsonl").read_text())["place"].endswith("line 6")


def test_show_reads_no_more_than_it_prints(truing: Truing, tmp_path: Path) -> None:
    file = tmp_path / "huge.jsonl.gz"
    with gzip.open(file, "wt") as stream:
        for n in range(4):
            stream.write(json.dumps({**GOOD, "prompt": f"question {n}"}) + "\n")
        stream.write("this is no JSON\n")
    done = truing("records", "show", file, "--limit", 4)
    assert done.code == 0, done.err
    assert [line for line in done.out.splitlines() if line.startswith("prompt")] == [
        f"prompt    question {n}" for n in range(4)
    ]
    further = truing("records", "show", file, "--limit", 5)
    assert further.code == 2
    assert "line 5" in further.err
    assert "question 3" in further.out
    rows = truing("records", "show", file, "--json", "-n", 2).out.splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == ["question 0", "question 1"]


def test_show_makes_rows_readable(truing: Truing, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hello\nthere"}, {"role": "assistant", "content": "[red]Hi\x1b[2J"}]
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"prompt": turns, "chosen": "x" * 2000, "rejected": "no", "margin": 0.5}) + "\n")
    done = truing("records", "show", file)
    lines = done.out.splitlines()
    assert "prompt    user  Hello" in lines
    assert "          assistant  [red]Hi\\x1b[2J" in lines
    assert any(line.endswith("1,400 characters more") for line in lines)
    assert "margin    0.5" in lines
    whole = truing("records", "show", file, "--full")
    assert "x" * 2000 in whole.out


def test_show_of_the_sandbox(truing: Truing) -> None:
    done = truing("records", "show", "sandbox/rankings", "-n", 1)
    assert done.code == 0
    assert done.out.count("\n") == 7  # number, prompt, four completions, scores
