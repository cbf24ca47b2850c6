"""How much a text repeats itself, in shares of repeated n-grams."""

from __future__ import annotations

import math
from collections.abc import Sequence


def repetition(words: Sequence[str], n: int) -> float:
    """Percent of n-grams that are repeats: ``100 (1 - unique / (n-grams + 1))``.

    The 1 belongs to the published figure: a text without any repeat has more than 0. A text shorter than n words has
    100, since nothing in it is unique.
    """
    grams = list(zip(*(words[start:] for start in range(n))))
    return 100.0 * (1.0 - len(set(grams)) / (len(grams) + 1))


def text_diversity(text: str) -> float:
    """``prod over n = 2, 3, 4 of (1 - repetition_n / 100)`` of a text's words, parted by white space.

    Never 1: six different words give 0.5, and fewer than four words 0. Compare texts of like length.
    Source: as in the evaluation of Transfer Q* (arXiv 2405.20495), after Su et al. 2022.
    """
    words = text.split()
    return math.prod(1.0 - repetition(words, n) / 100.0 for n in (2, 3, 4))
