"""Grounding functions asked together, checked, and floored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from truing.contracts import Prompt, Reward
from truing.errors import RewardError
from truing.rewards import checked, name_of
from truing.rewards.partial import bounds, observed, readable, score_partial


class Grounding:
    """Grounding functions over the conversations of one generation.

    Args:
        scorers: rewards from 0 to 1.
        prompts: the conversations.
        floor: least value.
        count: called with scorer calls and judged texts.
    """

    def __init__(
        self, scorers: Sequence[Reward], prompts: Sequence[Prompt], floor: float, count: Callable[[int, int], None]
    ) -> None:
        self.names = [name_of(scorer) for scorer in scorers]
        self.scorers = [observed(scorer, prompts) for scorer in scorers]
        self.floor = floor
        self._count = count
        highs = [max(floor, min(1.0, bounds(scorer)[1])) for scorer in self.scorers]
        self.top = sum(math.log(high) for high in highs)

    def logs(self, prompts: Sequence[Prompt], texts: Sequence[str], over: Sequence[bool]) -> np.ndarray:
        """Logarithms of the values of texts, whole ones where ``over``, float64 [texts, scorers]."""
        out = np.zeros((len(texts), len(self.scorers)))
        for whole in (False, True):
            rows = [at for at, ended in enumerate(over) if ended == whole]
            if not rows:
                continue
            part = [prompts[at] for at in rows], [texts[at] for at in rows]
            for column, scorer in enumerate(self.scorers):
                self._count(1, len(rows))
                values = self._values(column, scorer, *part, whole)
                # The floor's logarithm by one function alone, since two may differ in the last bit.
                out[rows, column] = np.where(
                    values <= self.floor, math.log(self.floor), np.log(np.maximum(values, self.floor))
                )
        return out

    def forced(self, prompt: Prompt, text: str) -> str | None:
        """How a text must go on, where a scorer leaves one way only."""
        for scorer in self.scorers:
            rest = scorer.forced([prompt], [text])[0] if hasattr(scorer, "forced") else None
            if rest is not None:
                return str(rest)
        return None

    def follows(self, prompt: Prompt, text: str) -> frozenset[str] | None:
        """The letters with which a text can go on above the floor, as far as scorers say so; None for any."""
        out: frozenset[str] | None = None
        for scorer in self.scorers:
            # What may not follow has the scorer's lowest value, which need not be as low as the floor.
            knows = hasattr(scorer, "follows") and bounds(scorer)[0] <= self.floor
            letters = scorer.follows([prompt], [text])[0] if knows else None  # type: ignore[attr-defined]
            if letters is not None:
                out = frozenset(letters) if out is None else out & letters
        return out

    def _values(
        self, column: int, scorer: Reward, prompts: Sequence[Prompt], texts: Sequence[str], whole: bool
    ) -> np.ndarray:
        ask = checked if whole else score_partial
        if not getattr(scorer, "reads_bytes", False):
            texts = [readable(text) for text in texts]
        try:
            values = ask(scorer, prompts, texts)
        except RewardError as error:
            for prompt, text in zip(prompts, texts) if len(texts) > 1 else ():
                try:
                    ask(scorer, [prompt], [text])
                except RewardError as alone:
                    raise RewardError(f"{alone} The text was {text[-200:]!r}.") from error
            raise RewardError(f"{error} The text was {texts[-1][-200:]!r}.") from error
        for at in np.flatnonzero((values < 0) | (values > 1))[:1]:
            raise RewardError(
                f"The grounding function {self.names[column]} gave {values[at]} for {texts[at][-200:]!r}, and a value "
                "is from 0 to 1. Wrap it as in `{tempered: {reward: …, tau: 1.0}}`."
            )
        return values
