"""Which layer tells wanted answers from unwanted ones: scores of activations, one a layer, with no model in sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from truing.errors import SettingsError


def contrastive_scores(clean: torch.Tensor, adverse: torch.Tensor, score: str = "jsd") -> torch.Tensor:
    """How far apart two sets of activations lie, layer by layer; larger is farther.

    "jsd" takes the softmax of a state over its width for a distribution, and gives the Jensen-Shannon divergence of the
    two of a pair, in nats, from 0 to ln 2, mean over pairs. "release" is what the authors' code computes in its place,
    the mean over pairs and width of m ln m - m^2 with m the mean of the two softmaxes: it does not ask how the two
    differ, and is here to compare. Units of a hidden state are no outcomes, so both depend on its scale;
    "separation" does not: it projects the states on the difference of the means, and gives the distance of the two
    mean projections over their pooled standard deviation. With fewer pairs than units it is too hopeful.

    Args:
        clean: activations of wanted answers, [pairs, layers, width].
        adverse: those of unwanted answers to the same prompts, of the same shape.
        score: "jsd", "release" or "separation".

    Returns:
        Scores, float64 [layers].

    Raises:
        SettingsError: an unknown score, shapes that differ, no pair, or numbers that are not finite.

    Source: Wang and Shu 2024, arXiv 2311.09433, section 3.2.

    Example:
        >>> contrastive_scores(torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)).tolist()
        [0.0, 0.0]
    """
    if score not in SCORES:
        raise SettingsError(f"score is one of {', '.join(SCORES)}, not {score!r}.")
    if clean.dim() != 3 or clean.shape != adverse.shape or not clean.numel():
        raise SettingsError(
            "Clean and adverse activations have one shape [pairs, layers, width] with at least one pair, not "
            f"{tuple(clean.shape)} and {tuple(adverse.shape)}."
        )
    if not (clean.isfinite().all() and adverse.isfinite().all()):
        raise SettingsError("The activations hold numbers that are not finite, so no layer can be chosen by them.")
    return SCORES[score](clean.double(), adverse.double())


def best_layer(scores: torch.Tensor | Sequence[float]) -> int:
    """The index of the highest score, the lowest of those that tie."""
    listed = [float(value) for value in scores]
    return listed.index(max(listed))


def _jsd(clean: torch.Tensor, adverse: torch.Tensor) -> torch.Tensor:
    p, q = clean.softmax(-1), adverse.softmax(-1)
    # Halving the smallest numbers there are gives 0, whose logarithm is infinite.
    m = ((p + q) / 2).clamp(min=torch.finfo(torch.float64).tiny)
    # Through x log x and not through log-softmax: equal states give 0 to the last bit, so that a tie is a tie.
    each = (torch.xlogy(p, p) + torch.xlogy(q, q)) - (torch.xlogy(p, m) + torch.xlogy(q, m))
    divergence = each.sum(-1) / 2
    return divergence.clamp(min=0).mean(0)


def _release(clean: torch.Tensor, adverse: torch.Tensor) -> torch.Tensor:
    m = (clean.softmax(-1) + adverse.softmax(-1)) / 2
    return (torch.xlogy(m, m) - m.square()).mean((0, 2))


def _separation(clean: torch.Tensor, adverse: torch.Tensor) -> torch.Tensor:
    direction = (clean - adverse).mean(0)
    projected = [(states * direction).sum(-1) for states in (clean, adverse)]
    spread = sum(((side - side.mean(0)).square().mean(0) for side in projected), torch.zeros(())).div(2).sqrt()
    # States that do not vary at all are as far apart as can be told.
    return direction.square().sum(-1) / spread.clamp(min=torch.finfo(torch.float64).tiny)


SCORES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "jsd": _jsd,
    "release": _release,
    "separation": _separation,
}
