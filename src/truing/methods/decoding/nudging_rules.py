"""Nudging as pure rules over text: who writes the next word, and what counts as going in circles.

Source: Fei, Razeghi and Singh 2025, "Nudging: Inference-time Alignment of LLMs via Guided Decoding" (arXiv 2410.09300).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise

TIE = 1e-9
"""Servers print log-probabilities with nine digits, so a probability this close to gamma counts as equal to it."""
CHUNK = 16  # tokens that the base writes between two looks for repetition
REPEATS = 4  # consecutive rounds with the same nudging words that end an answer


def is_uncertain(top_probability: float, gamma: float) -> bool:
    """Whether a model is unsure of its next token: its largest probability is below gamma (equal is sure)."""
    return top_probability < gamma - TIE


def without_spaces(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words."""
    point = ord(character)
    return (
        0x0E00 <= point <= 0x0EFF  # Thai, Lao
        or 0x0F00 <= point <= 0x109F  # Tibetan, Burmese
        or 0x1780 <= point <= 0x17FF  # Khmer
        or 0x3040 <= point <= 0x30FF  # Hiragana, Katakana
        or 0x3400 <= point <= 0x9FFF  # Chinese characters
        or 0xF900 <= point <= 0xFAFF
        or 0x20000 <= point <= 0x323AF
    )


def words(text: str) -> list[str]:
    """A text cut into words that join to it again, each with the single space before it.

    Leading spaces stay with the first word; of several spaces in a row all but the last are words of their own, with no
    letter in them, before which nobody takes over. Newlines and tabs do not cut. Characters of scripts without spaces
    are words, where the paper would see one word of the whole text.
    """
    inner = text.lstrip(" ")
    first, *rest = inner.split(" ")
    out: list[str] = []
    for word in [" " * (len(text) - len(inner)) + first, *(" " + word for word in rest)]:
        cuts = [at for at in range(1, len(word)) if without_spaces(word[at]) and word[:at].strip(" ")]
        out += [word[start:end] for start, end in pairwise([0, *cuts, len(word)])]
    return out


def repetition_stop(new: str, before: str, min_words: int = 5) -> bool:
    """Whether new text of more than ``min_words`` words stands in what was written before."""
    return len(new.split(" ")) > min_words and new in before


def cut_repeated_suffix(text: str, min_length: int = 30) -> str:
    """The text without an end of ``min_length`` or more characters that only repeats what stands right before it.

    The length is searched for by bisection over 0 to ``len(text)``, as the paper's code does: a repeat is surely found
    when it is half of the text, and may be missed elsewhere.
    """
    while True:
        low, high, found = 0, len(text), 0
        while low <= high:
            middle = (low + high) // 2
            if middle >= min_length and text[:-middle].endswith(text[-middle:]):
                found, low = middle, middle + 1
            else:
                high = middle - 1
        if not found:
            return text
        text = text[:-found]


class Certain:
    """Passes text on as far as no later cut of an end that repeats itself can take it back.

    An end may turn out to be a repeat as long as it stands in the text before, at least ``min_length`` characters
    back; and after a cut at any place in it the text there may be cut again.

    Args:
        emit: called with pieces of text.
        min_length: of `cut_repeated_suffix`.
    """

    def __init__(self, emit: Callable[[str], None], min_length: int = 30) -> None:
        self._emit, self._least = emit, min_length
        self._text, self._sent, self._repeats = "", 0, 0
        self._safe = [0]  # by length of the text, what of it stays whatever follows

    def push(self, piece: str) -> None:
        """More text."""
        for letter in piece:
            self._text += letter
            end, size = len(self._text), self._repeats + 1
            while size and self._text.find(self._text[end - size :], 0, max(0, end - max(self._least, size))) < 0:
                size -= 1
            self._repeats = size
            self._safe.append(min(self._safe[end - size : end], default=end))
        self._send(self._text[: self._safe[-1]])

    def finish(self, text: str) -> None:
        """The text is this, to its end."""
        self._send(text)

    def _send(self, text: str) -> None:
        if len(text) > self._sent:
            piece, self._sent = text[self._sent :], len(text)
            self._emit(piece)


class SameWords:
    """Counts consecutive rounds with the same nudging words."""

    def __init__(self) -> None:
        self._last, self._count = "", 1

    def again(self, text: str) -> bool:
        """Note the nudging words of a round; True when they are the same for the fourth time in a row."""
        self._count = self._count + 1 if text == self._last else 1
        self._last = text
        return self._count >= REPEATS


@dataclasses.dataclass(frozen=True)
class Piecewise:
    """A greedy completion as a server gives it.

    Args:
        pieces: texts of its tokens; an end token is an empty piece.
        tops: largest probability at each of them.
        stopped: it ended itself.
    """

    pieces: Sequence[str]
    tops: Sequence[float]
    stopped: bool


Complete = Callable[[str, int], Piecewise]
"""The greedy continuation of an answer so far, of so many tokens at most."""


@dataclasses.dataclass
class NudgedText:
    """An answer written by two completion models, with the guide's words and all words of every round."""

    text: str = ""
    nudging_words: list[str] = dataclasses.field(default_factory=list)
    rounds: list[str] = dataclasses.field(default_factory=list)
    stop_reason: str = ""


def nudging_decode(
    base: Complete, guide: Complete, *, gamma: float = 0.4, lookahead: int = 16, chunk: int = CHUNK,
    max_rounds: int = 150, max_tokens: int = 512, count: Callable[[str], int] = lambda text: len(text.split()),
) -> NudgedText:  # fmt: skip
    """Nudging over two models that complete text, word by word, with the calls that the paper's code makes.

    Args:
        base: the model that writes where it is sure.
        guide: the aligned model that writes where the base is not.
        gamma: the base is unsure below this top probability.
        lookahead: tokens that the guide proposes in a round.
        chunk: tokens that one call of the base asks for. The repetition rules look at chunks.
        max_rounds: most rounds.
        max_tokens: the answer ends when it has so many.
        count: counts the tokens of a text; whitespace-separated ones by default.
    """
    out, same = NudgedText(), SameWords()
    while count(out.text) < max_tokens and len(out.rounds) < max_rounds and not out.stop_reason:
        proposed = guide(out.text, lookahead)
        text = "".join(proposed.pieces)
        if proposed.stopped:
            out.stop_reason = "nudging_model_stop"
            if text:
                out.nudging_words.append(text)
                out.rounds.append(text)
                out.text += text
            break
        proposal = words(text)
        taken: Piecewise | None = None
        nudged = "".join(proposal[:-1]) or text
        for at, word in enumerate(proposal):
            if at and word.strip(" "):
                tested = base(out.text + "".join(proposal[:at]), chunk)
                # A base that would stop here gives an empty piece, and takes over to write nothing.
                if word.startswith(tested.pieces[0]) or not is_uncertain(tested.tops[0], gamma):
                    taken, nudged = tested, "".join(proposal[:at])
                    break
        if same.again(nudged):
            out.stop_reason = "repeated_nudging_words"
            break
        out.nudging_words.append(nudged)
        out.text += nudged
        turn = ""
        if taken is not None and "".join(taken.pieces):
            room = max_tokens - count(out.text)
            turn = _base_turn(base, out.text, taken, gamma=gamma, chunk=chunk, room=room, count=count)
        out.text += turn
        out.rounds.append(nudged + turn)
    if not out.stop_reason:
        out.stop_reason = "round" if len(out.rounds) >= max_rounds else "length"
    out.text = cut_repeated_suffix(out.text.strip())
    return out


def _base_turn(
    base: Complete, before: str, first: Piecewise, *, gamma: float, chunk: int, room: int, count: Callable[[str], int]
) -> str:
    """What the base writes from a take-over until it is unsure, stops, or repeats itself."""
    turn = first.pieces[0]
    part, asked = Piecewise(first.pieces[1:], first.tops[1:], first.stopped), False
    while count(turn) < room:
        if asked or not part.pieces:
            part, asked = base(before + turn, chunk), True
        if "".join(part.pieces) in turn:
            break
        sure = next((at for at, top in enumerate(part.tops) if is_uncertain(top, gamma)), len(part.pieces))
        new = "".join(part.pieces[:sure])
        if repetition_stop(new, before + turn):
            break
        turn += new
        if sure < len(part.pieces) or (asked and part.stopped):
            break
        asked = True
    return turn
