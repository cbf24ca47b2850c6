"""What a request may say; anything else is refused by the name of its field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from truing.serving.jobs import Rejected

Number = Annotated[float, Field(allow_inf_nan=False)]
Strength = Annotated[float, Field(allow_inf_nan=False, ge=-1000, le=1000)]
StopText = Annotated[str, Field(min_length=1, max_length=500)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[TokenId], Field(min_length=1)]
Strings = Annotated[list[str], Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Part(_Body):
    """One part of a message."""

    # Parts of other kinds come with fields of their own; they are refused by their type.
    model_config = ConfigDict(extra="allow", strict=True)

    type: str = Field(description="`text`: models here read nothing else.")
    text: str | None = None


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part]
    name: str | None = Field(None, description="Accepted, and not shown to the model.")


class StreamOptions(_Body):
    """What a stream holds besides the answer."""

    include_usage: bool | None = Field(None, description="A last chunk with the usage, and no choices.")
    include_obfuscation: bool | None = Field(None, description="Accepted, and without effect.")


class Switch(_Body):
    """What truing adds: modifiers and their strengths, for this request alone."""

    strength: dict[str, Strength] | None = Field(
        None, description="By the name of a modifier, what its dial is set to. Names stand in `/v1/models`."
    )
    without: list[str] | None = Field(None, description="Modifiers that are taken off.")
    trace: bool | None = Field(None, description="Give each choice's trace: who wrote which piece, and the like.")


class ResponseFormat(_Body):
    """The form of the answer."""

    type: Literal["text"] = Field(description="`text`; answers are not forced into JSON here.")


class _Request(_Body):
    model: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="A name from `/v1/models`, which may be followed by `@MODIFIER=STRENGTH` or `@MODIFIER=off`."
    )
    temperature: Annotated[float, Field(allow_inf_nan=False, ge=0, le=100)] | None = Field(
        None, description="0 takes the likeliest token always; 1 unless given."
    )
    top_p: Annotated[float, Field(allow_inf_nan=False, gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="Only the k likeliest tokens; 0 for all."
    )
    n: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(None, description="Answers to each prompt.")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        None, description="Equal requests with equal seeds get equal answers; drawn unless given."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    truing: Switch | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = Field(None, description="0: not supported.")
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = Field(None, description="0: not supported.")
    logit_bias: Annotated[dict[str, Number], Field(max_length=0)] | None = Field(
        None, description="Empty: not supported."
    )
    user: str | None = Field(None, description="Accepted, and without effect.")
    metadata: dict[str, str] | None = Field(None, description="Accepted, and without effect.")
    store: bool | None = Field(None, description="Accepted; nothing is stored.")
    service_tier: str | None = Field(None, description="Accepted, and without effect.")
    safety_identifier: str | None = Field(None, description="Accepted, and without effect.")
    prompt_cache_key: str | None = Field(None, description="Accepted, and without effect.")


class ChatRequest(_Request):
    """A conversation to answer. One that ends with an assistant's message is continued."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None, description="The older name of max_completion_tokens."
    )
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None, description="Most tokens of an answer, its end included; the server's limit unless given."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None


class CompletionRequest(_Request):
    """Raw text or token ids to continue. No template, no prompt modifier; special tokens written in text act."""

    prompt: str | Strings | Tokens | Annotated[list[Tokens], Field(min_length=1)] = Field(description="One or several.")
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="16 unless given. 0 with `echo` reads the prompt alone."
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="Log-probabilities of the tokens written, and of so many of the likeliest at each place."
    )
    echo: bool | None = Field(None, description="Give the prompt back before the answer, with its log-probabilities.")
    best_of: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(None, description="Equal to n: not supported.")
    suffix: Annotated[str, Field(max_length=0)] | None = Field(None, description="Empty: not supported.")


KNOWN_UNSUPPORTED = {
    "tools": "tools", "tool_choice": "tools", "parallel_tool_calls": "tools", "functions": "tools",
    "function_call": "tools", "tool_calls": "tools", "tool_call_id": "tools", "audio": "audio", "web_search_options":
    "web search", "prediction": "predicted outputs", "reasoning_effort": "reasoning effort", "verbosity": "verbosity",
}  # fmt: skip


def read_request(kind: type[Any], body: bytes) -> Any:
    """A request of a kind from the bytes of its body.

    Raises:
        Rejected: the body is no JSON, or a field cannot be used; it is named.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _explained(error) from None


def _explained(error: ValidationError) -> Rejected:
    errors = error.errors(include_url=False, include_context=False)
    kind = errors[0]["type"]
    if kind == "json_invalid":
        why = errors[0]["msg"].removeprefix("Invalid JSON: ")[:200]
        return Rejected(f"The body is not JSON: {why}.", 400, None, "invalid_json")
    if kind == "extra_forbidden":
        name, path = str(errors[0]["loc"][-1]), _path(errors[0]["loc"], whole=True)
        what = KNOWN_UNSUPPORTED.get(name)
        why = f"{what} are not supported by this server" if what else "this server does not know it"
        return Rejected(f"`{path}` cannot be used: {why}. Leave it out.", 400, path, "unsupported_parameter")
    # Of the alternatives of a field the one that fits furthest is what was meant.
    path = max((_path(item["loc"]) for item in errors if item["loc"][:1] == errors[0]["loc"][:1]), key=len)
    if kind == "missing":
        return Rejected(f"`{path}` is missing.", 400, path, "missing_required_parameter")
    told = list(dict.fromkeys(item["msg"] for item in errors if _path(item["loc"]) == path))[:4]
    words = "; or ".join(message[0].lower() + message[1:] for message in told)
    if path.split(".")[0] in ("presence_penalty", "frequency_penalty", "logit_bias", "suffix"):
        words += "; this server does not support more"
    if path.startswith("response_format"):
        words += "; answers are not forced into JSON by this server"
    named = f"`{path}`" if path else "The body"
    return Rejected(f"{named} cannot be used: {words}."[:600], 400, path or None, "invalid_value")


_FIELDS = {
    name
    for kind in (Part, Message, StreamOptions, Switch, ResponseFormat, ChatRequest, CompletionRequest)
    for name in kind.model_fields
}


def _path(loc: tuple[Any, ...], whole: bool = False) -> str:
    """Where an error is, as ``messages[0].content``: pydantic's names of the alternatives of a union are left out.

    ``whole`` says that the last part is a name that was sent, whatever it looks like.
    """
    out, last = "", len(loc) - 1
    for at, part in enumerate(loc):
        if isinstance(part, int):
            out += f"[{part}]"
        elif part in _FIELDS or loc[at - 1] in ("strength", "metadata") or (at == last and whole):
            out += f".{part}" if out else str(part)
    return "".join(c for c in out if c.isprintable())[:200]
