"""A system message before every conversation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Message, Method, require
from truing.models.modifiers import PromptModifier

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class SystemMessageModifier(PromptModifier):
    """Puts a system message first, or before the text of the one that is there.

    Args:
        text: the message.
    """

    text: str

    def messages(self, messages: list[Message]) -> list[Message]:
        """The conversation with the system message; the list given is left as it was."""
        if messages and messages[0]["role"] == "system":
            return [{**messages[0], "content": f"{self.text}\n\n{messages[0]['content']}"}, *messages[1:]]
        return [{"role": "system", "content": self.text}, *messages]


class SystemMessage(Method):
    """Put one system message before every conversation: the cheapest way to align, and the baseline of the others.

    A conversation that has a system message keeps it, after the new text and a blank line; so of two steps the later
    one stands first. Where a chat template knows no system role, the text opens the first user message.

    Args:
        text: the message.

    Example:
        >>> import truing as tr
        >>> kind = tr.SystemMessage(text="Answer politely.").align(tr.load("sandbox/base"))
    """

    text: str

    modifier: ClassVar[str | None] = "prompt"
    quick: ClassVar[dict[str, Any]] = {"text": "look at the mat"}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            isinstance(self.text, str) and bool(self.text.strip()),
            f"text is the system message, and must not be empty; got {self.text!r}.",
        )

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(SystemMessageModifier(text=self.text))
