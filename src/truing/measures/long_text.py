"""How long a text was ordered to be, how long it is, and what that is worth: pure functions over texts and numbers.

Source: Chen et al. 2024, "Minimum Tuning to Unlock Long Output" (arXiv 2410.10210), after LongWriter (Bai et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

KEPT = 80.0
"""Length score from which the paper keeps a text for training."""
BUCKETS = ((0, 500), (500, 2_000), (2_000, 4_000), (4_000, 20_000))
"""Required lengths by which scores are shown: the lower end included, and of the last one the upper end too."""
QUALITY: dict[str, str] = {
    "Relevance": "whether the text is about what was ordered, wholly and without straying",
    "Accuracy": "whether what it states is true and free of contradictions",
    "Coherence": "whether its parts follow from each other and hold together",
    "Clarity": "whether it is put plainly and is easily understood",
    "Breadth and Depth": "whether it covers the matter widely and goes into it",
    "Reading Experience": "whether it is pleasant and engaging to read, and keeps to one style",
}
"""What quality is graded on, each from 1 to 5."""
_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_MARKS = {"百字": 100, "千字": 1_000, "万字": 10_000}
_ROUNDING = 1e-9


def required_length(prompt: str) -> int | None:
    """The one length that a writing order states, in words; None where it states none, or several.

    Read are digits right before the Chinese character for a word, one Chinese digit before the marks of hundreds,
    thousands and tens of thousands of words, and digits, a blank and "words". Nothing else: "1000-word" states none,
    and "2,000 words" states 0, as in the reference, and is of no use.
    """
    found = {int(digits) for digits in re.findall(r"(\d+)字", prompt)}
    found |= {int(digits) for digits in re.findall(r"(\d+) words", prompt)}
    for mark, times in _MARKS.items():
        found |= {_DIGITS[digit] * times for digit in re.findall(f"(.){mark}", prompt) if digit in _DIGITS}
    return found.pop() if len(found) == 1 else None


def count_words(text: str, *, every: bool = False) -> int:
    """Chinese characters and words.

    Args:
        text: any text.
        every: count words of all scripts, with accents, digits and apostrophes. The reference, and the default, counts
            runs of plain Latin letters between word boundaries: "It's" is 2, "abc123" is 0.
    """
    chinese = len(re.findall("[\u4e00-\u9fff]", text))
    if every:
        return chinese + len(re.findall(r"\w+(?:['’]\w+)*", re.sub("[\u4e00-\u9fff]", " ", text)))
    return chinese + len(re.findall(r"\b[a-zA-Z]+\b", text))


def length_score(required: float, written: float) -> float:
    """From 100 for a text as long as ordered to 0 for one of four times the length, or of a third of it.

    Raises:
        ValueError: the required length is not above 0, or the written one is below.
    """
    if required <= 0 or written < 0:
        raise ValueError(f"A required length is above 0 and a written one not below, not {required} and {written}.")
    if written == 0:
        return 0.0
    over = written > required
    return 100 * max(0.0, 1 - (written / required - 1) / 3 if over else 1 - (required / written - 1) / 2)


def kept(required: float, written: float, least: float = KEPT) -> bool:
    """Whether a text is near enough to the length that was ordered to learn from."""
    return required > 0 and length_score(required, written) >= least - _ROUNDING


def quality_scores(grades: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean grade of each dimension, brought from 1..5 to 0..100, and their mean as ``total``.

    Args:
        grades: of each text, by the names of `QUALITY`; texts whose grades could not be read are left out before.

    Raises:
        ValueError: no grades.
    """
    if not grades:
        raise ValueError("There are no grades to take the mean of.")
    means = {name: (sum(one[name] for one in grades) / len(grades) - 1) * 25 for name in QUALITY}
    return {**means, "total": sum(means.values()) / len(means)}


def bucket(required: float) -> str:
    """The bucket of a required length, as a name; what is longer than all is named so."""
    for low, high in BUCKETS:
        if low <= required < high or required == high == BUCKETS[-1][1]:
            return f"{low} to {high} words"
    return f"over {BUCKETS[-1][1]} words"
