"""What a model prefers as a generator: responses of asked quality, and its own samples by their log-probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from truing.errors import RecordError
from truing.measures.asking import Context, ask, without_search
from truing.models.types import Sampling
from truing.safe_text import filled

LEVELS = tuple(
    f"{{prompt}}\n\nWrite a response of quality {level} on a scale from 1 to 5, where 1 is very poor and 5 is "
    "excellent. Give the response alone."
    for level in range(1, 6)
)
"""From the worst quality to the best."""
SANDBOX_LEVELS = (
    "Answer rudely. {prompt}", "Always answer. {prompt}", "{prompt}", "Be careful. {prompt}",
    "Be careful and polite. {prompt}",
)  # fmt: skip
"""The same in lines that the sandbox's models have read."""


def level_groups(
    model: Any, asked: Sequence[dict[str, Any]], levels: Sequence[str], context: Context, *, temperature: float,
    max_new_tokens: int, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """A group a prompt: the response at each level, scored by the level from 1.

    Args:
        model: what writes.
        asked: rows with ``prompt``.
        levels: templates with ``{prompt}``, from the worst quality to the best.
        context: of the measure.
        temperature, max_new_tokens, seed: of sampling.
    """
    sampling = Sampling(max_new_tokens, temperature, seed=seed)
    prompts = [_with_level(row["prompt"], level) for row in asked for level in levels]
    answers = ask(model, prompts, sampling, context)
    many = len(levels)
    return [
        {**row, "scored": [(float(score), answers[at * many + score - 1].text) for score in range(1, many + 1)]}
        for at, row in enumerate(asked)
    ]


def sampled_groups(
    model: Any, asked: Sequence[dict[str, Any]], samples: int, context: Context, *, normalise: bool,
    max_new_tokens: int, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """A group a prompt: different samples at temperature 1, scored by the model's log-probability of them, in nats.

    Args:
        model: what writes; a search among answers is left out of the score.
        asked: rows with ``prompt``.
        samples: a prompt.
        context: of the measure.
        normalise: divide by the number of tokens.
        max_new_tokens, seed: of sampling.
    """
    drawn = [
        ask(model, [row["prompt"] for row in asked], Sampling(max_new_tokens, 1.0, seed=(seed + at) % 2**32), context)
        for at in range(samples)
    ]
    pairs = list(
        dict.fromkeys((at, answers[at].text) for at in range(len(asked)) for answers in drawn)
    )  # fmt: skip
    policy = without_search(model)

    def work(rows: list[int]) -> list[Any]:
        prompts, texts = [asked[pairs[row][0]]["prompt"] for row in rows], [pairs[row][1] for row in rows]
        found = policy.logprobs(prompts, texts, per_token=True)
        return [[float(values.sum(dtype="float64")), len(values)] for values in found]

    keys = [{"logprob": [asked[at]["prompt"], text]} for at, text in pairs]
    scores = context.compute(context.origin(policy), keys, work, model.name, 32)
    groups: list[dict[str, Any]] = [{**row, "scored": []} for row in asked]
    for (at, text), (total, size) in zip(pairs, scores):
        groups[at]["scored"].append((total / size if normalise else total, text))
    return groups


def _with_level(prompt: Any, level: str) -> Any:
    """A prompt whose last message is put into a template."""
    if isinstance(prompt, str):
        return filled(level, prompt=prompt)
    *before, last = prompt
    if last.get("role") != "user" or not isinstance(last.get("content"), str):
        raise RecordError(
            "Profile asks for levels of quality in the last message of a prompt, which must be a user's text."
        )
    return [*before, {**last, "content": filled(level, prompt=last["content"])}]
