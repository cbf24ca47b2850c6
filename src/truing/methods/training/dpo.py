"""Direct preference optimisation, with every loss of its family."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import SettingsError
from truing.methods.training import losses
from truing.methods.training.encoding import Example, turn
from truing.methods.training.live_reference import LiveReference
from truing.methods.training.losses import pairs as pair_losses
from truing.methods.training.losses.pairs import DIVERGENCES, LOSSES, MIXTURES, Pairs
from truing.methods.training.method import TrainingMethod, check_reference
from truing.methods.training.objective import Objective, Term, mean_of
from truing.methods.training.policy import Scores
from truing.models import Model

_EXTRAS = ("label_smoothing", "alpha", "gamma", "lam", "tau", "delta", "nll_weight")


class PairObjective(Objective):
    """A weighted sum of pair losses.

    Args:
        losses: weight of each loss, by its name in `LOSSES`.
        settings: of each loss, by its name.
        beta: scales rewards in the metrics.
        reference_free: read the reference as 0 everywhere.
        f_divergence: see `Pairs`.
        f_alpha: see `Pairs`.
        ld_alpha: what tokens beyond the shorter answer count (LD-DPO); None for 1.
        wpo: weigh each pair by how likely the policy is to write it.
    """

    record_kind = "preference"

    def __init__(
        self,
        losses: dict[str, float],
        settings: dict[str, dict[str, Any]],
        *,
        beta: float,
        reference_free: bool = False,
        f_divergence: str = "reverse_kl",
        f_alpha: float = 0.5,
        ld_alpha: float | None = None,
        wpo: bool = False,
    ) -> None:
        self.losses, self.settings, self.beta, self.ld_alpha = losses, settings, beta, ld_alpha
        self.f_divergence, self.f_alpha = f_divergence, f_alpha
        self.needs_reference = not reference_free and any(LOSSES[name].reference for name in losses)
        self.needs_collisions = wpo

    @property
    def key(self) -> str:
        """Changes with ``ld_alpha``."""
        return "sum" if self.ld_alpha is None else f"ld {self.ld_alpha}"

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """Chosen, then rejected."""
        return [Example([turn(row["prompt"], row["chosen"]), turn(row["prompt"], row["rejected"])])]

    def sequence_logps(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Sums over answer tokens, [2B]; with ``ld_alpha`` the longer answer's surplus counts less."""
        if self.ld_alpha is None:
            return losses.sequence_logps(tokens, mask)
        return pair_losses.desensitised_logps(tokens, mask, self.ld_alpha)

    def _pairs(self, scores: Scores) -> Pairs:
        chosen, rejected = self.sequence_logps(scores.tokens, scores.mask).chunk(2)
        lengths = scores.mask.sum(1).chunk(2)
        reference = scores.reference.chunk(2) if scores.reference is not None else (None, None)
        return Pairs(
            chosen,
            rejected,
            ref_chosen=reference[0],
            ref_rejected=reference[1],
            chosen_lengths=lengths[0],
            rejected_lengths=lengths[1],
            f_divergence=self.f_divergence,
            f_alpha=self.f_alpha,
        )

    def terms(self, scores: Scores) -> list[Term]:
        """One for each loss."""
        pairs = self._pairs(scores)
        pull: Tensor | float = 1.0
        if scores.collisions is not None:
            pull = pair_losses.wpo_weights(scores.tokens, scores.collisions, scores.mask)
        return [
            Term(LOSSES[name].function(pairs, **self.settings[name]) * pull, LOSSES[name].unit, weight)
            for name, weight in self.losses.items()
        ]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Implicit rewards (beta times log-ratio), how often chosen has the higher one, log-probabilities in nats."""
        pairs = self._pairs(scores)
        chosen, rejected = self.beta * pairs.chosen_ratio, self.beta * pairs.rejected_ratio
        out = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "logps/chosen": pairs.chosen,
            "logps/rejected": pairs.rejected,
        }
        if scores.reference is not None:
            out["logratio/chosen"] = pairs.chosen_ratio
            # With r = reference/policy, r - 1 - log r is never negative: a distance on these answers, not the true KL.
            away = torch.cat([pairs.chosen_ratio, pairs.rejected_ratio]) / scores.mask.sum(1)
            out["divergence_per_token"] = torch.exp((-away).clamp(max=30)) - 1 + away
        return out

    def verdict(self, metrics: list[dict[str, float]]) -> list[str]:
        """A warning where chosen answers became less likely."""
        mean = mean_of(metrics, "logratio/chosen")
        if mean > -1:
            return []
        return [
            f"By the end the chosen answers were less likely than before training, by {-mean:.1f} nats an answer: the "
            "model learned to avoid both. A lower learning rate, a higher beta, or an added likelihood term "
            "(loss={'sigmoid': 1.0, 'sft': 1.0}) keeps them."
        ]


class DPO(TrainingMethod):
    """Learn from preference pairs directly, without a reward model: make chosen answers likelier than rejected ones,
    compared with a reference, which is the model that comes in.

    Every pair loss of the family is available by name, alone or as a weighted sum; see `LOSSES` and `MIXTURES`.
    Reference log-probabilities are computed once, before training. Rafailov et al. 2023 (arXiv 2305.18290); Saeidi et
    al. 2024 (arXiv 2404.14723) compare the losses.

    Args:
        beta: how strongly the reference holds; small values move further. Losses differ in scale: "simpo" and
            "sigmoid_norm" want 2 to 10, "hinge" 0.05, "nca_pair" and "bco_pair" 0.01, "sppo_hard" 0.001.
        loss: a name, or weights by name: ``{"sigmoid": 1.0, "sft": 0.5}``.
        reference: another model to compare with, of the same tokenizer; None for the model that comes in.
        reference_free: compare with no reference at all.
        reference_every: let the reference follow the policy, every so many optimiser steps (trust-region DPO uses 512);
            None for a reference that stays. It costs a second model in memory and a forward pass a step.
        reference_mix: the policy's share each time that the reference follows it.
        label_smoothing: share of labels taken to be wrong; None for the loss's own default.
        alpha: of "r_dpo" and "alphapo"; None for its default.
        gamma: the margin of "simpo" and "alphapo", after beta; None for its default.
        lam: of "dpop"; None for its default.
        tau: of "discopop"; None for its default.
        delta: of "slic_hf"; None for its default.
        nll_weight: of "slic_hf"; None for its default.
        f_divergence: "reverse_kl", "forward_kl", "js_divergence" or "alpha_divergence", for losses of the margin.
        f_alpha: of "alpha_divergence".
        ld_alpha: what tokens beyond the shorter answer's length count (LD-DPO); None for 1.
        wpo: weigh pairs by how likely the policy is to write them (WPO).

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> aligned = tr.DPO(beta=0.5, loss={"sigmoid": 1.0, "sft": 1.0}).align(model, "sandbox/preferences")
    """

    learning_rate: float = 1e-6
    beta: float = 0.1
    loss: str | dict[str, float] = "sigmoid"
    reference: Model | None = None
    reference_free: bool = False
    reference_every: int | None = None
    reference_mix: float = 0.6
    label_smoothing: float | None = None
    alpha: float | None = None
    gamma: float | None = None
    lam: float | None = None
    tau: float | None = None
    delta: float | None = None
    nll_weight: float | None = None
    f_divergence: str = "reverse_kl"
    f_alpha: float = 0.5
    ld_alpha: float | None = None
    wpo: bool = False

    record_kinds: ClassVar[tuple[str, ...]] = ("preference",)
    paper: ClassVar[int | None] = 37

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_number(self.beta) and self.beta > 0, f"beta is a number over 0, not {self.beta!r}.")
        losses = self._losses()
        for name in _EXTRAS:
            value = getattr(self, name)
            if value is None:
                continue
            takers = [one for one in losses if name in LOSSES[one].settings]
            require(bool(takers), f"{name} has no effect on the loss {' + '.join(losses)}. Leave it out.")
            require(is_number(value), f"{name} is a finite number, not {value!r}.")
        if self.label_smoothing is not None:
            require(
                0 <= self.label_smoothing < 0.5,
                f"label_smoothing is from 0 to under 0.5, not {self.label_smoothing!r}.",
            )
            require(self.label_smoothing > 0 or "exo_pair" not in losses, "exo_pair needs a label_smoothing over 0.")
        for name in ("tau", "alpha"):
            require(getattr(self, name) != 0, f"{name} divides, and cannot be 0.")
        require(
            self.f_divergence in DIVERGENCES,
            f"f_divergence is one of {', '.join(DIVERGENCES)}, not {self.f_divergence!r}.",
        )
        require(is_number(self.f_alpha), f"f_alpha is a finite number, not {self.f_alpha!r}.")
        share = self.ld_alpha
        fits = share is None or (is_number(share) and 0 <= share <= 1)
        require(fits, f"ld_alpha is from 0 to 1, not {share!r}.")
        require(
            self.reference is None or not self.reference_free, "Give a reference, or reference_free=True, not both."
        )

        every, mix = self.reference_every, self.reference_mix
        whole = every is None or (isinstance(every, int) and not isinstance(every, bool) and every > 0)
        require(whole, f"reference_every is a whole number over 0, or None, not {every!r}.")
        require(is_number(mix) and 0 < mix <= 1, f"reference_mix is a share over 0, up to 1, not {mix!r}.")
        require(
            every is None or (self.reference is None and not self.reference_free),
            "reference_every moves the reference from where training starts: leave out reference and reference_free.",
        )

    def _losses(self) -> dict[str, float]:
        given = self.loss
        if isinstance(given, str):
            given = MIXTURES.get(given, {given: 1.0})
        require(isinstance(given, dict) and bool(given), f"loss is a name or weights by name, not {self.loss!r}.")
        for name, weight in given.items():
            if name not in LOSSES:
                import difflib

                close = difflib.get_close_matches(str(name), [*LOSSES, *MIXTURES], n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise SettingsError(f"There is no loss {name!r}.{hint} Known: {', '.join([*LOSSES, *MIXTURES])}.")
            fits = is_number(weight) and weight > 0
            require(fits, f"The weight of the loss {name} is a number over 0, not {weight!r}.")
        require(set(given) != {"sft"}, "The loss 'sft' alone learns no preference. Use SFT, or add a pair loss.")
        return dict(given)

    def objective(self) -> PairObjective:
        """The weighted losses."""
        losses = self._losses()
        given = {name: getattr(self, name) for name in _EXTRAS if getattr(self, name) is not None}
        settings = {
            name: {key: value for key, value in {"beta": self.beta, **given}.items() if key in LOSSES[name].settings}
            for name in losses
        }
        return PairObjective(
            losses,
            settings,
            beta=self.beta,
            reference_free=self.reference_free,
            f_divergence=self.f_divergence,
            f_alpha=self.f_alpha,
            ld_alpha=self.ld_alpha,
            wpo=self.wpo,
        )

    def check_model(self, model: Any) -> None:
        """Also raise where the reference speaks other tokens."""
        super().check_model(model)
        if self.reference is not None:
            check_reference(self.reference, model)

    def reference_model(self, model: Model) -> Model:
        """``reference``, or the model that comes in."""
        reference: Any = self.reference
        return model if reference is None else reference

    @property
    def reference_follows(self) -> bool:
        """With ``reference_every``."""
        return self.reference_every is not None

    def live_reference(self, weights: Any) -> LiveReference:
        """A copy that moves every ``reference_every`` steps."""
        assert self.reference_every is not None
        return LiveReference(weights, self.reference_every, self.reference_mix)
