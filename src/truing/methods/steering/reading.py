"""Reading vectors: the direction that tells wanted states from unwanted ones, from pairs of activations of one layer.

Every function takes states of shape [pairs, 2, width], the wanted member of a pair first, works in float64 and gives
float32 [width]. All but `mean_difference` have unit length; their sign is the one under which wanted members project
higher in more pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from truing.errors import SettingsError

ORDERS = ("shuffled", "same", "alternating")


def reading_vector(states: torch.Tensor, method: str = "mean", *, seed: int = 0) -> torch.Tensor:
    """The direction by one of `METHODS`.

    Args:
        states: activations [pairs, 2, width], wanted first.
        method: "mean" is the difference of the two means; "pca_center" the first principal component of both members
            about the middle of their pair; "pca" that of the differences, centred, as RepE has it; "probe" the weights
            of a logistic regression.
        seed: of the order within pairs, which "pca" alone draws.

    Raises:
        SettingsError: an unknown method, another shape, no pair, numbers that are not finite, or members of all pairs
            that are equal, so that there is no direction.
    """
    if method not in METHODS:
        raise SettingsError(f"method is one of {', '.join(METHODS)}, not {method!r}.")
    return METHODS[method](states, seed)


def mean_difference(states: torch.Tensor) -> torch.Tensor:
    """Mean of wanted minus unwanted, with its own length (contrastive activation addition)."""
    return _differences(states).mean(0).float()


def pca_center(states: torch.Tensor) -> torch.Tensor:
    """First principal component of both members about the middle of their pair.

    The same as PCA without centring on the differences and their negatives: half of each is a member.
    """
    differences = _differences(states)
    return _signed(_component(differences), differences)


def pca_differences(states: torch.Tensor, order: str = "shuffled", *, seed: int = 0) -> torch.Tensor:
    """First principal component of the centred differences, with an order within pairs.

    Centring takes away what all differences share. So the order has to vary: where each wanted member stands first
    ("same"), the direction asked for is what is lost.

    Args:
        states: [pairs, 2, width], at least 2 pairs.
        order: "shuffled" by the seed (RepE), "alternating" (every second pair turned), or "same".
        seed: of the shuffled order.

    Source: Zou et al. 2023, arXiv 2310.01405, appendix C.1.
    """
    if order not in ORDERS:
        raise SettingsError(f"order is one of {', '.join(ORDERS)}, not {order!r}.")
    differences = _differences(states)
    pairs = len(differences)
    if pairs < 2:
        raise SettingsError('PCA of centred differences needs at least 2 pairs, got 1. Use method "mean".')
    turned = torch.ones(pairs, dtype=torch.float64)
    if order == "alternating":
        turned[1::2] = -1
    elif order == "shuffled":
        # Half of the pairs are turned, drawn by the seed; a coin for each could turn none of a few.
        turned[torch.randperm(pairs, generator=torch.Generator().manual_seed(seed))[: pairs // 2]] = -1
    ordered = turned[:, None] * differences
    return _signed(_component(ordered - ordered.mean(0)), differences)


class Probe:
    """A logistic regression of one state's label, with a penalty of half the squared weights.

    States are centred, and divided by one number so that a unit varies by 1 on average. Each unit divided by a spread
    of its own would let those that hardly vary rule the direction.

    Args:
        states: what it learns from, [pairs, 2, width].
        penalty: weight of the penalty beside the summed loss.
    """

    def __init__(self, states: torch.Tensor, penalty: float = 1.0) -> None:
        _differences(states)
        rows = states.double().flatten(0, 1)
        self.mean, self.spread = rows.mean(0), rows.var(0, correction=0).mean().sqrt().clamp(min=1e-12)
        inputs = (rows - self.mean) / self.spread
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(states))
        self.weights = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([self.weights, self.bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            search.zero_grad()
            margins = signs * (inputs @ self.weights + self.bias)
            value = torch.nn.functional.softplus(-margins).sum() + penalty / 2 * self.weights.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            search.step(loss)
        self.weights, self.bias = self.weights.detach(), self.bias.detach()

    @property
    def direction(self) -> torch.Tensor:
        """Unit length, float64 [width]."""
        return self.weights / self.weights.norm()

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Log-odds that a state is a wanted one, float64, [...] for states [..., width]."""
        return ((states.double() - self.mean) / self.spread) @ self.weights + self.bias

    def accuracy(self, states: torch.Tensor) -> tuple[float, float]:
        """Share of single states of pairs [pairs, 2, width] that it labels right, and the mean loss in nats."""
        margins = self.scores(states) * torch.tensor([1.0, -1.0], dtype=torch.float64)
        right = (margins > 0).double() + (margins == 0).double() / 2
        return float(right.mean()), float(torch.nn.functional.softplus(-margins).mean())


def probe_direction(states: torch.Tensor) -> torch.Tensor:
    """Direction of a logistic regression that tells wanted from unwanted states."""
    return _signed(Probe(states).direction, _differences(states))


METHODS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "mean": lambda states, seed: mean_difference(states),
    "pca_center": lambda states, seed: pca_center(states),
    "pca": lambda states, seed: pca_differences(states, seed=seed),
    "probe": lambda states, seed: probe_direction(states),
}


def held_out(pairs: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of pairs to learn from and to test on, drawn by the seed, at least one of each."""
    if pairs < 2:
        raise SettingsError("Choosing a layer by a probe holds pairs back to test on, so it needs at least 2 pairs.")
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(pairs - 1, max(1, round(share * pairs)))
    return sorted(order[count:]), sorted(order[:count])


def probe_scores(states: torch.Tensor, share: float = 0.25, seed: int = 0) -> list[tuple[float, float]]:
    """Accuracy of a probe of each layer on pairs it has not seen, and its mean loss there in nats.

    Args:
        states: [pairs, 2, layers, width].
        share: of the pairs, held back to test on.
        seed: of which ones.
    """
    learn, test = held_out(len(states), share, seed)
    return [Probe(states[learn, :, layer]).accuracy(states[test, :, layer]) for layer in range(states.shape[2])]


def best_by_probe(found: Sequence[tuple[float, float]]) -> int:
    """Index of the highest accuracy; of those that tie, the one of the lowest loss."""
    return min(range(len(found)), key=lambda at: (-found[at][0], found[at][1], at))


def _differences(states: torch.Tensor) -> torch.Tensor:
    if states.dim() != 3 or states.shape[1] != 2 or not states.numel():
        raise SettingsError(
            f"States have the shape [pairs, 2, width] with at least one pair, not {list(states.shape)}."
        )
    if not bool(states.isfinite().all()):
        raise SettingsError("The activations hold numbers that are not finite, so no direction follows from them.")
    found = states.double()
    differences = found[:, 0] - found[:, 1]
    # Equal answers differ by rounding alone.
    if float(differences.norm(dim=1).max()) <= 1e-6 * float(found.norm(dim=2).mean()):
        raise SettingsError(
            "The two members of every pair have the same activation, so there is no direction to steer in."
        )
    return differences


def _component(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svd(rows, full_matrices=False).Vh[0]


def _signed(direction: torch.Tensor, differences: torch.Tensor) -> torch.Tensor:
    ahead = int((differences @ direction).sign().sum())
    if ahead == 0:  # a tie; the largest entry above 0 is how the reference's PCA leaves it
        ahead = int(direction[direction.abs().argmax()].sign())
    return (direction * (1 if ahead > 0 else -1)).float()
