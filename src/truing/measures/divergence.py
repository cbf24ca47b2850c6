"""The divergence between two local models over answers that the first one samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from truing.errors import UnsupportedError
from truing.measures.asking import Context, search_notes, without_search
from truing.models.engine import Engine
from truing.models.local import same_vocabulary
from truing.models.sampling import choose, noise_stream
from truing.models.types import Row, Sampling

# Scores of one batch, [rows, tokens, vocabulary], kept of the first model while it answers.
_MOST_SCORES = 50_000_000


def divergences(
    model: Any, start: Any, questions: Sequence[dict[str, Any]], sampling: Sampling, context: Context
) -> tuple[list[tuple[str, float, int]], list[str]]:
    """For each question the model's answer, the sum over its tokens of the divergence from the start model, in nats,
    and the number of tokens; and notes.

    Raises:
        UnsupportedError: the two models have different vocabularies, so their distributions cannot be compared.
    """
    notes = search_notes("`kl`", model, start)
    model, start = without_search(model), without_search(start)
    if not same_vocabulary(model, start):
        raise UnsupportedError(
            f"KL compares next-token distributions, and {model.name} and {start.name} have different vocabularies. "
            "Compare with the model it was made from."
        )
    vocabulary = len(model.tokenizer)
    batch = max(1, min(64, _MOST_SCORES // (vocabulary * sampling.max_new_tokens)))
    keys = [
        {
            "kl": row["prompt"], "start": context.origin(start), "temperature": sampling.temperature,
            "max_new_tokens": sampling.max_new_tokens, "seed": sampling.seed,
        }
        for row in questions
    ]  # fmt: skip

    def work(rows: list[int]) -> list[Any]:
        return _batch(model, start, [questions[row]["prompt"] for row in rows], sampling, context)

    found = context.compute(context.origin(model), keys, work, f"{model.name} and {start.name}", batch)
    return [(text, float(total), int(tokens)) for text, total, tokens in found], notes


@torch.inference_mode()
def _batch(model: Any, start: Any, prompts: Sequence[Any], sampling: Sampling, context: Context) -> list[Any]:
    first, second = Engine(model, context.usage), Engine(start, context.usage, "start")
    rows = [Row(prompt, tuple(model.encode_prompt(prompt)), at) for at, prompt in enumerate(prompts)]
    streams = [noise_stream(row.tokens) for row in rows]
    drafts = [first.draft(row, sampling) for row in rows]
    flying, alive = first.prefill([row.tokens for row in rows]), list(range(len(rows)))
    scores: list[list[torch.Tensor]] = [[] for _ in rows]
    for step in range(sampling.max_new_tokens):
        tokens = choose(flying.logits, sampling, [streams[at] for at in alive], step)
        for place, at in enumerate(alive):
            scores[at].append(flying.logits[place])
        going = [place for place, at in enumerate(alive) if not drafts[at].push(tokens[place])]
        alive = [alive[place] for place in going]
        if not alive:
            break
        flying = flying.select(going)
        flying.append([tokens[place] for place in going])
    behind = second.prefill([start.encode_prompt(prompt) for prompt in prompts])
    before = behind.logits
    after = behind.extend([draft.tokens[:-1] for draft in drafts])
    found = []
    for at, draft in enumerate(drafts):
        other = torch.cat([before[at : at + 1], after[at]])
        found.append([draft.text, _summed(torch.stack(scores[at]), other), len(draft.tokens)])
    context.usage.prompt_tokens += sum(len(row.tokens) for row in rows)
    context.usage.completion_tokens += sum(len(draft.tokens) for draft in drafts)
    return found


def _summed(scores: torch.Tensor, other: torch.Tensor) -> float:
    """The sum over positions of the divergence of the first distribution from the second, in nats."""
    width = min(scores.shape[1], other.shape[1])
    mine, theirs = (part[:, :width].float().cpu().log_softmax(1).double() for part in (scores, other))
    terms = mine.exp() * (mine - theirs)
    # A token that a modifier rules out for the first model adds nothing: 0 log 0 is 0.
    return max(0.0, float(terms.where(mine > -torch.inf, 0.0).sum()))
