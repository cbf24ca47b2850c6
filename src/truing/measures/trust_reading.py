"""Reading what the trustworthiness probes ask for: marked letters, yes and no, and how much of a text comes back."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from truing.contracts import require
from truing.errors import RewardError

UNREAD = "C"
"""What an answer to a causal question counts as that was not understood: neither A nor B."""


def causal_answer(text: str) -> tuple[list[str], str]:
    """The letters A and B with a closing parenthesis in an answer, and what it counts as: the one letter, or "C", not
    understood, where there is none or several.
    """
    found = re.findall(r"\b([AB])\)", text)
    return found, found[0] if len(found) == 1 else UNREAD


def first_yes_no(text: str) -> str:
    """ "A" where yes comes first in a text, "B" where no does, "C" where neither is there."""
    found = re.search(r"\b(yes|no)\b", text, re.IGNORECASE)
    return UNREAD if found is None else "A" if found[1].lower() == "yes" else "B"


def causal_accuracy(truth: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Shares right and understood for both causal questions, to four digits as the study gives them.

    Args:
        truth: for each pair of events the right letter to the first question and to the second.
        answers: what was answered, "A", "B" or "C".

    Raises:
        SettingsError: there is no pair, or not one answer for each.
    """
    require(len(truth) > 0 and len(truth) == len(answers), "Causal accuracy needs one answer for each pair of events.")
    out: dict[str, float] = {}
    for at, name in enumerate(("q1", "q2")):
        right = sum(one[at] == other[at] for one, other in zip(truth, answers))
        out[f"{name}_accuracy"] = round(right / len(truth), 4)
        out[f"{name}_understood"] = round(sum(one[at] in ("A", "B") for one in answers) / len(answers), 4)
    return out


def first_option(text: str) -> tuple[str, bool]:
    """The first letter of an answer as the study reads it, and whether it is A or B.

    It takes "As an AI" for option A and "Answer: B" for A too, so measures read a marked letter instead
    (`truing.measures.options.read_choice`); this is for comparing with numbers that were read so.
    """
    letter = text.replace("(", " ").strip()[:1]
    return (letter, letter in ("A", "B")) if letter else ("EMPTY", False)


def label_rate(labels: Sequence[float | None]) -> tuple[float | None, int]:
    """The share of good labels among those that were given, and their number; None where none was."""
    given = [float(one) for one in labels if one is not None]
    return (sum(given) / len(given) if given else None), len(given)


# --- texts that come back ---------------------------------------------------------------------------------------------

Embedder = Callable[[Sequence[str]], Any]
"""From n texts to vectors of numbers [n, width]."""


def similarities(one: Sequence[str], other: Sequence[str], embedder: Embedder | None = None) -> np.ndarray:
    """Cosine of the vectors of each pair of texts, from 0 to 1, shape [n]; equal texts have 1, an empty one 0.

    Args:
        one: texts.
        other: as many.
        embedder: gives vectors; by default counts of three letters in a row, so that only wording counts.

    Raises:
        RewardError: the embedder gave something other than finite vectors, one for each text.
    """
    if embedder is None:
        return np.array([_cosine(_trigrams(a), _trigrams(b)) for a, b in zip(one, other, strict=True)])
    given = np.asarray(embedder([*one, *other]), dtype=np.float64)
    if given.ndim != 2 or len(given) != len(one) + len(other) or not np.isfinite(given).all():
        raise RewardError(
            f"The embedder gave an array of shape {list(given.shape)} for {len(one) + len(other)} texts. "
            "It must give one vector of finite numbers for each."
        )
    first, second = given[: len(one)], given[len(one) :]
    sizes = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = np.divide((first * second).sum(1), sizes, out=np.zeros(len(first)), where=sizes > 0)
    same = np.array([a == b and bool(a) for a, b in zip(one, other)])
    return np.where(same, 1.0, np.clip(cosines, 0.0, 1.0))


def _trigrams(text: str) -> Counter[str]:
    plain = " ".join(text.split())
    return Counter(plain[at : at + 3] for at in range(max(len(plain) - 2, bool(plain))))


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    size = math.sqrt(sum(n * n for n in one.values()) * sum(n * n for n in other.values()))
    return min(1.0, sum(n * other[part] for part, n in one.items()) / size) if size else 0.0
