"""URIAL: a base model aligned by one constant prompt of styled examples (Lin et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Message, Method, is_whole, require
from truing.errors import RecordError
from truing.methods.prompting import forms
from truing.methods.prompting.style_examples import (
    EXAMPLES,
    INSTRUCTION,
    SANDBOX_EXAMPLES,
    SANDBOX_INSTRUCTION,
    SPOKEN_INSTRUCTION,
    Example,
)
from truing.models import chat

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class URIALModifier(forms.ExamplesModifier):
    """Puts constant examples before every conversation.

    Args:
        turns: the examples, as messages of user and assistant by turns.
    """

    turns: list[Message]

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        count = sum(message["role"] == "assistant" for message in self.turns)
        return f"URIAL({count} {'example' if count == 1 else 'examples'}, {self.style})"

    def messages(self, messages: list[Message]) -> list[Message]:
        """The conversation after the examples; the list given is left as it was."""
        return self.placed(self.turns, messages)


class URIAL(Method):
    """Align a base model by one constant prompt: an instruction and a few examples of good answers.

    No training, and one prompt for all queries. The built-in examples, in English, show style and manners: an everyday
    question answered as a list, a harmful request declined kindly, and a how-to with steps and a word on safety; with
    more examples, a question on which people differ, a text to write, a question that nobody can answer, an explanation
    and some advice. The prompt takes about 1,100 tokens with three examples; the engine reads it once for all rows of a
    call.

    A model with a chat template gets instruction and examples as a system message and earlier turns. One without gets
    plain text: each turn under a heading and inside a fence that no query can close, the answer ending at the next
    heading and cleaned of its last fence. An empty message is an error.

    Baselines are settings of it: ``examples=0`` is the instruction alone, ``instruction=""`` with plain examples is
    usual in-context learning, and both nothing but the form. Lin, Ravichander, Lu et al., "The Unlocking Spell on Base
    LLMs", ICLR 2024 (arXiv 2312.01552).

    Args:
        examples: how many of the built-in ones (0 to 8; 1, 3 and 8 are the paper's sizes); or your own: demonstration
            records, a list of rows, or a file; or "sandbox", in the words of the sandbox's models.
        refusal: whether an example that declines may be among the built-in ones; their number stays.
        instruction: the text before the examples; None for the built-in one, "" for none.
        style: "turns" through the chat template, "fenced" or "headings" as plain text, "auto" for fences where no chat
            template says who speaks. A remote model gets plain text as one message of the user.

    Example:
        >>> import truing as tr
        >>> assistant = tr.URIAL(examples="sandbox").align(tr.load("sandbox/base"))
    """

    examples: int | str | Path | Records | Sequence[dict[str, Any]] = 3
    refusal: bool = True
    instruction: str | None = None
    style: str = "auto"

    modifier: ClassVar[str | None] = "prompt"
    paper: ClassVar[int | None] = 6
    quick: ClassVar[dict[str, Any]] = {
        "examples": [{"prompt": "the stone?", "completion": "it is grey."}], "instruction": "look at the mat",
    }  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        forms.check_style(self.style)
        require(isinstance(self.refusal, bool), f"refusal is true or false, not {self.refusal!r}.")
        require(
            self.instruction is None or isinstance(self.instruction, str),
            f'instruction is a text, "" for none, or None for the built-in one; not {self.instruction!r}.',
        )
        if isinstance(self.examples, (int, float)):
            most = len(_built_in(self.refusal))
            require(
                is_whole(self.examples) and 0 <= self.examples <= most,
                f"examples is a number from 0 to {most} (of the built-in ones{'' if self.refusal else ' that help'}), "
                f"or examples of your own, not {self.examples!r}.",
            )

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        style = forms.style_for(model, self.style)
        aligned = model.with_modifier(
            URIALModifier(turns=self._turns(), instruction=self._instruction(style), style=style)
        )
        if "local_weights" in aligned.offers:
            _check_room(aligned)
        return aligned

    def _instruction(self, style: str) -> str:
        if self.instruction is not None:
            return self.instruction
        if self.examples == "sandbox":
            return SANDBOX_INSTRUCTION
        if style == "turns":
            return SPOKEN_INSTRUCTION
        return INSTRUCTION.format(**(forms.FENCED if style == "fenced" else forms.BARE)._asdict())

    def _turns(self) -> list[Message]:
        if isinstance(self.examples, int):
            chosen: Sequence[Example] = _built_in(self.refusal)[: self.examples]
        elif self.examples == "sandbox":
            chosen = [one for one in SANDBOX_EXAMPLES if self.refusal or not one.refuses][:3]
        else:
            return own_turns(self.examples, "URIAL")
        pairs = [(("user", one.prompt), ("assistant", one.answer)) for one in chosen]
        return [{"role": role, "content": text} for pair in pairs for role, text in pair]


def _built_in(refusal: bool) -> tuple[Example, ...]:
    return tuple(one for one in EXAMPLES if refusal or not one.refuses)


def own_turns(examples: Any, what: str) -> list[Message]:
    """The turns of demonstration records, a list of rows, or a file.

    Raises:
        RecordError: they are no demonstrations, or one of their messages is empty or of the system.
    """
    from truing.records import as_records

    if isinstance(examples, Sequence) and not isinstance(examples, str) and not examples:
        return []
    turns: list[Message] = []
    for at, row in enumerate(as_records(examples, kinds=("demonstration",), what=what), 1):
        for message in (*chat.as_messages(row["prompt"]), *_answer(row["completion"])):
            role, text = message["role"], message["content"]
            if role not in ("user", "assistant") or not text.strip():
                fault = "is empty" if role in ("user", "assistant") else f"has the role `{role}`"
                raise RecordError(
                    f"A message of example {at} {fault}; examples are turns of user and assistant. Give the system "
                    "text as `instruction`."
                )
            turns.append({"role": role, "content": text})
    return turns


def _answer(completion: Any) -> list[Message]:
    return (
        [{"role": "assistant", "content": completion}] if isinstance(completion, str) else chat.as_messages(completion)
    )


def _check_room(model: Any) -> None:
    """Raise `RecordError` where the prompt alone leaves a model no room."""
    try:
        model.encode_prompt("a")
    except RecordError as error:
        raise RecordError(
            f"URIAL's prompt does not fit: {error} Take fewer or shorter examples (`examples=1`, or your own)."
        ) from None
