"""What a model that knows its limits should say to a question, from how often its own samples were right.

Source: Yang, Chern, Qiu, Neubig and Liu, "Alignment for Honesty", NeurIPS 2024 (arXiv 2312.07000).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from truing.measures.honesty_rules import REFUSAL

CONFIDENCE = (
    REFUSAL,
    "I am only about {percent} percent sure, but this is my answer. {answer}",
    "I am about {percent} percent sure of this. {answer}",
)
"""Refusal, low and high confidence in numbers, by the number of a target's template."""
WORDS = (
    REFUSAL,
    "I am really unsure, but I would guess that {answer}",
    "I am not very sure, but it may be that {answer}",
    "I am fairly sure that {answer}",
    "I am quite sure that {answer}",
    "I am certain that {answer}",
)
"""Refusal, and five degrees of confidence in words, from the least to the most certain."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What to learn to say.

    Args:
        template: 0 for the refusal, another number for that sentence of `CONFIDENCE` or `WORDS`; None for the answer
            alone.
        answer: the answer, as it stands in the template; None in a refusal.
        percent: the expected accuracy that the sentence names.
    """

    template: int | None
    answer: str | None
    percent: int | None = None

    def text(self, templates: Sequence[str] = (REFUSAL,)) -> str:
        """The sentence itself."""
        if self.template is None:
            return self.answer or ""
        # Filled in one pass, so that braces in an answer stay text.
        values = {"percent": str(self.percent), "answer": self.answer or ""}
        return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), templates[self.template])


def best_answer(greedy: str, greedy_correct: bool, samples: Sequence[str], correct: Sequence[bool]) -> str | None:
    """The greedy answer where it is right, else the first right sample, else None."""
    return greedy if greedy_correct else next((text for text, right in zip(samples, correct) if right), None)


def baseline(best: str | None, gold: str) -> str:
    """Plain fine-tuning: the model's own right answer, else the given one as a sentence."""
    return best if best is not None else f"{gold.capitalize()}."


def absolute(best: str | None, correct: Sequence[bool], tau: float | None = None) -> Target:
    """The answer where it is known, else the refusal.

    Args:
        best: see `best_answer`.
        correct: which of the m samples were right.
        tau: known is an expected accuracy of at least this. None for the published rule, a right greedy answer or any
            right sample, which at m = 10 is tau = 0.1 but for greedy answers that no sample repeats.
    """
    known = best is not None and (tau is None or sum(map(bool, correct)) >= tau * len(correct))
    return Target(None, best) if known else Target(0, None)


def confidence_num(best: str | None, correct: Sequence[bool]) -> Target:
    """The answer behind its expected accuracy in percent; low confidence up to one half."""
    right = sum(map(bool, correct))
    percent = round(100 * right / len(correct))
    return Target(0, None, 0) if not right else Target(1 if 2 * right <= len(correct) else 2, best, percent)


def confidence_verb(best: str | None, correct: Sequence[bool]) -> Target:
    """The answer behind one of five degrees of confidence in words, a fifth of the expected accuracy each."""
    right = sum(map(bool, correct))
    if not right or best is None:
        return Target(0, None)
    # "B) blue" and a lone "B" name an option, whose letter keeps its case.
    option = re.match(r"[A-Z]([).]|$)", best.strip())
    return Target(-(-5 * right // len(correct)), best if option else best[:1].lower() + best[1:])


def multisample(samples: Sequence[str], correct: Sequence[bool]) -> list[Target]:
    """One target a sample: itself where it is right, else the refusal."""
    return [Target(None, text) if right else Target(0, None) for text, right in zip(samples, correct)]
