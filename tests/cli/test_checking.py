"""``truing check``: exit codes, what is printed and written, and the workflow file."""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Truing
from tests.measures.results import first, outcome, result
from tests.runs.recipes import write


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """180 of 200 right, against 100 of 200."""
    result(outcome(first(0.9, 200)), "tuned", ("base", outcome(first(0.5, 200)))).save(tmp_path / "exam.json")
    return tmp_path / "exam.json"


@pytest.mark.parametrize(
    ("conditions", "code", "counted"),
    [
        (['right: ">= 0.8"', "right: better than base by 0.2"], 0, "2 passed"),
        (['right: ">= 0.95"', 'right: ">= 0.8"'], 1, "1 failed, 1 passed"),
        (['right: ">= 0.88"', 'right: ">= 0.8"'], 2, "1 not enough data, 1 passed"),
        (['right: ">= 0.95"', 'right: ">= 0.88"'], 1, "1 failed, 1 not enough data"),
        (['right: ">= 95"'], 2, "1 not measured"),
        (["exam.right: [better than base, not worse than base by 0.1]"], 0, "2 passed"),
    ],
)
def test_exit_codes(truing: Truing, exam: Path, conditions: list[str], code: int, counted: str) -> None:
    words = [word for condition in conditions for word in ("--require", condition)]
    done = truing("check", exam, *words)
    assert done.code == code, done.err
    assert f"exam: {counted}." in done.out
    value = json.loads(truing("check", exam, *words, "--json").out)
    assert value["exit_code"] == code
    assert len(value["checks"]) == sum(map(int, re.findall(r"\d+", counted)))


@pytest.mark.parametrize("width", [60, 140])
def test_what_failed_and_by_how_much(truing: Truing, exam: Path, width: int) -> None:
    done = truing("check", exam, "--require", 'right: [">= 0.95", ">= 0.88", "< 0.8"]', width=width)
    words = " ".join(done.out.split())
    assert "misses by 5.0 pp, at least 1.2 pp" in words
    assert re.search(r"about [\d,]+ items would decide, 200 were measured", words)
    assert max(map(len, done.out.splitlines())) <= width


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "Name a run folder"),
        (["exam.json"], "Nothing is required"),
        (["none"], "no run folder and no result"),
        ([".", "--require", 'right: "> 0"'], "is no run folder"),
        (["exam.json", "--require", 'rihgt: "> 0"'], "Did you mean `right`"),
        (["exam.json", "--require", "right: soon"], "no condition"),
        (["exam.json", "--require", "right: >= 0.9"], "in quotes"),
        (["exam.json", "--require", "right"], "maps figures to conditions"),
        (["exam.json", "--require", "right: better than guide"], "compares with base"),
        (["exam.json", "--require", 'right: "> 0"', "--junit", "."], "is a folder"),
        (["exam.json", "--workflow"], "Give it without RUN"),
    ],
)
def test_mistakes(truing: Truing, exam: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str) -> None:
    monkeypatch.chdir(exam.parent)
    done = truing("check", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


def test_a_real_recipe_end_to_end(truing: Truing, tmp_path: Path) -> None:
    recipe = write(
        tmp_path, steps=[{"system_message": {"text": "Answer briefly."}}], side_effects=False,
        require={"length": "< 1000", "helpful": ">= 0"}, measures=[{"hhh": {"limit": 8}}, "length"],
    )  # fmt: skip
    out, report = tmp_path / "out", tmp_path / "deep" / "gate.xml"
    done = truing("run", recipe, "--out", out, width=120)
    assert done.code == 0, done.err
    assert re.search(r"passed +length < 1000", done.out)
    done = truing("check", out, "--junit", report)
    assert (done.code, done.err) == (0, "")
    assert "2 passed." in done.out
    assert ElementTree.parse(report).getroot().get("failures") == "0"
    before = (out / "measures" / "length.json").stat().st_mtime_ns
    done = truing("check", out, "--require", "length: < 0.5", "--require", "hhh: {honest: '> 1'}", "--junit", report)
    assert done.code == 1
    assert "misses by" in done.out
    assert ElementTree.parse(report).getroot().get("failures") == "2"
    assert (out / "measures" / "length.json").stat().st_mtime_ns == before
    # Conditions of the command line are not those of the run.
    assert truing("check", out).code == 0


def test_the_workflow_file_is_yaml_whose_commands_can_be_typed(truing: Truing) -> None:
    import typer

    from truing.cli.app import app

    done = truing("check", "--workflow")
    assert done.code == 0
    # YAML 1.1 reads the key `on` as true.
    flow = yaml.safe_load(done.out)
    assert set(flow[True]) == {"pull_request", "workflow_dispatch"}
    assert flow["permissions"] == {"contents": "read"}
    steps = flow["jobs"]["gate"]["steps"]
    commands = [shlex.split(line) for step in steps for line in step.get("run", "").splitlines()]
    ours = [words[1:] for words in commands if words[0] == "truing"]
    assert [words[0] for words in ours] == ["run", "check"]
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parsed = [known[words[0]].make_context(words[0], words[1:]).params for words in ours]
    assert parsed[0]["out"] == parsed[1]["run"]
    assert str(parsed[1]["junit"]) in steps[-1]["with"]["path"]
    assert all("uses" in step or "run" in step for step in steps)
    assert "cancelled" in steps[-1]["if"]


def test_a_measure_that_stands_there_twice_says_which_is_which(truing: Truing, tmp_path: Path) -> None:
    rows = [{"before": "wrong", "after": "idk"}, {"before": "correct", "after": "correct"}] * 4
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    twice = [{"honesty": {"labels": str(tmp_path / "labels.jsonl"), "limit": limit}} for limit in (8, 4)]
    recipe = {"measures": twice, "require": {"honesty-2.prudence": "> 0.1"}}
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump(recipe))
    done = truing("run", tmp_path / "twice.yaml", "--out", tmp_path / "run", width=140)
    assert done.code == 0, done.err
    for words in ("honesty: prudence", "honesty-2: prudence", "honesty: limit 8.", "honesty-2: limit 4."):
        assert words in done.out
    assert "honesty-2: Over-conservativeness is over 2 questions" in done.out
    assert "honesty-2: limit 4." in truing("check", tmp_path / "run", width=140).out
    report = (tmp_path / "run" / "report.html").read_text()
    assert "honesty-2: prudence" in report
    assert "honesty-2: limit 4." in report
    asked = truing("check", tmp_path / "run", "--require", 'prudence: "> 0"')
    assert "Say which: `honesty.prudence` or `honesty-2.prudence`" in asked.err
