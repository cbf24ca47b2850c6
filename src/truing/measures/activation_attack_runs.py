"""A model's answers, likelihoods and movements under a vector, each finished batch journaled.

The journal is that of the untouched model, with the vector among the keys: so weights are hashed once, and answers of
the untouched model are shared with other measures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from truing.contracts import Prompt
from truing.measures.asking import Answer, Context, ask, without_search
from truing.models.types import Sampling


def answers(
    model: Any, edit: Any, prompts: Sequence[Prompt], sampling: Sampling, context: Context, label: str
) -> list[Answer]:
    """One answer to each prompt, by the model with one more modifier, or as it is where that is None."""
    if edit is None:
        return ask(model, prompts, sampling, context)
    attacked = model.with_modifier(edit)
    settings = {name: value for name, value in dataclasses.asdict(sampling).items() if name not in ("n", "seed")}

    def work(rows: list[int]) -> list[Any]:
        found = attacked.generate([prompts[row] for row in rows], seed=sampling.seed, **settings)
        context.usage += found.usage
        return [[one.text, one.finish_reason == "length"] for one in found]

    seed = {"seed": sampling.seed} if sampling.temperature > 0 else {}
    keys = [{"ask": prompt, "edit": _name(edit), **settings, **seed} for prompt in prompts]
    return [Answer(*one) for one in context.compute(context.origin(model), keys, work, f"{model.name}{label}")]


def likelihoods(model: Any, edit: Any, texts: Sequence[str], context: Context, label: str) -> list[tuple[float, int]]:
    """For each text the sum of its negative log-likelihood, in nats, and how many tokens that is of."""
    policy = without_search(model)
    attacked = policy if edit is None else policy.with_modifier(edit)

    def work(rows: list[int]) -> list[Any]:
        found = attacked.text_logprobs([texts[row] for row in rows])
        return [[-float(values.sum(dtype="float64")), len(values)] for values in found]

    keys = [{"text": text, **({} if edit is None else {"edit": _name(edit)})} for text in texts]
    found = context.compute(context.origin(policy), keys, work, f"{model.name}{label}, texts", 32)
    return [(total, tokens) for total, tokens in found]


def moved(
    model: Any, edit: Any, prompts: Sequence[Prompt], texts: Sequence[str], known: Mapping[int, Any], context: Context,
    label: str,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Movements of the hidden states of generations; see `truing.audit.monitor.movements`."""
    from truing.audit.monitor import movements
    from truing.models.fingerprint import canonical

    attacked = model if edit is None else model.with_modifier(edit)
    watched = canonical(dict(known))

    def work(rows: list[int]) -> list[Any]:
        steps, along = movements(attacked, [prompts[row] for row in rows], [texts[row] for row in rows], None, known)
        return [[one, two] for one, two in zip(steps.tolist(), along.tolist())]

    about = {"known": watched, "edit": None if edit is None else _name(edit)}
    keys = [{"moves": [prompt, text], **about} for prompt, text in zip(prompts, texts)]
    found = context.compute(context.origin(model), keys, work, f"{model.name}{label}, monitor")
    return np.array([one for one, _ in found]), np.array([two for _, two in found])


def _name(edit: Any) -> str:
    from truing.models.fingerprint import canonical

    return canonical(edit)
