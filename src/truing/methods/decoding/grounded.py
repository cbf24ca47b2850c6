"""Grounded decoding: each token by what the language model says times how well the text so far fits the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from truing.contracts import Method, Reward, Settings, is_number, require, require_whole
from truing.errors import SettingsError
from truing.methods.decoding.grounded_rules import Group, Hypothesis, Rule, decode
from truing.methods.decoding.grounded_scorers import Grounding
from truing.methods.decoding.grounded_words import Reader, Words
from truing.models.engine import Engine
from truing.models.modifiers import SearchModifier
from truing.models.sampling import noise_stream, race, truncate
from truing.models.types import Completion, Row, Sampling
from truing.rewards import reward_from
from truing.rewards.grounding import FLOOR, check_floor
from truing.rewards.partial import readable

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

ACCUMULATE = ("every_prefix", "final_only")


class GroundedSettings(Settings):
    """What the method and its modifier share.

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
    """

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
        given = self.scorers
        require(
            isinstance(given, (list, tuple)) and len(given) > 0,
            "scorers is a list of at least one grounding function, as in `[{avoid: {words: [knife]}}]`, "
            f"not {given!r}.",
        )
        for scorer in given:
            reward_from(scorer)
        require_whole(self, ["beam"])
        check_texts("terminal", self.terminal)
        require(
            self.accumulate in ACCUMULATE, f"accumulate is one of {' and '.join(ACCUMULATE)}, not {self.accumulate!r}."
        )
        require(
            is_number(self.strength) and self.strength >= 0,
            f"strength is the weight of grounding, of at least 0, not {self.strength!r}.",
        )
        check_floor("floor", self.floor)
        if self.brackets is not None:
            check_texts("brackets", self.brackets)
            require(
                len(self.brackets) == 2 and self.brackets[0] != self.brackets[1],
                f"brackets is an opening and a closing string, two different ones, not {self.brackets!r}.",
            )


class GroundedDecodingModifier(GroundedSettings, SearchModifier):
    """Grounding functions that weigh each token.

    The trace of an answer holds ``steps``, for each token its text, the model's ``logprob``, the logarithm of each
    grounding function and their ``score``; the sums ``logprob``, ``grounding`` and ``score``; and ``judged``, how many
    texts were judged for it. ``usage`` counts scorer calls and judged texts as "grounding".
    """

    dial = "strength"

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        from truing.rewards import name_of

        return f"GroundedDecoding({' × '.join(map(name_of, self.scorers))}, beam={self.beam})"

    def branches(self, sampling: Sampling) -> int:
        """The beam, or the draws."""
        return max(self.beam, super().branches(sampling))

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row its completions: the n best of a beam, n draws at a temperature, else n times the one answer."""
        if self.beam > 1 and sampling.temperature:
            raise SettingsError(
                f"A beam keeps the {self.beam} best continuations, so nothing is drawn: temperature "
                f"{sampling.temperature} has no meaning for it. Use temperature=0, or beam=1."
            )
        if self.beam > 1 and sampling.n > self.beam:
            raise SettingsError(f"A beam of {self.beam} has no {sampling.n} best answers. Raise `beam` or lower `n`.")
        draws = sampling.n if sampling.temperature else 1
        wanted = sampling.n // draws
        # Without weight there is nothing to ask them.
        scorers = list(map(reward_from, self.scorers)) if self.strength else []
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
                language=Words(engine, row.prompt, self.terminal, (*sampling.stop, *engine.model.stops)),
                live=[Hypothesis([], "", 0.0, 0.0, none, row=at)],
                keys=_keys(sampling, noise_stream(row.tokens, draw)),
                scale=1.0 / (sampling.temperature or 1.0),
                room=engine.room(row, sampling),
                wanted=wanted,
            )
            for at, row in enumerate(rows)
            for draw in range(draws)
        ]
        decode(groups, Reader(engine, [row.tokens for row in rows]), grounding, rule)
        out: list[list[Completion]] = [[] for _ in rows]
        for at, group in enumerate(groups):
            found = group.over[:wanted]
            # Greedy search has one answer, and a beam fewer than wanted where only those are above the floor.
            found += [found[-1]] * (wanted - len(found))
            out[at // draws] += [_completion(engine, rows[at // draws], one, rule, group) for one in found]
        return out


class GroundedDecoding(GroundedSettings, Method):
    """Choose each token by the language model's probability times how well the text so far fits the world.

    The next token is ``argmax log p(token | text) + strength * sum_i log g_i(text + token)`` over the whole vocabulary;
    at a temperature it is drawn from the softmax of that. Grounding functions g are rewards from 0 to 1 that speak of
    unfinished text: what can be done (`truing.Affordance`), what must not (`truing.Avoid`), what is preferred
    (`truing.Prefer`), or any reward (`truing.Tempered`). An answer is one step: it ends at a terminal string. Carry it
    out, look at the world, put it behind the assistant's message, and ask again; grounding functions look at the world
    anew for each generation.

    The choice is exact, and few texts are judged: tokens are visited by what they could reach at best. A beam keeps the
    best ``beam`` texts, all in one forward pass a token. Where a scorer leaves one way to go on, it is read ahead in
    one pass. There is no normalisation by length.

    Source: Huang et al., "Grounded Decoding: Guiding Text Generation with Grounded Models for Embodied Agents",
    NeurIPS 2023.

    Example:
        >>> import truing as tr
        >>> skills = {"pick up the apple.": 0.9, "pick up the knife.": 0.2}
        >>> grounded = tr.GroundedDecoding(scorers=[tr.Affordance(skills=skills), tr.Avoid(words=["knife"])])
        >>> grounded.align(tr.load("sandbox/base")).generate("tidy up", max_new_tokens=20)[0].text.strip()
        'pick up the apple.'
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    modifier: ClassVar[str | None] = "search"
    paper: ClassVar[int | None] = 31
    quick: ClassVar[dict[str, Any]] = {
        "scorers": [{"prefer": {"words": ["a", "I", "the"]}}, {"avoid": {"words": ["b"]}}]
    }

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        scorers = [reward_from(scorer) for scorer in self.scorers]
        return model.with_modifier(GroundedDecodingModifier(**{**self.settings(), "scorers": scorers}))


def check_texts(name: str, value: Any) -> None:
    """Raise `SettingsError` unless this is a list of strings that are not empty."""
    require(
        isinstance(value, (list, tuple)) and all(isinstance(text, str) and text for text in value),
        f"{name} is a list of strings that are not empty, as in ['.'], not {value!r}.",
    )


def _keys(sampling: Sampling, stream: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """By what tokens are chosen, before grounding: with noise, the largest is a draw."""
    if not sampling.temperature:
        return lambda scores, step: scores.double().log_softmax(0)

    def noisy(scores: torch.Tensor, step: int) -> torch.Tensor:
        kept = truncate(scores[None], sampling).double().log_softmax(1)
        return race(kept, sampling.seed, [stream], step)[0]

    return noisy


def _completion(engine: Engine, row: Row, one: Hypothesis, rule: Rule, group: Group) -> Completion:
    return Completion(
        text=engine.model.clean(readable(one.text)),
        tokens=list(one.tokens),
        finish_reason=one.reason or "length",
        prompt_index=row.index,
        trace={
            "steps": one.steps, "logprob": one.logprob, "grounding": one.grounding, "score": rule.total(one),
            "judged": group.texts,
        },
    )  # fmt: skip
