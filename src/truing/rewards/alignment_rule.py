"""The rule by which a claim is scored against a context, as pure functions of texts and numbers.

Source: Zha, Yang, Li and Hu 2023, "AlignScore", arXiv 2305.16739.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

HEADS = {"bin": slice(0, 2), "nli": slice(2, 5), "reg": slice(5, 6)}
"""Where each head's values stand among the six: not aligned, aligned; aligned, neutral, contradicted; regression."""
VERDICTS = ("aligned", "neutral", "contradicted")
MODES = ("nli_sp", "bin_sp", "reg_sp", "nli", "bin", "reg")
TARGET_WORDS = 350
Split = Callable[[str], list[str]]

_SHORT = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "e.g", "i.e", "cf", "al", "fig", "vol", "pp",
     "dept", "inc", "ltd", "co", "corp", "gen", "col", "lt", "sgt", "capt", "rep", "sen", "gov", "rev", "hon", "pres",
     "jan", "feb", "aug", "sept", "oct", "nov", "dec")
)  # fmt: skip
# A stop with what closes after it, then space; or a full-width stop, which no space follows.
_STOP = re.compile(r"""[.!?…؟۔।]+["'”’»)\]]*(?=\s)|[。！？]+["'”’」』）]*""")


def sentences(text: str) -> list[str]:
    """The sentences of a text, without white space at their ends; none of an empty text.

    A stop ends a sentence unless it belongs to an abbreviation, an initial or a number, or a small letter follows it. A
    blank line always ends one. The published scores use the Punkt splitter, whose rules are learned; another splitter
    changes scores a little.
    """
    found: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        start = 0
        for stop in _STOP.finditer(block):
            if _ends(block, start, stop):
                found.append(block[start : stop.end()])
                start = stop.end()
        found.append(block[start:])
    return [one.strip() for one in found if one.strip()]


def _ends(block: str, start: int, stop: re.Match[str]) -> bool:
    after = block[stop.end() :].lstrip()
    if not after or stop[0][0] != ".":
        return not after[:1].islower() or stop[0][0] in "。！？"
    if after[0].islower():
        return False
    last = block[start : stop.start()].split()[-1:] or [""]
    word = last[0].lstrip("(\"'“‘[")
    initial = len(word) == 1 and word.isupper() and word != "I"
    return not (stop[0] == "." and (word.lower() in _SHORT or initial))


def chunk_runs(count: int, words: int, target_words: int = TARGET_WORDS) -> list[range]:
    """Runs of sentence numbers that make up the chunks of a context.

    n = words // target_words + 1 chunks are aimed at, of max(count // n, 1) sentences each; so there may be more than
    n, and a sentence is never cut.

    Args:
        count: sentences of the context, at least 1.
        words: white-space words of the whole context.
        target_words: how long a chunk is meant to be.
    """
    size = max(count // (words // target_words + 1), 1)
    return [range(at, min(at + size, count)) for at in range(0, count, size)]


def chunks(context: str | Sequence[str], target_words: int = TARGET_WORDS, split: Split | None = None) -> list[str]:
    """The chunks of a context, a text or its sentences; one empty chunk of an empty context.

    Args:
        context: what claims are held against.
        target_words: see `chunk_runs`.
        split: gives the sentences of a text; `sentences` unless given.
    """
    parts = ((split or sentences)(context) if isinstance(context, str) else list(context)) or [""]
    words = len((context if isinstance(context, str) else " ".join(parts)).split())
    return [" ".join(parts[at] for at in run) for run in chunk_runs(len(parts), words, target_words)]


def aggregate(matrix: ArrayLike) -> float:
    """Mean over claim sentences of the best chunk, of values [chunks, sentences]; NaN where there are none."""
    found = np.asarray(matrix, dtype=np.float64)
    return float(found.max(axis=0).mean()) if found.size else float("nan")


def head_values(logits: ArrayLike) -> dict[str, np.ndarray]:
    """What each head says of pairs, of its six values [n, 6]: probability of aligned ("bin", "nli"), or "reg", [n]."""
    found = np.asarray(logits, dtype=np.float64)
    two, three = _softmax(found[:, HEADS["bin"]]), _softmax(found[:, HEADS["nli"]])
    return {"bin": two[:, 1], "nli": three[:, 0], "reg": found[:, HEADS["reg"]][:, 0]}


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
