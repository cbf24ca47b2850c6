"""Rewards on partial text: what decoding asks of a reward while an answer is being written.

Any reward is one. What it may say about itself besides, by attributes, lets a search skip work, and never changes what
the search finds:

- ``bounds``: the lowest and the highest value that it can give, on whole or partial text.
- ``partial(prompts, texts)``: its value of unfinished texts, where that is not simply its value of them as answers.
  A scorer of skills, say, gives a beginning the value of the best skill that starts so.
- ``observe(prompts)``: what stands in for it during one generation, whose conversations these are. A reward that reads
  the state of a world looks at it here, once, and not at every token.
- ``forced(prompts, texts)``: for each unfinished text how it must go on, where there is only one way, else None.
- ``follows(prompts, texts)``: for each unfinished text the letters that may come next, where others have its lowest
  value; None where any may.
- ``reach(prompts, texts)``: for each text the lowest and the highest value that it can still give to any text that
  begins so, the text itself among them, whole or partial; shape [n, 2]. A word that was found stays found, a limit
  that was broken stays broken. Where the two are equal, the outcome is settled.

- ``reads_bytes``: true where it takes the first bytes of an unfinished letter, as tokens may part one, in the form of
  Python's ``surrogateescape``. All others are given U+FFFD in their place.

Grounding functions, look-ahead heuristics and reward models are all asked in this way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from truing.contracts import Prompt, Reward
from truing.errors import RewardError
from truing.rewards import checked, name_of

_HALF = re.compile("[\udc80-\udcff]+$")


def half_letter(text: str) -> str:
    """The bytes of an unfinished letter at the end of a text, as ``surrogateescape`` writes them; empty if none."""
    found = _HALF.search(text)
    return found[0] if found else ""


def readable(text: str) -> str:
    """A text with U+FFFD in place of the bytes of an unfinished letter."""
    return text.encode(errors="surrogateescape").decode(errors="replace") if half_letter(text) else text


def bounds(reward: Any) -> tuple[float, float]:
    """The lowest and the highest value of a reward; infinite where it declares none."""
    declared = getattr(reward, "bounds", None)
    if declared is None:
        return -math.inf, math.inf
    low, high = declared
    if not low <= high:
        raise RewardError(f"The reward {name_of(reward)} declares bounds from {low} to {high}, which hold nothing.")
    return float(low), float(high)


def observed(reward: Reward, prompts: Sequence[Prompt]) -> Reward:
    """What stands in for a reward during one generation over these conversations; itself where it observes nothing."""
    observe = getattr(reward, "observe", None)
    return reward if observe is None else cast(Reward, observe(prompts))


def reach(reward: Any, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
    """The lowest and the highest value that each text can still come to, float64 [n, 2]; its bounds unless it says.

    Raises:
        RewardError: what the reward says is not n pairs of a lower and an upper end.
    """
    said = getattr(reward, "reach", None)
    if said is None:
        return np.tile(np.array(bounds(reward)), (len(texts), 1))
    ends = np.asarray(said(prompts, texts), dtype=np.float64)
    if ends.shape != (len(texts), 2) or not (ends[:, 0] <= ends[:, 1]).all():
        raise RewardError(
            f"The reward {name_of(reward)} said of {len(texts)} texts that they reach {ends.tolist()!r:.80}. "
            "Its `reach` gives a lower and an upper end for each text."
        )
    return ends


def score_texts(
    reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str], finished: Sequence[bool]
) -> np.ndarray:
    """What a reward says of texts of which some are whole answers and the others beginnings, float64 [n].

    Raises:
        RewardError: as `score_partial`; it names the text at fault.
    """
    values = np.zeros(len(texts))
    for whole in (True, False):
        at = [row for row, done in enumerate(finished) if bool(done) == whole]
        if at:
            ask = _whole if whole else score_partial
            values[at] = _naming(ask, reward, [prompts[row] for row in at], [texts[row] for row in at])
    return values


def _naming(ask: Any, reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
    """Ask, and find the text to name where that fails: a batch of beginnings says little of which one it was."""
    try:
        return np.asarray(ask(reward, prompts, texts))
    except RewardError as error:
        for prompt, text in zip(prompts, texts) if len(texts) > 1 else ():
            _naming(ask, reward, [prompt], [text])
        if repr(texts[0][:80])[1:-1] in str(error):
            raise
        raise RewardError(f"{error} The text was {texts[0][:200]!r}.") from error


def score_partial(reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
    """What a reward says of unfinished texts, float64 [n], checked as `truing.rewards.checked` does.

    Raises:
        RewardError: as `checked`; or a value lies outside of the bounds that the reward declares, so that a search that
            relied on them would have been wrong.
    """
    partial = getattr(reward, "partial", None)
    return _inside(reward, checked(reward if partial is None else partial, prompts, texts), texts)


def _whole(reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
    return _inside(reward, checked(reward, prompts, texts), texts)


def _inside(reward: Reward, values: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    low, high = bounds(reward)
    outside = np.flatnonzero((values < low) | (values > high))
    if len(outside):
        at = int(outside[0])
        raise RewardError(
            f"The reward {name_of(reward)} declares values from {low} to {high} and gave {values[at]} for "
            f"{texts[at][:80]!r}. Mend its `bounds`."
        )
    return values
