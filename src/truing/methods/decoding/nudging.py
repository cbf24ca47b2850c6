"""Nudging: a small aligned guide writes the next word wherever the model is unsure (Fei, Razeghi and Singh 2025)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Method, require
from truing.errors import ModelError, StackError, UnsupportedError
from truing.methods.decoding import nudging_turns as turns
from truing.methods.decoding.draft_verify import Drafts, Reader, drive
from truing.methods.decoding.nudging_rules import cut_repeated_suffix
from truing.methods.decoding.two_models import same_vocabulary
from truing.models import chat
from truing.models.engine import Engine
from truing.models.local import Model
from truing.models.modifiers import SearchModifier
from truing.models.sampling import choose, noise_stream
from truing.models.types import Completion, Row, Sampling

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

UNITS = ("auto", "token", "word")
FAR = 1 << 30  # room of a model without a limit on positions


class NudgingModifier(SearchModifier):
    """A guide that writes where the model is unsure.

    Args:
        guide: the small aligned model.
        gamma: the model is unsure where its highest next-token probability is below this.
        lookahead: tokens that the guide proposes at a time.
        unit: "token", "word", or "auto"; see `Nudging`.
    """

    dial = "gamma"

    guide: Model
    gamma: float = 0.4
    lookahead: int = 16
    unit: str = "auto"

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"Nudging(guide={self.guide.name}, gamma={self.gamma})"

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row its completions; at temperature 0 all of a row are the same one."""
        guide = Engine(self.guide, usage=engine.usage, who="guide")
        count = sampling.n if sampling.temperature else 1
        flights = [row for row in rows for _ in range(count)]
        streams = [noise_stream(row.tokens, sample) for row in rows for sample in range(count)]
        prompts = [self.guide.encode_prompt(row.prompt) for row in flights]
        by_token = self.unit == "token" or (self.unit == "auto" and same_vocabulary(engine.model, self.guide))
        settings = turns.Settings(self.gamma, self.lookahead)
        starts = turns.word_starts(engine.model.tokenizer.convert_ids_to_tokens, engine.text)
        answers, rules, rooms = [], [], []
        for row, prompt in zip(flights, prompts):
            base, small = _side(engine, row.tokens), _side(guide, prompt)
            limit = min(sampling.max_new_tokens, small.room) if by_token else sampling.max_new_tokens
            draft = engine.draft(row, dataclasses.replace(sampling, max_new_tokens=limit))
            answers.append(turns.Answer(draft, min(limit, base.room)))
            rooms.append(min(base.room, small.room))
            rules.append(
                turns.nudge_by_token(answers[-1], settings, base, small, starts)
                if by_token
                else turns.nudge_by_word(answers[-1], settings, base, small)
            )
        stopped = drive(
            rules,
            # The noise of a token is a function of its place alone, so that a sampled base can be read ahead as well.
            Reader(
                engine,
                [row.tokens for row in flights],
                lambda scores, at, steps: choose(scores, sampling, [streams[row] for row in at], steps),
            ),
            Reader(guide, prompts),
            room=rooms,
            drafts=Drafts(_size(self.guide) / _size(engine.model), self.lookahead) if by_token else None,
            ends=engine.ends | guide.ends,
        )
        found = [_completion(engine, answer, why) for answer, why in zip(answers, stopped)]
        if sampling.temperature:
            return [found[start : start + sampling.n] for start in range(0, len(found), sampling.n)]
        return [[dataclasses.replace(one) for _ in range(sampling.n)] for one in found]


class Nudging(Method):
    """Let a small aligned model write the next word wherever the model is unsure of it.

    The guide proposes ``lookahead`` tokens; the model takes over at the first word where its largest probability is
    gamma or more, and writes until it is unsure again. Base models are unsure where alignment changes tokens, so a
    tenth of the tokens or so from the guide aligns an answer. A guide that ends its answer within a proposal ends the
    whole; the model never does. Going in circles ends a turn of the model, and the same words from the guide in four
    rounds in a row end the answer. No training; any guide, with its own chat template.

    Both models are greedy. At a temperature the model's own tokens are sampled and the guide stays greedy; whether the
    model is sure depends on its whole distribution at temperature 1. Each completion's ``trace`` says who wrote what
    ("pieces"), the share of tokens from the guide, the rounds, and why it stopped.

    Args:
        guide: the aligned model that helps; a local one, of any vocabulary.
        gamma: a largest probability below this is unsure. 0.4 for Llama-2, 0.3 for Gemma-2 and OLMo; 0 leaves the guide
            the first word of each round, and above 1 it writes all.
        lookahead: tokens that the guide proposes at a time.
        unit: "token" where both models have one vocabulary: words are handed over as token ids, and each word start of
            a proposal is tested. "word" for any two: they meet in text, and the model also takes over where it would
            begin the guide's word. "auto" takes "token" where it can.

    Source: Fei, Razeghi and Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025.

    Example:
        ``Nudging(guide=truing.load("sandbox/guide")).align(truing.load("sandbox/base")).generate("hello")``
    """

    needs: ClassVar[frozenset[str]] = frozenset({"guide", "logits"})
    modifier: ClassVar[str | None] = "search"
    paper: ClassVar[int | None] = 36
    quick: ClassVar[dict[str, Any]] = {"lookahead": 4}

    guide: Model
    gamma: float = 0.4
    lookahead: int = 16
    unit: str = "auto"

    def validate(self) -> None:
        """Raise for a setting that cannot work."""
        super().validate()
        number = isinstance(self.gamma, (int, float)) and not isinstance(self.gamma, bool)
        require(
            number and 0 <= self.gamma < math.inf,
            f"`gamma` is a probability to compare with, of at least 0, got {self.gamma!r}. Usual values: 0.3 to 0.4.",
        )
        whole = isinstance(self.lookahead, int) and not isinstance(self.lookahead, bool)
        require(whole and self.lookahead >= 1, f"`lookahead` is a whole number of at least 1, got {self.lookahead!r}.")
        require(self.unit in UNITS, f"`unit` is one of {', '.join(UNITS)}, got {self.unit!r}.")
        if not isinstance(self.guide, Model):
            if hasattr(self.guide, "offers"):
                raise UnsupportedError(
                    f"{self.guide.name} is a remote model, whose tokens cannot be asked one at a time. "
                    "Load the guide's weights instead: a folder, a hub name, or sandbox/guide."
                )
            require(False, f"`guide` is a model, got {self.guide!r}. Load it: guide=truing.load('sandbox/guide').")
        for modifier in self.guide.modifiers:
            if modifier.kind == "search":
                raise StackError(
                    f"The guide carries {modifier.label}, a search of its own, which cannot run inside another. "
                    "Give `guide=guide.policy`, the guide without it."
                )

    def check_model(self, model: AnyModel) -> None:
        """Raise before any work when the two models cannot be combined."""
        super().check_model(model)
        if self.unit == "token" and isinstance(model, Model) and not same_vocabulary(model, self.guide):
            raise ModelError(
                f"{model.name} and {self.guide.name} have different vocabularies, so they share no tokens. "
                'Use unit="word", in which they meet in text.'
            )

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(NudgingModifier(**self.settings()))


def continuation(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text inside an answer: without the space that some tokenizers put before a text of its own."""
    anchor = chat.encode_plain(tokenizer, "\n")
    joint = chat.encode_plain(tokenizer, "\n" + text)
    return joint[len(anchor) :] if joint[: len(anchor)] == anchor else chat.encode_plain(tokenizer, text)


def _side(engine: Engine, prompt: Sequence[int]) -> turns.Side:
    tokenizer = engine.model.tokenizer
    return turns.Side(
        engine.text,
        lambda text: continuation(tokenizer, text) if text else [],
        engine.ends,
        engine.limit - len(prompt) if engine.limit else FAR,
        tokenizer.eos_token_id,
    )


def _size(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.weights.parameters())


def _completion(engine: Engine, answer: turns.Answer, stopped: str) -> Completion:
    """The answer without an end that repeats itself, and its trace."""
    whole, tokens = answer.draft.text, answer.tokens
    text = cut_repeated_suffix(whole)
    if len(text) < len(whole):
        count = len(tokens)
        while count and len(engine.text(tokens[: count - 1])) >= len(text):
            count -= 1
        tokens = tokens[:count]
    shares = {"base": 0, "guide": 0}
    pieces, start, written = [], 0, 0
    for who, size in answer.pieces:
        size = min(size, len(tokens) - start)
        start += size
        shares[who] += size
        # Half a character at the end of a piece goes to the next one.
        end = len(text) if start == len(tokens) else min(len(text), len(engine.text(tokens[:start]).rstrip("\ufffd")))
        if end > written:
            pieces.append([who, text[written:end]])
            written = end
    return dataclasses.replace(
        answer.draft.completion("length" if stopped in ("length", "rounds") else "stop"),
        text=text,
        tokens=list(tokens),
        logprobs=None,
        trace={
            "pieces": pieces,
            "nudged_share": shares["guide"] / (len(tokens) or 1),
            "rounds": sum(who == "guide" for who, _ in answer.pieces),
            "stopped": stopped,
        },
    )
