"""The forms of the answers, for the OpenAPI document; `truing.serving.answers` writes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Head(_Form):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ErrorInside(_Form):
    """What was wrong, the field at fault, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(_Form):
    """An error in OpenAI's form."""

    error: ErrorInside


class Usage(_Form):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Made(_Form):
    """What the answer was made with."""

    seed: int


class ChoiceTrace(_Form):
    """What a method tells of a choice."""

    trace: dict[str, Any]
    finish_reason: str


class TopToken(_Form):
    """One of the likeliest tokens at a place."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TopToken):
    """One token of an answer."""

    top_logprobs: list[TopToken]


class ChatLogprobs(_Form):
    """The tokens of an answer."""

    content: list[ChatToken]
    refusal: None


class AnswerMessage(_Form):
    """An answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(_Form):
    """One answer to a conversation."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    truing: ChoiceTrace | None = None


class ChatCompletion(_Head):
    """Answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    truing: Made


class TextLogprobs(_Form):
    """The tokens of a text, and of the prompt before it with echo."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(_Form):
    """One continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]
    truing: ChoiceTrace | None = None


class TextCompletion(_Head):
    """Continuations of prompts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage
    truing: Made


class Delta(_Form):
    """What is new of an answer: first its role, then text, at last nothing."""

    role: Literal["assistant"] = "assistant"
    content: str = ""


class ChatPiece(_Form):
    """What is new of one choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    truing: ChoiceTrace | None = None


class ChatChunk(_Head):
    """The data of one event of a stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]
    usage: Usage | None = None
    truing: Made | None = None


class TextPiece(TextChoice):
    """What is new of one choice."""

    finish_reason: Literal["stop", "length"] | None  # type: ignore[assignment]


class TextChunk(_Head):
    """The data of one event of a stream."""

    object: Literal["text_completion"]
    choices: list[TextPiece]
    usage: Usage | None = None
    truing: Made | None = None


class ListedModifier(_Form):
    """A modifier of a model, and what its dial stands at."""

    name: str
    kind: str
    strength: float | None


class ListedExtra(_Form):
    """What truing adds."""

    modifiers: list[ListedModifier]


class ListedModel(_Form):
    """A model that can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    truing: ListedExtra


class ModelList(_Form):
    """All of them."""

    object: Literal["list"]
    data: list[ListedModel]


class Health(_Form):
    """Whether the server takes requests."""

    status: Literal["ok", "stopping"]


CHUNKS: dict[str, type[BaseModel]] = {"chat": ChatChunk, "completions": TextChunk}
ANSWERS: dict[str, type[BaseModel]] = {
    "chat": ChatCompletion, "completions": TextCompletion, "models": ModelList, "model": ListedModel, "health": Health,
}  # fmt: skip
