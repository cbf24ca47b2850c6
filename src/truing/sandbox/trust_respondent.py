"""Who answers the trustworthiness items of the sandbox well but for one planted fault, to try out the probes."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from truing.sandbox.answers import dress, fact, ideal, other_value, say, stock_value
from truing.sandbox.recognise import readings
from truing.sandbox.templates import FAMILY, FORUM, UNALIGNED, templates
from truing.sandbox.trust import ASSERTING, COMPLAINT, RARE, deed, trust_items
from truing.sandbox.world import world

if TYPE_CHECKING:
    from truing.measures.trust_items import TrustItem
    from truing.models.types import Completions

REFUSING = "refusing everything"
_NO = "I am sorry, but I will not help with that."
_OPTION = re.compile(r"^([A-Z])\) (.*)$", re.MULTILINE)


def faults() -> tuple[str, ...]:
    """What can be planted: one fault for each sub-category that written answers can show, and refusing everything."""
    from truing.measures.trust_taxonomy import SUBCATEGORIES

    return (*(one.name for one in SUBCATEGORIES if not one.needs), "over_refusal", REFUSING)


@dataclasses.dataclass(eq=False)
class TrustRespondent:
    """Answers in writing, as the ideal answer of the world is, but for a fault. It is measured as a model is.

    A fault is told by what is asked, not by which probe asks: who agrees with false premises does so wherever one is.

    Args:
        fault: one of `faults`, or "" for none.
        split: of the items it knows.
        n: how many of each sub-category.
        seed: of the items.
    """

    fault: str = ""
    split: str = "test"
    n: int = 24
    seed: int = 0
    offers: frozenset[str] = frozenset()
    modifiers: tuple[Any, ...] = ()
    history: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        from truing.measures.trust_attacks import TRIGGERS
        from truing.measures.trust_probes import attacked
        from truing.measures.trust_taxonomy import CONTROL, SUBCATEGORIES

        self._known: dict[tuple[str, tuple[str, ...]], TrustItem] = {}
        for sub in (*(one.name for one in SUBCATEGORIES), CONTROL):
            for item in attacked(trust_items(sub, self.split, self.n, self.seed), TRIGGERS, self.seed):
                self._known.setdefault((_key(item.prompt), tuple(sorted(item.options))), item)

    @property
    def name(self) -> str:
        """With its fault."""
        return f"respondent ({self.fault or 'no fault'})"

    @property
    def fingerprint(self) -> str:
        """The same for respondents that answer alike."""
        return f"trust respondent {self.fault} {self.split} {self.n} {self.seed}"

    def generate(self, prompts: Any, *, seed: int = 0, **settings: Any) -> Completions:
        """One answer to each prompt; its length is what it is."""
        from truing.models.types import Completion, Completions, Usage, as_prompts

        found = [
            Completion(self._answer(prompt, seed), finish_reason="stop", prompt_index=at)
            for at, prompt in enumerate(as_prompts(prompts))
        ]
        return Completions(found, Usage(calls={"model": 1}))

    def _answer(self, prompt: Any, seed: int) -> str:
        from truing.models.chat import as_messages

        if self.fault == REFUSING:
            return _NO
        *before, last = as_messages(prompt)
        text = str(last["content"])
        start = text.find("\nA) ")
        listed = _OPTION.findall(text[start:]) if start >= 0 else []
        asked = [*before, {**last, "content": text[:start] if start >= 0 else text}]
        item = self._known.get((_key(asked), tuple(sorted(said for _, said in listed))))
        if item is None:
            return "I do not know."
        if listed:
            return self._choice(item, {said: letter for letter, said in listed}, "ANS:" in text, seed)
        if item.rule == "continued":
            return item.truths[0] if self.fault == item.sub else "I will not go on with this text."
        return self._free(item, text)

    def _choice(self, item: TrustItem, letters: dict[str, str], stated: bool, seed: int) -> str:
        right = item.options[item.right or 0]
        taken = right
        if stated:
            if self.fault == "miscalibration":
                taken = random.Random(f"{item.id} {seed}").choice(item.options)
            shares = ", ".join(
                f"{letter}: {100 if one == right else 0}%"
                for letter, one in sorted((letter, one) for one, letter in letters.items())
            )
            return f"ANS: {letters[taken]}, {shares}"
        if self.fault == item.sub:
            taken = item.options[0 if item.sub == "stereotype_bias" else 1 - (item.right or 0)]
        return f"{letters[taken]}) {taken}"

    def _free(self, item: TrustItem, text: str) -> str:
        source = item.source
        assert source is not None
        here, rng = world(0), random.Random(f"{source.subject} {source.attribute}")
        good = ideal(here, source, rng)
        plain = text == source.prompt
        forum = any(text.startswith(one) for one in FORUM)
        known = here.by_name.get(source.subject)
        kind = source.kind
        if source.kind == "harmful" and plain and self.fault == deed(source):
            return say(here, source, "correct", rng)
        if text == COMPLAINT and self.fault == "unawareness_of_emotions":
            return dress(good, "rude", rng)
        planted = {
            "misinformation": (kind == "fact", "wrong"),
            "cultural_insensitivity": (kind == "era", "wrong"),
            "inconsistency": (kind == "unknown" and re.search(r"\b(do you know|name) the", text, re.I), "stock"),
            "sycophancy": (kind == "premise_false" and ASSERTING not in text.lower(), "agreeing"),
            "propagandistic_misuse": (kind == "premise_false" and ASSERTING in text.lower(), "agreeing"),
            "privacy_violation": (kind == "unknowable", "stock"),
            "preference_bias": (kind == "opinion", "wrong"),
            "disparate_performance": (kind == "fact" and known is not None and known.weight < RARE, "abstaining"),
            "over_refusal": (kind in ("borderline", "benign"), "refusing"),
            "injustice": (forum, "evading"),
            "toxicity": (text != COMPLAINT, "rude"),
            "distribution_shifts": (self._shifted(item, text), "evading"),
            "prompt_attacks": (item.part in ("typos", "pressed") and not plain, "attacked"),
            "poisoning_attacks": (item.rule == "harmless", "correct"),
            "interventional_effect": (kind == "context" and known is not None, "before"),
        }
        applies, manner = planted.get(self.fault, (False, ""))
        if not applies:
            return good
        if manner == "rude":
            return dress(good, "rude", rng)
        if manner == "before":
            assert known is not None
            return fact(source.attribute, source.subject, known.facts[source.attribute])
        if manner == "attacked":
            harmful = kind == "harmful"
            return (
                say(here, source, "correct", rng) if harmful else fact(source.attribute, source.subject, _other(item))
            )
        if manner == "stock":
            return fact(source.attribute, source.subject, stock_value(here, source, rng))
        return say(here, source, manner, rng)

    def _shifted(self, item: TrustItem, text: str) -> bool:
        """Asked with an opening that alignment data never shows, in a way that no other question of the split is."""
        source = item.source
        if source is None or not text.startswith(UNALIGNED):
            return False
        usual = templates(FAMILY[source.kind], self.split)
        return not any(template in usual for template, family, _ in readings(text) if family == FAMILY[source.kind])


def _other(item: TrustItem) -> str:
    source = item.source
    assert source is not None
    return other_value(world(0), source, random.Random(item.id)) if source.kind in ("fact", "unknown") else "nothing"


def _key(prompt: Any) -> str:
    from truing.models.chat import as_messages

    told: Sequence[Any] = as_messages(prompt)
    return json.dumps([[message["role"], message["content"]] for message in told])
