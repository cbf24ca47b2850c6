"""Grounded decoding: each token by what the language model says times how well the text so far fits the world."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from truing.contracts import Method, Prompt, Reward, is_number, require, require_whole
from truing.errors import SettingsError
from truing.methods.decoding.grounded_rules import Grounding, Group, Hypothesis, Rule, decode
from truing.methods.decoding.nudging import continuation
from truing.models.engine import TOKENS, Engine
from truing.models.modifiers import SearchModifier
from truing.models.sampling import noise_stream, race, truncate
from truing.models.types import Completion, Row, Sampling
from truing.rewards import reward_from
from truing.rewards.grounding import FLOOR, check_floor
from truing.rewards.partial import half_letter, readable

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

ACCUMULATE = ("every_prefix", "final_only")


class GroundedDecodingModifier(SearchModifier):
    """Grounding functions that weigh each token; see `GroundedDecoding` for the settings.

    The trace of an answer holds ``steps``, for each token its text, the model's ``logprob``, the logarithm of each
    grounding function and their ``score``; the sums ``logprob``, ``grounding`` and ``score``; and ``judged``, how many
    texts were judged for it. ``usage`` counts scorer calls and judged texts as "grounding".
    """

    dial = "strength"

    scorers: Sequence[Reward]
    beam: int = 1
    terminal: Sequence[str] = ()
    accumulate: str = "every_prefix"
    strength: float = 1.0
    floor: float = FLOOR
    strict: bool = True
    brackets: Sequence[str] | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check(self)

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        from truing.rewards import name_of

        return f"GroundedDecoding({' × '.join(map(name_of, self.scorers))}, beam={self.beam})"

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row its completions: the n best of a beam, n draws at a temperature, else n times the one answer."""
        if self.beam > 1 and sampling.temperature:
            raise SettingsError(
                f"A beam keeps the {self.beam} best continuations, so nothing is drawn: temperature "
                f"{sampling.temperature} has no meaning for it. Use temperature=0, or beam=1."
            )
        if self.beam > 1 and sampling.n > self.beam:
            raise SettingsError(f"A beam of {self.beam} has no {sampling.n} best answers. Raise `beam` or lower `n`.")
        out = []
        for part in parts(engine, rows, sampling, self.beam):
            out += self._search(engine, part, sampling)
        return out

    def _search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        draws = sampling.n if sampling.temperature else 1
        scorers = self.scorers if self.strength else []  # without weight there is nothing to ask them
        grounding = Grounding(
            scorers, [row.prompt for row in rows], self.floor, lambda *n: engine.usage.count("grounding", *n)
        )
        opening, closing = self.brackets or ("", "")
        rule = Rule(
            width=self.beam, every_prefix=self.accumulate == "every_prefix", strength=self.strength, floor=self.floor,
            strict=self.strict, brackets=(opening, closing) if opening else None,
        )  # fmt: skip
        none = np.zeros(len(scorers))
        groups = [
            Group(
                prompt=row.prompt,
                language=Words(engine, row.prompt, self.terminal, sampling.stop),
                live=[Hypothesis([], "", 0.0, 0.0, none, row=at)],
                keys=_keys(sampling, noise_stream(row.tokens, draw)),
                scale=1.0 / (sampling.temperature or 1.0),
                room=engine.room(row, sampling),
                wanted=sampling.n if self.beam > 1 else 1,
            )
            for at, row in enumerate(rows)
            for draw in range(draws)
        ]
        decode(groups, Reader(engine, [row.tokens for row in rows]), grounding, rule)
        out: list[list[Completion]] = [[] for _ in rows]
        for at, group in enumerate(groups):
            found = group.over[: sampling.n] if self.beam > 1 else group.over
            copies = 1 if sampling.temperature or self.beam > 1 else sampling.n
            if self.beam > 1 and len(found) < sampling.n:  # fewer answers than wanted are above the floor
                found = [*found, *[found[-1]] * (sampling.n - len(found))]
            row = rows[at // draws]
            out[at // draws] += [_completion(row, one, rule, group) for one in found for _ in range(copies)]
        return out


class GroundedDecoding(Method):
    """Choose each token by the language model's probability times how well the text so far fits the world.

    The next token is ``argmax log p(token | text) + strength * sum_i log g_i(text + token)`` over the whole vocabulary;
    at a temperature it is drawn from the softmax of that. Grounding functions g are rewards from 0 to 1 that speak of
    unfinished text: what can be done (`truing.Affordance`), what must not (`truing.Avoid`), what is preferred
    (`truing.Prefer`), or any reward (`truing.Tempered`). An answer is one step: it ends at a terminal string. Carry it
    out, look at the world, put it behind the assistant's message, and ask again; grounding functions look at the world
    anew for each generation.

    The choice is exact, and few texts are judged: tokens are visited by what they could reach at best. A beam keeps the
    best ``beam`` texts, all in one forward pass a token. Where a scorer leaves one way to go on, it is read ahead in one
    pass. There is no normalisation by length.

    Args:
        scorers: grounding functions, any number, by themselves or by name; their order does not matter.
        beam: texts that are kept; 1 is greedy, or sampling at a temperature.
        terminal: strings or special tokens that end a step, and stay in it. The model's end token always does.
        accumulate: how a beam counts grounding: "every_prefix" multiplies that of every prefix, as the paper's formula
            does, "final_only" takes that of the text once, as its derivation does. The same for one text.
        strength: weight of grounding; 0 is plain decoding.
        floor: least value of a grounding function.
        strict: what any scorer puts at the floor is never said while anything else is left, and it is an error if
            nothing is; nor are special tokens, which are no text to judge. False makes the floor a small probability
            like another, and takes every token of the vocabulary for a candidate.
        brackets: an opening and a closing string: grounding then judges only what stands between them, so that the
            model itself says when to ground. Show it how, by examples in the prompt.

    Source: Huang et al., "Grounded Decoding: Guiding Text Generation with Grounded Models for Embodied Agents",
    NeurIPS 2023.

    Example:
        >>> import truing as tr
        >>> skills = {"pick up the apple.": 0.9, "pick up the knife.": 0.2}
        >>> grounded = tr.GroundedDecoding(scorers=[tr.Affordance(skills=skills), tr.Avoid(words=["knife"])])
        >>> grounded.align(tr.load("sandbox/base")).generate("tidy up", max_new_tokens=20)[0].text
        'pick up the apple.'
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    modifier: ClassVar[str | None] = "search"
    paper: ClassVar[int | None] = 31
    quick: ClassVar[dict[str, Any]] = {
        "scorers": [{"prefer": {"words": ["a", "I", "the"]}}, {"avoid": {"words": ["b"]}}]
    }

    scorers: Sequence[Reward | str | dict[str, Any]]
    beam: int = 1
    terminal: Sequence[str] = ()
    accumulate: str = "every_prefix"
    strength: float = 1.0
    floor: float = FLOOR
    strict: bool = True
    brackets: Sequence[str] | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check(self)
        for scorer in self.scorers:
            reward_from(scorer)

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        scorers = [reward_from(scorer) for scorer in self.scorers]
        return model.with_modifier(GroundedDecodingModifier(**{**self.settings(), "scorers": scorers}))


def check(settings: GroundedDecoding | GroundedDecodingModifier) -> None:
    """Raise `SettingsError` for settings that cannot work."""
    given = settings.scorers
    require(
        isinstance(given, (list, tuple)) and len(given) > 0,
        f"scorers is a list of at least one grounding function, as in `[{{avoid: {{words: [knife]}}}}]`, not {given!r}.",
    )
    require_whole(settings, ["beam"])
    check_texts("terminal", settings.terminal)
    require(
        settings.accumulate in ACCUMULATE,
        f"accumulate is one of {' and '.join(ACCUMULATE)}, not {settings.accumulate!r}.",
    )
    require(
        is_number(settings.strength) and settings.strength >= 0,
        f"strength is the weight of grounding, of at least 0, not {settings.strength!r}.",
    )
    check_floor("floor", settings.floor)
    if settings.brackets is not None:
        check_texts("brackets", settings.brackets)
        require(
            len(settings.brackets) == 2 and settings.brackets[0] != settings.brackets[1],
            f"brackets is an opening and a closing string, two different ones, not {settings.brackets!r}.",
        )


def check_texts(name: str, value: Any) -> None:
    """Raise `SettingsError` unless this is a list of strings that are not empty."""
    require(
        isinstance(value, (list, tuple)) and all(isinstance(text, str) and text for text in value),
        f"{name} is a list of strings that are not empty, as in ['.'], not {value!r}.",
    )


def parts(engine: Engine, rows: Sequence[Row], sampling: Sampling, branches: int) -> list[list[Row]]:
    """Rows that are searched together, so that all their branches stay within the engine's budget of cache slots."""
    out: list[list[Row]] = [[]]
    for row in rows:
        slots = (len(row.tokens) + engine.room(row, sampling)) * branches
        most = engine.batch_size or TOKENS // slots
        if out[-1] and len(out[-1]) >= max(1, most):
            out.append([])
        out[-1].append(row)
    return out


def gap(engine: Engine, prompt: Prompt) -> str:
    """What parts the prompt from the first word of an answer: a space behind an assistant's words that go on."""
    last = prompt[-1] if isinstance(prompt, list) else {"role": "user", "content": prompt}
    if last["role"] == "assistant" and last["content"]:
        return "" if last["content"][-1].isspace() else " "
    return "" if engine.model.tokenizer.chat_template else " "


class Words:
    """How the tokens of one answer become text, and which of them end it.

    Args:
        engine: of the model.
        prompt: the conversation.
        terminal: strings or special tokens behind which the text ends.
        stop: strings before which it ends.
    """

    def __init__(self, engine: Engine, prompt: Prompt, terminal: Sequence[str], stop: Sequence[str]) -> None:
        self._engine, self._prompt, self._stop = engine, prompt, tuple(stop)
        special = special_tokens(engine.model.tokenizer)
        self._ends = engine.ends | {special[text] for text in terminal if text in special}
        self._terminal = [text for text in terminal if text not in special]
        self._silent, self._count = set(special.values()) - self._ends, len(engine.model.tokenizer)
        self._pieces = _PIECES.setdefault(engine.model.tokenizer, {})

    def text(self, before: str, tokens: Sequence[int], token: int) -> tuple[str, str | None]:
        """The answer with one more token, and "stop" where that ends it."""
        if token in self._ends:
            return before, "stop"
        text = self._joined(before, tokens, token)
        cuts = [at + len(end) for end in self._terminal if (at := text.find(end)) >= 0]
        cuts += [at for at in map(text.find, self._stop) if at >= 0]
        return (text[: min(cuts)], "stop") if cuts else (text, None)

    def silent(self, token: int) -> bool:
        """Whether a token is a special one that ends nothing, or a number that means nothing to the tokenizer."""
        return token in self._silent or token >= self._count

    def beginning(self, letters: frozenset[str], count: int) -> torch.Tensor:
        """Which of so many tokens may begin with one of these letters or end the answer, bool [count]."""
        more = {text[0] for text in self._stop}  # what follows a stop string is cut off
        tokenizer = self._engine.model.tokenizer
        held = _FIRST.get(tokenizer)
        if held is None or len(held) < count:
            anchor = continuation(tokenizer, "a")[-1]  # some tokenizers write the first token of a text differently
            held = _FIRST[tokenizer] = [self._first(anchor, token) for token in range(count)]
        out = torch.tensor([first is None or first in letters or first in more for first in held[:count]])
        out[[token for token in self._ends if token < count]] = True
        return out

    def _first(self, anchor: int, token: int) -> str | None:
        """The first letter of a token inside a text; None where it depends on what stands before it."""
        alone, both = self._engine.text([anchor]), self._engine.text([anchor, token])
        return both[len(alone)] if both.startswith(alone) and len(both) > len(alone) else None

    def _joined(self, before: str, tokens: Sequence[int], token: int) -> str:
        """The text of all tokens; of one that adds whole characters, without decoding all of them again."""
        if not tokens or half_letter(before):
            return self._whole([*tokens, token])
        if token not in self._pieces:
            # Behind another token, since some tokenizers write the first one of a text without its space.
            anchor = self._engine.text([tokens[-1]])
            both = self._engine.text([tokens[-1], token])
            if not anchor:  # a special token shows nothing of what stands behind it
                return self._whole([*tokens, token])
            whole = both.startswith(anchor) and "\ufffd" not in both
            self._pieces[token] = both[len(anchor) :] if whole else None
        piece = self._pieces[token]
        return self._whole([*tokens, token]) if piece is None else before + piece

    def _whole(self, tokens: list[int]) -> str:
        """The text of tokens, the bytes of an unfinished letter at its end as ``surrogateescape`` writes them."""
        text = self._engine.text(tokens)
        if not text.endswith("\ufffd"):
            return text
        tokenizer = self._engine.model.tokenizer
        for start in range(len(tokens) - 1, max(-1, len(tokens) - 5), -1):
            head = self._engine.text(tokens[:start])
            if not head.endswith("\ufffd"):
                parts = [token_bytes(tokenizer.convert_ids_to_tokens(token)) for token in tokens[start:]]
                if None not in parts:
                    return head + b"".join(part or b"" for part in parts).decode(errors="surrogateescape")
        return text

    def draft(self, text: str, rest: str, room: int) -> list[int]:
        """Tokens that an answer may go on with to say the rest, and to end."""
        tokenizer = self._engine.model.tokenizer
        tokens = continuation(tokenizer, (gap(self._engine, self._prompt) if not text else "") + rest)
        if not any(end in rest for end in self._terminal) and tokenizer.eos_token_id is not None:
            tokens.append(tokenizer.eos_token_id)
        return tokens[: max(0, room)]


_BYTE = re.compile("<0x([0-9A-F]{2})>")
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
# Byte-level vocabularies write a byte as the letter of that number, and those that do not print as letters from 256 on.
_LETTERS = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + at): byte for at, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)
}


def token_bytes(token: str | None) -> bytes | None:
    """The bytes of a token, written as byte-level vocabularies or byte fallback write them; None for others."""
    if token is None:
        return None
    found = _BYTE.fullmatch(token)
    if found:
        return bytes([int(found[1], 16)])
    try:
        return bytes(_LETTERS[letter] for letter in token)
    except KeyError:
        return None


_PIECES: weakref.WeakKeyDictionary[Any, dict[int, str | None]] = weakref.WeakKeyDictionary()
_FIRST: weakref.WeakKeyDictionary[Any, list[str | None]] = weakref.WeakKeyDictionary()


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Special tokens of a tokenizer, which are no part of any text, and their ids."""
    return {token.content: at for at, token in tokenizer.added_tokens_decoder.items() if token.special}


class Reader:
    """Next-token scores from an engine: the rows of all groups in one batch, one forward pass for each call."""

    def __init__(self, engine: Engine, prompts: Sequence[Sequence[int]]) -> None:
        self._batch = engine.prefill(prompts)
        self._lengths = [len(prompt) for prompt in prompts]

    def start(self) -> list[torch.Tensor]:
        """Scores after each prompt."""
        return list(self._batch.logits)

    def advance(self, rows: Sequence[int], blocks: Sequence[list[int]], keep: Sequence[int]) -> Sequence[torch.Tensor]:
        """See `truing.methods.decoding.grounded_rules.Scores`."""
        if list(rows) != list(range(len(self._batch))):
            self._batch = self._batch.select(rows)
        self._lengths = [self._lengths[row] for row in rows]
        return self._batch.extend(blocks, keep=[length + kept for length, kept in zip(self._lengths, keep)])


def _keys(sampling: Sampling, stream: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """By what tokens are chosen, before grounding: with noise, the largest is a draw."""
    if not sampling.temperature:
        return lambda scores, step: scores.double().log_softmax(0)

    def noisy(scores: torch.Tensor, step: int) -> torch.Tensor:
        kept = truncate(scores[None], sampling).double().log_softmax(1)
        return race(kept, sampling.seed, [stream], step)[0]

    return noisy


def _completion(row: Row, one: Hypothesis, rule: Rule, group: Group) -> Completion:
    return Completion(
        text=readable(one.text),
        tokens=list(one.tokens),
        finish_reason=one.reason or "length",
        prompt_index=row.index,
        trace={
            "steps": one.steps, "logprob": one.logprob, "grounding": one.grounding, "score": rule.total(one),
            "judged": group.texts,
        },
    )  # fmt: skip
