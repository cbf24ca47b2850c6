"""What a server takes on, at most."""

from __future__ import annotations

from truing.contracts import Settings, is_number, require, require_whole


class Limits(Settings):
    """Bounds that one request, or all of them together, must keep.

    Args:
        body_bytes: most bytes of a request's body.
        prompt_tokens: most tokens of a prompt; None leaves it to what the model reads.
        answer_tokens: most tokens that a request may ask for in an answer, and what it gets without asking.
        choices: most answers of one request, its prompts times ``n``.
        waiting: most requests that wait for their turn; further ones are told to come again (429).
        seconds: most time from a request's arrival to its last token.
        body_seconds: most time that a request's body may take to arrive.
        cache_slots: tokens, prompt and answer, for which there is memory at one time; what does not fit waits.
        lanes: most combinations of model, modifiers and strengths that run at one time, each in a batch of its own.
    """

    body_bytes: int = 1 << 20
    prompt_tokens: int | None = None
    answer_tokens: int = 4096
    choices: int = 32
    waiting: int = 256
    seconds: float = 600.0
    body_seconds: float = 30.0
    cache_slots: int = 65536
    lanes: int = 8

    def validate(self) -> None:
        """Raise `SettingsError` for a limit that cannot work."""
        super().validate()
        names = ("body_bytes", "prompt_tokens", "answer_tokens", "choices", "waiting", "cache_slots", "lanes")
        require_whole(self, names, optional=("prompt_tokens",))
        for name in ("seconds", "body_seconds"):
            value = getattr(self, name)
            require(is_number(value) and value > 0, f"{name} is a number of seconds over 0, not {value!r}.")
