"""ARGS: the reward of the answer so far, with each candidate, and no look-ahead (Khanov et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Reward
from truing.methods.decoding.lookahead import LookaheadMethod, LookaheadModifier
from truing.methods.decoding.lookahead_rule import Rule
from truing.rewards import reward_from

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class ARGSModifier(LookaheadModifier):
    """Scores candidates by the reward of the text that they complete; settings as in `ARGS`."""

    lookahead: int = 0

    def rule(self) -> Rule:
        """No rollouts."""
        return Rule(k=self.k, lookahead=0, weight=self.weight, cumulative=False)


class ARGS(LookaheadMethod):
    """Choose each token by its log-probability and the reward of the unfinished answer that ends with it.

    ``log P(token) + weight * reward(answer so far and the token)`` over the ``k`` likeliest tokens: the largest, or at
    a temperature one drawn from their softmax. The cheapest way to decode by a reward, and only as good as the reward
    is on unfinished text. Transfer Q* and DeAL with ``lookahead=0`` are the same rule.

    Args:
        reward: what is wanted: a function ``reward(prompts, responses) -> n floats``, or a reward's name with settings.
        k: candidates at each step; 10 to 40 in the paper.
        weight: how much the reward counts; 0 is greedy decoding.

    Source: Khanov, Burapacheep and Li, "ARGS: Alignment as Reward-Guided Search", ICLR 2024 (arXiv 2402.01694); a
    baseline of Transfer Q*.

    Example:
        >>> import truing as tr
        >>> model = tr.ARGS(reward=tr.Keyword(words=["please"]), weight=2.0).align(tr.load("sandbox/base"))
    """

    quick: ClassVar[dict[str, Any]] = {"k": 4, "weight": 8.0}

    reward: Reward | str | dict[str, Any]
    k: int = 10
    weight: float = 1.0

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(ARGSModifier(**{**self.settings(), "reward": reward_from(self.reward)}))
