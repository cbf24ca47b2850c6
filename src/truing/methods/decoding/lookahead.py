"""Look-ahead decoding: next tokens are judged by where they lead. What DeAL, ARGS, controlled decoding and Transfer Q*
share: the search modifier, its settings, and the second model that may roll out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Method, Reward, is_number, require, require_whole
from truing.errors import ModelError, StackError, UnsupportedError
from truing.methods.decoding.lookahead_rule import Choice, Rule, check_choice, look_ahead
from truing.methods.decoding.lookahead_search import Searches
from truing.methods.decoding.lookahead_world import Asking, World
from truing.models.engine import TOKENS, Engine
from truing.models.local import Model
from truing.models.modifiers import SearchModifier
from truing.models.sampling import noise_stream
from truing.models.types import Completion, Row, Sampling

if TYPE_CHECKING:
    from truing.models import AnyModel


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
        require_strength("weight", self.weight)

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
        width = rule.k * rule.rollouts * rule.beam
        slots = max(len(row.tokens) + engine.room(row, sampling) for row in rows) + rule.lookahead
        most = engine.batch_size or max(width, TOKENS // slots)
        size = max(1, most // width)
        found: list[Completion] = []
        for start in range(0, len(jobs), size):
            part = jobs[start : start + size]
            streams = [stream for _, stream in part]
            found += Searches(self, engine, second, [row for row, _ in part], streams, sampling, most).run()
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
        require_whole(self, [name for name in ("k", "beam", "n") if name in self.settings()])
        ahead = self.settings().get("lookahead", 0)
        require(
            isinstance(ahead, int) and not isinstance(ahead, bool) and ahead >= 0,
            f"lookahead is a number of tokens, 0 or more, not {ahead!r}.",
        )


def require_strength(name: str, value: Any) -> None:
    """Raise `SettingsError` unless a value is a finite number of at least 0."""
    require(is_number(value) and value >= 0, f"{name} is a finite number of at least 0, not {value!r}.")


def same_answers(model: Model, other: Model) -> bool:
    """Whether another model is the one that decodes, search apart: its caches then serve both."""
    mine, its = model.policy.modifiers, other.policy.modifiers
    alike = len(mine) == len(its) and all(a is b or a == b for a, b in zip(mine, its))
    return other.weights is model.weights and other.tokenizer is model.tokenizer and alike


def check_second(who: str, other: Any) -> None:
    """Raise unless a setting is a local model without a search of its own."""
    if not isinstance(other, Model):
        if hasattr(other, "offers"):
            raise UnsupportedError(
                f"`{who}` is {other.name}, a remote model, which cannot go on from tokens. "
                "Load its weights instead: a folder, a hub name, or sandbox/guide."
            )
        require(False, f"`{who}` is a model, not {other!r}. Load it: {who}=truing.load('sandbox/guide').")
    for modifier in other.modifiers:
        if modifier.kind == "search":
            raise StackError(
                f"`{who}` carries {modifier.label}, a search of its own, which cannot run inside another. "
                f"Give `{who}=model.policy`, the model without it."
            )


def check_together(who: str, model: AnyModel, other: Model) -> None:
    """Raise unless both models read the same token ids; say so where the second one is the larger."""
    if not isinstance(model, Model):
        return
    if model.tokenizer is not other.tokenizer and model.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise ModelError(
            f"{model.name} and {other.name} have different vocabularies, and rollouts go on from the candidates' token "
            f"ids. Give a `{who}` with the tokenizer of {model.name}, or use BestOfN, which meets in text."
        )
    mine, its = (sum(parameter.numel() for parameter in each.weights.parameters()) for each in (model, other))
    if its > mine:
        logging.getLogger("truing").warning(
            "`%s` has %d parameters and %s has %d: most of the time goes into rollouts, so a smaller one is faster.",
            who, its, model.name, mine,
        )  # fmt: skip
