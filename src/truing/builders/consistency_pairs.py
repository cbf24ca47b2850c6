"""Claims that plain texts support, and claims that they do not, made without any labels."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from truing.contracts import Builder, is_number, is_whole, require, require_seed
from truing.errors import RecordError
from truing.records import Records
from truing.records.reading import from_rows
from truing.rewards.alignment_rule import sentences

COMMON = 100
"""At most so many of the commonest words, and a tenth of all, are small words, which a claim may drop more often."""
NEAR = 5


class ConsistencyPairs(Builder):
    """Build label records to train a judge of consistency on (`AlignScoreTraining`) from plain texts.

    The context is one or two sentences of a text. A supported claim is a stretch of one of them that has lost a few
    words, and in which some small words gave way to others, as in a paraphrase. Another claim is such a stretch in
    which content words gave way to words of the same text, or whose halves have changed places, or a stretch of a
    sentence near by. These stand for the paper's sets that are made, not labelled (copies, extracts and refilled
    sentences); they teach which words matter, not what words mean: mix in labelled pairs, or fine-tune on them.

    Source: after the made sets of Zha et al. 2023 (arXiv 2305.16739), which use translation and a masked model.

    Args:
        n: pairs.
        supported: share of supported claims.
        replaced: share of the others in which words gave way.
        near: share of the others that come from a sentence near by; the rest have their halves exchanged.
        drop: share of words that a stretch loses; of small words three times as many.
        exchange: share of small words that become another one.
        seed: of all draws.

    Example:
        >>> import truing as tr
        >>> texts = tr.sandbox.heldout_text("train", 20)
        >>> pairs = tr.ConsistencyPairs(n=8).build(texts)
        >>> sorted(pairs[0])[:3]
        ['completion', 'label', 'prompt']
    """

    n: int = 6000
    supported: float = 0.5
    replaced: float = 0.5
    near: float = 0.3
    drop: float = 0.08
    exchange: float = 0.2
    seed: int = 0

    record_kind: ClassVar[str] = "label"
    paper: ClassVar[int | None] = 34

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_whole(self.n) and self.n >= 1, f"n is a number of pairs, not {self.n!r}.")
        for name in ("supported", "replaced", "near", "drop", "exchange"):
            value = getattr(self, name)
            require(is_number(value) and 0 <= value <= 1, f"{name} is a share from 0 to 1, not {value!r}.")
        require(self.replaced + self.near <= 1, "replaced and near are shares of one whole; together at most 1.")
        require(self.drop <= 0.25, f"drop is at most 0.25, so that something is left; got {self.drop}.")
        require_seed(self.seed)

    def _build(self, source: Any, model: Any, out: Path | None) -> Records:
        if isinstance(source, (str, Path)) or not all(isinstance(text, str) for text in source):
            raise RecordError("ConsistencyPairs is built from a list of texts.")
        told = [found for text in source if len(found := [s for s in sentences(text) if len(s.split()) >= 5]) >= 3]
        if not told:
            raise RecordError(
                "ConsistencyPairs needs texts of at least three sentences of five words each; none has them."
            )
        counts = Counter(word.lower() for text in told for one in text for word in one.split())
        many = min(COMMON, len(counts) // 10)
        small = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:many]]
        rng = random.Random(f"consistency pairs {self.seed}")
        return from_rows([self._pair(rng.choice(told), small, rng) for _ in range(self.n)], kind="label")

    def _pair(self, text: Sequence[str], small: Sequence[str], rng: random.Random) -> dict[str, Any]:
        size = rng.choice((1, 2))
        start = rng.randrange(len(text) - size + 1)
        context = text[start : start + size]
        label = rng.random() < self.supported
        claim = self._stretch(rng.choice(context), small, rng)
        if not label:
            how = rng.random()
            others = [*text[max(0, start - NEAR) : start], *text[start + size : start + size + NEAR]]
            if how < self.replaced:
                claim = _replaced(claim, context, text, small, rng)
            elif how < self.replaced + self.near and others:
                claim = self._stretch(rng.choice(others), small, rng)
            else:
                claim = [*claim[len(claim) // 2 :], *claim[: len(claim) // 2]]
        said = " ".join(claim)
        return {"prompt": " ".join(context), "completion": said, "label": label}

    def _stretch(self, sentence: str, small: Sequence[str], rng: random.Random) -> list[str]:
        words = sentence.split()
        if len(words) > 8 and rng.random() < 0.8:
            size = rng.randint(5, min(14, len(words)))
            start = rng.randint(0, len(words) - size)
            words = words[start : start + size]
        kept = []
        for word in words:
            little = word.lower() in small
            if rng.random() >= self.drop * (3 if little else 1):
                kept.append(rng.choice(small) if little and rng.random() < self.exchange else word)
        return kept if len(kept) >= 3 else words


def _replaced(
    claim: list[str], context: Sequence[str], others: Sequence[str], small: Sequence[str], rng: random.Random
) -> list[str]:
    """The claim with some content words exchanged for others of the same text that its context does not hold."""

    def content(word: str) -> bool:
        return word.lower() not in small and re.search(r"\w", word) is not None

    said = {word.lower() for one in context for word in one.split()}
    pool = [word for one in others for word in one.split() if content(word) and word.lower() not in said]
    places = [at for at, word in enumerate(claim) if content(word)] or list(range(len(claim)))
    if not pool:
        return claim[::-1]
    out = list(claim)
    for at in rng.sample(places, max(1, round(len(places) * rng.choice((0.15, 0.3, 0.5))))):
        out[at] = rng.choice(pool)
    return out
