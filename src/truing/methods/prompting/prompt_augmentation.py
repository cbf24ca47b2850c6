"""Prompt augmentation: a second model adds a short complement to what the user wrote (Baichuan Alignment, PAS)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Message, Method
from truing.methods.prompting.writers import (
    WriterModifier,
    ask,
    called,
    check_numbers,
    check_slots,
    check_writer,
    count_words,
    last_of_user,
    looks_like_an_answer,
    unquoted,
)
from truing.safe_text import filled

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

INSTRUCTION = (
    "Write a complement to a user's prompt: one or two sentences that will stand beside it, so that whoever answers "
    "sees better what is wanted. Say what the situation asks for, what could be covered as well, or which form the "
    "answer should have. Do not answer the prompt, do not contradict it, and demand nothing that it does not need. "
    "Use the language of the prompt, and about 30 words at most. Write the complement alone.\n\n"
    "The prompt:\n{prompt}\n\nThe complement:"
)
"""What the guide is asked unless another instruction is given."""

_LABEL = re.compile(r"(?:the )?(?:final )?complement(?:ary information)?\s*[:：]\s*", re.IGNORECASE)


class PromptAugmentationModifier(WriterModifier):
    """Adds a complement, written by a guide, to the last message of the user.

    Equal prompts are written for once, and kept in memory; `counts` tells what became of them.

    Args:
        guide: what writes.
        instruction: what it is asked.
        template: how prompt and complement are joined.
        max_words: a longer complement is not used.
        max_new_tokens: most tokens that it writes.
        temperature: of the guide.
        seed: of the guide.
    """

    lacks = "a complement"

    guide: AnyModel | Callable[[list[str]], list[str]]
    instruction: str = INSTRUCTION
    template: str = "{prompt}\n\n{complement}"
    max_words: int = 60
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"PromptAugmentation(guide={called(self.guide)})"

    def batch(self, conversations: Sequence[list[Message]]) -> list[list[Message]]:
        """Several conversations, for which the guide writes in one call."""
        places = [last_of_user(messages) for messages in conversations]
        prompts = [None if at is None else messages[at]["content"] for messages, at in zip(conversations, places)]
        held, _ = self._state()
        found = {prompt: held.get(prompt) for prompt in prompts if prompt is not None}
        missing = [prompt for prompt, complement in found.items() if complement is None]
        found.update(self._written(missing))
        out = []
        for messages, at, prompt in zip(conversations, places, prompts):
            complement = found[prompt] if prompt is not None else None
            if at is not None and prompt is not None and complement:
                text = filled(self.template, prompt=prompt, complement=complement)
                messages = [*messages[:at], {**messages[at], "content": text}, *messages[at + 1 :]]
            out.append(messages)
        return out

    def _written(self, prompts: Sequence[str]) -> dict[str, str]:
        """A complement for each prompt, "" where what the guide wrote cannot be used."""
        if not prompts:
            return {}
        texts = [filled(self.instruction, prompt=prompt) for prompt in prompts]
        how = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}
        written, reasons = {}, []
        for prompt, (text, trouble) in zip(prompts, ask(self.guide, texts, (list(prompts),), **how)):
            reasons.append(trouble or unfit(prompt, cleaned(text), self.max_words))
            written[prompt] = "" if reasons[-1] else cleaned(text)
        self._hold(written, [reason or "used" for reason in reasons])
        return written


class PromptAugmentation(Method):
    """Let a guide add a complement of about 30 words to each prompt: what the situation asks for, and in which form.

    The model that comes out reads "prompt, complement" where the user wrote the prompt; its weights are as they were,
    and it may be a remote one. The guide reads the text of the last user message alone, since it was made for single
    turns; earlier turns, system messages and what a tool said stay as they are. What the guide writes is cached for
    each prompt, and depends on the prompt, the guide and the settings alone.

    A complement is not used, and the prompt goes on as it is, where the guide wrote nothing, was cut off, wrote more
    than ``max_words``, only repeated the prompt, or began as an answer does ("Yes, …", "Here is …", "I cannot …", "The
    answer is …"); also where the prompt is too long for the guide. These are counted in the modifier's ``counts`` and
    said. An answer without such a beginning is not recognised: what keeps a writer from answering is its training, on
    records by `truing.PromptComplements`. An untrained guide needs to follow instructions.

    Lin et al. 2024 (arXiv 2410.14940), section on PAS; they train a 7B writer for 2 epochs at a learning rate of 2e-5
    on 9,000 records.

    Args:
        guide: what writes the complements: a model, local or remote, or a function from a list of prompts to as many
            complements. A saved model with a function is loaded with ``load(folder, functions=[it])``.
        instruction: what the guide is asked, with ``{prompt}`` where the user's prompt goes. A trained writer needs the
            one of its training; ``{prompt}`` alone for one that was trained on bare prompts.
        template: how the two are joined, with ``{prompt}`` and ``{complement}``.
        max_words: a complement of more words is not used; a Chinese or Japanese character counts as one.
        max_new_tokens: most tokens that the guide writes.
        temperature: of the guide.
        seed: of the guide, at a temperature.

    Example:
        >>> import truing as tr
        >>> writer = tr.load("out/writer")
        >>> augmented = tr.PromptAugmentation(guide=writer).align(tr.load("sandbox/base"))
    """

    guide: AnyModel | Callable[[list[str]], list[str]]
    instruction: str = INSTRUCTION
    template: str = "{prompt}\n\n{complement}"
    max_words: int = 60
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"guide"})
    modifier: ClassVar[str | None] = "prompt"
    paper: ClassVar[int | None] = 23
    # Hot, and with a seed at which a tiny random guide ends some of its texts before they are cut off.
    quick: ClassVar[dict[str, Any]] = {"instruction": "{prompt}", "max_new_tokens": 16, "temperature": 3.0, "seed": 3}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_writer("guide", self.guide)
        check_slots("instruction", self.instruction, ("prompt",))
        check_slots("template", self.template, ("prompt", "complement"))
        check_numbers(self, ("max_words", "max_new_tokens"))

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(PromptAugmentationModifier(**self.settings()))


def cleaned(text: str) -> str:
    """What was written without a label before it ("Complement:"), quotation marks around it, and white space."""
    text = text.strip()
    return unquoted(text[found.end() :] if (found := _LABEL.match(text)) else text)


def unfit(prompt: str, complement: str, max_words: int) -> str:
    """Why a complement cannot stand beside a prompt, or "" where it can."""
    if not complement:
        return "empty"
    if count_words(complement) > max_words:
        return "too long"
    if complement.split() == prompt.split():
        return "only repeats the prompt"
    return "answers the prompt" if looks_like_an_answer(complement) else ""
