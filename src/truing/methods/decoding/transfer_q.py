"""Transfer Q*: candidates valued by where an already aligned model takes them (Chakraborty et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Reward, is_number, require
from truing.errors import ModelError
from truing.methods.decoding.controlled_decoding import SampledModifier, check_sampled, modifier_settings
from truing.methods.decoding.lookahead import LookaheadMethod
from truing.methods.decoding.lookahead_rule import Rule
from truing.methods.decoding.lookahead_values import Estimate, Mean, Released, SelfNormalised
from truing.methods.decoding.two_models import check_second
from truing.models.local import Model, parameter_count, same_vocabulary
from truing.progress import tell
from truing.rewards import reward_from

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

ESTIMATES = ("self_normalised", "released")
IMPLICIT = "implicit"


class TransferQModifier(SampledModifier):
    """Scores candidates by the rewards of another model's continuations; more in `TransferQ`.

    Args:
        rollout: the aligned model.
        baseline_reward: what it was aligned with, "implicit", or None where that is this reward.
        beta: of the aligned models.
        estimate: "self_normalised" or "released".
    """

    rollout: Model
    baseline_reward: Reward | str | None = None
    beta: float = 0.1
    estimate: str = "self_normalised"

    def rule(self) -> Rule:
        """Direct: the mean of the rollouts' rewards. Indirect: a mean whose weights correct for the other reward."""
        value: Estimate = Mean()
        if self.baseline_reward is not None:
            value = SelfNormalised(beta=self.beta) if self.estimate == "self_normalised" else Released()
        return Rule(self.k, self.lookahead, self.weight, cumulative=False, rollouts=self.n, estimate=value)

    def rollout_model(self) -> Model:
        """The aligned model."""
        return self.rollout

    def baseline(self) -> Reward | str | None:
        """What the rollout model was aligned with."""
        return self.baseline_reward


class TransferQ(LookaheadMethod):
    """Choose each token by its log-probability and the reward of what an already aligned model makes of it.

    The value of a token for a reward is what a model aligned with that reward earns after it. Where such a model exists
    (tuned by DPO, say), its rollouts estimate that value, and decoding ``log P(token) + value / alpha`` moves any model
    of the same vocabulary towards the reward without training. Over the ``k`` likeliest tokens of the model: the
    largest, or at a temperature one drawn from their softmax.

    *Direct*: the rollout model was aligned with this reward. *Indirect*: it was aligned with another one; rollouts are
    then weighed by ``exp((reward - baseline_reward) / beta)``, normalised for each candidate. With one rollout the
    weight is 1, so the correction needs ``n`` over 1. The baseline reward of a DPO model need not be known:
    ``"implicit"`` takes beta times the log of how much likelier a rollout is to it than to the model that decodes,
    which should then be the one that it was trained from.

    All rewards read the answer alone, unfinished rollouts included. A rollout model that is the model itself costs no
    pass of its own.

    Args:
        reward: what is wanted: a function ``reward(prompts, responses) -> n floats``, or a reward's name with settings.
        rollout: the aligned model; local, and of the same vocabulary.
        alpha: how close to stay to the model; the value counts 1/alpha. Over 0; 1 in the paper.
        k: candidates at each step; 10 in the paper.
        lookahead: most tokens of a rollout; 20 in the released code, 5 for indirect.
        n: rollouts for each candidate. One is greedy; several are drawn, with noise that all candidates share.
        rollout_temperature: of the rollouts; 0 for one and 1 for several unless given.
        baseline_reward: the reward of the rollout model where it is another one, or "implicit". None is direct.
        beta: of the aligned models, in the unit of the rewards.
        estimate: "self_normalised", or "released", the rule of the published code, which is not normalised.

    Source: Chakraborty et al., "Transfer Q Star: Principled Decoding for LLM Alignment", NeurIPS 2024 (arXiv
    2405.20495).

    Example:
        >>> import truing as tr
        >>> base, guide = tr.load("sandbox/base"), tr.load("sandbox/guide")
        >>> aligned = tr.TransferQ(rollout=guide, reward=tr.SandboxGrade(), alpha=0.2).align(base)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "logits", "rollout"})
    paper: ClassVar[int | None] = 30
    quick: ClassVar[dict[str, Any]] = {"k": 3, "lookahead": 3, "alpha": 0.1}

    reward: Reward | str | dict[str, Any]
    rollout: Model
    alpha: float = 1.0
    k: int = 10
    lookahead: int = 20
    n: int = 1
    rollout_temperature: float | None = None
    baseline_reward: Reward | str | dict[str, Any] | None = None
    beta: float = 0.1
    estimate: str = "self_normalised"

    def validate(self) -> None:
        """Raise for a setting that cannot work."""
        super().validate()
        check_sampled(self)
        require(is_number(self.beta) and self.beta > 0, f"beta is a finite number over 0, not {self.beta!r}.")
        require(self.estimate in ESTIMATES, f"estimate is one of {', '.join(ESTIMATES)}, not {self.estimate!r}.")
        if self.baseline_reward is not None and self.estimate == "self_normalised":
            require(
                self.n > 1 and self.lookahead > 0,
                "Weights that correct for another reward are normalised over the rollouts of a candidate, and a single "
                "one has weight 1. Set n=4 or more, and a lookahead over 0.",
            )
        require(
            self.baseline_reward != IMPLICIT or self.estimate == "self_normalised",
            "An implicit baseline reward is known up to a constant, which only normalised weights do not see. "
            "Use estimate='self_normalised'.",
        )
        check_second("rollout", self.rollout, "cannot go on from tokens", "model")

    def check_model(self, model: AnyModel) -> None:
        """Raise before any work when the two models cannot be combined; say so where the second one is the larger."""
        super().check_model(model)
        if not isinstance(model, Model):
            return
        if not same_vocabulary(model, self.rollout):
            raise ModelError(
                f"{model.name} and {self.rollout.name} have different vocabularies, and rollouts go on from the "
                f"candidates' token ids. Give a `rollout` with the tokenizer of {model.name}, or use BestOfN, which "
                "meets in text."
            )
        mine, its = parameter_count(model), parameter_count(self.rollout)
        if its > mine:
            tell(
                f"`rollout` has {its} parameters and {model.name} has {mine}: most of the time goes into rollouts, so "
                "a smaller one is faster."
            )

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        given = modifier_settings(self)
        if self.baseline_reward is not None and self.baseline_reward != IMPLICIT:
            given["baseline_reward"] = reward_from(self.baseline_reward)
        return model.with_modifier(TransferQModifier(**given))
