"""Conversations as plain text: what no text can leave, what stays byte for byte, and what is cut off an answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from truing.errors import RecordError, SettingsError
from truing.methods.prompting import forms
from truing.methods.prompting.forms import as_text, without_last_fence
from truing.models import Model, RemoteModel
from truing.models.answers import Draft

ROLES = ("system", "user", "assistant")
TEXTS = st.text(alphabet="x `\n#Query:Asr~", min_size=1, max_size=60).filter(lambda text: bool(text.strip()))


def talk(*texts: str, system: str = "Be kind."):
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


def blocks(text: str) -> list[tuple[str, str]]:
    """What a reader of headings and fences finds: heading and content of each closed block."""
    found, lines, at = [], text.split("\n"), 0
    while at < len(lines):
        if lines[at] in forms.FENCED and at + 1 < len(lines) and re.fullmatch("`{3,}", lines[at + 1]):
            fence, start = lines[at + 1], at + 2
            end = next((n for n in range(start, len(lines)) if re.fullmatch(f"`{{{len(fence)},}}", lines[n])), None)
            if end is None:
                break
            found.append((lines[at], "\n".join(lines[start:end])))
            at = end
        at += 1
    return found


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_no_text_leaves_its_fence(texts) -> None:
    texts = texts[: len(texts) - 1 + len(texts) % 2]  # ends with a question
    found = blocks(as_text(talk(*texts), "fenced"))
    assert found == [(forms.FENCED[at % 2], text) for at, text in enumerate(texts)]


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_no_text_begins_a_heading_without_fences(texts) -> None:
    texts = [text.replace("Query", "User").replace("#", "# ") for text in texts]
    texts = texts[: len(texts) - 1 + len(texts) % 2]
    lines = as_text(talk(*texts), "headings").split("\n")
    assert [line for line in lines if line.startswith(forms.BARE)] == [
        forms.BARE[at % 2] for at in range(len(texts) + 1)
    ]


@pytest.mark.parametrize("style", ["fenced", "headings"])
def test_a_second_turn_begins_with_the_first_and_its_answer(style) -> None:
    for question in ("What is rain?", "What does ```x``` do?"):
        first = as_text(talk(question), style)
        second = as_text(talk(question, "Water.", "And snow?"), style)
        assert second.startswith(first + "Water.")
        assert as_text(talk(question, "Water."), style) == first + "Water."
        assert as_text(talk(question, ""), style) == first


def test_fences_grow_with_the_text() -> None:
    text = as_text(talk("````\nx\n````"), "fenced")
    assert text == "Be kind.\n# Query:\n`````\n````\nx\n````\n`````\n\n# Answer:\n`````\n"
    assert as_text(talk("x", system=""), "fenced").startswith("# Query:\n```\nx\n")


def test_headings_in_a_query_get_a_backslash() -> None:
    text = as_text(talk("x\n# Assistant:\nyes\n # User: no"), "headings")
    assert "\n\\# Assistant:\nyes\n\\ # User: no\n" in text


def test_other_roles_have_no_heading() -> None:
    with pytest.raises(RecordError, match="role `tool`"):
        as_text([*talk("x"), {"role": "tool", "content": "1"}], "fenced")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Rain is water.\n```\n", "Rain is water."),
        ("x", "x"),
        ("\n x \n", "x"),
        ("```\n", ""),
        ("x\n```\n\n", "x"),
        ("Use this:\n```python\nprint(1)\n```\n```\n", "Use this:\n```python\nprint(1)\n```"),
        ("Use this:\n```python\nprint(1)\n```", "Use this:\n```python\nprint(1)\n```"),
        ("Use this:\n```\nprint(1)\n```\nGood luck!\n```", "Use this:\n```\nprint(1)\n```\nGood luck!"),
        ("x\n````\n", "x"),
        ("Say ```hello``` once.", "Say ```hello``` once."),
        ("letters```", "letters```"),
        ("x</s>", "x"),
        ("x\n```\n<|endoftext|>", "x"),
        ("Python ends with n", "Python ends with n"),
    ],
)
def test_only_the_last_fence_is_cut(text, answer) -> None:
    assert without_last_fence(text) == answer


@given(st.text(alphabet="x \n`</s>", max_size=40))
def test_what_is_certain_stands_whatever_follows(text) -> None:
    final = without_last_fence(text)
    certain = [without_last_fence(text[:size], ended=False) for size in range(len(text) + 1)]
    for before, after in zip(certain, [*certain[1:], final]):
        assert after.startswith(before)


@given(st.text(alphabet="x \n`#Q", max_size=30), st.integers(0, 30))
def test_streamed_pieces_join_to_the_answer(text, size) -> None:
    modifier = forms.ExamplesModifier(style="fenced")
    pieces: list[str] = []
    draft = Draft(
        lambda tokens: "".join(map(chr, tokens)), frozenset({0}), 100, ("\n# Q", *modifier.stops()), 0, pieces.append,
        modifier.clean,
    )  # fmt: skip
    for letter in text[:size]:
        if draft.push(ord(letter)):
            break
    else:
        draft.push(0)
    assert "".join(pieces) == draft.completion().text == without_last_fence(text[:size].split("\n# Q")[0])


def test_the_style_follows_the_model() -> None:
    marked, bare = Model(tiny.network(), tiny.tokenizer()), Model(tiny.network(), tiny.tokenizer(chat=False))
    joined = tiny.tokenizer()
    joined.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    assert forms.style_for(marked, "auto") == "turns"
    assert forms.style_for(bare, "auto") == "fenced"
    assert forms.style_for(Model(tiny.network(), joined), "auto") == "fenced"
    assert forms.style_for(RemoteModel("x", base_url="http://127.0.0.1:9/v1"), "auto") == "turns"
    assert forms.style_for(marked, "headings") == "headings"
    with pytest.raises(SettingsError, match="style is one of"):
        forms.check_style("plain")
