"""Methods that learn from pairs, known by their own names: each a loss of the DPO family with its paper's defaults."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from truing.contracts import is_number, require
from truing.methods.training.batches import Batch
from truing.methods.training.dpo import DPO, PairObjective
from truing.methods.training.encoding import Ids, Row
from truing.methods.training.losses import sequence_logps
from truing.methods.training.method import TrainingMethod
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Scores
from truing.models import Model


class _Named(TrainingMethod):
    """Base: what a method does is what the `DPO` of its ``as_dpo`` does."""

    learning_rate: float = 1e-6

    record_kinds: ClassVar[tuple[str, ...]] = ("preference",)
    paper: ClassVar[int | None] = 37

    def as_dpo(self) -> DPO:
        """The settings of `DPO` that minimise the same loss; the settings of training are left at their defaults."""
        raise TypeError(f"{type(self).__name__} defines no as_dpo().")

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        self.as_dpo().validate()

    def check_model(self, model: Any) -> None:
        """Also raise where a reference speaks other tokens."""
        super().check_model(model)
        self.as_dpo().check_model(model)

    def objective(self) -> Objective:
        """The weighted losses."""
        return self.as_dpo().objective()

    def reference_model(self, model: Model) -> Model:
        """The model that comes in, or the one that was given."""
        return self.as_dpo().reference_model(model)


def _mixture(main: str, nll_weight: float) -> dict[str, float]:
    fits = is_number(nll_weight) and nll_weight >= 0
    require(fits, f"nll_weight is a number, 0 or more, not {nll_weight!r}.")
    return {main: 1.0, **({"sft": nll_weight} if nll_weight else {})}


class IPO(_Named):
    """Learn from preference pairs by regression: the margin of log-ratios is drawn to 1/(2 beta), and no further.

    DPO's gap between two answers grows for as long as it is trained where one always wins; this one stops. Azar et al.
    2023, eq. 17 (arXiv 2310.12036). The paper sums log-ratios over tokens; its authors confirmed that they should be
    divided by length, which is the default here and in TRL.

    Args:
        beta: the paper's tau; the margin to reach is 1/(2 beta) nats, by token or, with ``summed``, by answer.
        summed: sums over tokens, as printed in the paper, instead of means.
        reference: another model to compare with, of the same tokenizer; None for the model that comes in.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> aligned = tr.IPO(beta=0.5).align(model, "sandbox/preferences")
    """

    beta: float = 0.1
    summed: bool = False
    reference: Model | None = None

    def as_dpo(self) -> DPO:
        """`DPO` with the loss "ipo", or "ipo_summed"."""
        return DPO(loss="ipo_summed" if self.summed else "ipo", beta=self.beta, reference=self.reference)


class CPO(_Named):
    """Learn from preference pairs without a reference: the likelihood of the chosen answer holds the policy.

    -log s(beta (log p(chosen) - log p(rejected))) plus ``nll_weight`` times the negative log-likelihood of a chosen
    token. Xu et al. 2024, eq. 3 to 5 (arXiv 2401.08417). Half of DPO's forward passes, since nothing is compared with.

    Args:
        beta: scale of the difference.
        nll_weight: of the likelihood of chosen answers, by token over the optimiser step; 0 leaves nothing that holds.
        label_smoothing: share of labels taken to be wrong.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> aligned = tr.CPO(beta=0.1).align(model, "sandbox/preferences")
    """

    beta: float = 0.1
    nll_weight: float = 1.0
    label_smoothing: float = 0.0

    def as_dpo(self) -> DPO:
        """`DPO` with the losses "cpo_sigmoid" and "sft"."""
        losses = _mixture("cpo_sigmoid", self.nll_weight)
        return DPO(loss=losses, beta=self.beta, label_smoothing=self.label_smoothing)


class SimPO(_Named):
    """Learn from preference pairs by what generation is ranked by: the mean log-probability of a token, with a margin.

    -log s(beta (mean log p(chosen) - mean log p(rejected)) - gamma), without a reference. Meng et al. 2024, eq. 6
    (arXiv 2405.14734). Nothing holds the policy but the learning rate: the paper warns of rates over 1e-6 for models of
    7 billion parameters, and of degenerate text. ``nll_weight`` adds what CPO has (CPO-SimPO).

    Args:
        beta: scale of the difference, 2 to 10.
        gamma: the margin after beta; the paper's ratio gamma/beta, 0.3 to 0.8, times beta. Raise it with beta.
        nll_weight: of the likelihood of chosen answers, by token; 0 in the paper.
        label_smoothing: share of labels taken to be wrong.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> aligned = tr.SimPO(beta=2.0, gamma=1.0).align(model, "sandbox/preferences")
    """

    beta: float = 2.0
    gamma: float = 1.0
    nll_weight: float = 0.0
    label_smoothing: float = 0.0

    def as_dpo(self) -> DPO:
        """`DPO` with the loss "simpo", and "sft" where it has a weight."""
        losses = _mixture("simpo", self.nll_weight)
        return DPO(loss=losses, beta=self.beta, gamma=self.gamma, label_smoothing=self.label_smoothing)


class ORPO(_Named):
    """Learn answers and preferences in one training from a base model: likelihood of the chosen answer, and its odds.

    The negative log-likelihood of a token, plus -beta log s(log-odds(chosen) - log-odds(rejected)), with odds of the
    mean log-probability of a token. No reference, and no fine-tuning before it. Hong et al. 2024, eq. 6 and 7
    (arXiv 2403.07691).

    Args:
        learning_rate: the highest one; the paper's is 8e-6, more than DPO's, since it also learns the answers.
        beta: weight of the odds ratio, the paper's lambda.
        nll_of_prompt: the likelihood covers the prompt's tokens too, as the authors' code and TRL's have it; else the
            chosen answer's alone.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> aligned = tr.ORPO(learning_rate=3e-4).align(model, "sandbox/preferences")
    """

    learning_rate: float = 8e-6
    beta: float = 0.1
    nll_of_prompt: bool = False

    def as_dpo(self) -> DPO:
        """`DPO` with the losses "orpo_odds_ratio" and "sft"."""
        return DPO(loss="orpo", beta=self.beta)

    def objective(self) -> Objective:
        """The weighted losses; with ``nll_of_prompt`` the likelihood is that of the whole conversation."""
        return ConversationLikelihood(self.as_dpo().objective()) if self.nll_of_prompt else super().objective()


class ConversationLikelihood(Objective):
    """A pair objective whose "sft" loss covers prompt and chosen answer together.

    The whole conversation is a third answer, to an empty prompt: it shares its tokens with the first one, so that only
    the head works more.

    Args:
        pairs: with a loss "sft" among its losses.
    """

    record_kind = "preference"

    def __init__(self, pairs: PairObjective) -> None:
        self.nll_weight = pairs.losses["sft"]
        self.pairs = pairs
        self.pairs.losses = {name: weight for name, weight in pairs.losses.items() if name != "sft"}
        self.examples = pairs.examples  # type: ignore[method-assign]

    def arrange(self, rows: list[Row]) -> list[Row]:
        """Each row with the chosen conversation as its third answer."""
        whole: list[tuple[Ids, Ids]] = [([], [*prompt, *answer]) for prompt, answer in (row.answers[0] for row in rows)]
        return [Row(row.index, (*row.answers, one), row.values) for row, one in zip(rows, whole)]

    def units(self, batch: Batch) -> dict[str, int]:
        """Also the tokens of whole conversations, the first of each left out, since nothing predicts it."""
        return {**batch.units, "conversation": int(batch.lengths[batch.slot == 2].sum())}

    def terms(self, scores: Scores) -> list[Term]:
        """Those of the pairs, and the likelihood of the conversations."""
        whole = scores.slot == 2
        likelihood: Tensor = sequence_logps(scores.tokens[whole], scores.mask[whole])
        return [*self.pairs.terms(_of_pairs(scores)), Term(-likelihood, "conversation", self.nll_weight)]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Those of the pairs."""
        return self.pairs.metrics(_of_pairs(scores))


def _of_pairs(scores: Scores) -> Scores:
    pair = scores.slot < 2
    return dataclasses.replace(
        scores, tokens=scores.tokens[pair], mask=scores.mask[pair], owner=scores.owner[pair], slot=scores.slot[pair]
    )
