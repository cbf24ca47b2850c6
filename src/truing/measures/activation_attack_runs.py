"""A model's likelihoods and movements under a vector, each finished batch journaled.

The journal is that of the untouched model, with the vector among the keys, so that weights are hashed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from truing.contracts import Prompt
from truing.measures.asking import Context, without_search
from truing.models.fingerprint import canonical

BATCH = 192  # rows a call; the engine parts them by what it can hold


def likelihoods(
    model: Any, edit: Any, texts: Sequence[tuple[Prompt | None, str]], context: Context, label: str
) -> list[tuple[float, int]]:
    """For each text the sum of its negative log-likelihood, in nats, and how many tokens that is of.

    Args:
        texts: a prompt and its answer each, or None and a plain text; all of one kind.
    """
    policy = without_search(model)
    attacked = policy if edit is None else policy.with_modifier(edit)
    prompted = any(prompt is not None for prompt, _ in texts)

    def work(rows: list[int]) -> list[Any]:
        prompts, answered = ([texts[row][at] for row in rows] for at in range(2))
        found = attacked.logprobs(prompts, answered, per_token=True) if prompted else attacked.text_logprobs(answered)
        return [[-float(values.sum(dtype="float64")), len(values)] for values in found]

    about = {} if edit is None else {"edit": canonical(edit)}
    keys = [{"text": text, **({"prompt": prompt} if prompted else {}), **about} for prompt, text in texts]
    found = context.compute(context.origin(policy), keys, work, f"{model.name}{label}, texts", BATCH)
    return [(total, tokens) for total, tokens in found]


def moved(
    model: Any, edit: Any, prompts: Sequence[Prompt], texts: Sequence[str], known: Mapping[int, Any], context: Context,
    label: str,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Movements of the hidden states of generations; see `truing.audit.monitor.movements`."""
    from truing.audit.monitor import movements

    attacked = model if edit is None else model.with_modifier(edit)
    watched = canonical(dict(known))

    def work(rows: list[int]) -> list[Any]:
        steps, along = movements(attacked, [prompts[row] for row in rows], [texts[row] for row in rows], None, known)
        return [[one, two] for one, two in zip(steps.tolist(), along.tolist())]

    about = {"known": watched, "edit": None if edit is None else canonical(edit)}
    keys = [{"moves": [prompt, text], **about} for prompt, text in zip(prompts, texts)]
    found = context.compute(context.origin(model), keys, work, f"{model.name}{label}, monitor", BATCH)
    return np.array([one for one, _ in found]), np.array([two for _, two in found])


def _name(edit: Any) -> str:
    from truing.models.fingerprint import canonical

    return canonical(edit)
