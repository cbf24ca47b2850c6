"""How the tokens of an answer become text, letter by letter, and which of them end it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from truing.contracts import Prompt
from truing.models.chat import encode_continuation
from truing.models.engine import Engine
from truing.rewards.partial import half_letter


def gap(engine: Engine, prompt: Prompt) -> str:
    """What parts the prompt from the first word of an answer: a space behind an assistant's words that go on."""
    last = prompt[-1] if isinstance(prompt, list) else {"role": "user", "content": prompt}
    if last["role"] == "assistant" and last["content"]:
        return "" if last["content"][-1].isspace() else " "
    return "" if engine.model.tokenizer.chat_template else " "


class Words:
    """How the tokens of one answer become text, and which of them end it.

    Args:
        engine: of the model.
        prompt: the conversation.
        terminal: strings or special tokens behind which the text ends.
        stop: strings before which it ends.
    """

    def __init__(self, engine: Engine, prompt: Prompt, terminal: Sequence[str], stop: Sequence[str]) -> None:
        self._engine, self._prompt, self._stop = engine, prompt, tuple(stop)
        special = special_tokens(engine.model.tokenizer)
        self._ends = engine.ends | {special[text] for text in terminal if text in special}
        self._terminal = [text for text in terminal if text not in special]
        self._silent, self._count = set(special.values()) - self._ends, len(engine.model.tokenizer)
        self._pieces = _PIECES.setdefault(engine.model.tokenizer, {})

    def text(self, before: str, tokens: Sequence[int], token: int) -> tuple[str, str | None]:
        """The answer with one more token, and "stop" where that ends it."""
        if token in self._ends:
            return before, "stop"
        text = self._joined(before, tokens, token)
        cuts = [at + len(end) for end in self._terminal if (at := text.find(end)) >= 0]
        cuts += [at for at in map(text.find, self._stop) if at >= 0]
        return (text[: min(cuts)], "stop") if cuts else (text, None)

    def silent(self, token: int) -> bool:
        """Whether a token is a special one that ends nothing, or a number that means nothing to the tokenizer."""
        return token in self._silent or token >= self._count

    def beginning(self, letters: frozenset[str], count: int) -> torch.Tensor:
        """Which of so many tokens may begin with one of these letters or end the answer, bool [count]."""
        more = {text[0] for text in self._stop}  # what follows a stop string is cut off
        tokenizer = self._engine.model.tokenizer
        held = _FIRST.get(tokenizer)
        if held is None or len(held) < count:
            # Some tokenizers write the first token of a text differently.
            anchor = encode_continuation(tokenizer, "a")[-1]
            held = _FIRST[tokenizer] = [self._first(anchor, token) for token in range(count)]
        out = torch.tensor([first is None or first in letters or first in more for first in held[:count]])
        out[[token for token in self._ends if token < count]] = True
        return out

    def _first(self, anchor: int, token: int) -> str | None:
        """The first letter of a token inside a text; None where it depends on what stands before it."""
        alone, both = self._engine.text([anchor]), self._engine.text([anchor, token])
        return both[len(alone)] if both.startswith(alone) and len(both) > len(alone) else None

    def _joined(self, before: str, tokens: Sequence[int], token: int) -> str:
        """The text of all tokens; of one that adds whole characters, without decoding all of them again."""
        if not tokens or half_letter(before):
            return self._whole([*tokens, token])
        if token not in self._pieces:
            # Behind another token, since some tokenizers write the first one of a text without its space.
            anchor = self._engine.text([tokens[-1]])
            both = self._engine.text([tokens[-1], token])
            if not anchor:  # a special token shows nothing of what stands behind it
                return self._whole([*tokens, token])
            whole = both.startswith(anchor) and "\ufffd" not in both
            self._pieces[token] = both[len(anchor) :] if whole else None
        piece = self._pieces[token]
        return self._whole([*tokens, token]) if piece is None else before + piece

    def _whole(self, tokens: list[int]) -> str:
        """The text of tokens, the bytes of an unfinished letter at its end as ``surrogateescape`` writes them."""
        text = self._engine.text(tokens)
        if not text.endswith("\ufffd"):
            return text
        tokenizer = self._engine.model.tokenizer
        for start in range(len(tokens) - 1, max(-1, len(tokens) - 5), -1):
            head = self._engine.text(tokens[:start])
            if not head.endswith("\ufffd"):
                parts = [token_bytes(tokenizer.convert_ids_to_tokens(token)) for token in tokens[start:]]
                if None not in parts:
                    return head + b"".join(part or b"" for part in parts).decode(errors="surrogateescape")
        return text

    def draft(self, text: str, rest: str, room: int) -> list[int]:
        """Tokens that an answer may go on with to say the rest, and to end."""
        tokenizer = self._engine.model.tokenizer
        tokens = encode_continuation(tokenizer, (gap(self._engine, self._prompt) if not text else "") + rest)
        if not any(end in rest for end in self._terminal) and tokenizer.eos_token_id is not None:
            tokens.append(tokenizer.eos_token_id)
        return tokens[: max(0, room)]


_BYTE = re.compile("<0x([0-9A-F]{2})>")
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
# Byte-level vocabularies write a byte as the letter of that number, and those that do not print as letters from 256 on.
_LETTERS = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + at): byte for at, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)
}


def token_bytes(token: str | None) -> bytes | None:
    """The bytes of a token, written as byte-level vocabularies or byte fallback write them; None for others."""
    if token is None:
        return None
    found = _BYTE.fullmatch(token)
    if found:
        return bytes([int(found[1], 16)])
    try:
        return bytes(_LETTERS[letter] for letter in token)
    except KeyError:
        return None


_PIECES: weakref.WeakKeyDictionary[Any, dict[int, str | None]] = weakref.WeakKeyDictionary()
_FIRST: weakref.WeakKeyDictionary[Any, list[str | None]] = weakref.WeakKeyDictionary()


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Special tokens of a tokenizer, which are no part of any text, and their ids."""
    return {token.content: at for at, token in tokenizer.added_tokens_decoder.items() if token.special}


class Reader:
    """Next-token scores from an engine: the rows of all groups in one batch, one forward pass for each call."""

    def __init__(self, engine: Engine, prompts: Sequence[Sequence[int]]) -> None:
        self._batch = engine.prefill(prompts)
        self._lengths = [len(prompt) for prompt in prompts]

    def start(self) -> list[torch.Tensor]:
        """Scores after each prompt."""
        return list(self._batch.logits)

    def advance(self, rows: Sequence[int], blocks: Sequence[list[int]], keep: Sequence[int]) -> Sequence[torch.Tensor]:
        """See `truing.methods.decoding.grounded_rules.Scores`."""
        if list(rows) != list(range(len(self._batch))):
            self._batch = self._batch.select(rows)
        self._lengths = [self._lengths[row] for row in rows]
        return self._batch.extend(blocks, keep=[length + kept for length, kept in zip(self._lengths, keep)])
