"""The page on the command line names every command, and every line in it can be typed."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Truing
from tests.cli.test_basics import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def typed() -> list[list[str]]:
    lines = re.findall(r"^\$ (.*\btruing .*)$", PAGE.read_text(encoding="utf-8"), re.M)
    return [shlex.split(line.split("truing ", 1)[1].split(" > ")[0]) for line in lines]


def test_every_command_is_shown() -> None:
    shown = typed()
    for command in COMMANDS:
        assert any(words[: len(command)] == command for words in shown), command


@pytest.mark.parametrize("words", typed(), ids=" ".join)
def test_every_option_on_the_page_exists(truing: Truing, words: list[str]) -> None:
    depth = 2 if words[0] in ("records", "sandbox", "audit") else 1
    known = truing(*words[:depth], "--help").out
    settings: set[str] = set()
    if words[0] in ("align", "measure"):
        from truing.catalogue import find

        cls = find(words[1], "method" if words[0] == "align" else "measure").load()
        for field in dataclasses.fields(cls):
            settings |= {f"--{field.name.replace('_', '-')}", f"--no-{field.name.replace('_', '-')}"}
    for word in words[depth:]:
        if word.startswith("-") and word not in ("-", "--bta"):
            option = word.split("=")[0]
            assert option in settings or re.search(rf"(^|[\s,]){option}\b", known), option


def test_the_lists_on_the_page_run(truing: Truing) -> None:
    for words in typed():
        if words[0] in ("methods", "recipes", "papers") or words[:2] in (
            ["sandbox", "show"],
            ["sandbox", "sample"],
            ["records", "show"],
        ):
            done = truing(*words)
            assert done.code == 0, done.err
            assert done.out
