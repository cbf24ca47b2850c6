from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from truing.cli.text import as_json, one_line, printable, styled


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("\x1b[2Jhi\n\tthere\r\x7f\x9b31m") == "\\x1b[2Jhi\n\tthere\\x0d\\x7f\\x9b31m"


@pytest.mark.parametrize("mark", ["\u202e", "\u2066", "\u200f", "\u2028", "\ud800"])
def test_what_turns_or_breaks_a_line_is_shown(mark: str) -> None:
    shown = printable(f"a{mark}b")
    assert shown == f"a\\u{ord(mark):04x}b"
    shown.encode()


def test_text_of_people_is_left_alone() -> None:
    text = "naïve café, Ελλάδα, 日本語, עברית, 👩‍👩‍👧, a\tb"
    assert printable(text) == text


def test_one_line_is_cut() -> None:
    assert one_line("a\n\n b  c\x07") == "a b c\\x07"
    assert one_line("abcdefgh", 5) == "abcd…"


def test_json_is_json_and_safe() -> None:
    value = {"a": [float("nan"), 1.5, float("inf")], "b": "é\x9b\x1b\u202e\ud800\n"}
    text = as_json(value)
    text.encode()
    assert not set(text) & {"\x9b", "\x1b", "\u202e", "\ud800"}
    assert json.loads(text) == {"a": [None, 1.5, None], "b": value["b"]}


def test_what_looks_like_markup_is_text() -> None:
    file = io.StringIO()
    Console(file=file, width=60).print(styled("[red]a[/red] [link=x]b :smile: [/]"))
    assert file.getvalue() == "[red]a[/red] [link=x]b :smile: [/]\n"
