"""From conversations to token ids: the model's own chat template, or a plain form for base models without one.

The plain form is ``User: …`` and ``Assistant: …`` turns (a system text comes first, bare), parted by a blank line and
ending with ``Assistant:``. Special tokens written inside a message's content are encoded as ordinary text.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import jinja2

from truing.contracts import Message, Prompt
from truing.errors import ModelError, RecordError, UnsupportedError

_NAMES = {"user": "User", "assistant": "Assistant"}


def as_messages(prompt: Prompt) -> list[Message]:
    """A conversation with plain string contents; text parts are joined.

    Raises:
        RecordError: the prompt is empty, or a message has no role or content.
        UnsupportedError: a part is not text.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not prompt:
        raise RecordError("A prompt is a string or at least one message; got an empty list.")
    messages = []
    for message in prompt:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise RecordError(f"A message is a dict with `role` and `content`, got {message!r}.")
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
                f"This model reads text only, and a message holds a part of type `{kind}`. "
                "Remove it, or use a vision model."
            )
        texts.append(part["text"])
    return "".join(texts)


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text in which special tokens are plain text; none are added."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]) if text else []


def encode_conversation(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation, up to where the assistant's answer begins."""
    if not tokenizer.chat_template:
        start = (
            [tokenizer.bos_token_id]
            if tokenizer.bos_token_id is not None and getattr(tokenizer, "add_bos_token", False)
            else []
        )
        return start + encode_plain(tokenizer, _plain(messages))
    messages = list(messages)
    try:
        real = _render(tokenizer, messages)
    except jinja2.TemplateError as error:
        merged = _merge_system(messages)
        if merged == messages:
            raise ModelError(
                f"The chat template refuses this conversation: {error}. Check the order of its roles."
            ) from error
        messages = merged
        try:
            real = _render(tokenizer, messages)
        except jinja2.TemplateError as again:
            raise ModelError(
                f"The chat template refuses this conversation: {again}. Check the order of its roles."
            ) from again
    # Random marks, so that no content can contain one.
    marks = [f"slot{secrets.token_hex(8)}x" for _ in messages]
    shape = _render(tokenizer, [{**message, "content": mark} for message, mark in zip(messages, marks)])
    for contents in ([m["content"] for m in messages], [m["content"].strip() for m in messages]):
        if all(shape.count(mark) == 1 for mark in marks):
            pieces = _pieces(shape, marks, contents)
            if "".join(text for text, _ in pieces) == real:
                ids: list[int] = []
                for text, written_by_user in pieces:
                    ids += (
                        encode_plain(tokenizer, text)
                        if written_by_user
                        else list(tokenizer(text, add_special_tokens=False)["input_ids"])
                        if text
                        else []
                    )
                return ids
    # The template rewrites contents, so their places cannot be told apart: safe only without special tokens in them.
    for message in messages:
        found = [token for token in tokenizer.all_special_tokens if token and token in message["content"]]
        if found:
            raise ModelError(
                f"A message contains the special token {found[0]!r}, and this chat template rewrites contents, "
                "so it cannot be kept as plain text. Remove it from the message."
            )
    return list(tokenizer(real, add_special_tokens=False)["input_ids"])


def _render(tokenizer: Any, messages: Sequence[Message]) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=messages[-1]["role"] != "assistant"
        )
    )


def _pieces(shape: str, marks: Sequence[str], contents: Sequence[str]) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    where = sorted((shape.index(mark), mark, content) for mark, content in zip(marks, contents))
    at = 0
    for start, mark, content in where:
        pieces += [(shape[at:start], False), (content, True)]
        at = start + len(mark)
    return [*pieces, (shape[at:], False)]


def _merge_system(messages: list[Message]) -> list[Message]:
    if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
        return [{**messages[1], "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}, *messages[2:]]
    return messages


def _plain(messages: Sequence[Message]) -> str:
    turns = [f"{_NAMES[m['role']]}: {m['content']}" if m["role"] in _NAMES else m["content"] for m in messages]
    return "\n\n".join(turns if messages[-1]["role"] == "assistant" else [*turns, "Assistant:"])
