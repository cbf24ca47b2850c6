"""A rule by its name, applied tensor by tensor, with its settings checked and its rare cases counted."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import ModelError
from truing.methods.merging import rules
from truing.methods.merging.rules import blocks, check_share, rows_of

NEEDS_BASE = ("task_arithmetic", "model_stock", "ties", "dare")
USES: dict[str, frozenset[str]] = {
    "linear": frozenset({"weights"}),
    "task_arithmetic": frozenset({"weights", "lam"}),
    "model_stock": frozenset({"filter_wise", "on_degenerate"}),
    "ties": frozenset({"weights", "lam", "density"}),
    "dare": frozenset({"weights", "lam", "drop"}),
    "slerp": frozenset({"t"}),
}
"""The settings that each rule reads, beside the models and the base."""


@dataclasses.dataclass(kw_only=True)
class TensorMerge:
    """One rule with its settings, applied tensor by tensor; ``counts`` keeps what was out of the ordinary.

    A tensor that no model changed is the base. A tensor that is the same in all of two or more models stays as it is,
    whatever the rule, where weights sum to 1 and ``lam`` is 1: a model merged with itself is that model, bit for bit.

    Args:
        rule: one of ``USES``.
        count: how many models are merged.
        based: whether there is a base.
        weights: one a model; None gives equal shares 1/N.
        lam, density, drop, t, filter_wise, seed, on_degenerate: see the rules.
    """

    rule: str
    count: int
    based: bool
    weights: Sequence[float] | None = None
    lam: float = 1.0
    density: float = 0.2
    drop: float = 0.9
    t: float = 0.5
    filter_wise: bool = False
    seed: int = 0
    on_degenerate: str = "error"
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def validate(self) -> None:
        """Raise `SettingsError` for what cannot work, whatever the tensors hold."""
        require(self.rule in USES, f"`rule` is one of {', '.join(USES)}, got {self.rule!r}.")
        for field in dataclasses.fields(self):
            value, users = getattr(self, field.name), [rule for rule, names in USES.items() if field.name in names]
            unused = bool(users) and self.rule not in users and value != field.default
            require(not unused, f"`{field.name}` is not read by {self.rule}, only by {', '.join(users)}. Take it out.")
        if self.rule in NEEDS_BASE:
            require(self.based, f"{self.rule} adds up differences from a common ancestor. Give it as `base`.")
        else:
            require(not self.based, f"{self.rule} reads no `base`. Take it out, or choose {', '.join(NEEDS_BASE)}.")
        if self.rule == "slerp":
            require(
                self.count == 2, f"slerp is between two models, and {self.count} are given. linear takes any number."
            )
        fewest = 1 if self.rule in ("task_arithmetic", "ties", "dare") else 2
        require(
            self.count >= fewest,
            f"{self.rule} merges {fewest} models or more, got {self.count}: the one that comes in, and `models`.",
        )
        if self.weights is not None:
            good = isinstance(self.weights, (list, tuple)) and all(map(is_number, self.weights))
            require(
                good and len(self.weights) == self.count,
                f"`weights` has one number for each of the {self.count} models, that which comes in first, "
                f"got {self.weights!r}.",
            )
        if self.weights is not None and self.rule == "linear":
            require(sum(self.weights) != 0, f"`weights` of a mean must not sum to 0, got {list(self.weights)}.")
        if self.weights is not None and self.rule == "ties":
            require(
                min(self.weights) >= 0 and sum(self.weights) > 0,
                f"ties takes `weights` of at least 0, not all 0, got {list(self.weights)}.",
            )
        require(is_number(self.lam), f"`lam` is a finite number, got {self.lam!r}.")
        check_share("density", self.density, is_number(self.density) and 0 < self.density <= 1)
        check_share("drop", self.drop, is_number(self.drop) and 0 <= self.drop < 1)
        require(is_number(self.t) and 0 <= self.t <= 1, f"`t` is from 0 to 1, got {self.t!r}.")
        require(isinstance(self.filter_wise, bool), f"`filter_wise` is true or false, got {self.filter_wise!r}.")
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        require(whole and self.seed >= 0, f"`seed` is a whole number of at least 0, got {self.seed!r}.")
        require(
            self.on_degenerate in ("error", "linear"),
            f"`on_degenerate` is error or linear, got {self.on_degenerate!r}.",
        )

    def __call__(self, name: str, tensors: Sequence[Tensor], base: Tensor | None = None) -> Tensor:
        """The merged tensor of that name.

        Raises:
            ModelError: the rule cannot answer for it, or gives numbers that its dtype does not hold; the message names
                the tensor.
        """
        first = tensors[0]
        for tensor in (*tensors, *([] if base is None else [base])):
            if not tensor.is_floating_point():
                kind = str(tensor.dtype).removeprefix("torch.")
                raise ModelError(
                    f"The tensor {name} is of {kind} in one of the models: quantised weights cannot be merged. "
                    "Load the models unquantised."
                )
        self.counts["tensors"] += 1
        alike = all(_same(first, other) for other in tensors[1:])
        if alike and base is not None and _same(first, base):
            self.counts["unchanged"] += 1
            return first.clone()
        if alike and len(tensors) > 1 and math.isclose(self._total(), 1, rel_tol=1e-12):
            return first.clone()
        try:
            merged = self._apply(name, tensors, base)
        except ModelError as error:
            raise ModelError(f"The tensor {name} cannot be merged by {self.rule}: {error}") from None
        if not _finite(merged):
            raise ModelError(
                f"The tensor {name} merged by {self.rule} holds numbers that are not finite, or too large for "
                f"{str(merged.dtype).removeprefix('torch.')}. Check the models, or take smaller weights."
            )
        return merged

    def _total(self) -> float:
        """What the coefficients of the models sum to, the base's apart."""
        if self.rule in ("task_arithmetic", "dare"):
            return self.lam * (math.fsum(self.weights) if self.weights is not None else 1.0)
        return self.lam if self.rule == "ties" else 1.0

    def _apply(self, name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        weights = [1 / self.count] * self.count if self.weights is None else list(self.weights)
        if self.rule == "linear":
            return rules.linear(tensors, weights)
        if self.rule == "slerp":
            return rules.slerp(tensors[0], tensors[1], self.t)
        assert base is not None  # validate asks for it
        if self.rule == "task_arithmetic":
            return rules.task_arithmetic(base, tensors, weights, lam=self.lam)
        if self.rule == "ties":
            return rules.ties(base, tensors, weights, density=self.density, lam=self.lam)
        if self.rule == "dare":
            return rules.dare(base, tensors, weights, drop=self.drop, lam=self.lam, seed=self.seed, name=name)
        merged, told = rules.model_stock(
            base, tensors, filter_wise=self.filter_wise, clamp=True, on_degenerate=self.on_degenerate
        )
        for key in ("clamped", "degenerate"):
            self.counts[key] += bool(told[key])
        return merged

    def warnings(self) -> list[str]:
        """What the person should know of the merge as a whole, a line each; empty if all was as it should be."""
        total, lines = self.counts["tensors"], []
        if self.counts["clamped"]:
            lines.append(
                f"Model Stock: in {self.counts['clamped']} of {total} tensors the offsets point away from each other "
                "(mean cosine below 0); the ratio t was set to 0, which gives the base there."
            )
        if self.counts["degenerate"]:
            lines.append(
                f"Model Stock: in {self.counts['degenerate']} of {total} tensors the offsets cancel out; the plain "
                "mean of the models was taken there."
            )
        if total and self.counts["unchanged"] == total:
            lines.append("No model differs from the base in any tensor, so the merged model is the base.")
        return lines


def _finite(tensor: Tensor) -> bool:
    rows = rows_of(tensor)
    return all(bool(torch.isfinite(rows[where]).all()) for where in blocks(rows))


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    dtype = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(dtype), other.to(one.device, dtype))
