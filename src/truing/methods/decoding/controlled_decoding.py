"""Controlled decoding: candidates valued by what the model itself would make of them (Mudgal et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Reward, is_number, require
from truing.methods.decoding.lookahead import LookaheadMethod, LookaheadModifier
from truing.methods.decoding.lookahead_rule import Rule
from truing.models.types import Sampling
from truing.rewards import reward_from

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class SampledModifier(LookaheadModifier):
    """A search whose rollouts are greedy, or several and drawn.

    Args:
        n: rollouts for each candidate.
        rollout_temperature: of the rollouts; None is 0 for one and 1 for several.
    """

    n: int = 1
    rollout_temperature: float | None = None

    def rollout_sampling(self, sampling: Sampling) -> Sampling:
        """Greedy, or at a temperature."""
        temperature = self.rollout_temperature
        if temperature is None:
            temperature = 1.0 if self.n > 1 else 0.0
        return Sampling(temperature=temperature, seed=sampling.seed)


class ControlledDecodingModifier(SampledModifier):
    """Scores candidates by the reward of the model's own continuations; settings as in `ControlledDecoding`."""

    def rule(self) -> Rule:
        """The value is the mean reward of the model's own rollouts."""
        return Rule(self.k, self.lookahead, self.weight, cumulative=False, rollouts=self.n)


class ControlledDecoding(LookaheadMethod):
    """Choose each token by its log-probability and the mean reward of the model's own continuations of it.

    ``log P(token) + mean reward / alpha`` over the ``k`` likeliest tokens: the largest, or at a temperature one drawn
    from their softmax. The mean over rollouts estimates the value of the model itself, which controlled decoding learns
    as a prefix scorer; nothing is trained here. It asks what this model would do next, and not what an aligned one
    would: see `TransferQ`.

    Args:
        reward: what is wanted: a function ``reward(prompts, responses) -> n floats``, or a reward's name with settings.
        alpha: how close to stay to the model; the reward counts 1/alpha. Over 0.
        k: candidates at each step.
        lookahead: most tokens of a rollout.
        n: rollouts for each candidate. One is greedy; several are drawn.
        rollout_temperature: of the rollouts; 0 for one and 1 for several unless given.

    Source: Mudgal et al., "Controlled Decoding from Language Models", ICML 2024 (arXiv 2310.17022); a baseline of
    Transfer Q*, with rollouts in place of a learned scorer.

    Example:
        >>> import truing as tr
        >>> model = tr.ControlledDecoding(reward=tr.SandboxGrade(), alpha=0.2).align(tr.load("sandbox/base"))
    """

    quick: ClassVar[dict[str, Any]] = {"k": 3, "lookahead": 3, "n": 2, "alpha": 0.1}

    reward: Reward | str | dict[str, Any]
    alpha: float = 1.0
    k: int = 10
    lookahead: int = 20
    n: int = 1
    rollout_temperature: float | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a setting that cannot work."""
        super().validate()
        check_sampled(self)

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(ControlledDecodingModifier(**modifier_settings(self)))


def check_sampled(method: Any) -> None:
    """Raise `SettingsError` for an ``alpha``, ``n`` or ``rollout_temperature`` that cannot work."""
    require(
        is_number(method.alpha) and method.alpha > 0,
        f"alpha divides the reward and is over 0, not {method.alpha!r}. A large one keeps to the model.",
    )
    temperature = method.rollout_temperature
    require(
        temperature is None or (is_number(temperature) and temperature >= 0),
        f"rollout_temperature is a finite number of at least 0, or None, not {temperature!r}.",
    )
    require(
        method.n == 1 or temperature is None or temperature > 0,
        f"{method.n} greedy rollouts are all the same: set n=1, or a rollout_temperature over 0.",
    )


def modifier_settings(method: Any) -> dict[str, Any]:
    """A method's settings as its modifier takes them: the reward itself, and 1/alpha as the weight."""
    given = {**method.settings(), "reward": reward_from(method.reward), "weight": 1.0 / method.alpha}
    return {name: value for name, value in given.items() if name != "alpha"}
