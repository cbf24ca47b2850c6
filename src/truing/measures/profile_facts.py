"""Factors that a judge reads: a response is split into facts, and these are checked, one question each for all of
them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from truing.measures.asking import Context
from truing.measures.judging import replies_read
from truing.rewards.aspects import read_object
from truing.rewards.judge import DATA, quoted_conversation
from truing.safe_text import filled, quoted

JUDGED = (
    "facts", "hallucination", "off_focus", "helpfulness", "source_coverage", "intent", "receptive", "misinformation",
)  # fmt: skip
"""What `judged_factors` gives; ``hallucination`` and ``source_coverage`` need a source, and facts where they are
shares."""
_SPLIT = (
    f"List the facts that a text states, each as a short sentence that can be understood alone.\n\n{DATA}\n\n"
    'The text:\n{text}\n\nReply with JSON alone: {"facts": ["...", "..."]}; an empty list where it states none.'
)
_CHECK = (
    f"Check an assistant's answer and the facts that it states.\n\n{DATA}\n\n{{conversation}}\n\n{{source}}"
    "The answer:\n{answer}\n\nIts facts, one a line:\n{facts}\n\n"
    "For each fact: supported (by the source, or true where there is none), on_focus (about the main point of the "
    "conversation), helpful (adds useful content beyond what was asked). For the whole answer: intent (it does what "
    "the conversation is for), receptive (it answers the core question), misinformation (it claims something false). "
    'Reply with JSON alone: {"facts": [{"supported": true, "on_focus": true, "helpful": false}, one such object for '
    'each of the {count} facts in order], "intent": true, "receptive": true, "misinformation": false}.'
)
_COVER = (
    f"Which facts of a source does an answer state?\n\n{DATA}\n\nFacts of the source, one a line:\n{{facts}}\n\n"
    "The answer:\n{answer}\n\nReply with JSON alone, one value for each of the {count} facts in order: "
    '{"stated": [true, false]}.'
)


def judged_factors(
    judge: Any, prompts: Sequence[Any], responses: Sequence[str], sources: Sequence[str | None], context: Context, *,
    retries: int = 2, max_new_tokens: int = 1024, seed: int = 0,
) -> tuple[dict[str, list[float]], int]:  # fmt: skip
    """The values of `JUDGED` for n responses, NaN where a reply could not be read or there is nothing to divide by, and
    the number of responses with an unread reply.

    A text is split once however often it stands there, and all its facts are checked in one question. Shares of facts
    are NaN for an answer that states none.

    Args:
        judge: a local or remote model.
        prompts: n conversations.
        responses: n answers.
        sources: the text that each answer is about, or None.
        context: of the measure.
        retries: how often a reply that cannot be read is asked for again.
        max_new_tokens: most tokens of a reply.
        seed: of the first try.
    """

    def ask(texts: Sequence[str], read: Callable[[int, str, bool], Any]) -> list[Any]:
        return replies_read(
            judge, texts, read, context, label="profile", retries=retries, max_new_tokens=max_new_tokens, seed=seed
        )

    wholes = list(dict.fromkeys([*responses, *(source for source in sources if source is not None)]))
    split: dict[str | None, Any] = dict(
        zip(wholes, ask([filled(_SPLIT, text=quoted(text)) for text in wholes], _read_facts))
    )
    known = [at for at, text in enumerate(responses) if split[text] is not None]
    checked = ask(
        [
            filled(
                _CHECK, conversation=quoted_conversation(prompts[at]), answer=quoted(responses[at]),
                source="" if sources[at] is None else f"The source:\n{quoted(sources[at] or '')}\n\n",
                facts=_lines(split[responses[at]]), count=str(len(split[responses[at]])),
            )
            for at in known
        ],
        lambda row, reply, cut: _read_check(reply, cut, len(split[responses[known[row]]])),
    )  # fmt: skip
    # An answer is measured against what its source states.
    covered = [at for at in known if sources[at] is not None and split[sources[at]]]
    stated = ask(
        [
            filled(_COVER, facts=_lines(split[sources[at]]), answer=quoted(responses[at]),
                   count=str(len(split[sources[at]])))
            for at in covered
        ],
        lambda row, reply, cut: _read_flags(reply, cut, len(split[sources[covered[row]]])),
    )  # fmt: skip
    found: dict[str, list[float]] = {name: [math.nan] * len(responses) for name in JUDGED}
    lost = set(range(len(responses))) - set(known)
    for at, one in zip(known, checked):
        if one is None:
            lost.add(at)
            continue
        facts = one["facts"]
        found["facts"][at] = float(len(facts))
        if facts:
            shares = {
                name: sum(fact[name] for fact in facts) / len(facts) for name in ("supported", "on_focus", "helpful")
            }
            found["off_focus"][at], found["helpfulness"][at] = 1 - shares["on_focus"], shares["helpful"]
            if sources[at] is not None:
                found["hallucination"][at] = 1 - shares["supported"]
        for name in ("intent", "receptive", "misinformation"):
            found[name][at] = float(one[name])
    for at, flags in zip(covered, stated):
        if flags is None:
            lost.add(at)
        else:
            found["source_coverage"][at] = sum(flags) / len(flags)
    return found, len(lost)


def _lines(facts: Sequence[str]) -> str:
    return quoted("\n".join(" ".join(fact.split()) for fact in facts)) if facts else "> (none)"


def _read_facts(row: int, reply: str, cut: bool) -> list[str] | None:
    held = read_object(reply, cut=cut)
    facts = None if held is None else held.get("facts")
    if not isinstance(facts, list) or not all(isinstance(fact, str) and fact.strip() for fact in facts):
        return None
    return facts


def _read_check(reply: str, cut: bool, count: int) -> dict[str, Any] | None:
    held = read_object(reply, cut=cut)
    facts = None if held is None else held.get("facts")
    if held is None or not isinstance(facts, list) or len(facts) != count:
        return None
    names = ("supported", "on_focus", "helpful")
    good = all(isinstance(fact, dict) and all(isinstance(fact.get(name), bool) for name in names) for fact in facts)
    whole = all(isinstance(held.get(name), bool) for name in ("intent", "receptive", "misinformation"))
    return held if good and whole else None


def _read_flags(reply: str, cut: bool, count: int) -> list[bool] | None:
    held = read_object(reply, cut=cut)
    flags = None if held is None else held.get("stated")
    good = isinstance(flags, list) and len(flags) == count and all(isinstance(flag, bool) for flag in flags)
    return flags if good else None
