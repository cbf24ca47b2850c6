"""Asking for one of several options: by their probabilities, or by the written answer."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from truing.measures.asking import Answer, Context, ask, cut_note, search_notes, without_search
from truing.measures.options import known_scores, may_score, read_choice

if TYPE_CHECKING:
    from truing.contracts import Prompt
    from truing.models.types import Sampling

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
REPLY = "Answer with the letter of one option alone."
READINGS = ("auto", "probabilities", "written")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A question with options.

    Args:
        key: names it; the order in which its options are shown follows from it and the seed.
        prompt: the question.
        options: their texts.
        shown: whether the options are shown with letters, and letters scored; else the options themselves are, as
            answers, unseen. Written answers always choose among shown options.
        fixed: whether options are shown in the order given.
        reply: how to answer, behind the options.
        letters: the label of each place.
    """

    key: str
    prompt: Prompt
    options: tuple[str, ...]
    shown: bool = True
    fixed: bool = False
    reply: str = REPLY
    letters: Sequence[str] = LETTERS

    def order(self, seed: int) -> list[int]:
        """The option that stands in each place."""
        places = list(range(len(self.options)))
        if not self.fixed:
            random.Random(f"options {seed} {self.key}").shuffle(places)
        return places

    def listed(self, seed: int) -> list[dict[str, Any]]:
        """The question with its options behind letters."""
        lines = [f"{letter}) {self.options[at]}" for letter, at in zip(self.letters, self.order(seed))]
        return with_options(self.prompt, lines, self.reply)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What was chosen.

    Args:
        place: of the option among those given; None where the answer names none, or several.
        probabilities: among the options, where they are known.
        text: the option's words, or the written answer.
        letter: that was shown with it; empty where none was.
    """

    place: int | None
    probabilities: tuple[float, ...] | None
    text: str
    letter: str = ""


def with_options(prompt: Prompt, lines: Sequence[str], reply: str) -> list[dict[str, Any]]:
    """A conversation whose last message goes on with a line for each option, and how to answer."""
    from truing.models.chat import as_messages

    *before, last = as_messages(prompt)
    return [*before, {**last, "content": "\n".join([str(last["content"]), *lines, reply]).rstrip()}]


def by_probability(model: Any, reading: str) -> bool:
    """Whether options of this model are compared by probability.

    Raises:
        UnsupportedError: probabilities are asked for and the model has none.
    """
    from truing.contracts import require_offers

    if reading == "probabilities":
        require_offers(model, {"logits"}, "reading='probabilities'")
    return reading != "written" and may_score(model)


def choose(
    model: Any, questions: Sequence[Choice], sampling: Sampling, context: Context, *, reading: str = "auto",
    seed: int = 0,
) -> tuple[list[Chosen], list[str]]:  # fmt: skip
    """What a model chooses, and notes.

    Args:
        model: what is asked.
        questions: with their options.
        sampling: of written answers.
        context: of the measure.
        reading: "probabilities" (a local model), "written", or "auto": the first where the model has it.
        seed: of the order in which options are shown.
    """
    if not questions:
        return [], []
    if by_probability(model, reading):
        return _scored(model, questions, context, seed), search_notes("A choice", model)
    answers = ask(model, [one.listed(seed) for one in questions], sampling, context)
    found = [picked(one, answer, seed) for one, answer in zip(questions, answers)]
    return found, cut_note(answers, sampling, model.name)


def picked(one: Choice, answer: Answer, seed: int) -> Chosen:
    """What a written answer to a question chooses among its options, as `Choice.listed` shows them."""
    order = one.order(seed)
    shown = [one.options[at] for at in order]
    at = read_choice(answer.text, shown, one.letters[: len(shown)], cut=answer.cut)
    return Chosen(None if at is None else order[at], None, answer.text, "" if at is None else one.letters[at])


def _scored(model: Any, questions: Sequence[Choice], context: Context, seed: int) -> list[Chosen]:
    prompts = [one.listed(seed) if one.shown else one.prompt for one in questions]
    options = [list(one.letters[: len(one.options)]) if one.shown else list(one.options) for one in questions]
    found = []
    for one, scores in zip(questions, known_scores(without_search(model), prompts, options, context)):
        order = one.order(seed) if one.shown else list(range(len(one.options)))
        weights = [0.0] * len(order)
        for place, value in zip(order, scores.probabilities()):
            weights[place] = float(value)
        best = order[scores.best()]
        found.append(Chosen(best, tuple(weights), one.options[best], one.letters[scores.best()] if one.shown else ""))
    return found
