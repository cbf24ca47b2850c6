"""Single tokens as text and as bytes, whatever the tokenizer; a token may hold a part of a character."""

from __future__ import annotations

import functools
import json
import re
import weakref
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """What each token of a tokenizer stands for.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._byte_level = _is_byte_level(tokenizer)
        self._known: dict[int, tuple[str, list[int]]] = {}

    @functools.cached_property
    def longest(self) -> int:
        """Characters of the longest token; no text has fewer tokens than its length divided by this."""
        return max(map(len, self._tokenizer.get_vocab()), default=1)

    def __call__(self, token: int) -> tuple[str, list[int]]:
        """The token as a word for people, and the bytes that it adds to a text.

        A part of a character is written ``bytes:\\xe2\\x80``. A special token has its name, and no bytes, since texts
        do not show it.
        """
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token: int) -> tuple[str, list[int]]:
        word = self._tokenizer.convert_ids_to_tokens(token)
        if word is None:  # rows of the head beyond the vocabulary
            return f"<{token}>", []
        if token in self._special:
            return str(word), []
        raw = self._bytes(token, str(word))
        try:
            return raw.decode(), list(raw)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), list(raw)

    def _bytes(self, token: int, word: str) -> bytes:
        if self._byte_level:
            table = _byte_table()
            if all(c in table for c in word):
                return bytes(table[c] for c in word)
            return word.encode("utf-8", "replace")
        found = _BYTE.fullmatch(word)
        if found:
            return bytes([int(found[1], 16)])
        if "\u2581" in word:
            return word.replace("\u2581", " ").encode("utf-8", "replace")
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False)).encode("utf-8", "replace")


_TEXTS: weakref.WeakKeyDictionary[Any, TokenTexts] = weakref.WeakKeyDictionary()


def token_texts(tokenizer: Any) -> TokenTexts:
    """The texts of a tokenizer's tokens, read once."""
    if tokenizer not in _TEXTS:
        _TEXTS[tokenizer] = TokenTexts(tokenizer)
    return _TEXTS[tokenizer]


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    return '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))


@functools.cache
def _byte_table() -> dict[str, int]:
    """From the characters of byte-level BPE to bytes: printable ones stand for themselves, others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + at): byte for at, byte in enumerate(others)}
