"""What tests of prompting share: a function that stands for a model, and a listener that keeps what is said."""

from __future__ import annotations

from truing import progress


class Counting:
    """A function that keeps what it was asked."""

    def __init__(self, write) -> None:
        self.write, self.calls = write, []

    def __call__(self, prompts):
        self.calls.append(list(prompts))
        return [self.write(prompt) for prompt in prompts]


class Heard(progress.SilentListener):
    """Keeps what is said to the user."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
