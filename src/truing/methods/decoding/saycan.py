"""SayCan: of fixed skills the one with the highest product of probability and value (Ahn et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from truing.contracts import Method, Reward, Settings, is_number, require
from truing.errors import RecordError, RewardError
from truing.methods.decoding.grounded import check_texts
from truing.methods.decoding.grounded_words import gap, special_tokens
from truing.models.chat import encode_continuation
from truing.models.engine import Engine
from truing.models.modifiers import SearchModifier
from truing.models.sampling import noise_stream, race
from truing.models.tree import branch_logprobs
from truing.models.types import Completion, Row, Sampling
from truing.rewards import reward_from
from truing.rewards.grounding import FLOOR, Affordance

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class SayCanSettings(Settings):
    """What the method and its modifier share.

    Args:
        skills: texts, or their values by text, from 0 to 1; see `truing.Affordance`.
        value: a reward from 0 to 1 for skills without values, asked for ``value(prompts, skills)`` in each generation.
        terminal: strings that end a skill. Of a skill that ends with none of them the probability includes that of the
            model's end token.
        strength: weight of the logarithm of a value; 0 is the language model's choice among the skills.
    """

    skills: Sequence[str] | dict[str, float]
    value: Reward | str | dict[str, Any] | None = None
    terminal: Sequence[str] = ()
    strength: float = 1.0

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        Affordance(skills=self.skills, value=self.value).validate()
        check_texts("terminal", self.terminal)
        require(
            is_number(self.strength) and self.strength >= 0,
            f"strength is the weight of values, of at least 0, not {self.strength!r}.",
        )


class SayCanModifier(SayCanSettings, SearchModifier):
    """Skills and their values.

    The trace of an answer holds ``skills``, each with its ``logprob``, ``value`` and ``score``, the best first, and
    ``chosen``, the place among them of the one that is said. A skill that cannot be carried out has no score.
    """

    dial = "strength"

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"SayCan({len(self.skills)} skills)"

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row its completions: n times the best skill, or n draws from the scores at a temperature."""
        can = Affordance(skills=self.skills, value=self.value)
        values = can.values([row.prompt for row in rows])
        engine.usage.count("grounding", 1, values.size)
        for row, found in zip(rows, values):
            if self.strength and (found <= FLOOR).all():
                raise RewardError(
                    f"Every one of the {len(self.skills)} skills has a value of 0 for {_last(row)!r}, so there is "
                    "nothing to do. Give a skill that can always be carried out, as to wait."
                )
        sequences = [self._encoded(engine, row, sampling) for row in rows]
        batch = engine.prefill([row.tokens for row in rows])
        logprobs = branch_logprobs(batch, sequences)
        return [self._chosen(*each, sampling, engine) for each in zip(rows, sequences, logprobs, values)]

    def _encoded(self, engine: Engine, row: Row, sampling: Sampling) -> list[list[int]]:
        tokenizer, start = engine.model.tokenizer, gap(engine, row.prompt)
        special = special_tokens(tokenizer)
        end: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        end = next(([special[text]] for text in self.terminal if text in special), end)
        out = []
        for skill in self.skills:
            ended = any(skill.endswith(text) for text in self.terminal)
            out.append(encode_continuation(tokenizer, start + skill.removeprefix(" ")) + ([] if ended else end))
            if len(out[-1]) > engine.room(row, sampling):
                raise RecordError(
                    f"The skill {skill!r} has {len(out[-1])} tokens, and an answer may have "
                    f"{engine.room(row, sampling)}. Raise max_new_tokens, or shorten the prompt."
                )
        return out

    def _chosen(
        self, row: Row, tokens: Sequence[list[int]], logprobs: torch.Tensor, values: np.ndarray, sampling: Sampling,
        engine: Engine,
    ) -> list[Completion]:  # fmt: skip
        skills = list(self.skills)
        scores = skill_scores(logprobs.cpu().numpy(), np.where(values > FLOOR, values, 0.0), self.strength)
        order = np.argsort(-scores, kind="stable")
        if sampling.temperature:
            streams = [noise_stream(row.tokens, draw) for draw in range(sampling.n)]
            # A tensor of its own for each draw, since noise is added in place.
            tempered = torch.as_tensor(scores / sampling.temperature)[None].repeat(sampling.n, 1)
            draws = race(tempered, sampling.seed, streams, 0).argmax(1).tolist()
        else:
            draws = [int(order[0])] * sampling.n
        shown = [
            {
                "skill": skills[at], "logprob": float(logprobs[at]), "value": float(values[at]),
                "score": float(scores[at]) if np.isfinite(scores[at]) else None,
            }
            for at in order
        ]  # fmt: skip
        return [
            Completion(
                text=engine.model.clean(engine.text(tokens[at])), tokens=list(tokens[at]), finish_reason="stop",
                prompt_index=row.index,
                trace={"skills": shown, "chosen": int(np.flatnonzero(order == at)[0])},
            )
            for at in draws
        ]  # fmt: skip


def skill_scores(logprobs: np.ndarray, values: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """``log p(skill) + strength * log value``, in nats, [skills]; no normalisation by length.

    Minus infinity where the value is 0, unless ``strength`` is.
    """
    out = np.array(logprobs, dtype=np.float64)
    if strength:
        with np.errstate(divide="ignore"):
            out += strength * np.log(values)
    return out


class SayCan(SayCanSettings, Method):
    """Say the one of some fixed skills that is likely and can be done: the highest ``p(skill | prompt) * value``.

    The baseline of grounded decoding: it ranks whole skills, exactly, and can say nothing else. All skills are scored
    in one forward pass over their tree, in which common beginnings are read once. A skill whose value is 0 (1e-6 or
    less) is never said. Long skills are at a disadvantage, since nothing is normalised by length.

    Source: Ahn et al. 2022, "Do As I Can, Not As I Say", arXiv 2204.01691.

    Example:
        ``SayCan(skills={"pick up the apple.": 0.9, "go to the hall.": 0.2}, terminal=["."]).align(model)``
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    modifier: ClassVar[str | None] = "search"
    paper: ClassVar[int | None] = 31
    quick: ClassVar[dict[str, Any]] = {"skills": {"the": 0.9, "red": 0.8, "it": 0.1}}

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        value = None if self.value is None else reward_from(self.value)
        return model.with_modifier(SayCanModifier(**{**self.settings(), "value": value}))


def _last(row: Row) -> str:
    return str(row.prompt[-1]["content"] if isinstance(row.prompt, list) else row.prompt)[-200:]
