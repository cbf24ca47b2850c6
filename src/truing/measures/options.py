"""Probabilities of the answer options of questions on a local model, and options read from written answers.

The context of a question is computed once, however many options it has: they stand behind it as a tree of tokens (see
`truing.models.tree`), and a beginning that questions share is read once for all of them.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from truing.errors import RecordError
from truing.measures.asking import Context

if TYPE_CHECKING:
    from truing.contracts import Prompt
    from truing.models import Model
    from truing.models.types import Usage

WAYS = ("sum", "token", "byte")
TOKENS = {"cpu": 4096}
MOST_TOKENS = 16384
AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class OptionScores:
    """What a model gives each option of one question.

    Args:
        logprobs: log-probability in nats that the answer begins with the option, each of at most 0.
        tokens: how many tokens each option has.
        bytes: how long each option is in UTF-8.
    """

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]

    def scores(self, by: str = "sum") -> np.ndarray:
        """Log-probabilities [options] in nats: as they are ("sum"), per token, or per byte, which does not depend on
        the tokenizer.
        """
        lengths = {"sum": (1,) * len(self.tokens), "token": self.tokens, "byte": self.bytes}[by]
        return np.asarray(self.logprobs, dtype=np.float64) / np.asarray(lengths, dtype=np.float64)

    def probabilities(self, by: str = "sum") -> np.ndarray:
        """Probabilities [options] among the options, which sum to 1."""
        scores = self.scores(by)
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()

    def best(self, by: str = "sum") -> int:
        """The place of the option with the highest score, the first of equal ones."""
        return int(self.scores(by).argmax())

    @property
    def mass(self) -> float:
        """How much of the model's probability lies on the options at all, from 0 to 1."""
        return min(1.0, float(np.exp(self.logprobs).sum()))


def option_scores(
    model: Model, prompts: Sequence[Prompt], options: Sequence[Sequence[str]], *, end: bool = False,
    usage: Usage | None = None, batch_size: int | None = None,
) -> list[OptionScores]:  # fmt: skip
    """Scores of the options of each question.

    Args:
        model: a local model without a search modifier; its other modifiers act.
        prompts: the questions, a text or messages each.
        options: for each question its options, as the answer would begin, each of at least one letter.
        end: the answer ends after the option: its end token is scored too. Matters where one option begins another.
        usage: where passes and positions are counted.
        batch_size: most questions at a time; by default a budget of tokens.

    Raises:
        RecordError: a question has no options, an empty one, or does not fit into the model's positions.
        UnsupportedError: the model's layers cannot be branched.
    """
    from truing.models.engine import Engine
    from truing.models.logprobs import batches
    from truing.models.tree import branch_logprobs

    engine = Engine(model, usage)
    model.conversations(prompts)  # so that a modifier that asks a model asks once
    rows = [model.encode_prompt(prompt) for prompt in prompts]
    encoded = [_encoded(engine, at, *each, end) for at, each in enumerate(zip(prompts, options, strict=True))]
    for at, (row, several) in enumerate(zip(rows, encoded)):
        longest = len(row) + max(map(len, several)) - 1
        if engine.limit and longest > engine.limit:
            raise RecordError(
                f"Question {at + 1} has {longest} tokens with its longest option, and {engine.limited_by} reads "
                f"{engine.limit} at most. Shorten it."
            )
    found: list[Any] = [None] * len(rows)
    engine.expect(rows)
    sizes = [len(row) + sum(map(len, several)) for row, several in zip(rows, encoded)]
    for some in batches(sizes, TOKENS.get(model.device.type, MOST_TOKENS), batch_size):
        scored = branch_logprobs(engine.prefill([rows[at] for at in some]), [encoded[at] for at in some])
        for at, values in zip(some, scored):
            found[at] = OptionScores(
                tuple(values.tolist()), tuple(map(len, encoded[at])),
                tuple(len(text.encode("utf-8", errors="replace")) for text in options[at]),
            )  # fmt: skip
    return found


def _encoded(engine: Any, at: int, prompt: Prompt, options: Sequence[str], end: bool) -> list[list[int]]:
    from truing.models.chat import as_messages, encode_continuation

    model, last = engine.model, as_messages(prompt)[-1]
    if not options:
        raise RecordError(f"Question {at + 1} has no options. Give each question at least one.")
    if last["role"] == "assistant" and last["content"]:
        gap = "" if last["content"][-1].isspace() else " "
    else:
        gap = "" if model.tokenizer.chat_template or model.rendered(model.conversation(prompt)) is not None else " "
    final = [model.tokenizer.eos_token_id] if end and model.tokenizer.eos_token_id is not None else []
    found = []
    for number, text in enumerate(options):
        tokens = encode_continuation(model.tokenizer, (gap if not text[:1].isspace() else "") + text)
        if not text or not tokens:
            raise RecordError(f"Option {number + 1} of question {at + 1} is empty. Give each option a text.")
        found.append([*tokens, *final])
    return found


def known_scores(
    model: Any, prompts: Sequence[Prompt], options: Sequence[Sequence[str]], context: Context, *, end: bool = False
) -> list[OptionScores]:
    """`option_scores` through the journal of a measure; the cost is counted in its usage."""

    def work(at: list[int]) -> list[Any]:
        scored = option_scores(
            model, [prompts[row] for row in at], [options[row] for row in at], end=end, usage=context.usage
        )
        context.usage.prompt_tokens += sum(len(model.encode_prompt(prompts[row])) for row in at)
        return [[list(one.logprobs), list(one.tokens)] for one in scored]

    keys = [{"options": list(several), "of": prompt, "end": end} for prompt, several in zip(prompts, options)]
    found = context.compute(context.origin(model), keys, work, model.name, AT_ONCE)
    return [
        OptionScores(tuple(logprobs), tuple(tokens), tuple(len(text.encode("utf-8", "replace")) for text in several))
        for (logprobs, tokens), several in zip(found, options)
    ]


def may_score(model: Any) -> bool:
    """Whether a model gives probabilities of options: it offers its scores."""
    return "logits" in model.offers


# --- written answers --------------------------------------------------------------------------------------------------

_MARK = r"(?:answer|option|choice|choose|chose|select|pick)(?:\s+is)?\s*:?\s*"
_NOT = re.compile(r"(?:\b(?:not|never|no|cannot|neither|nor|without|hardly)|n['’]t)(?:\s+\w+){0,2}\s*$")


def read_choice(text: str, options: Sequence[str], labels: Sequence[str] = (), *, cut: bool = False) -> int | None:
    """The place of the option that a written answer names, or None where it names none, or several.

    A label counts where it is all of the answer, stands at its beginning with a mark behind it ("B.", "(B)"), or
    behind a word that announces it ("the answer is B"); an option's text as whole words, the longer of two where one
    holds the other, and not behind a negation. Label and text must agree.

    Args:
        text: the answer.
        options: their texts, in the order of what is returned.
        labels: the label that was shown with each of them; empty where none was.
        cut: the answer ran into its length limit, so its last word may lack an end.
    """
    said = _plain(text)
    hits = {at for at, label in enumerate(labels) if _labelled(text.strip(), label, labels, cut)}
    taken: list[tuple[int, int]] = []
    plain = [_plain(option) for option in options]
    for at in sorted(range(len(options)), key=lambda at: -len(plain[at])):
        if not plain[at]:
            continue
        for found in re.finditer(rf"(?<!\w){re.escape(plain[at])}(?!\w)", said):
            start, stop = found.span()
            if any(start < other and begin < stop for begin, other in taken):
                continue
            taken.append((start, stop))
            unsure = cut and stop == len(said) and any(one != plain[at] and one.startswith(plain[at]) for one in plain)
            # A single letter or number as an option's text is a word of the language too: only a whole answer names it.
            if unsure or (len(plain[at]) < 2 and said != plain[at]):
                continue
            if _NOT.search(said[:start]):
                return None
            hits.add(at)
    return hits.pop() if len(hits) == 1 else None


def _labelled(text: str, label: str, labels: Sequence[str], cut: bool) -> bool:
    name = re.escape(label)
    whole = re.fullmatch(rf"[\s(\[\"'*]*{name}[\s)\].:,;!\"'*]*", text)
    if whole:
        longer = any(other != label and other.startswith(label) for other in labels)
        return not (cut and longer and text.endswith(label))
    begins = re.match(rf"(?:\(\s*{name}\s*\)|\*\*{name}[.):]?\*\*|{name}\s*[.):])(?!\w)", text)
    named = re.search(rf"\b{_MARK}[(\[*\"']*{name}(?![\w'’])(?!\s+[a-z])", text, re.IGNORECASE)
    if not named:
        return bool(begins)
    # "I choose a quiet life": a small letter that is a word of the language is no label.
    return bool(begins) or label in named[0]


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(folded.split()).strip(" \t\r\n.,;:!?\"'`*()[]{}")
