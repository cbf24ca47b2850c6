"""From conversations to token ids: the model's own chat template, or a plain form for base models without one.

The plain form is ``User: …`` and ``Assistant: …`` turns (a system text comes first, bare), parted by a blank line and
ending with ``Assistant:``. Special tokens written inside a message's content are encoded as ordinary text. A
conversation that ends with an assistant's message is continued: the answer goes on where that message stops.
"""

from __future__ import annotations

import itertools
import re
import secrets
import weakref
from collections.abc import Sequence
from typing import Any

import jinja2

from truing.contracts import Message, Prompt
from truing.errors import ModelError, RecordError, UnsupportedError

ROLES = ("system", "developer", "user", "assistant", "tool")
_NAMES = {"user": "User", "assistant": "Assistant"}


def as_messages(prompt: Prompt) -> list[Message]:
    """A conversation with plain string contents; text parts are joined.

    Raises:
        RecordError: the prompt is empty, or a message has no role or content, or a role that is not one of `ROLES`.
        UnsupportedError: a part is not text.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence):
        raise RecordError(f"A prompt is a string or a list of messages, got {type(prompt).__name__}.")
    if not prompt:
        raise RecordError("A prompt is a string or at least one message; got an empty list.")
    messages = []
    for message in prompt:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise RecordError(f"A message is a dict with `role` and `content`, got {str(message)[:80]!r}.")
        if message["role"] not in ROLES:
            raise RecordError(f"A message has the role {str(message['role'])[:40]!r}. Roles: {', '.join(ROLES)}.")
        messages.append({**message, "content": _text(message["content"])})
    return messages


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RecordError(f"A message's content is a string or a list of parts, got {type(content).__name__}.")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text":
            raise UnsupportedError(
                f"This model reads text only, and a message holds a part of type `{str(kind)[:40]}`. "
                "Remove it, or use a vision model."
            )
        if not isinstance(part.get("text"), str):
            raise RecordError("A part of type `text` needs its `text` as a string.")
        texts.append(part["text"])
    return "".join(texts)


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text in which special tokens are plain text; none are added."""
    if not text:
        return []
    # verbose=False: length limits are checked where they matter, with the row named.
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def encode_continuation(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text inside an answer: without the space that some tokenizers put before a text of its own."""
    anchor, joint = encode_plain(tokenizer, "\n"), encode_plain(tokenizer, "\n" + text)
    return joint[len(anchor) :] if joint[: len(anchor)] == anchor else encode_plain(tokenizer, text)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that a model continues: as `encode_plain`, after the start token where it has one."""
    return _start(tokenizer) + encode_plain(tokenizer, text)


def marks_turns(tokenizer: Any) -> bool:
    """Whether there is a chat template, and one that says who speaks: one that only joins contents does not."""
    if not tokenizer.chat_template:
        return False
    turns = [{"role": "user", "content": "slotx"}, {"role": "assistant", "content": "sloty"}]
    try:
        whole = _render(tokenizer, [*turns, turns[0]])
    except (jinja2.TemplateError, TypeError, ValueError):
        return True
    start = tokenizer.bos_token or ""
    return bool(whole.removeprefix(start).replace("slotx", "").replace("sloty", "").strip())


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def encode_raw(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text that is all a model reads: special tokens act, and a start token stands first where usual."""
    ids, start = _encode(tokenizer, text), _start(tokenizer)
    return ids if ids[: len(start)] == start else start + ids


def encode_conversation(tokenizer: Any, messages: Sequence[Message], *, closed: bool = False) -> list[int]:
    """Token ids of a conversation, up to where the assistant's answer begins or goes on.

    Args:
        tokenizer: of the model that reads it.
        messages: see `as_messages`.
        closed: the assistant's last message is whole, and what the template writes after it stands too.

    Raises:
        ModelError: the chat template refuses the conversation, drops a message of it, or rewrites contents in which
            special tokens stand.
        RecordError: a role that a model without chat template does not know.
    """
    messages = list(messages)
    if messages[-1]["role"] == "assistant" and not messages[-1]["content"] and len(messages) > 1 and not closed:
        messages.pop()  # an answer of which nothing is written yet
    if not tokenizer.chat_template:
        return encode_text(tokenizer, _plain(messages))
    pieces = _in_template(tokenizer, messages, closed)
    # Encoded as one text wherever that is safe, since that is what the model was trained on.
    whole = "".join(text for text, _ in pieces)
    if _specials(tokenizer, whole) == [
        s for text, written in pieces if not written for s in _specials(tokenizer, text)
    ]:
        return _encode(tokenizer, whole)
    return [
        token
        for text, written in pieces
        for token in (encode_plain(tokenizer, text) if written else _encode(tokenizer, text))
    ]


def render_conversation(tokenizer: Any | None, messages: Sequence[Message]) -> str:
    """The text of a conversation, up to where the assistant's answer begins, for a server that completes text.

    Args:
        tokenizer: whose chat template is used; None, or one without a template, gives the plain form. A start token
            that it puts before each text is left out, since the server does the same.
        messages: see `as_messages`.

    Raises:
        ModelError: as `encode_conversation`, and where a message holds a special token, which a server would obey.
        RecordError: a role that the plain form does not know.
    """
    messages = list(messages)
    if messages[-1]["role"] == "assistant" and not messages[-1]["content"] and len(messages) > 1:
        messages.pop()
    for message in messages if tokenizer is not None else ():
        found = _specials(tokenizer, message["content"])
        if found:
            raise ModelError(
                f"A message contains the special token {found[0]!r}, which a server that reads text would take for its "
                "own. Remove it from the message."
            )
    if tokenizer is None or not tokenizer.chat_template:
        return _plain(messages)
    text = "".join(piece for piece, _ in _in_template(tokenizer, messages, False))
    start = tokenizer.bos_token
    return text.removeprefix(start) if start and _start(tokenizer) else text


def _start(tokenizer: Any) -> list[int]:
    """The start token, where this tokenizer puts one before plain text."""
    start = tokenizer.bos_token_id
    return [start] if start is not None and list(tokenizer("a")["input_ids"])[:1] == [start] else []


def _in_template(tokenizer: Any, messages: list[Message], closed: bool) -> list[tuple[str, bool]]:
    """As `_template`, with a system message that the template does not know put before the user's."""
    try:
        return _template(tokenizer, messages, closed)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        merged = _merge_system(messages)
        try:
            if merged == messages:
                raise
            return _template(tokenizer, merged, closed)
        except (jinja2.TemplateError, TypeError, ValueError):
            raise ModelError(
                f"The chat template refuses this conversation: {error}. Check the order of its roles."
            ) from error


def _template(tokenizer: Any, messages: list[Message], closed: bool) -> list[tuple[str, bool]]:
    """The rendered conversation in pieces, each with whether it is the content of a message."""
    real = _render(tokenizer, messages)
    # Random marks, so that no content can contain one; an empty content stays empty, since templates ask for that.
    marks = [f"slot{secrets.token_hex(8)}x" if message["content"] else "" for message in messages]
    shape = _render(tokenizer, _filled(messages, marks))
    for at, (message, mark) in enumerate(zip(messages, marks)):
        if mark not in shape and shape == _render(tokenizer, _filled(messages, [*marks[:at], "x", *marks[at + 1 :]])):
            raise ModelError(
                f"The chat template leaves out the message of role `{message['role']}`, so the model would not see it. "
                "Put its text into a user message."
            )
    pieces = _pieces(shape, real, marks, messages)
    goes_on = messages[-1]["role"] == "assistant" and not closed
    if pieces is not None:
        # What the template writes after an assistant's last message would end the answer that is to go on.
        return pieces[:-1] if goes_on else pieces
    if goes_on:
        last = messages[-1]["content"].strip()
        real = real[: real.rindex(last) + len(last)] if last in real else real
    # The template rewrites contents, so their places cannot be told apart: safe only without special tokens in them.
    for message in messages:
        found = _specials(tokenizer, message["content"])
        if found:
            raise ModelError(
                f"A message contains the special token {found[0]!r}, and this chat template rewrites contents, "
                "so it cannot be kept as plain text. Remove it from the message."
            )
    return [(real, False)]


def _filled(messages: Sequence[Message], contents: Sequence[str]) -> list[Message]:
    return [{**message, "content": content} for message, content in zip(messages, contents)]


def _render(tokenizer: Any, messages: Sequence[Message]) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=messages[-1]["role"] != "assistant"
        )
    )


def _pieces(shape: str, real: str, marks: Sequence[str], messages: Sequence[Message]) -> list[tuple[str, bool]] | None:
    """The template's text and the contents in turns, beginning and ending with the template's, or None.

    Each content stands as it is, or trimmed, as templates do with some roles and not with others.
    """
    slots = sorted((shape.find(mark), mark, message["content"]) for mark, message in zip(marks, messages) if mark)
    if any(shape.count(mark) != 1 for _, mark, _ in slots) or (slots and marks[-1] and slots[-1][1] != marks[-1]):
        return None
    edges = [(0, 0), *((start, start + len(mark)) for start, mark, _ in slots), (len(shape), len(shape))]
    gaps = [shape[end:start] for (_, end), (start, _) in itertools.pairwise(edges)]
    pieces, at = [(gaps[0], False)], len(gaps[0])
    for (_, _, content), gap in zip(slots, gaps[1:]):
        for form in (content, content.strip(), content.rstrip(), content.lstrip()):
            if real.startswith(form + gap, at):
                pieces += [(form, True), (gap, False)]
                at += len(form) + len(gap)
                break
        else:
            return None
    return pieces if "".join(text for text, _ in pieces) == real else None


_PATTERNS: weakref.WeakKeyDictionary[Any, tuple[int, re.Pattern[str] | None]] = weakref.WeakKeyDictionary()


def _specials(tokenizer: Any, text: str) -> list[str]:
    """The special tokens written in a text, in order."""
    size, pattern = _PATTERNS.get(tokenizer, (-1, None))
    if size != len(tokenizer):
        # Reserved tokens are special too, and `all_special_tokens` lacks them.
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        names = sorted({*added, *tokenizer.all_special_tokens} - {""}, key=lambda name: -len(name))
        pattern = re.compile("|".join(map(re.escape, names))) if names else None
        _PATTERNS[tokenizer] = (len(tokenizer), pattern)
    return pattern.findall(text) if pattern else []


def _merge_system(messages: list[Message]) -> list[Message]:
    if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
        return [{**messages[1], "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}, *messages[2:]]
    return messages


def _plain(messages: Sequence[Message]) -> str:
    for message in messages:
        if message["role"] not in ("system", *_NAMES):
            raise RecordError(
                f"This model has no chat template, and its plain form has no turn for the role `{message['role']}`. "
                "Use system, user and assistant, or set `tokenizer.chat_template`."
            )
    turns = [f"{_NAMES[m['role']]}: {m['content']}" if m["role"] in _NAMES else m["content"] for m in messages]
    return "\n\n".join(turns if messages[-1]["role"] == "assistant" else [*turns, "Assistant:"])
