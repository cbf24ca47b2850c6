"""Forms in which a conversation that begins with examples is written: a chat template's turns, or plain text under
headings, with or without fences, for models that were never taught a template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from truing.contracts import Message, require
from truing.errors import RecordError
from truing.models import chat
from truing.models.modifiers import PromptModifier

if TYPE_CHECKING:
    from truing.models import AnyModel

STYLES = ("auto", "turns", "fenced", "headings")


class Headings(NamedTuple):
    """What stands above the turns of a plain text."""

    user: str
    assistant: str


END_MARKERS = ("</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<eos>")
"""What servers leave at an answer's end."""

FENCED = Headings("# Query:", "# Answer:")
BARE = Headings("# User:", "# Assistant:")


class ExamplesModifier(PromptModifier):
    """Base of modifiers that put examples, as earlier turns, before a conversation.

    A system message of the conversation itself goes behind the instruction, after a blank line.

    Args:
        instruction: the system message before the examples; "" for none.
        style: "turns" leaves the form to the chat template; "fenced" and "headings" are plain text.
    """

    instruction: str = ""
    style: str = "turns"

    def placed(self, turns: Sequence[Message], messages: Sequence[Message]) -> list[Message]:
        """Instruction, example turns, conversation.

        Raises:
            RecordError: a message of the conversation is empty, which would read as an open turn.
        """
        system = [self.instruction] if self.instruction else []
        rest = list(messages)
        while rest and rest[0]["role"] == "system":
            system.append(rest.pop(0)["content"])
        for at, message in enumerate(rest):
            if not message["content"].strip() and not (at == len(rest) - 1 > 0 and message["role"] == "assistant"):
                raise RecordError(
                    f"A message of the {message['role']} is empty, which among examples reads as a turn that is still "
                    "open. Write something, or leave it out."
                )
        if not rest:
            raise RecordError("A conversation among examples needs a message of the user to answer.")
        first: list[Message] = [{"role": "system", "content": "\n\n".join(system)}] if system else []
        return [*first, *turns, *rest]

    def rendered(self, messages: list[Message]) -> str | None:
        """The conversation as plain text, where the style is one."""
        return None if self.style == "turns" else as_text(messages, self.style)

    def stops(self) -> Sequence[str]:
        """The heading of the next turn."""
        if self.style == "turns":
            return ()
        return (f"\n{(FENCED if self.style == 'fenced' else BARE).user}",)

    def clean(self, text: str, ended: bool) -> str:
        """The answer without the fence that closes it, stripped; fences of its own stay."""
        if self.style == "turns":
            return text
        return without_last_fence(text, ended) if self.style == "fenced" else _unmarked(text, ended).strip()


def style_for(model: AnyModel, style: str) -> str:
    """The style that "auto" means for a model: turns where its chat template says who speaks, else fences."""
    if style != "auto":
        return style
    local: Any = model if "local_weights" in model.offers else None
    return "turns" if local is None or chat.marks_turns(local.tokenizer) else "fenced"


def check_style(style: object) -> None:
    """Raise `SettingsError` for a style that there is not."""
    require(style in STYLES, f"style is one of {', '.join(STYLES)}, not {style!r}.")


def as_text(messages: Sequence[Message], style: str) -> str:
    """A conversation as plain text, up to where the answer begins, or to the end of an answer that is to go on.

    The system text comes first, as it is. A fence has at least three backticks and more than any row of them in its
    text; without fences a line that begins as a heading does gets a backslash. So no text leaves its block.

    Args:
        messages: at most one of the role system, first; the others of the user and the assistant.
        style: "fenced" or "headings".

    Raises:
        RecordError: a message of another role, for which plain text has no heading.
    """
    rest = list(messages)
    text = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else ""
    if rest and rest[-1]["role"] == "assistant" and not rest[-1]["content"]:
        rest.pop()
    for message in rest:
        if message["role"] not in ("user", "assistant"):
            raise RecordError(
                f"A conversation as plain text has headings for user and assistant, and one message has the role "
                f"`{message['role']}`. Leave it out, or use style='turns' with a chat template that knows it."
            )
    if not rest or rest[-1]["role"] == "user":
        rest.append({"role": "assistant", "content": ""})
    blocks, before = [text], ""
    for at, message in enumerate(rest):
        spoken = message["content"]
        # Whoever asks with long fences is likely to be answered with them.
        fence = _fence(spoken, before if message["role"] == "assistant" else "")
        blocks.append(_block(style, message["role"], spoken, fence, open_end=at == len(rest) - 1))
        before = spoken
    whole = "".join(blocks)
    return whole if text else whole.lstrip("\n")


def _fence(*texts: str) -> str:
    return "`" * max(3, *(1 + len(run) for text in texts for run in re.findall(r"`+", text)), 3)


def _block(style: str, role: str, text: str, fence: str, open_end: bool) -> str:
    headings = FENCED if style == "fenced" else BARE
    heading = headings.user if role == "user" else headings.assistant
    if style == "fenced":
        return f"\n{heading}\n{fence}\n{text}" + ("" if open_end else f"\n{fence}\n")
    return f"\n\n{heading}\n{_safe(text)}" + ("" if open_end else "\n")


def _safe(text: str) -> str:
    return re.sub(rf"^(?=[ \t]*(?:{'|'.join(map(re.escape, BARE))}))", r"\\", text, flags=re.MULTILINE)


def without_last_fence(text: str, ended: bool = True) -> str:
    """An answer without the fence that closes its block, and without end markers and white space around it.

    Fences that the answer itself opens and closes stay. While it is being written (``ended`` False), a beginning of it
    that stands whatever follows.
    """
    text = _unmarked(text, ended).lstrip()
    inside = ""
    end = 0
    for line in text.splitlines(keepends=True):
        marks = re.match(r" {0,3}(`{3,})([^`]*)$", line.rstrip())
        closes = marks is not None and not marks[2].strip()
        if inside:
            if marks and closes and len(marks[1]) >= len(inside):
                inside = ""
        elif marks and closes and not text[end + len(line) :].strip():
            break
        elif marks:
            inside = marks[1]
        end += len(line)
    kept = text[:end].rstrip()
    if ended:
        return kept
    # A row of backticks at the end may become a fence, the closing one or not.
    last = kept.rfind("\n") + 1
    return kept[:last].rstrip() if re.fullmatch(r" {0,3}`+[^`\n]*", kept[last:]) else kept


def _unmarked(text: str, ended: bool) -> str:
    """A text without end markers at its end; while it is being written, without what may become one either."""
    while True:
        bare = text.rstrip()
        sizes = [
            size
            for marker in END_MARKERS
            for size in (range(len(marker), 0, -1) if not ended else (len(marker),))
            if bare.endswith(marker[:size])
        ]
        if not sizes:
            return text
        text = bare[: -max(sizes)]
