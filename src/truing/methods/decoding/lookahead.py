"""Look-ahead decoding: next tokens are judged by where they lead. What DeAL, ARGS, controlled decoding and Transfer Q*
share: the search modifier, its settings, and the second model that may roll out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from truing.contracts import Method, Reward, is_number, is_whole, require, require_whole
from truing.methods.decoding.lookahead_rule import Choice, Rule, check_choice, look_ahead
from truing.methods.decoding.lookahead_search import Searches
from truing.methods.decoding.lookahead_world import Asking, World
from truing.models.engine import TOKENS, Engine
from truing.models.local import Model
from truing.models.modifiers import SearchModifier
from truing.models.sampling import noise_stream
from truing.models.types import Completion, Row, Sampling


class LookaheadModifier(SearchModifier):
    """Base of the searches that score next tokens by what they lead to.

    The trace of an answer holds ``steps``: for each token its candidates as [token, log-probability, value, score],
    value and score None for those that could not win; ``score`` and ``value`` of the answer as it was kept; and
    ``rewarded``, how many texts the reward was asked about.

    Args:
        reward: what is wanted.
        k: candidates at each step.
        lookahead: most tokens of a rollout.
        weight: of the value against log-probability.
    """

    dial: ClassVar[str | None] = "weight"

    reward: Reward
    k: int = 10
    lookahead: int = 20
    weight: float = 1.0

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"{type(self).__name__.removesuffix('Modifier')}(k={self.k}, weight={self.weight:g})"

    def validate(self) -> None:
        """Raise `SettingsError` for a weight that cannot work."""
        super().validate()
        _check_weight(self.weight)

    def rule(self) -> Rule:
        """What is looked for."""
        return Rule(k=self.k, lookahead=self.lookahead, weight=self.weight)

    def asking(self, world: World, room: int, choice: Choice) -> Asking:
        """The search of one answer."""
        return look_ahead(self.rule(), world, room, choice)

    def rollout_model(self) -> Model | None:
        """The model that rolls out; None where the model itself does."""
        return None

    def rollout_sampling(self, sampling: Sampling) -> Sampling:
        """How rollouts are drawn."""
        return Sampling(seed=sampling.seed)

    def baseline(self) -> Reward | str | None:
        """The reward that the rollout model was aligned with, "implicit", or None where that does not matter."""
        return None

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row its completions; at temperature 0 all of a row are the same one."""
        rule = self.rule()
        check_choice(sampling, rule.beam)
        count = sampling.n if sampling.temperature else 1
        other = self.rollout_model()
        second = None if other is None or same_answers(engine.model, other) else Engine(other, engine.usage, "rollout")
        jobs = [(row, noise_stream(row.tokens, sample)) for row in rows for sample in range(count)]
        slots = max(len(row.tokens) + engine.room(row, sampling) for row in rows) + rule.lookahead
        most = engine.batch_size or max(rule.width, TOKENS // slots)
        size = max(1, most // rule.width)
        streams = [stream for _, stream in jobs]
        found = Searches(self, engine, second, [row for row, _ in jobs], streams, sampling, most, size).run()
        if sampling.temperature:
            return [found[start : start + sampling.n] for start in range(0, len(found), sampling.n)]
        return [[dataclasses.replace(one) for _ in range(sampling.n)] for one in found]


class LookaheadMethod(Method):
    """Base of the methods that score next tokens by what they lead to; settings as in `LookaheadModifier`."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "logits"})
    modifier: ClassVar[str | None] = "search"

    reward: Reward | str | dict[str, Any]

    def validate(self) -> None:
        """Raise `SettingsError` for a setting that cannot work."""
        super().validate()
        given = self.settings()
        require_whole(self, [name for name in ("k", "beam", "n") if name in given])
        ahead = given.get("lookahead", 0)
        require(is_whole(ahead) and ahead >= 0, f"lookahead is a number of tokens, 0 or more, not {ahead!r}.")
        _check_weight(given.get("weight", 0.0))


def _check_weight(value: Any) -> None:
    require(is_number(value) and value >= 0, f"weight is a finite number of at least 0, not {value!r}.")


def same_answers(model: Model, other: Model) -> bool:
    """Whether another model is the one that decodes, search apart: its caches then serve both."""
    mine, its = model.policy.modifiers, other.policy.modifiers
    alike = len(mine) == len(its) and all(a is b or a == b for a, b in zip(mine, its))
    return other.weights is model.weights and other.tokenizer is model.tokenizer and alike
