"""What measures ask of judges: verdicts on pairs in both orders, scores, and replies that are read; journaled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from truing.errors import RewardError
from truing.measures.asking import Context
from truing.measures.journal import identity
from truing.rewards import checked, name_of
from truing.rewards.pairwise import turned

VERDICTS = ("first", "second", "tie", None)
Pair = tuple[Any, str, str]


def compares(judge: Any) -> bool:
    """Whether a judge says which of two answers it prefers; any other is a reward, whose higher number wins."""
    return hasattr(judge, "prefer")


def at_hand(judge: Any, context: Context) -> Any:
    """A judge whose model is loaded, so that the journal knows it by its weights and not by its name; answers of a
    remote one are kept as they arrive.
    """
    model = getattr(judge, "model", None)
    if isinstance(model, str) and hasattr(judge, "clone"):
        from truing.models import load

        judge = judge.clone(model=load(model))
        model = judge.model
    kept = context.journal.kept(model)
    return judge if kept is model else judge.clone(model=kept)


def both_orders(judge: Any, pairs: Sequence[Pair], context: Context) -> tuple[list[str | None], list[str | None]]:
    """Verdicts on pairs as given, and with the second answer first; see `truing.rewards.pairwise`.

    Args:
        judge: with ``prefer(prompts, first, second)``, or any reward: then the answer with the higher reward wins.
        pairs: a prompt, one answer and another.
        context: of the measure.

    Raises:
        RewardError: ``prefer`` gave something other than a verdict for each pair.
    """
    judge = at_hand(judge, context)
    if not compares(judge):
        verdicts = _by_reward(judge, pairs)
        return verdicts, [turned(verdict) for verdict in verdicts]
    found = verdicts_of(judge, [*pairs, *((prompt, two, one) for prompt, one, two in pairs)], context)
    return found[: len(pairs)], found[len(pairs) :]


def verdicts_of(judge: Any, pairs: Sequence[Pair], context: Context) -> list[str | None]:
    """A verdict on each pair, shown in the order given.

    Args:
        judge: with ``prefer``, `at_hand`.
        pairs: as in `both_orders`.
        context: of the measure.

    Raises:
        RewardError: ``prefer`` gave something other than a verdict for each pair.
    """

    def work(rows: list[int]) -> list[Any]:
        prompts = [pairs[row][0] for row in rows]
        first, second = [pairs[row][1] for row in rows], [pairs[row][2] for row in rows]
        found = list(judge.prefer(prompts, first, second))
        if len(found) != len(rows) or any(verdict not in VERDICTS for verdict in found):
            raise RewardError(
                f"{type(judge).__name__}.prefer gave {found[:3]} for {len(rows)} pairs. "
                'It must give "first", "second", "tie" or None for each.'
            )
        return found

    return context.compute(f"judge {identity(judge)}", [{"prefer": list(pair)} for pair in pairs], work, "judge")


def scores(judge: Any, prompts: Sequence[Any], answers: Sequence[str], context: Context) -> list[float | None]:
    """The score that a judge or a reward gives each answer; None where its reply could not be read."""
    judge = at_hand(judge, context)

    def work(rows: list[int]) -> list[Any]:
        asked, said = [prompts[row] for row in rows], [answers[row] for row in rows]
        if hasattr(judge, "ask"):
            return [verdict.score for verdict in judge.ask(asked, said)]
        return [float(value) for value in checked(judge, asked, said)]

    who = identity(judge) if hasattr(judge, "settings") else None
    origin = f"judge {who}" if who is not None else f"object {id(judge)} {name_of(judge)}"
    keys = [{"score": [prompt, answer]} for prompt, answer in zip(prompts, answers)]
    if who is None and context.journal.folder is not None:
        return [value for start in range(0, len(keys), 64) for value in work(list(range(len(keys)))[start:][:64])]
    found: list[float | None] = context.compute(origin, keys, work, "judge")
    return found


def replies_read(
    judge: Any, texts: Sequence[str], read: Callable[[int, str, bool], Any], context: Context, *, label: str,
    retries: int, max_new_tokens: int, seed: int = 0,
) -> list[Any]:  # fmt: skip
    """What was read from the reply to each text; None where no reply could be.

    Texts whose reply cannot be read are asked again, all together, with another seed and at temperature 0.7, since a
    greedy reply would come again. Last replies are journaled, and those of a remote judge as they arrive.

    Args:
        judge: a local or remote model.
        texts: what it is asked.
        read: from the number of a text, the reply, and whether it was cut by its length limit, to what it says.
        context: of the measure.
        label: what the journal calls these questions.
        retries: how often an unreadable reply is asked for again.
        max_new_tokens: most tokens of a reply.
        seed: of the first try; each retry adds one.
    """
    model = context.journal.kept(judge)

    def work(rows: list[int]) -> list[Any]:
        replies: dict[int, list[Any]] = {}
        left = rows
        for attempt in range(retries + 1):
            if not left:
                break
            said = model.generate(
                [texts[row] for row in left], max_new_tokens=max_new_tokens, temperature=0.7 if attempt else 0.0,
                seed=seed + attempt,
            )  # fmt: skip
            context.usage += said.usage
            replies.update((row, [one.text, one.finish_reason == "length"]) for row, one in zip(left, said))
            left = [row for row in left if read(row, *replies[row]) is None]
        return [replies[row] for row in rows]

    keys = [{label: text, "tokens": max_new_tokens, "retries": retries} for text in texts]
    found = context.compute(f"judge {context.origin(judge)}", keys, work, "judge")
    return [read(row, *reply) for row, reply in enumerate(found)]


def unread_notes(forward: Sequence[str | None], backward: Sequence[str | None]) -> list[str]:
    """Notes of verdicts that could not be read, and of pairs whose two orders do not agree."""
    notes = []
    both = [*forward, *backward]
    lost = Counter(both)[None]
    if lost:
        pairs = sum(a is None or b is None for a, b in zip(forward, backward))
        notes.append(
            f"{lost} of {len(both)} verdicts could not be read; the {pairs} pairs they belong to do not count."
        )
    split = sum(a is not None and b is not None and a != turned(b) for a, b in zip(forward, backward))
    if split:
        notes.append(f"{split} of {len(forward)} pairs got another verdict in the other order and count as ties.")
    return notes


def _by_reward(judge: Any, pairs: Sequence[Pair]) -> list[str | None]:
    prompts = [prompt for prompt, _, _ in pairs]
    mine = checked(judge, prompts, [one for _, one, _ in pairs])
    theirs = checked(judge, prompts, [two for _, _, two in pairs])
    return ["tie" if a == b else "first" if a > b else "second" for a, b in zip(mine, theirs)]
