"""Demonstrations inside a prompt: k-shot samples of tasks, subsets of their demonstrations, and whether two models
prefer the same subset.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from truing.contracts import Message
from truing.errors import RecordError
from truing.methods.training.encoding import turn
from truing.models import chat

if TYPE_CHECKING:
    from truing.measures.statistics import Estimate
    from truing.models import Model

Subset = tuple[int, ...]


def kshot(
    rows: Iterable[Mapping[str, Any]], *, shots: tuple[int, int] = (4, 10), samples: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Samples of k demonstrations and a query, all of one task, grouped at random.

    In each pass the records of a task are shuffled and cut into groups of k + 1, k drawn for every group; the last one
    asks for what it lacks among the others of its task.

    Args:
        rows: demonstration rows. The column ``task`` says what belongs together; without it all are one task.
        shots: least and most demonstrations.
        samples: how many; None for one pass, in which each record stands in a sample once.
        seed: of grouping and order.

    Returns:
        Rows with ``prompt`` and ``completion`` of the query, ``task``, and ``demonstrations``: a list of objects with
        ``prompt`` and ``completion``.

    Raises:
        RecordError: a task has too few records for the fewest demonstrations and a query.
    """
    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        pair = {"prompt": row["prompt"], "completion": row["completion"]}
        tasks.setdefault(str(row.get("task", "")), []).append(pair)
    least, most = shots
    for task, pairs in tasks.items():
        if len(pairs) <= least:
            name = f"The task `{task[:60]}`" if task else "Without a column `task` all records are one task, which"
            raise RecordError(
                f"{name} has {len(pairs)} records; a sample takes {least} demonstrations and a query. Give more, or "
                f"fewer `shots`."
            )
    rng = random.Random(f"kshot {seed}")
    out: list[dict[str, Any]] = []
    while not out or (samples is not None and len(out) < samples):
        out += [sample for task, pairs in tasks.items() for sample in _groups(task, pairs, least, most, rng)]
    rng.shuffle(out)
    return out[:samples]


def _groups(task: str, pairs: list[dict[str, Any]], least: int, most: int, rng: random.Random) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    order, at = rng.sample(range(len(pairs)), len(pairs)), 0
    while at < len(order):
        size = rng.randint(least, min(most, len(pairs) - 1)) + 1
        chosen = order[at : at + size]
        at += size
        if len(chosen) < size:
            inside = set(chosen)
            others = [one for one in range(len(pairs)) if one not in inside]
            chosen = rng.sample(others, size - len(chosen)) + chosen
        *shown, query = [pairs[one] for one in chosen]
        out.append({**query, **({"task": task} if task else {}), "demonstrations": shown})
    return out


def subsets(count: int, wanted: int, rng: random.Random) -> list[Subset]:
    """Distinct subsets of ``count`` demonstrations, uniform over the power set; the empty one is a member of it.

    Args:
        count: demonstrations, numbered from 0.
        wanted: how many subsets.
        rng: draws them.

    Returns:
        For each subset its numbers, in order.

    Raises:
        RecordError: there are fewer than that.
    """
    if 2**count < wanted:
        raise RecordError(
            f"{count} demonstrations have {2**count} subsets, and {wanted} distinct ones are wanted. Give samples more "
            "demonstrations, or set a lower n_subsets."
        )
    found: dict[int, None] = {}
    while len(found) < wanted:
        found.setdefault(rng.getrandbits(count) if count else 0)
    return [tuple(at for at in range(count) if bits >> at & 1) for bits in found]


def conversation(demonstrations: Sequence[Mapping[str, Any]], query: Any) -> list[Message]:
    """Demonstrations as earlier turns of a conversation, then the query.

    Raises:
        RecordError: a demonstration has no prompt and completion, or its prompt holds a system message.
    """
    messages: list[Message] = []
    for shown in demonstrations:
        if not isinstance(shown, Mapping) or not {"prompt", "completion"} <= set(shown):
            raise RecordError(f"A demonstration is an object with `prompt` and `completion`, got {str(shown)[:80]!r}.")
        prompt, text = turn(shown["prompt"], shown["completion"])
        messages += [*chat.as_messages(prompt), {"role": "assistant", "content": text}]
    messages += chat.as_messages(query)
    if any(message["role"] in ("system", "developer") for message in messages[1:]):
        raise RecordError(
            "A system message stands between demonstrations, where chat templates do not take one. Leave it out of "
            "their prompts."
        )
    return messages


def with_subsets(rows: Iterable[Mapping[str, Any]], wanted: int, seed: int) -> list[dict[str, Any]]:
    """k-shot samples with the column ``subsets``: numbers of demonstrations, distinct subsets of each sample.

    Args:
        rows: as `kshot` gives them.
        wanted: subsets of a sample.
        seed: of the subsets.
    """
    rng, out = random.Random(f"subsets {seed}"), []
    for at, row in enumerate(rows, 1):
        if not isinstance(row.get("demonstrations"), list):
            raise RecordError(f"Record {at}: a k-shot sample has a list of `demonstrations`.")
        try:
            drawn = subsets(len(row["demonstrations"]), wanted, rng)
        except RecordError as error:
            raise RecordError(f"Record {at}: {error}") from error
        out.append({**row, "subsets": [list(one) for one in drawn]})
    return out


def samples_of(
    records: Iterable[Mapping[str, Any]],
    *,
    n_subsets: int,
    shots: tuple[int, int] = (4, 10),
    samples: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """k-shot samples with subsets, from samples that have ``demonstrations`` already or from records of tasks."""
    rows = [dict(row) for row in records]
    if not any("demonstrations" in row for row in rows):
        rows = kshot(rows, shots=shots, samples=samples, seed=seed)
    return with_subsets(rows, n_subsets, seed)


def shown_to(row: Mapping[str, Any]) -> tuple[list[list[Message]], str]:
    """The prompts of a sample's subsets, and the target."""
    query, target = turn(row["prompt"], row["completion"])
    shown = row["demonstrations"]
    return [conversation([shown[at] for at in subset], query) for subset in row["subsets"]], target


class Consistency(NamedTuple):
    """How far a student prefers what its teacher prefers.

    Args:
        best: share of samples whose best subset is the teacher's; 1 / n_subsets by chance.
        worst: likewise for the worst subset.
        pairs: share of the pairs of subsets of a sample that both put in the same order, the mean over samples; 1/2 by
            chance. More precise than the other two.
    """

    best: Estimate
    worst: Estimate
    pairs: Estimate


def preference_consistency(
    student: Model, teacher: Model, data: Any, *, n_subsets: int = 4, shots: tuple[int, int] = (4, 10),
    samples: int | None = None, seed: int = 0,
) -> Consistency:  # fmt: skip
    """How often two models agree which subset of demonstrations makes the right answer likeliest.

    Each model reads the samples with its own chat template and modifiers, and its vocabulary may be its own. Intervals
    are over samples.

    Args:
        student: a local model.
        teacher: likewise.
        data: demonstration records: k-shot samples (a column ``demonstrations``), or what `kshot` groups.
        n_subsets: compared in each sample.
        shots: of samples that are grouped here.
        samples: likewise.
        seed: of grouping and subsets.

    Source: Qin et al. 2025, arXiv 2312.17055, section 5.
    """
    import torch

    from truing.measures import statistics
    from truing.methods.training.losses import ranking
    from truing.records import as_records

    rows = samples_of(
        as_records(data, kinds=("demonstration",), what="preference_consistency"), n_subsets=n_subsets, shots=shots,
        samples=samples, seed=seed,
    )  # fmt: skip
    asked = [shown_to(row) for row in rows]
    prompts = [prompt for several, _ in asked for prompt in several]
    targets = [target for several, target in asked for _ in several]
    one, two = (torch.tensor(model.logprobs(prompts, targets)).view(-1, n_subsets) for model in (student, teacher))
    best, worst = ranking.preference_agreement(one, two)
    wanted = ranking.preferred_pairs(two)
    alike = (wanted & ranking.preferred_pairs(one)).sum((1, 2)) / wanted.sum((1, 2)).clamp(min=1)
    pairs = statistics.share(alike[wanted.any(2).any(1)].tolist())
    return Consistency(statistics.share(best.tolist()), statistics.share(worst.tolist()), pairs)
