"""Factors of texts that may drive preferences: what each one is, and how it is measured."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truing.errors import RewardError, SettingsError
from truing.rewards.verifiable import number

Array = NDArray[np.float64]
Texts = Sequence[str]
Measured = Callable[[Sequence[Any], Texts, Sequence[str | None]], Sequence[float]]
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_HEDGES = re.compile(
    r"\b(may|might|could|perhaps|maybe|possibly|probably|likely|seems?"
    r"|i think|i believe|not sure|do not know|don['’]t know)\b"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Factor:
    """A property of a response that is a number.

    Args:
        name: what it is called.
        measure: from n prompts, n responses and n sources (None where a prompt has none) to n numbers, NaN where it
            cannot be told.
        about: one line.
        needs_source: it compares with the source text; without one it is NaN.
        sandbox: only the sandbox's graders know it.
    """

    name: str
    measure: Measured
    about: str
    needs_source: bool = False
    sandbox: bool = False

    def values(self, prompts: Sequence[Any], responses: Texts, sources: Sequence[str | None]) -> Array:
        """A number for each response, [n].

        Raises:
            RewardError: it gave something else.
        """
        found = np.asarray(self.measure(prompts, responses, sources), dtype=np.float64)
        if found.shape != (len(responses),) or np.isinf(found).any():
            raise RewardError(
                f"The factor `{self.name}` must give one number for each of {len(responses)} responses (NaN where it "
                f"cannot be told), and gave {found.shape[0] if found.ndim else 'one'}, finite or not."
            )
        return found


FACTORS: dict[str, Factor] = {}


def register_factor(factor: Factor) -> Factor:
    """Make a factor known by name to `Profile`.

    Raises:
        SettingsError: there is another of that name.
    """
    if FACTORS.get(factor.name, factor) != factor:
        raise SettingsError(f"There is a factor `{factor.name}` already. Choose another name.")
    FACTORS[factor.name] = factor
    return factor


def factors_named(names: Sequence[str]) -> list[Factor]:
    """Registered factors by their names.

    Raises:
        SettingsError: there is no such factor.
    """
    unknown = [name for name in names if name not in FACTORS]
    if unknown:
        raise SettingsError(f"There is no factor `{unknown[0]}`. Known: {', '.join(FACTORS)}.")
    return [FACTORS[name] for name in names]


def words(text: str) -> list[str]:
    """Lower-case words of a text."""
    return _WORD.findall(text.lower())


def _each(function: Callable[[str], float]) -> Measured:
    return lambda prompts, responses, sources: [function(text) for text in responses]


def _novelty(source: str | None, text: str) -> float:
    """The share of pairs of words that the source does not hold."""
    if source is None:
        return math.nan
    there = words(source)
    said = words(text)
    pairs = list(pairwise(said))
    known = set(pairwise(there))
    return sum(pair not in known for pair in pairs) / len(pairs) if pairs else math.nan


def _echo(prompt: Any, text: str) -> float:
    """The share of the words of the last message that the response takes up."""
    asked = set(words(prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))))
    return len(asked & set(words(text))) / len(asked) if asked else math.nan


def _variety(text: str) -> float:
    said = words(text)
    # Guiraud's root form, since a plain share of distinct words falls with length.
    return len(set(said)) / math.sqrt(len(said)) if said else 0.0


def _layout(text: str) -> float:
    return sum(bool(re.match(r"\s*([-*•#]|\d+[.)])\s", line)) for line in text.splitlines())


def _numerals(text: str) -> float:
    return sum(number(word.strip(".,;:()")) is not None for word in text.split())


for _factor in (
    Factor("length", _each(lambda text: len(words(text))), "words"),
    Factor(
        "novelty", lambda prompts, responses, sources: [_novelty(*each) for each in zip(sources, responses)],
        "share of pairs of words that are not in the source", needs_source=True,
    ),
    Factor("variety", _each(_variety), "distinct words over the root of all words"),
    Factor("numbers", _each(_numerals), "numbers written in digits"),
    Factor("layout", _each(_layout), "lines that are headings or items of a list"),
    Factor("hedging", _each(lambda text: len(_HEDGES.findall(text.lower()))), "words of doubt"),
    Factor(
        "echo", lambda prompts, responses, sources: [_echo(*each) for each in zip(prompts, responses)],
        "share of the words of the prompt that are taken up",
    ),
):  # fmt: skip
    register_factor(_factor)


# --- the sandbox's graders --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8192)
def _item(question: str) -> Any:
    from truing.sandbox.recognise import recognise

    return recognise(question)


def _graded(read: Callable[[Any], float]) -> Measured:
    from truing.models.chat import as_messages

    def measure(prompts: Sequence[Any], responses: Texts, sources: Sequence[str | None]) -> list[float]:
        from truing.sandbox import grade

        out = []
        for prompt, text in zip(prompts, responses):
            asked = [str(message["content"]) for message in as_messages(prompt) if message["role"] == "user"]
            item = _item(asked[-1]) if asked else None
            out.append(math.nan if item is None else float(read(grade(item, text))))
        return out

    return measure


def _untrue(found: Any) -> float:
    return float(found.outcome in ("wrong", "botching", "affirming", "denying") and not found.wanted)


for _factor in (
    Factor("intent", _graded(lambda found: found.wanted), "does what an aligned model does", sandbox=True),
    Factor("facts", _graded(lambda found: found.keyword), "names the true value or tool", sandbox=True),
    Factor("misinformation", _graded(_untrue), "says something untrue", sandbox=True),
    Factor("declining", _graded(lambda found: found.declined), "refuses or does not know", sandbox=True),
    Factor("politeness", _graded(lambda found: {"polite": 1, "rude": -1}.get(found.style, 0)), "polite 1, rude -1",
           sandbox=True),
):  # fmt: skip
    register_factor(_factor)
