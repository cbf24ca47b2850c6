"""Models of truing as a provider of Inspect: continuous batching, true token counts, and refusals that say why."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from truing.errors import SettingsError, UnsupportedError
from truing.frameworks import load_asked
from truing.frameworks.inspect_inside import epoch, told
from truing.models.chat import as_messages
from truing.models.history import plain
from truing.models.types import Completion, Sampling
from truing.serving.asking import COLD
from truing.serving.jobs import Asked, Job, Piece, Rejected, Token
from truing.serving.limits import Limits
from truing.serving.proxy import Proxy
from truing.serving.scheduler import Scheduler
from truing.serving.tokens import token_texts

MANY = 2**20  # Inspect bounds what waits by its own connections
AT_ONCE = 256  # connections unless Inspect is told otherwise
TOKENS = 2048  # most tokens of an answer unless Inspect is told otherwise
REFUSED = (
    "best_of", "frequency_penalty", "presence_penalty", "logit_bias", "prompt_logprobs", "response_schema",
    "modalities", "extra_body",
)  # fmt: skip
"""Settings that would change answers, and that models here do not have."""

_LOCK = threading.Lock()
_RUNNING: list[tuple[Scheduler, Proxy]] = []


def runners() -> tuple[Scheduler, Proxy]:
    """What runs all local models of this process, and what asks remote ones; started when first asked for.

    One thread for all, since models may share weights.
    """
    with _LOCK:
        if not _RUNNING:
            limits = Limits(waiting=MANY, choices=MANY)
            _RUNNING.append((Scheduler(limits), Proxy(limits)))
            _RUNNING[0][0].start()
        return _RUNNING[0]


class TruingAPI(ModelAPI):
    """A model of truing.

    Answers are greedy unless Inspect is told a temperature. A seed gives the same answers on every run; later epochs
    draw their own from it.

    Args:
        model_name: what `truing.load` takes, or the folder of a run, with ``@MODIFIER=STRENGTH`` or ``@MODIFIER=off``.
        base_url: of a remote model.
        api_key: not used; remote models read ``OPENAI_API_KEY``.
        config: of Inspect.
        model: a model that is loaded already; ``model_name`` is then only its name.
        dtype: as `truing.load` takes it.
        device: as `truing.load` takes it.
        trust_remote_code: run code that comes with the model.
        cache_slots: tokens, prompts and answers, in memory at one time, for all models of the process.
    """

    def __init__(
        self, model_name: str, base_url: str | None = None, api_key: str | None = None,
        config: GenerateConfig | None = None, *, model: Any = None, dtype: str | None = None,
        device: str | None = None, trust_remote_code: bool = False, cache_slots: int | None = None, **unknown: Any,
    ) -> None:  # fmt: skip
        config = config or GenerateConfig()
        super().__init__(model_name, base_url, api_key, [], config)
        self.model = model
        with told():
            if unknown:
                raise SettingsError(
                    f"truing's models have no argument `{next(iter(unknown))}`. Arguments: model, dtype, device, "
                    "trust_remote_code, cache_slots."
                )
            if model is None:
                self.model = load_asked(
                    model_name, base_url=base_url, dtype=dtype, device=device, trust_remote_code=trust_remote_code
                )
        scheduler, proxy = runners()
        if cache_slots is not None:
            changed = scheduler.limits.clone(cache_slots=cache_slots)
            with told():
                changed.validate()
            scheduler.limits = changed
        self._local = "logits" in self.model.offers
        self._runner = scheduler if self._local else proxy
        if self._local and config.max_connections is None and config.adaptive_connections is None:
            # Inspect would feel its way up from 20, as the rate limit of a server demands. Here there is none, and
            # small batches cost as much as large ones.
            config.max_connections = AT_ONCE

    def close(self) -> None:
        """Let go of the weights."""
        self.model = None

    def max_connections(self) -> int:
        """As many as are batched well."""
        return AT_ONCE

    def max_tokens(self) -> int:
        """Of an answer, where Inspect is told nothing."""
        return TOKENS

    def connection_key(self) -> str:
        """One pool for each model."""
        return self.model_name

    def collapse_user_messages(self) -> bool:
        """Many chat templates refuse two user messages in a row."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Many chat templates refuse two assistant messages in a row."""
        return True

    async def count_text_tokens(self, text: str) -> int:
        """By the model's own tokenizer, where it is local."""
        if not self._local:
            return await super().count_text_tokens(text)
        return len(self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answers to a conversation.

        Raises:
            UnsupportedError: tools, contents that are no text, or settings that this model does not have.
        """
        self._check(tools, tool_choice, config)
        began = time.monotonic()
        prompt = Asked(messages=as_messages([_message(message) for message in input]))
        job = Job(
            self.model, id(self.model), [prompt], self._sampling(config), bool(config.logprobs),
            config.top_logprobs or 0,
        )  # fmt: skip
        try:
            self._runner.submit(job)
            await job.next()
            pieces = [piece async for piece in job.pieces()]
        except Rejected as error:
            if error.code != "context_length_exceeded":
                raise
            # Inspect's word for it, with which solvers and agents can do something.
            return ModelOutput.from_content(self.model_name, str(error), stop_reason="model_length", error=str(error))
        finally:
            job.cancel()
        return self._output(job, pieces, time.monotonic() - began)

    def _check(self, tools: Sequence[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig) -> None:
        if tools and tool_choice != "none":
            raise UnsupportedError(
                f"{self.model_name} was given tools ({', '.join(tool.name for tool in tools)[:200]}), and truing's "
                "models call none. Evaluate it on tasks without tools, or serve it with a program that parses calls."
            )
        for name in REFUSED:
            if getattr(config, name, None):
                raise UnsupportedError(f"truing's models have no `{name}`, which would change answers. Leave it out.")
        if config.top_logprobs and not config.logprobs:
            raise UnsupportedError("`top_logprobs` needs `logprobs`. Set it too, or leave both out.")
        if config.logprobs:
            searching = [modifier.label for modifier in self.model.modifiers if modifier.kind == "search"]
            if searching or not self._local:
                why = f"searches among answers ({searching[0]})" if searching else "asks another server"
                raise UnsupportedError(
                    f"{self.model_name} {why}, which gives no log-probabilities. Leave `logprobs` out."
                )

    def _sampling(self, config: GenerateConfig) -> Sampling:
        warmth = config.temperature or 0.0
        seed = secrets.randbits(63) if config.seed is None else _seed(config.seed & (2**63 - 1), epoch())
        return Sampling(
            max_new_tokens=max(1, config.max_tokens or TOKENS),
            temperature=warmth if warmth >= COLD else 0.0,
            top_k=config.top_k or 0,
            top_p=1.0 if config.top_p is None else config.top_p,
            stop=tuple(config.stop_seqs or ()),
            seed=seed,
            n=config.num_choices or 1,
        )

    def _output(self, job: Job, pieces: Sequence[Piece], seconds: float) -> ModelOutput:
        found = sorted((piece for piece in pieces if piece.done is not None), key=lambda piece: piece.choice)
        done = [piece.done for piece in found if piece.done is not None]
        choices = [
            ChatCompletionChoice(
                message=ChatMessageAssistant(content=one.text, model=self.model_name, source="generate"),
                stop_reason=self._stop(one, job.sampling),
                logprobs=self._logprobs(piece.tokens) if job.logprobs else None,
            )
            for piece, one in zip(found, done)
        ]
        metadata: dict[str, Any] = {"seed": job.sampling.seed} if job.sampling.temperature else {}
        if any(one.trace for one in done):
            metadata["trace"] = [plain(one.trace) for one in done]
        asked, written = job.prompt_tokens, job.completion_tokens
        usage = ModelUsage(input_tokens=asked, output_tokens=written, total_tokens=asked + written)
        return ModelOutput(model=self.model_name, choices=choices, usage=usage, time=seconds, metadata=metadata or None)

    def _stop(self, answer: Completion, sampling: Sampling) -> StopReason:
        if answer.finish_reason != "length":
            return "stop"
        # Cut before it had what it may have: the model reads no further.
        return "model_length" if self._local and len(answer.tokens) < sampling.max_new_tokens else "max_tokens"

    def _logprobs(self, tokens: Sequence[Token]) -> Logprobs:
        texts = token_texts(self.model.tokenizer)
        content = []
        for token in tokens:
            text, raw = texts(token.id)
            top = [(*texts(number), value) for number, value in token.top]
            content.append(
                Logprob(
                    token=text, bytes=raw, logprob=0.0 if token.logprob is None else token.logprob,
                    top_logprobs=[TopLogprob(token=one, bytes=its, logprob=value) for one, its, value in top] or None,
                )
            )  # fmt: skip
        return Logprobs(content=content)


def _message(message: ChatMessage) -> dict[str, Any]:
    """A message as truing has it; what a model thought is left out, as providers do."""
    calls = getattr(message, "tool_calls", None)
    if calls or message.role == "tool":
        raise UnsupportedError(
            "The conversation holds calls of tools, which truing's models do not read. Evaluate them on tasks without "
            "tools."
        )
    content: Any = message.content
    if not isinstance(content, str):
        content = [
            {"type": part.type, **({"text": part.text} if part.type == "text" else {})}
            for part in content
            if part.type != "reasoning"
        ]
    return {"role": message.role, "content": content}


def _seed(seed: int, number: int) -> int:
    """The seed itself in the first epoch, and one that has nothing to do with it in each further one."""
    if number <= 1:
        return seed
    digest = hashlib.blake2b(f"{seed},{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & (2**63 - 1)
