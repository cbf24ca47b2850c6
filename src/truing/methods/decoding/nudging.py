"""Nudging: a small aligned guide writes the next word wherever the model is unsure (Fei, Razeghi and Singh 2025)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from truing.contracts import Method, is_number, require, require_whole
from truing.errors import ModelError
from truing.methods.decoding import nudging_turns as turns
from truing.methods.decoding.draft_verify import Drafts, Reader, drive
from truing.methods.decoding.nudging_rules import Certain, cut_repeated_suffix
from truing.methods.decoding.remote_reader import FAR, Pieces, RemoteReader, each
from truing.methods.decoding.two_models import check_no_search
from truing.models import chat
from truing.models.answers import Draft
from truing.models.engine import Engine, Stream
from truing.models.local import Model, parameter_count, same_vocabulary
from truing.models.modifiers import SearchModifier
from truing.models.remote import RemoteEngine, RemoteModel
from truing.models.sampling import choose, noise_stream
from truing.models.types import Completion, Row, Sampling, Usage
from truing.progress import tell

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

UNITS = ("auto", "token", "word")


class NudgingModifier(SearchModifier):
    """A guide that writes where the model is unsure.

    Args:
        guide: the small aligned model.
        gamma: the model is unsure where its highest next-token probability is below this.
        lookahead: tokens that the guide proposes at a time.
        unit: "token", "word", or "auto"; see `Nudging`.
    """

    dial = "gamma"
    streams: ClassVar[bool] = True

    guide: AnyModel
    gamma: float = 0.4
    lookahead: int = 16
    unit: str = "auto"

    def validate(self) -> None:
        """Raise for a gamma that cannot work."""
        super().validate()
        require(
            is_number(self.gamma) and self.gamma >= 0,
            f"`gamma` is a probability to compare with, of at least 0, got {self.gamma!r}. Usual values: 0.3 to 0.4.",
        )

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"Nudging(guide={self.guide.name}, gamma={self.gamma})"

    def search(self, engine: Engine | RemoteEngine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row its completions; at temperature 0 all of a row are the same one."""
        count = sampling.n if sampling.temperature else 1
        samples = [sample for _ in rows for sample in range(count)]
        rows_of = [row for row in rows for _ in range(count)]
        with contextlib.ExitStack() as closing:
            base = _base(engine, rows_of, samples, sampling, closing)
            guide = self._guide(engine.usage, rows_of, closing)
            by_token = self.unit == "token" or (self.unit == "auto" and _one_vocabulary(engine.model, self.guide))
            shown = [
                _shown(engine.stream, row.index, [at] if sampling.temperature else range(sampling.n))
                for row, at in zip(rows_of, samples)
            ]
            found = self._written(engine.model, base, guide, rows_of, sampling, by_token, shown)
        if sampling.temperature:
            return [found[start : start + sampling.n] for start in range(0, len(found), sampling.n)]
        return [[dataclasses.replace(one) for _ in range(sampling.n)] for one in found]

    def _guide(self, usage: Usage, rows: Sequence[Row], closing: contextlib.ExitStack) -> _Voice:
        """The guide, in the rows of a generation."""
        if isinstance(self.guide, RemoteModel):
            pieces = Pieces()
            prompts = [self.guide.conversation(row.prompt) for row in rows]
            reader = RemoteReader(self.guide, prompts, usage, "guide", pieces, ahead=self.lookahead)
            closing.callback(reader.close)
            return _Voice([pieces.side()] * len(rows), reader)
        engine = Engine(self.guide, usage=usage, who="guide")
        encoded = [self.guide.encode_prompt(row.prompt) for row in rows]
        return _Voice([_side(engine, prompt) for prompt in encoded], Reader(engine, encoded), engine)

    def _written(
        self, model: AnyModel, base: _Voice, guide: _Voice, rows: Sequence[Row], sampling: Sampling, by_token: bool,
        shown: Sequence[Certain | None],
    ) -> list[Completion]:  # fmt: skip
        settings = turns.Settings(self.gamma, self.lookahead)
        stop = (*sampling.stop, *model.stops)
        answers, rules = [], []
        starts = None
        if by_token:
            assert base.engine is not None
            starts = turns.word_starts(base.engine.model.tokenizer.convert_ids_to_tokens, base.engine.text)
        for row, side, small, show in zip(rows, base.sides, guide.sides, shown):
            limit = min(sampling.max_new_tokens, side.room, small.room if by_token else side.room)
            draft = Draft(side.text, side.ends, limit, stop, row.index, show.push if show else None, model.clean)
            answers.append(turns.Answer(draft, limit))
            rules.append(
                turns.nudge_by_token(answers[-1], settings, side, small, starts)
                if starts
                else turns.nudge_by_word(answers[-1], settings, side, small)
            )
        if isinstance(base.reader, RemoteReader) and isinstance(guide.reader, RemoteReader):
            stopped = each(rules, base.reader, guide.reader)
        else:
            drafts = None
            if base.engine is not None and guide.engine is not None:
                drafts = Drafts(
                    parameter_count(guide.engine.model) / parameter_count(base.engine.model), self.lookahead
                )
            stopped = drive(rules, base.reader, guide.reader, drafts=drafts)
        found = [_completion(answer, why, side, base) for answer, why, side in zip(answers, stopped, base.sides)]
        for one, show in zip(found, shown):
            if show:
                show.finish(one.text)
        return found


def _shown(stream: Stream | None, prompt: int, samples: Sequence[int]) -> Certain | None:
    """What passes a row's text on to whoever watches."""
    if stream is None:
        return None

    def emit(piece: str) -> None:
        for sample in samples:
            stream(prompt, sample, piece)

    return Certain(emit)


@dataclasses.dataclass(frozen=True)
class _Voice:
    """One of the two models at work: how it reads and writes each row, what answers for it, its engine if local."""

    sides: list[turns.Side]
    reader: Reader | RemoteReader
    engine: Engine | None = None


def _base(
    engine: Engine | RemoteEngine, rows: Sequence[Row], samples: Sequence[int], sampling: Sampling,
    closing: contextlib.ExitStack,
) -> _Voice:  # fmt: skip
    if isinstance(engine, RemoteEngine):
        pieces = Pieces()
        reader = RemoteReader(
            engine.model, [row.prompt for row in rows], engine.usage, engine.who, pieces,
            sampling=sampling, samples=samples,
        )  # fmt: skip
        closing.callback(reader.close)
        return _Voice([pieces.side()] * len(rows), reader)
    streams = [noise_stream(row.tokens, sample) for row, sample in zip(rows, samples)]

    def chosen(scores: torch.Tensor, at: list[int], steps: list[int]) -> list[int]:
        # The noise of a token is a function of its place alone, so that a sampled base can be read ahead as well.
        return choose(scores, sampling, [streams[row] for row in at], steps)

    return _Voice(
        [_side(engine, row.tokens) for row in rows],
        Reader(engine, [row.tokens for row in rows], chosen),
        engine,
    )


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
        guide: the aligned model that helps, of any vocabulary; local, or behind a server that completes text with
            log-probabilities (vLLM, llama.cpp, ``truing serve``), as the model itself may be.
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

    needs: ClassVar[frozenset[str]] = frozenset({"guide"})
    modifier: ClassVar[str | None] = "search"
    paper: ClassVar[int | None] = 36
    quick: ClassVar[dict[str, Any]] = {"lookahead": 4}

    guide: AnyModel
    gamma: float = 0.4
    lookahead: int = 16
    unit: str = "auto"

    def validate(self) -> None:
        """Raise for a setting that cannot work."""
        super().validate()
        NudgingModifier(**self.settings()).validate()
        require_whole(self, ("lookahead",))
        require(self.unit in UNITS, f"`unit` is one of {', '.join(UNITS)}, got {self.unit!r}.")
        require(
            isinstance(self.guide, (Model, RemoteModel)),
            f"`guide` is a model, got {self.guide!r}. Load it: guide=truing.load('sandbox/guide').",
        )
        check_no_search("guide", self.guide)

    def check_model(self, model: AnyModel) -> None:
        """Raise before any work when the two models cannot be combined; say so where the guide costs more."""
        super().check_model(model)
        if self.unit == "token" and not _one_vocabulary(model, self.guide):
            local = isinstance(model, Model) and isinstance(self.guide, Model)
            why = "have different vocabularies" if local else "are not both local models"
            raise ModelError(
                f"{model.name} and {self.guide.name} {why}, so they share no tokens. "
                'Use unit="word", in which they meet in text.'
            )
        if not isinstance(model, Model) or not isinstance(self.guide, Model):
            return
        larger = parameter_count(self.guide) / parameter_count(model)
        if larger > 1.05:
            tell(
                f"The guide {self.guide.name} has {larger:.1f} times the parameters of {model.name}, so it is the "
                "slower one: nudging then costs more than the guide alone. A guide of a tenth of the size is usual."
            )

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(NudgingModifier(**self.settings()))


def _side(engine: Engine, prompt: Sequence[int]) -> turns.Side:
    tokenizer = engine.model.tokenizer
    return turns.Side(
        engine.text,
        lambda text: chat.encode_continuation(tokenizer, text) if text else [],
        engine.ends,
        engine.limit - len(prompt) if engine.limit else FAR,
        tokenizer.eos_token_id,
    )


def _one_vocabulary(one: AnyModel, other: AnyModel) -> bool:
    return isinstance(one, Model) and isinstance(other, Model) and same_vocabulary(one, other)


def _completion(answer: turns.Answer, stopped: str, side: turns.Side, base: _Voice) -> Completion:
    """The answer without an end that repeats itself, and its trace."""
    whole, tokens = answer.draft.text, answer.tokens
    text = cut_repeated_suffix(whole)
    before = max(0, side.text(tokens).find(whole))  # what cleaning took off its beginning
    if len(text) < len(whole):
        count = len(tokens)
        while count and len(side.text(tokens[: count - 1])) - before >= len(text):
            count -= 1
        tokens = tokens[:count]
    shares = {"base": 0, "guide": 0}
    pieces, start, written = [], 0, 0
    for who, size in answer.pieces:
        size = min(size, len(tokens) - start)
        start += size
        shares[who] += size
        # Half a character at the end of a piece goes to the next one.
        said = len(side.text(tokens[:start]).rstrip("\ufffd")) - before
        end = len(text) if start == len(tokens) else min(len(text), said)
        if end > written:
            pieces.append([who, text[written:end]])
            written = end
    return dataclasses.replace(
        answer.draft.completion("length" if stopped in ("length", "rounds") else "stop"),
        text=text,
        tokens=list(tokens) if base.engine is not None else [],
        logprobs=None,
        trace={
            "pieces": pieces,
            "nudged_share": shares["guide"] / (len(tokens) or 1),
            "rounds": sum(who == "guide" for who, _ in answer.pieces),
            "stopped": stopped,
        },
    )
