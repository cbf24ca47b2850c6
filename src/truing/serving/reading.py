"""From what a request says to token ids, and the log-probabilities of a prompt's own tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from truing.models import chat
from truing.models.batch import Batch
from truing.models.core import context_length
from truing.models.engine import Engine
from truing.models.types import Row
from truing.serving.jobs import Asked, Job, Rejected, Token
from truing.serving.tokens import token_texts

BLOCK = 256  # positions of a prompt whose scores of the whole vocabulary exist at one time


def positions(model: Any) -> float:
    """Tokens that a model reads at most, its answer included; second models of its modifiers may read fewer."""
    own = context_length(model.weights)
    others = [modifier.limit for modifier in model.modifiers if modifier.kind == "logits"]
    return min((limit for limit in (own, *others) if limit), default=math.inf)


def _most(model: Any, limit: int | None) -> float:
    return min(positions(model) - 1, limit or math.inf)


def check_lengths(job: Job, rows: Sequence[Row], limit: int | None) -> None:
    """Raise `Rejected` for a prompt without tokens, or with more than the model or the server's limit allows."""
    most = _most(job.model, limit)
    for row in rows:
        if not row.tokens:
            raise Rejected("The prompt has no tokens, so nothing comes next. Give some text.", 400, "prompt")
        if len(row.tokens) > most:
            raise _too_long(job, f"{len(row.tokens)} tokens", most)


def _too_long(job: Job, what: str, most: float) -> Rejected:
    return Rejected(
        f"The prompt has {what}, and {most:.0f} tokens are taken here at most. Shorten it.", 400,
        "messages" if job.prompts[0].messages is not None else "prompt", "context_length_exceeded",
    )  # fmt: skip


def encode(jobs: Sequence[Job], limit: int | None) -> list[list[Row] | Exception]:
    """For each job of one model the rows of its prompts, or what is wrong with them.

    Prompt modifiers see the conversations of all jobs at once, so that one which asks a model asks once.

    Args:
        jobs: of one model.
        limit: most tokens of a prompt; texts that cannot have so few are refused unread.
    """
    try:
        for job in jobs:
            _check_size(job, limit)
        return _encode(jobs)
    except Exception as error:
        if len(jobs) == 1:
            return [error]
    return [found for job in jobs for found in encode([job], limit)]


def _check_size(job: Job, limit: int | None) -> None:
    """Refuse what is far too long without the time that reading it would take from all others."""
    if any(modifier.kind == "prompt" for modifier in job.model.modifiers):
        return  # it may shorten them
    most = _most(job.model, limit)
    for asked in job.prompts:
        texts = [message["content"] for message in asked.messages or ()] + [asked.text or ""]
        size = sum(map(len, texts))
        # Twice, since a tokenizer may write a character in a shorter way before it reads.
        if size > 2 * most * token_texts(job.model.tokenizer).longest:
            raise _too_long(job, f"{size} characters", most)


def _encode(jobs: Sequence[Job]) -> list[list[Row] | Exception]:
    model: Any = jobs[0].model
    conversations = [asked.messages for job in jobs for asked in job.prompts if asked.messages is not None]
    changed = iter(model.conversations(conversations) if conversations else ())
    out: list[list[Row] | Exception] = []
    for job in jobs:
        rows = []
        for index, asked in enumerate(job.prompts):
            if asked.messages is not None:
                messages = next(changed)
                rows.append(Row(messages, tuple(model.encode_messages(messages)), index))
            else:
                rows.append(_raw(model, asked, index))
        out.append(rows)
    return out


def _raw(model: Any, asked: Asked, index: int) -> Row:
    """A raw prompt: whoever writes it writes all that the model reads, special tokens too."""
    tokenizer = model.tokenizer
    if asked.tokens is not None:
        size = model.weights.get_input_embeddings().weight.shape[0]
        wrong = next((token for token in asked.tokens if token >= size), None)
        if wrong is not None:
            raise Rejected(f"{model.name} has no token {wrong}: its tokens are 0 to {size - 1}.", 400, "prompt")
        text = _decoded(tokenizer, asked.tokens)
        return Row([{"role": "user", "content": text}], asked.tokens, index)
    text = asked.text or ""
    ids = chat.encode_raw(tokenizer, text)
    return Row([{"role": "user", "content": text}], tuple(ids), index)


def prompt_texts(job: Job, rows: Sequence[Row]) -> list[str]:
    """The prompts of a job as text, where it asks for them back."""
    if not job.echo:
        return []
    asked = [job.prompts[row.index].text for row in rows]
    return [_decoded(job.model.tokenizer, row.tokens) if text is None else text for text, row in zip(asked, rows)]


def _decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


@torch.inference_mode()
def prompt_logprobs(engine: Engine, tokens: Sequence[int], top: int) -> tuple[Batch, list[Token]]:
    """The tokens of a prompt with their log-probabilities, in nats, the first without one; and the batch of one row.

    Args:
        engine: of the model; logits modifiers and activation edits act.
        tokens: of the prompt.
        top: how many of the likeliest tokens to give at each place.
    """
    ids = list(tokens)
    batch = engine.prefill([ids[:1]], [len(ids)])
    found = [Token(ids[0], None)]
    before = batch.logits
    for start in range(1, len(ids), BLOCK):
        block = ids[start : start + BLOCK]
        after = batch.extend([block])[0]
        scores = torch.cat([before, after[:-1]]).log_softmax(1)
        before = after[-1:]
        chosen = scores.gather(1, torch.tensor(block, device=scores.device)[:, None])[:, 0].tolist()
        values, likeliest = (part.tolist() for part in scores.topk(top, dim=1)) if top else ([], [])
        for at, token in enumerate(block):
            found.append(Token(token, chosen[at], list(zip(likeliest[at], values[at])) if top else ()))
    return batch, found
