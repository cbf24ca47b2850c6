"""In-context query: a derived prompt and its answer stand as the example before the user's own prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Message, Method, Prompt, is_number, is_whole, require, require_whole
from truing.errors import RecordError
from truing.measures.journal import key_of
from truing.methods.prompting.deriving import (
    INSTRUCTION,
    cleaned,
    question_of,
    shortened,
    similarity,
    unfit,
    with_question,
)
from truing.methods.prompting.writers import (
    WriterModifier,
    ask,
    called,
    check_numbers,
    check_slots,
    check_writer,
    count_words,
)
from truing.models import chat
from truing.models.core import context_length
from truing.safe_text import filled, quoted

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

HOW = ("example", "turns", "replace")
TEMPLATE = (
    'Here is a question and how it was answered. Every line of the two begins with "> ".\n\n'
    "The question:\n{derived}\n\nThe answer:\n{response}\n\n"
    "Take this as an example: reply to the question that follows in the same way, with the same quality, style and "
    "care for detail.\n\n{prompt}"
)
"""How example and prompt are joined, unless another template is given."""


@dataclasses.dataclass(frozen=True)
class Derivation:
    """What became of one prompt.

    Args:
        derived: what the writer made of it, cleaned; its last attempt where none can be used.
        response: what the model answered to that, shortened if need be; empty where it was not asked.
        outcome: "used", or why the prompt goes on as it is.
        attempts: how often the writer was asked.
        similarity: of the prompt and ``derived``, the cosine of their word counts.
    """

    derived: str
    response: str
    outcome: str
    attempts: int
    similarity: float


class InContextQueryModifier(WriterModifier):
    """Puts a derived prompt and its answer before the last message of the user, as an example.

    The writer and the responder are asked once for all conversations of a batch, and once for equal ones; `counts`
    tells what became of them, and `derivation` of one.

    Args:
        writer: what derives prompts.
        responder: what answers them: the model that was aligned.
        how: "example", "turns" or "replace".
        instruction: what the writer is asked.
        template: how example and prompt are joined.
        attempts: of the writer.
        max_words: of a derived prompt.
        max_response_words: of the answer in the example.
        max_new_tokens: of the writer.
        response_tokens: of the responder.
        room: positions of the model kept for the final answer.
        temperature: of the writer's first attempt.
        response_temperature: of the responder.
        seed: of both.
    """

    lacks = "a derived prompt"

    writer: AnyModel | Callable[[list[str]], list[str]]
    responder: AnyModel | Callable[[list[Prompt]], list[str]]
    how: str = "example"
    instruction: str = INSTRUCTION
    template: str = TEMPLATE
    attempts: int = 3
    max_words: int = 400
    max_response_words: int = 400
    max_new_tokens: int = 1024
    response_tokens: int = 1024
    room: int = 256
    temperature: float = 0.0
    response_temperature: float = 0.0
    seed: int = 0

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"InContextQuery(writer={called(self.writer)}, how={self.how})"

    def derivation(self, prompt: Prompt) -> Derivation | None:
        """What became of a prompt, asking for it if need be; None where there is no text of a user."""
        messages = chat.as_messages(prompt)
        self.batch([messages])
        return self._state()[0].get(_key(messages))

    def batch(self, conversations: Sequence[list[Message]]) -> list[list[Message]]:
        """Several conversations, for which writer and responder are asked together."""
        keys = [_key(messages) if question_of(messages) else None for messages in conversations]
        held, _ = self._state()
        found: dict[str, Derivation | None] = {key: held.get(key) for key in keys if key is not None}
        missing = {key: talk for key, talk in zip(keys, conversations) if key is not None and found[key] is None}
        if missing:
            made = self._made(list(missing.values()))
            found.update(zip(missing, made))
            self._hold(dict(zip(missing, made)), [one.outcome for one in made])
        return [
            self._query(talk, one.derived, one.response)
            if key is not None and (one := found[key]) is not None and one.outcome == "used"
            else talk
            for key, talk in zip(keys, conversations)
        ]

    def _query(self, messages: list[Message], derived: str, response: str) -> list[Message]:
        """The conversation that the model is asked."""
        question = question_of(messages) or ""
        if self.how == "replace":
            changed = with_question(messages, derived)
        elif self.how == "turns":
            example = [{"role": "user", "content": derived}, {"role": "assistant", "content": response}]
            changed = with_question(messages, question, before=example)
        else:
            slots = {"derived": quoted(derived), "response": quoted(response), "prompt": question}
            changed = with_question(messages, filled(self.template, **slots))
        return list(changed)  # type: ignore[arg-type]

    def _made(self, conversations: Sequence[list[Message]]) -> list[Derivation]:
        questions = [question_of(talk) or "" for talk in conversations]
        written = self._derived(list(dict.fromkeys(questions)))
        found = []
        for question in questions:
            text, why, tries = written[question]
            found.append(Derivation(text, "", why or "used", tries, similarity(question, text)))
        if self.how == "replace":
            return found
        usable = [at for at, one in enumerate(found) if one.outcome == "used"]
        asked = [with_question(conversations[at], found[at].derived) for at in usable]
        said = ask(
            self.responder, asked, (asked,), max_new_tokens=self.response_tokens,
            temperature=self.response_temperature, seed=self.seed,
        )  # fmt: skip
        for at, (text, trouble) in zip(usable, said):
            response = self._fitting(conversations[at], found[at].derived, text.strip())
            # A cut answer is an example still; a prompt that was too long for the responder has none.
            why = trouble if trouble != "cut off" else ""
            why = why or ("no room for an example" if response is None else "" if response else "no answer to it")
            found[at] = dataclasses.replace(found[at], response=response or "", outcome=why or "used")
        return found

    def _derived(self, questions: Sequence[str]) -> dict[str, tuple[str, str, int]]:
        """For each question the derived one, why it cannot be used or "", and the number of attempts."""
        found: dict[str, tuple[str, str, int]] = {}
        left = list(questions)
        for attempt in range(self.attempts):
            texts = [filled(self.instruction, prompt=question) for question in left]
            # A greedy writer would write the same again.
            warm = max(self.temperature, 0.7) if attempt else self.temperature
            how = {"max_new_tokens": self.max_new_tokens, "temperature": warm, "seed": (self.seed + attempt) % 2**32}
            for question, (said, trouble) in zip(left, ask(self.writer, texts, (left,), **how)):
                text = cleaned(said, question)
                found[question] = (text, trouble or unfit(question, text, self.max_words), attempt + 1)
            left = [question for question in left if found[question][1] not in ("", "prompt too long")]
            if not left:
                break
        return found

    def _fitting(self, messages: list[Message], derived: str, response: str) -> str | None:
        """The answer, shortened until the query leaves room for another; None where there is none for an example."""
        most = count_words(shortened(response, self.max_response_words))
        limit = _limit(self.responder)
        if limit is None:
            return shortened(response, most)

        def fits(words: int) -> bool:
            try:
                used = len(self.responder.encode_prompt(self._query(messages, derived, shortened(response, words))))  # type: ignore[union-attr]
            except RecordError:
                return False
            return used + self.room <= limit

        if fits(most):
            return shortened(response, most)
        low, high = 0, most  # `low` fits, or nothing does
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return shortened(response, low) if low else None


class InContextQuery(Method):
    """Answer with a derived prompt and its answer as the example: the user's prompt stays, word for word.

    A writer derives x' from the last message x of the user, the model answers x' with y', and what it is asked in the
    end holds x' and y' as an example and x as it is, once and last: two calls of the model and one of the writer. The
    weights stay as they are, so the model may be a remote one. The writer may be one that `truing.DerivedPrompt`
    trained, any other model, or a function.

    Earlier turns and system messages stay and are read with x' too; the writer reads x alone. What a writer wrote
    cannot be used where it is empty, was cut off, is longer than ``max_words``, only repeats x, or begins as an answer
    does; a label or a line before it ("Here is the new question:") is taken off. The writer is then asked again, and
    after ``attempts`` x goes to the model as it is, at the cost of one call. The same where the query leaves no room
    for an answer with even a shortened y'; x is never shortened. All this is counted in the modifier's ``counts``;
    ``derivation(prompt)`` shows x', y' and the likeness of x and x'.

    The model is asked for y' without its search, and y' is kept in memory for equal conversations. Modifiers that are
    added later do not act on y'. A local model is held a second time where it is saved, unless it loads by name.

    Li et al. 2025 (arXiv 2409.01552). Differs: x' and y' are quoted line by line, so that nothing in them can end the
    example.

    Args:
        writer: what derives prompts: a model, local or remote, or a function from a list of prompts to as many texts.
        how: "example" puts the example into the message (the paper's); "turns" makes it an earlier turn of the
            conversation, which suits models that take instructions badly; "replace" lets x' stand in place of x (the
            baseline OD), which costs one call and may shift what is asked.
        instruction: what the writer is asked, with ``{prompt}``. A trained writer needs the one of its training.
        template: how example and prompt are joined, with ``{derived}``, ``{response}`` and, at the end, ``{prompt}``.
        attempts: how often the writer is asked for a prompt at most; later attempts have a temperature of 0.7 at least.
        max_words: a derived prompt of more words is not used.
        max_response_words: y' is shortened to so many words, at the end of a sentence if one is near.
        max_new_tokens: most tokens that the writer writes.
        response_tokens: most tokens of y'.
        room: positions of a local model that are kept for its final answer.
        temperature: of the writer's first attempt.
        response_temperature: of the model for y'.
        seed: of both.

    Example:
        >>> import truing as tr
        >>> writer = tr.load("out/writer")
        >>> aligned = tr.InContextQuery(writer=writer).align(tr.load("openai/gpt-4.1-mini"))
    """

    writer: AnyModel | Callable[[list[str]], list[str]]
    how: str = "example"
    instruction: str = INSTRUCTION
    template: str = TEMPLATE
    attempts: int = 3
    max_words: int = 400
    max_response_words: int = 400
    max_new_tokens: int = 1024
    response_tokens: int = 1024
    room: int = 256
    temperature: float = 0.0
    response_temperature: float = 0.0
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"writer"})
    modifier: ClassVar[str | None] = "prompt"
    paper: ClassVar[int | None] = 24
    quick: ClassVar[dict[str, Any]] = {
        "instruction": "{prompt}", "template": "{derived} {response} {prompt}", "max_new_tokens": 12,
        "response_tokens": 6, "room": 16, "temperature": 3.0, "seed": 3,
    }  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_writer("writer", self.writer)
        require(self.how in HOW, f"how is one of {', '.join(HOW)}, not {self.how!r}.")
        check_slots("instruction", self.instruction, ("prompt",))
        check_slots("template", self.template, ("derived", "response", "prompt"))
        require(
            self.template.endswith("{prompt}"),
            "template ends with {prompt}: whatever stands in a prompt can then end nothing that comes after it.",
        )
        require_whole(self, ("attempts", "max_response_words", "response_tokens"))
        require(is_whole(self.room) and self.room >= 0, f"room is a whole number of at least 0, not {self.room!r}.")
        warm = self.response_temperature
        require(is_number(warm) and warm >= 0, f"response_temperature is 0 or more, not {warm!r}.")
        check_numbers(self, ("max_words", "max_new_tokens"))

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        # Prompt modifiers that it carries have acted on the conversation already when this one is asked.
        kept = tuple(m for m in model.policy.modifiers if m.kind != "prompt")
        responder = dataclasses.replace(model, modifiers=kept, history=model.history if kept else ())
        return model.with_modifier(InContextQueryModifier(responder=responder, **self.settings()))


def _key(messages: Sequence[Message]) -> str:
    return key_of([[message["role"], message["content"]] for message in messages])


def _limit(model: Any) -> int | None:
    """Positions of a local model; nobody knows those of a remote one or a function."""
    if "local_weights" not in getattr(model, "offers", ()):
        return None
    limit = context_length(model.weights)
    return int(limit) if limit else None
