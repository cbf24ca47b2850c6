"""The modifier that steers: one vector a layer, added, projected out, or both."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import Self

from truing.contracts import is_number, require
from truing.methods.steering.edits import OPERATORS, TINY, direction, masked, rescaled, without
from truing.models.modifiers import ActivationModifier

POSITIONS = ("all", "prompt", "answer", "last")


class SteeringModifier(ActivationModifier):
    """Changes the output of each of its layers by a vector, ``strength`` saying how far.

    Args:
        vectors: one vector a layer, shape [layers, width].
        at: the layers, counted from 0.
        strength: what the vectors are multiplied by; 0 adds nothing.
        operator: "add" the vector; "project_out" its direction, strength 1 taking all of it away; or
            "project_out_then_add": take all of it away, and then add the vector.
        keep_norm: rescale each state to the length it had.
        relative: take strength in units of each state's own length, so that it means the same in every layer and model;
            the length of the vectors then counts for nothing.
        positions: "all"; "prompt"; "answer", which begins with the prompt's last token, since the first token of an
            answer is decided there; or "last", that one token alone. They are true positions, padding apart.
    """

    dial = "strength"

    vectors: torch.Tensor
    at: Sequence[int]
    strength: float = 1.0
    operator: str = "add"
    keep_norm: bool = False
    relative: bool = False
    positions: str = "all"

    @property
    def label(self) -> str:
        """Without the numbers of the vectors."""
        rest = "".join(f", {name}={value!r}" for name, value in self.changed().items() if name not in _SHOWN)
        return f"SteeringModifier(at={list(self.at)}, strength={self.strength}{rest})"

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_number(self.strength), f"strength is a finite number, not {self.strength!r}.")
        require(self.operator in OPERATORS, f"operator is one of {', '.join(OPERATORS)}, not {self.operator!r}.")
        require(self.positions in POSITIONS, f"positions is one of {', '.join(POSITIONS)}, not {self.positions!r}.")

    def layers(self) -> Sequence[int]:
        """The layers whose output is moved."""
        return list(self.at)

    @property
    def positional(self) -> bool:
        """Only where not all positions are edited."""
        return self.positions != "all"

    @property
    def by_prompt(self) -> bool:
        """Where positions are told by the end of the prompt: wherever they count."""
        return self.positional

    def ready(self) -> Self:
        """The same with what it adds worked out once for each layer and device."""
        made = copy.copy(self)
        made.__dict__["_moves"] = {}
        return made

    def edit(self, hidden: torch.Tensor, layer: int, positions: torch.Tensor) -> torch.Tensor:
        """The hidden states, moved; worked out in float32 whatever their type."""
        return self._edited(hidden, layer)

    def edit_after(
        self, hidden: torch.Tensor, layer: int, positions: torch.Tensor, prompts: torch.Tensor
    ) -> torch.Tensor:
        """As `edit`, at its positions only."""
        changed = self._edited(hidden, layer)
        if self.positions == "all" or changed is hidden:
            return changed
        if self.positions == "prompt":
            return masked(hidden, changed, positions < prompts)
        last = prompts - 1
        return masked(hidden, changed, positions >= last if self.positions == "answer" else positions == last)

    def _edited(self, hidden: torch.Tensor, layer: int) -> torch.Tensor:
        if self.strength == 0 and self.operator != "project_out_then_add":
            return hidden
        unit, move = self._move(layer, hidden.device)
        if self.operator == "add" and not self.keep_norm and not self.relative:
            # Half precision adds in float32, which keeps a large strength exact, and is rounded once.
            return (hidden + move).to(hidden.dtype)
        states = hidden.float()
        changed = states
        if unit is not None:
            changed = without(states, unit, self.strength if self.operator == "project_out" else 1.0)
        if self.operator != "project_out":
            changed = changed + (states.norm(dim=-1, keepdim=True) * move if self.relative else move)
        return (rescaled(states, changed) if self.keep_norm else changed).to(hidden.dtype)

    def _move(self, layer: int, device: torch.device) -> tuple[torch.Tensor | None, torch.Tensor]:
        """What is projected out, of length 1 (None: nothing), and ``strength`` times what is added to states, or to
        states of length 1 where it is relative; both of a layer, float32, where the states are.
        """
        known: dict[Any, tuple[torch.Tensor | None, torch.Tensor]] = self.__dict__.get("_moves", {})
        if (layer, device) not in known:
            vector = self.vectors[list(self.at).index(layer)].to(device=device, dtype=torch.float32)
            move = self.strength * vector
            if self.relative:
                move = move / vector.norm().clamp(min=TINY)
            known[layer, device] = (None if self.operator == "add" else direction(vector), move)
        return known[layer, device]


_SHOWN = ("vectors", "at", "strength")
