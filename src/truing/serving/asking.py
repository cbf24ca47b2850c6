"""From a request to a job for the models, and the form that its answer has."""

from __future__ import annotations

import dataclasses
import secrets

from truing.errors import TruingError
from truing.models.chat import as_messages
from truing.models.types import Sampling
from truing.serving.answers import Chat, Form, Text
from truing.serving.jobs import Asked, Job, Rejected
from truing.serving.limits import Limits
from truing.serving.requests import ChatRequest, CompletionRequest
from truing.serving.shelf import Offered, Shelf, Turns
from truing.serving.tokens import token_texts

COLD = 1e-4  # temperatures below it are greedy, which is their limit
SHORT = 16  # tokens of a completion that asks for no number, as OpenAI has it


@dataclasses.dataclass
class Order:
    """A request, ready to be run.

    Args:
        job: what the models do.
        form: how the answer is written.
        offered: who answers.
    """

    job: Job
    form: Form
    offered: Offered


@dataclasses.dataclass
class _Wanted:
    """What the two kinds of request say in different ways."""

    form: type[Form]
    prompts: list[Asked]
    tokens: int | None
    tokens_field: str
    logprobs: bool
    top: int
    echo: bool = False


def order(asked: ChatRequest | CompletionRequest, shelf: Shelf, limits: Limits) -> Order:
    """What a request asks of the models. To be called in an event loop.

    Raises:
        Rejected: it asks for what this server or this model does not do.
    """
    turns = asked.truing
    offered = shelf.find(asked.model, _turns(asked))
    if asked.stream_options is not None and not asked.stream:
        raise Rejected("`stream_options` needs `stream: true`.", 400, "stream_options", "invalid_value")
    wanted = _chat(asked) if isinstance(asked, ChatRequest) else _completion(asked, offered)
    sampling = _sampling(asked, wanted, limits)
    _check_logprobs(wanted, offered)
    if "logits" not in offered.model.offers and wanted.prompts[0].messages is None:
        raise Rejected(
            f"`{offered.name}` asks another server, and takes conversations only. Use /v1/chat/completions.", 400,
            "prompt", "unsupported_parameter",
        )  # fmt: skip
    job = Job(
        offered.model, offered.key, wanted.prompts, sampling, wanted.logprobs, wanted.top, wanted.echo,
        write=wanted.tokens != 0, stream=bool(asked.stream), switched=offered.switched,
    )  # fmt: skip
    texts = token_texts(offered.model.tokenizer) if wanted.logprobs else None
    usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return Order(job, wanted.form(job, offered.name, texts, usage, bool(turns and turns.trace)), offered)


def _turns(asked: ChatRequest | CompletionRequest) -> Turns:
    if asked.truing is None:
        return Turns()
    return Turns(tuple((asked.truing.strength or {}).items()), tuple(asked.truing.without or ()))


def _chat(asked: ChatRequest) -> _Wanted:
    messages = [
        {
            "role": message.role,
            "content": message.content
            if isinstance(message.content, str)
            else [part.model_dump(exclude_unset=True) for part in message.content],
        }
        for message in asked.messages
    ]
    try:
        prompts = [Asked(messages=as_messages(messages))]
    except TruingError as error:
        raise Rejected(str(error)[:600], 400, "messages", "invalid_value") from None
    if asked.max_tokens is not None and asked.max_completion_tokens not in (None, asked.max_tokens):
        raise Rejected("`max_tokens` and `max_completion_tokens` differ. Give one.", 400, "max_tokens", "invalid_value")
    if asked.top_logprobs and not asked.logprobs:
        raise Rejected("`top_logprobs` needs `logprobs: true`.", 400, "top_logprobs", "invalid_value")
    newer = asked.max_completion_tokens is not None
    return _Wanted(
        Chat, prompts, asked.max_completion_tokens if newer else asked.max_tokens,
        "max_completion_tokens" if newer else "max_tokens", bool(asked.logprobs), asked.top_logprobs or 0,
    )  # fmt: skip


def _completion(asked: CompletionRequest, offered: Offered) -> _Wanted:
    acting = [modifier for modifier in offered.model.modifiers if modifier.kind == "prompt"]
    if acting:
        raise Rejected(
            f"`{offered.name}` changes conversations ({type(acting[0]).__name__}), which raw text is not. Use "
            "/v1/chat/completions, or take that modifier off: `truing.without`.", 400, "prompt",
            "unsupported_parameter",
        )  # fmt: skip
    if asked.max_tokens == 0 and not asked.echo:
        raise Rejected("`max_tokens` of 0 needs `echo: true`.", 400, "max_tokens", "invalid_value")
    if asked.best_of not in (None, asked.n or 1):
        raise Rejected("`best_of` is not supported. Leave it out.", 400, "best_of", "unsupported_parameter")
    tokens = SHORT if asked.max_tokens is None else asked.max_tokens
    return _Wanted(
        Text, _raw(asked), tokens, "max_tokens", asked.logprobs is not None, asked.logprobs or 0, bool(asked.echo)
    )


def _raw(asked: CompletionRequest) -> list[Asked]:
    prompt = asked.prompt
    if isinstance(prompt, str):
        return [Asked(text=prompt)]
    numbers = [item for item in prompt if isinstance(item, int)]
    if numbers:
        return [Asked(tokens=tuple(numbers))]
    return [
        Asked(text=item) if isinstance(item, str) else Asked(tokens=tuple(item))
        for item in prompt
        if not isinstance(item, int)
    ]


def _sampling(asked: ChatRequest | CompletionRequest, wanted: _Wanted, limits: Limits) -> Sampling:
    most, field = wanted.tokens, wanted.tokens_field
    if most is not None and most > limits.answer_tokens:
        raise Rejected(
            f"`{field}` is {most}, and {limits.answer_tokens} is the most given here.", 400, field, "too_many_tokens"
        )
    n = asked.n or 1
    if n * len(wanted.prompts) > limits.choices:
        raise Rejected(
            f"{n * len(wanted.prompts)} answers are asked for, and {limits.choices} are the most of one request.", 400,
            "n" if n > 1 else "prompt", "too_many_choices",
        )  # fmt: skip
    return Sampling(
        max_new_tokens=limits.answer_tokens if most is None else max(1, most),
        temperature=1.0 if asked.temperature is None else asked.temperature if asked.temperature >= COLD else 0.0,
        top_k=asked.top_k or 0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        # Negative seeds are another way to write large ones.
        seed=secrets.randbits(63) if asked.seed is None else asked.seed & (2**63 - 1),
        n=n,
    )


def _check_logprobs(wanted: _Wanted, offered: Offered) -> None:
    if not wanted.logprobs:
        return
    why = None
    if "logits" not in offered.model.offers:
        why, remedy = "asks another server", "Leave `logprobs` out."
    elif wanted.tokens != 0 and any(modifier.kind == "search" for modifier in offered.model.modifiers):
        why, remedy = "searches among answers", "Take its search modifier off: `truing.without`."
    if why:
        raise Rejected(
            f"`{offered.name}` {why}, which gives no log-probabilities. {remedy}", 400, "logprobs",
            "unsupported_parameter",
        )  # fmt: skip
