"""How like a query texts are, by the words they share: BM25 and the cosine of TF-IDF vectors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

SIMILARITIES = ("bm25", "tfidf")
# Scripts without spaces: each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


class Index:
    """Texts to look up by likeness.

    BM25 adds up, over the words of the query, ``idf * f * (k1 + 1) / (f + k1 * (1 - b + b * length / mean length))``
    with ``idf = log(1 + (N - n + 0.5) / (n + 0.5))``, for a word that occurs f times in a text and in n of N texts.
    TF-IDF weighs a word ``(1 + log f) * (1 + log((1 + N) / (1 + n)))`` and takes the cosine.
    Sources: Robertson and Zaragoza 2009 (BM25, with Lucene's idf, which is never below 0); Salton and Buckley 1988.

    Args:
        texts: what is looked up.
        similarity: "bm25" or "tfidf".
        k1, b: of BM25: how soon further occurrences stop counting, and how much length does.
    """

    def __init__(self, texts: Sequence[str], similarity: str = "bm25", k1: float = 1.2, b: float = 0.75) -> None:
        counts = [Counter(words(text)) for text in texts]
        lengths = [count.total() for count in counts]
        mean = sum(lengths) / len(lengths) if any(lengths) else 1.0
        held = Counter(word for count in counts for word in count)
        self._count, self._size = held, len(texts)
        self._cosine = similarity == "tfidf"
        self._found: dict[str, list[tuple[int, float]]] = {}
        for at, count in enumerate(counts):
            if self._cosine:
                weights = self._weights(count)
            else:
                norm = k1 * (1 - b + b * lengths[at] / mean)
                weights = {
                    word: math.log(1 + (len(texts) - held[word] + 0.5) / (held[word] + 0.5)) * f * (k1 + 1) / (f + norm)
                    for word, f in count.items()
                }
            for word, weight in weights.items():
                self._found.setdefault(word, []).append((at, weight))

    def _weights(self, count: Counter[str]) -> dict[str, float]:
        raw = {
            word: (1 + math.log(f)) * (1 + math.log((1 + self._size) / (1 + self._count[word])))
            for word, f in count.items()
        }
        norm = math.sqrt(sum(weight**2 for weight in raw.values()))
        return {word: weight / norm for word, weight in raw.items()}

    def scores(self, query: str) -> list[float]:
        """The likeness of each text to a query; 0 where they share no word."""
        out = [0.0] * self._size
        asked = Counter(words(query))
        weights: dict[str, float] = self._weights(asked) if self._cosine else dict(asked)
        for word, weight in weights.items():
            for at, value in self._found.get(word, ()):
                out[at] += weight * value
        return out

    def ranked(self, query: str) -> list[int]:
        """Numbers of the texts, the likest first; of equally like ones the first."""
        scores = self.scores(query)
        # Sums in another order differ in their last bits, which must not decide.
        return sorted(range(self._size), key=lambda at: (-round(scores[at], 9), at))
