from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import Truing

COMMANDS = [
    ["run"], ["recipes"], ["methods"], ["papers"], ["align"], ["measure"], ["score"], ["check"], ["generate"],
    ["chat"], ["compare"], ["coverage"], ["serve"], ["lm-eval"], ["doctor"], ["records", "check"],
    ["records", "convert"], ["records", "show"],
    ["sandbox", "build"], ["sandbox", "show"], ["sandbox", "sample"], ["audit", "manifest"], ["audit", "check"],
]  # fmt: skip


def in_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_version(truing: Truing) -> None:
    from truing import __version__

    assert truing("--version").out == f"truing {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_fits_80_columns(truing: Truing, command: list[str]) -> None:
    done = truing(*command, "--help", width=80)
    assert done.code == 0
    assert "Example" in done.out
    assert f"truing {' '.join(command)}" in done.out.split("Example")[1]
    assert max(map(len, done.out.splitlines())) <= 80


def test_every_command_is_in_the_list(truing: Truing) -> None:
    listed = truing("--help", width=80).out
    for command in COMMANDS:
        assert f"\n  {command[0]} " in listed
    assert "..." not in listed.split("Commands:")[1]  # a summary that was cut


def test_help_and_listing_import_nothing_heavy() -> None:
    code = f"""
import sys
from truing.cli import main
for words in [["--help"], ["methods"], ["papers"], ["recipes"]] + [c + ["--help"] for c in {COMMANDS!r}]:
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, words
    heavy = {{"torch", "numpy", "transformers", "datasets", "scipy", "matplotlib"}} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
    done = in_process(code)
    assert done.returncode == 0, done.stderr


def test_a_mistake_is_one_message_and_exit_code_two(truing: Truing) -> None:
    done = truing("run", "quickstrat")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert "quickstart" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nope"], "No such command 'nope'"),
        (["methods", "--knid", "measure"], "--kind"),
        (["generate", "hello"], "--model"),
        (["generate", "--model", "x", "hello", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["generate", "--model", "x", "hello", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["methods", "--kind", "weather"], "There is no kind `weather`"),
        (["papers", "--state", "done"], "works or planned"),
    ],
)
def test_a_word_that_is_not_understood(truing: Truing, words: list[str], expected: str) -> None:
    done = truing(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert expected in done.err


def test_debug_anywhere_shows_the_traceback_of_a_mistake(truing: Truing) -> None:
    for words in (["--debug", "run", "quickstrat"], ["run", "quickstrat", "--debug"]):
        done = truing(*words)
        assert done.code == 2
        assert "Traceback" in done.err


def test_debug_after_two_dashes_is_a_prompt(truing: Truing) -> None:
    done = truing("run", "--", "--debug")
    assert "There is no ready recipe `--debug`" in done.err
    assert "Traceback" not in done.err


def test_a_fault_of_truing_is_code_one() -> None:
    code = (
        "import truing.runs.library\nfrom truing.cli import main\n"
        "def broken():\n    raise ZeroDivisionError('\\x1b[2J')\n"
        "truing.runs.library.recipe_names = broken\nmain(['recipes'])"
    )
    done = in_process(code)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "--debug" in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("words", "goes_on"), [("['run', 'x']", True), ("['recipes']", False)])
def test_an_interrupt_says_how_to_go_on_where_that_is_so(words: str, goes_on: bool) -> None:
    code = (
        "import os, signal, time\nimport truing.runs, truing.runs.library\nfrom truing.cli import main\n"
        "def stop(*_, **__):\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(9)\n"
        f"truing.runs.library.recipe_names = stop\ntruing.runs.run = stop\nmain({words})"
    )
    done = in_process(code)
    assert done.returncode == 130
    assert done.stderr.startswith("Stopped.")
    assert ("goes on" in done.stderr) == goes_on


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m truing papers | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "1")


def test_lists_in_json(truing: Truing) -> None:
    rows = json.loads(truing("methods", "--json").out)
    assert {"name", "kind", "nature", "summary", "records", "papers", "home"} == set(rows[0])
    assert "dpo" in [row["name"] for row in rows]
    assert {row["kind"] for row in json.loads(truing("methods", "--kind", "all", "--json").out)} >= {
        "method",
        "measure",
    }
    papers = json.loads(truing("papers", "--json").out)
    assert [row["number"] for row in papers] == list(range(1, 60))
    working = json.loads(truing("papers", "--state", "works", "--json").out)
    assert working == [row for row in papers if row["state"] == "works"]
    recipes = json.loads(truing("recipes", "--json").out)
    assert recipes[0]["name"] == "quickstart"
    assert all(row["description"] for row in recipes)


@pytest.mark.parametrize("width", [80, 120])
def test_lists_fit_the_terminal_and_lose_nothing(truing: Truing, width: int) -> None:
    from truing.catalogue import entries

    done = truing("methods", width=width)
    assert max(map(len, done.out.splitlines())) <= width
    words = " ".join(done.out.split())
    for entry in entries("method"):
        assert entry.name in words
    narrow = truing("papers", width=width).out.splitlines()
    assert max(map(len, narrow)) <= width
    assert sum(line.lstrip()[:1].isdigit() for line in narrow) >= 59


def test_a_recipe_is_printed_as_it_is(truing: Truing) -> None:
    from truing.runs import find_recipe

    assert truing("recipes", "quickstart").out == find_recipe("quickstart")[1]


def test_doctor(truing: Truing) -> None:
    import torch

    found = json.loads(truing("doctor", "--json").out)
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["devices"][0]["name"] == "cpu"
    assert set(found["sandbox"]) == {"base", "small", "guide"}
    assert found["extras"]["rl"]["install"] == "pip install 'truing[rl]'"
    for line in truing("doctor", width=80).out.splitlines():
        assert len(line) <= 80


def test_doctor_names_what_an_extra_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    from truing.cli.doctor import extras

    wanted = ["absent-package>=1; extra == 'rl'", "numpy<1; extra == 'rl'", "numpy>=1; extra == 'docs'", "torch>=2"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    found = extras()
    assert found["rl"]["missing"][0] == "absent-package"
    assert found["rl"]["missing"][1].startswith("numpy<1")
    assert found["docs"]["missing"] == []
