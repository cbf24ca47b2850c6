"""Rows as token ids: prompt and answer encoded apart and cut to a length; all that was cut or left out is counted."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol

from truing import progress
from truing.contracts import Prompt
from truing.errors import ModelError, RecordError, TrainingError, UnsupportedError
from truing.methods.training.tree import Tree, plant
from truing.models import Model, chat
from truing.models.core import context_length
from truing.rewards.model import encode_answered

TRUNCATE = ("end", "start", "drop")
Ids = list[int]
Pair = tuple[Prompt, str]


@dataclasses.dataclass(frozen=True)
class Example:
    """What an objective reads from a record.

    Args:
        answers: a prompt and a text for every answer; the answer to learn first.
        values: numbers that go with it (a label, a score, a weight), by name: one each, or one for every answer.
    """

    answers: Sequence[Pair]
    values: Mapping[str, float | Sequence[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """One example as token ids.

    Args:
        index: the row of the records that it comes from, counted from 0.
        answers: prompt ids and answer ids, once for each answer; the answer ids end with the end token unless cut.
        values: see `Example`.
    """

    index: int
    answers: tuple[tuple[Ids, Ids], ...]
    values: Mapping[str, float | Sequence[float]] = dataclasses.field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences, each prompt counted with its answer."""
        return sum(len(prompt) + len(answer) for prompt, answer in self.answers)

    @property
    def width(self) -> int:
        """Tokens of its longest sequence."""
        return max(len(prompt) + len(answer) for prompt, answer in self.answers)

    @functools.cached_property
    def tree(self) -> Tree:
        """Its sequences with their common beginnings once."""
        return plant([prompt + answer for prompt, answer in self.answers])


@dataclasses.dataclass
class Counts:
    """What happened to the rows on their way to token ids."""

    rows: int = 0
    cut: int = 0
    cut_tokens: int = 0
    no_room: int = 0
    empty: int = 0
    empty_rejected: int = 0
    same: int = 0

    @property
    def left_out(self) -> int:
        """Examples that are not learned from."""
        return self.no_room + self.empty

    def notes(self, limit: int, truncate: str) -> list[str]:
        """One line for each thing that its reader may want to change."""
        lines = []
        if self.cut:
            mean = self.cut_tokens / self.cut
            end = "end of the answer" if truncate == "end" else "start of the prompt"
            lines.append(
                f"{self.cut:,} of {self.rows:,} rows are longer than {limit} tokens and lose the {end}, "
                f"{mean:.0f} tokens on average. Raise max_length to keep them whole."
            )
        if self.no_room:
            why = "are longer than" if truncate == "drop" else "have a prompt that leaves no room for an answer within"
            lines.append(
                f"{self.no_room:,} of {self.rows:,} rows {why} {limit} tokens and are left out. "
                "Raise max_length, or set truncate='start'."
            )
        if self.empty:
            lines.append(f"{self.empty:,} of {self.rows:,} rows have an empty answer to learn and are left out.")
        if self.empty_rejected:
            lines.append(f"{self.empty_rejected:,} of {self.rows:,} rows have an empty rejected answer, which is kept.")
        if self.same:
            lines.append(
                f"In {self.same:,} of {self.rows:,} rows chosen and rejected are the same to the model: "
                "no preference can be learned from them."
            )
        return lines


def turn(prompt: Prompt, completion: Any) -> Pair:
    """A prompt and the text of the answer; a completion of several messages moves all but the last into the prompt."""
    if isinstance(completion, str):
        return prompt, completion
    messages = [*chat.as_messages(prompt), *chat.as_messages(completion)]
    return messages[:-1], messages[-1]["content"]


class Reads(Protocol):
    """What `encode` asks of an objective."""

    learns: str
    closed: bool

    def examples(self, row: dict[str, Any]) -> Sequence[Example]:
        """The examples in a record."""


def encode(
    model: Model,
    rows: Iterable[dict[str, Any]],
    objective: Reads,
    *,
    max_length: int,
    truncate: str,
) -> tuple[list[Row], Counts, int]:
    """Token ids of all examples, what was counted, and the limit that held, in tokens.

    Args:
        model: gives the tokenizer, and its own limit. Its prompt modifiers are not applied.
        rows: of the records.
        objective: gives the examples in a row, and says whether the first answers are learned or all.
        max_length: most tokens of a prompt and an answer together.
        truncate: one of `TRUNCATE`.

    Raises:
        ModelError: the tokenizer has no end token, or ids that the model has no embedding for.
        RecordError, UnsupportedError: a row holds what this model cannot read; the row is named.
        TrainingError: no row is left.
    """
    tokenizer = model.tokenizer
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {model.name} has no end token, so a model cannot learn "
            "where an answer ends. Set `tokenizer.eos_token`."
        )
    most = context_length(model.weights) or max_length
    limit = min(max_length, most)
    counts, out, highest = Counts(), [], 0
    for index, row in enumerate(_counted(rows)):
        try:
            examples = objective.examples(row)
            encoded = [_encode(tokenizer, example.answers, objective.closed) for example in examples]
        except (RecordError, UnsupportedError) as error:
            raise type(error)(f"Record {index + 1}: {error}") from error
        for example, answers in zip(examples, encoded):
            counts.rows += 1
            written = [bool(text) for _, text in example.answers]
            if objective.learns == "all":
                answers = [answer for answer, has in zip(answers, written) if has]
                written = [has for has in written if has]
            if not answers or not (written[0] or objective.closed):
                counts.empty += 1
                continue
            counts.empty_rejected += not all(written) and not objective.closed
            if objective.learns == "all" and truncate == "end":
                # Later turns may not fit where earlier ones do.
                answers = [one for one in answers if len(one[0]) < limit] or answers
            kept = _fit(answers, limit, truncate)
            if kept is None:
                counts.no_room += 1
                continue
            lost = sum(len(p) + len(a) for p, a in answers) - sum(len(p) + len(a) for p, a in kept)
            counts.cut += lost > 0
            counts.cut_tokens += lost
            counts.same += len(kept) == 2 and kept[0] == kept[1]
            out.append(Row(index, tuple(kept), example.values))
            highest = max(highest, *(max(p + a) for p, a in kept))
    if not out:
        raise TrainingError(f"No row is left to learn from. {' '.join(counts.notes(limit, truncate))}".strip())
    known = model.weights.get_input_embeddings().weight.shape[0]
    if highest >= known:
        raise ModelError(
            f"The tokenizer gives token id {highest}, and {model.name} has embeddings for {known} only. "
            "Load the tokenizer that belongs to this model."
        )
    return out, counts, limit


def _counted(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    with progress.task("token ids", len(rows) if isinstance(rows, Sized) else None) as bar:
        for row in rows:
            yield row
            bar.advance()


def _encode(tokenizer: Any, answers: Sequence[Pair], closed: bool) -> list[tuple[Ids, Ids]]:
    out: list[tuple[Ids, Ids]] = []
    for at, (prompt, text) in enumerate(answers):
        same = at > 0 and prompt == answers[0][0]
        start = out[0][0] if same else chat.encode_conversation(tokenizer, chat.as_messages(prompt))
        if closed:
            out.append(_closed(tokenizer, prompt, text, start))
            continue
        # As `Model.encode_pair` does, which a test holds it to; that one also refuses what can be cut here.
        gap = "" if tokenizer.chat_template or text[:1].isspace() or not text else " "
        out.append((start, [*chat.encode_plain(tokenizer, gap + text), tokenizer.eos_token_id]))
    return out


def _closed(tokenizer: Any, prompt: Prompt, text: str, start: Ids) -> tuple[Ids, Ids]:
    """A whole conversation as `truing.rewards.RewardModel` reads it, parted where the answer begins."""
    whole = encode_answered(tokenizer, prompt, text)
    # transformers' heads read the last token that is not padding: an end token that pads too is not read.
    pad = padding_id(tokenizer)
    while len(whole) > 1 and whole[-1] == pad:
        whole.pop()
    shared = next((at for at, (one, two) in enumerate(zip(start, whole)) if one != two), min(len(start), len(whole)))
    return whole[:shared], whole[shared:]


def padding_id(tokenizer: Any) -> int:
    """The token id that score heads take for padding: the end token where a tokenizer has none of its own."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _fit(answers: list[tuple[Ids, Ids]], limit: int, truncate: str) -> list[tuple[Ids, Ids]] | None:
    if all(len(prompt) + len(answer) <= limit for prompt, answer in answers):
        return answers
    if truncate == "drop":
        return None
    if truncate == "end":
        if any(len(prompt) >= limit for prompt, _ in answers):
            return None
        return [(prompt, answer[: limit - len(prompt)]) for prompt, answer in answers]
    # All prompts of a row are cut alike, so that its answers stay answers to one question; a quarter stays at least.
    room = max(limit - max(len(answer) for _, answer in answers), limit // 4, 1)
    cut = [prompt[-room:] for prompt, _ in answers]
    return [(prompt, answer[: limit - len(prompt)]) for prompt, (_, answer) in zip(cut, answers)]


def digest(rows: Sequence[Row], *, answers_only: bool = False) -> str:
    """A hash of all token ids, in order, with what else the rows hold unless ``answers_only``."""
    found = hashlib.sha256()
    for row in rows:
        more = () if answers_only else (row.index, {name: row.values[name] for name in sorted(row.values)})
        found.update(repr((row.answers, more)).encode())
    return found.hexdigest()[:32]
