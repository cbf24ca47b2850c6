"""Losses as pure functions of answer log-probabilities in nats; no model in sight.

Every pair loss takes `Pairs` and gives one value a pair, shape [B]. `LOSSES` lists them by name, with what each needs;
the command line, recipes and docs read it. Symbols: w and l are the log-ratios of policy to reference for the chosen
and the rejected answer (`Pairs.chosen_ratio`, `Pairs.rejected_ratio`), D = w - l, s the logistic function.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from truing.methods.training.losses import sequence_logps

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
# exp() of more than this leaves float32; the forward KL and alpha divergences reach it for very unlikely answers.
_EXP_MAX = 80.0


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A batch of preference pairs.

    Args:
        chosen: summed log-probability of each chosen answer under the policy, shape [B].
        rejected: the same for the rejected answers.
        ref_chosen: under the reference; None where a loss needs none, which reads as 0.
        ref_rejected: likewise.
        chosen_lengths: answer tokens, shape [B]; needed by losses that divide by length.
        rejected_lengths: likewise.
        f_divergence: one of `DIVERGENCES`; how log-ratios become scores in losses of D (f-DPO).
        f_alpha: the alpha of "alpha_divergence".
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None
    chosen_lengths: Tensor | None = None
    rejected_lengths: Tensor | None = None
    f_divergence: str = "reverse_kl"
    f_alpha: float = 0.5

    @property
    def chosen_ratio(self) -> Tensor:
        """Log-ratio of the chosen answers, [B]."""
        return self.chosen if self.ref_chosen is None else self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """Log-ratio of the rejected answers, [B]."""
        return self.rejected if self.ref_rejected is None else self.rejected - self.ref_rejected

    @property
    def scores(self) -> tuple[Tensor, Tensor]:
        """The log-ratios through the divergence's link, [B] each."""
        return link(self.chosen_ratio, self.f_divergence, self.f_alpha), link(
            self.rejected_ratio, self.f_divergence, self.f_alpha
        )

    @property
    def delta(self) -> Tensor:
        """D, or its f-divergence form, [B]."""
        w, l = self.scores
        return w - l

    @property
    def normalised_delta(self) -> Tensor:
        """D with each score divided by its answer's length, [B]."""
        w, l = self.scores
        return w / self.lengths[0] - l / self.lengths[1]

    @property
    def averages(self) -> tuple[Tensor, Tensor]:
        """Mean log-probability of a token under the policy, chosen and rejected, [B] each."""
        return self.chosen / self.lengths[0], self.rejected / self.lengths[1]

    @property
    def lengths(self) -> tuple[Tensor, Tensor]:
        """Answer lengths in tokens, [B] each.

        Raises:
            ValueError: none were given.
        """
        if self.chosen_lengths is None or self.rejected_lengths is None:
            raise ValueError("This loss divides by length: give chosen_lengths and rejected_lengths.")
        return self.chosen_lengths, self.rejected_lengths


def link(u: Tensor, divergence: str, alpha: float = 0.5) -> Tensor:
    """f'(e^u) without its constant, for log-ratios u of any shape (Wang et al. 2023, f-DPO).

    Raises:
        ValueError: the divergence is none of `DIVERGENCES`.
    """
    if divergence == "reverse_kl" or (divergence == "alpha_divergence" and abs(alpha - 1) < 1e-6):
        return u
    if divergence == "forward_kl":
        return 1 - torch.exp((-u).clamp(max=_EXP_MAX))
    if divergence == "js_divergence":
        return math.log(2) + F.logsigmoid(u)
    if divergence == "alpha_divergence":
        return (torch.exp(((alpha - 1) * u).clamp(max=_EXP_MAX)) - 1) / (alpha - 1)
    raise ValueError(f"Unknown divergence {divergence!r}. Known: {', '.join(DIVERGENCES)}.")


def _smoothed(x: Tensor, label_smoothing: float) -> Tensor:
    return -(1 - label_smoothing) * F.logsigmoid(x) - label_smoothing * F.logsigmoid(-x)


def sigmoid(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """DPO: -log s(beta D); log 2 at D = 0. With label smoothing it is cDPO. Rafailov et al. 2023, eq. 7."""
    return _smoothed(beta * pairs.delta, label_smoothing)


def robust(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Unbiased under labels flipped with probability label_smoothing; may be negative. Chowdhury et al. 2024."""
    x, e = beta * pairs.delta, label_smoothing
    return (-(1 - e) * F.logsigmoid(x) + e * F.logsigmoid(-x)) / (1 - 2 * e)


def hinge(pairs: Pairs, *, beta: float = 0.05) -> Tensor:
    """max(0, 1 - beta D). Liu et al. 2023 (RSO)."""
    return torch.relu(1 - beta * pairs.delta)


def slic_hf(pairs: Pairs, *, delta: float = 1.0, nll_weight: float = 0.1) -> Tensor:
    """max(0, delta - log p(chosen) + log p(rejected)) - nll_weight log p(chosen), summed. Zhao et al. 2023."""
    return torch.relu(delta - pairs.chosen + pairs.rejected) - nll_weight * pairs.chosen


def ipo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """(w/Lw - l/Ll - 1/(2 beta))^2, the length-normalised form that its authors confirmed. Azar et al. 2023, eq. 17."""
    return (pairs.normalised_delta - 1 / (2 * beta)) ** 2


def ipo_summed(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """(D - 1/(2 beta))^2, as printed in the paper."""
    return (pairs.delta - 1 / (2 * beta)) ** 2


def sigmoid_norm(pairs: Pairs, *, beta: float = 2.0, label_smoothing: float = 0.0) -> Tensor:
    """-log s(beta (w/Lw - l/Ll)); beta is 2 to 10. Lambert et al. 2024."""
    return _smoothed(beta * pairs.normalised_delta, label_smoothing)


def r_dpo(pairs: Pairs, *, beta: float = 0.1, alpha: float = 0.05) -> Tensor:
    """-log s(beta D + alpha (Lw - Ll)): a reward less alpha for every token. Park et al. 2024."""
    return -F.logsigmoid(beta * pairs.delta + alpha * (pairs.lengths[0] - pairs.lengths[1]))


def dpop(pairs: Pairs, *, beta: float = 0.3, lam: float = 50.0) -> Tensor:
    """-log s(beta (D - lam max(0, -w))): the chosen answer may not fall below the reference. Pal et al. 2024."""
    return -F.logsigmoid(beta * (pairs.delta - lam * (-pairs.chosen_ratio).clamp(min=0)))


def exo_pair(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """KL from the policy's choice to the smoothed label, [B]; the smoothing must be over 0. Ji et al. 2024, eq. 16."""
    x, e = beta * pairs.delta, label_smoothing
    chosen = torch.sigmoid(x) * (F.logsigmoid(x) - math.log1p(-e))
    return chosen + torch.sigmoid(-x) * (F.logsigmoid(-x) - math.log(e))


def nca_pair(pairs: Pairs, *, beta: float = 0.01) -> Tensor:
    """-log s(beta w) - log s(-beta w)/2 - log s(-beta l)/2. Chen et al. 2024."""
    w, l = beta * pairs.chosen_ratio, beta * pairs.rejected_ratio
    return -F.logsigmoid(w) - 0.5 * F.logsigmoid(-w) - 0.5 * F.logsigmoid(-l)


def bco_pair(pairs: Pairs, *, beta: float = 0.01) -> Tensor:
    """-log s(beta w) - log s(-beta l), without a reward shift. Jung et al. 2024."""
    return -F.logsigmoid(beta * pairs.chosen_ratio) - F.logsigmoid(-beta * pairs.rejected_ratio)


def sppo_hard(pairs: Pairs, *, beta: float = 0.001) -> Tensor:
    """(w - 1/(2 beta))^2 + (l + 1/(2 beta))^2. Wu et al. 2024, eq. 4.7 with a sure winner."""
    return (pairs.chosen_ratio - 0.5 / beta) ** 2 + (pairs.rejected_ratio + 0.5 / beta) ** 2


def apo_zero(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """1 - s(beta w) + s(beta l): for chosen answers better than the model's own. D'Oosterlinck et al. 2024, eq. 7."""
    return 1 - torch.sigmoid(beta * pairs.chosen_ratio) + torch.sigmoid(beta * pairs.rejected_ratio)


def apo_down(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """s(beta w) + 1 - s(beta D): for chosen answers worse than the model's own. D'Oosterlinck et al. 2024, eq. 8."""
    return (
        torch.sigmoid(beta * pairs.chosen_ratio) + 1 - torch.sigmoid(beta * (pairs.chosen_ratio - pairs.rejected_ratio))
    )


def aot(pairs: Pairs, *, beta: float = 0.01, label_smoothing: float = 0.0) -> Tensor:
    """cDPO on sorted margins less sorted reference margins, sorted over the batch. Melnyk et al. 2024."""
    margin, reference = pairs.chosen - pairs.rejected, torch.zeros_like(pairs.chosen)
    if pairs.ref_chosen is not None and pairs.ref_rejected is not None:
        reference = pairs.ref_chosen - pairs.ref_rejected
    return _smoothed(beta * (margin.sort().values - reference.sort().values), label_smoothing)


def aot_unpaired(pairs: Pairs, *, beta: float = 0.01, label_smoothing: float = 0.0) -> Tensor:
    """cDPO on sorted w less sorted l, sorted over the batch. Melnyk et al. 2024."""
    return _smoothed(beta * (pairs.chosen_ratio.sort().values - pairs.rejected_ratio.sort().values), label_smoothing)


def discopop(pairs: Pairs, *, beta: float = 0.05, tau: float = 0.05) -> Tensor:
    """Logistic and exponential loss, mixed by s(beta D / tau). Lu et al. 2024, eq. 5."""
    x = beta * pairs.delta
    share = torch.sigmoid(x / tau)
    return -F.logsigmoid(x) * (1 - share) + torch.exp((-x).clamp(max=_EXP_MAX)) * share


def cpo_sigmoid(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """CPO's preference term: DPO without a reference. Xu et al. 2024."""
    return _smoothed(beta * (pairs.chosen - pairs.rejected), label_smoothing)


def cpo_hinge(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """max(0, 1 - beta (log p(chosen) - log p(rejected)))."""
    return torch.relu(1 - beta * (pairs.chosen - pairs.rejected))


def cpo_ipo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """IPO without a reference, on mean log-probabilities of a token."""
    chosen, rejected = pairs.averages
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def simpo(pairs: Pairs, *, beta: float = 2.0, gamma: float = 1.0, label_smoothing: float = 0.0) -> Tensor:
    """-log s(beta (mean log p(chosen) - mean log p(rejected)) - gamma). Meng et al. 2024.

    gamma is the margin after beta: the paper's ratio gamma/beta, times beta.
    """
    chosen, rejected = pairs.averages
    return _smoothed(beta * (chosen - rejected) - gamma, label_smoothing)


def alphapo(pairs: Pairs, *, beta: float = 2.0, gamma: float = 1.0, alpha: float = 0.25) -> Tensor:
    """SimPO with each mean log-probability q replaced by (1 - e^(-alpha q))/alpha. Gupta et al. 2025."""
    chosen, rejected = ((1 - torch.exp((-alpha * q).clamp(max=_EXP_MAX))) / alpha for q in pairs.averages)
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def orpo_odds_ratio(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ORPO's preference term: -beta log s(log-odds(chosen) - log-odds(rejected)). Hong et al. 2024, eq. 7."""
    # Below 0 by a hair, since the odds of a certain answer are infinite.
    chosen, rejected = (q - torch.log(-torch.expm1(q.clamp(max=-1e-7))) for q in pairs.averages)
    return -beta * F.logsigmoid(chosen - rejected)


def sft(pairs: Pairs) -> Tensor:
    """Negative log-likelihood of the chosen answer, summed over its tokens; a batch divides by all of them together."""
    return -pairs.chosen


def desensitised_logps(tokens: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """LD-DPO: tokens beyond the shorter answer's length count alpha, shape [2B]. Liu et al. 2024.

    Rows are [chosen..., rejected...]; shapes as in `sequence_logps`.
    """
    chosen, rejected = mask.sum(1).chunk(2)
    shared = torch.minimum(chosen, rejected).repeat(2)[:, None]
    tail = mask & (mask.cumsum(1) > shared)
    return sequence_logps(tokens, mask & ~tail) + alpha * sequence_logps(tokens, tail)


def wpo_weights(tokens: Tensor, collisions: Tensor, mask: Tensor) -> Tensor:
    """WPO: weight of each pair, [B], without gradient, from token log-probabilities and log sum_v p_v^2, both [2B, T].

    The product over both answers of exp mean_t [log p_t - log sum_v p_v^2]. Zhou et al. 2024, eq. 2.
    """
    mean = sequence_logps((tokens - collisions).detach(), mask) / mask.sum(1).clamp(min=1)
    chosen, rejected = mean.exp().chunk(2)
    return chosen * rejected


@dataclasses.dataclass(frozen=True)
class Loss:
    """One pair loss.

    Args:
        function: takes `Pairs` and keyword settings, gives [B].
        reference: it reads reference log-probabilities.
        unit: what its batch mean divides by: "row" (pairs), or "token" (tokens of the chosen answers).
    """

    function: Callable[..., Tensor]
    reference: bool = True
    unit: str = "row"

    @property
    def settings(self) -> dict[str, Any]:
        """Its keyword settings, with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(sigmoid),
    "robust": Loss(robust),
    "hinge": Loss(hinge),
    "slic_hf": Loss(slic_hf, reference=False),
    "ipo": Loss(ipo),
    "ipo_summed": Loss(ipo_summed),
    "sigmoid_norm": Loss(sigmoid_norm),
    "r_dpo": Loss(r_dpo),
    "dpop": Loss(dpop),
    "exo_pair": Loss(exo_pair),
    "nca_pair": Loss(nca_pair),
    "bco_pair": Loss(bco_pair),
    "sppo_hard": Loss(sppo_hard),
    "apo_zero": Loss(apo_zero),
    "apo_down": Loss(apo_down),
    "aot": Loss(aot),
    "aot_unpaired": Loss(aot_unpaired),
    "discopop": Loss(discopop),
    "cpo_sigmoid": Loss(cpo_sigmoid, reference=False),
    "cpo_hinge": Loss(cpo_hinge, reference=False),
    "cpo_ipo": Loss(cpo_ipo, reference=False),
    "simpo": Loss(simpo, reference=False),
    "alphapo": Loss(alphapo, reference=False),
    "orpo_odds_ratio": Loss(orpo_odds_ratio, reference=False),
    "sft": Loss(sft, reference=False, unit="token"),
}

MIXTURES: dict[str, dict[str, float]] = {
    "cpo": {"cpo_sigmoid": 1.0, "sft": 1.0},
    "orpo": {"orpo_odds_ratio": 1.0, "sft": 1.0},
    "rpo": {"sigmoid": 1.0, "sft": 1.0},
    "mpo": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0},
}
"""Papers whose loss is a weighted sum, by name."""
