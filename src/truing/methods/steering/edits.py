"""How a vector changes hidden states: added, projected out, or both; pure functions over tensors."""

from __future__ import annotations

import torch

from truing.errors import SettingsError

OPERATORS = ("add", "project_out", "project_out_then_add")
TINY = 1e-12


def apply_control(
    hidden: torch.Tensor, vector: torch.Tensor, coefficient: float = 1.0, *, keep_norm: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Hidden states with ``coefficient`` times a vector added.

    Args:
        hidden: [batch, tokens, width].
        vector: [width].
        coefficient: what it is multiplied by.
        keep_norm: rescale each state to the length that it had.
        mask: bool [batch, tokens]; where it is False a state stays as it is. None edits all.

    Source: Zou et al. 2023, arXiv 2310.01405, section 3.2.
    """
    _check(hidden, vector)
    changed = hidden + coefficient * vector
    return masked(hidden, rescaled(hidden, changed) if keep_norm else changed, mask)


def ablate_direction(
    hidden: torch.Tensor, vector: torch.Tensor, share: float = 1.0, *, add: float = 0.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Hidden states without their component along a vector, h - share (h·v) v / |v|^2, and then ``add`` times it added.

    Args:
        hidden: [batch, tokens, width].
        vector: [width], of any length over 0.
        share: of the component that is taken away; 1 all of it.
        add: what the vector is multiplied by when it is added afterwards.
        mask: as for `apply_control`.

    Raises:
        SettingsError: the vector has no length, or another width.
    """
    changed = without(hidden, direction(vector), share)
    return masked(hidden, changed + add * vector if add else changed, mask)


def direction(vector: torch.Tensor) -> torch.Tensor:
    """A vector at length 1.

    Raises:
        SettingsError: it has no length.
    """
    length = float(vector.norm())
    if length <= TINY:
        raise SettingsError("A vector without length has no direction that could be projected out.")
    return vector / length


def without(hidden: torch.Tensor, unit: torch.Tensor, share: float = 1.0) -> torch.Tensor:
    """As `ablate_direction`, along a vector [width] of length 1."""
    _check(hidden, unit)
    return hidden - share * (hidden @ unit)[..., None] * unit


def rescaled(hidden: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """Changed states with the lengths of the former ones."""
    return changed * (hidden.norm(dim=-1, keepdim=True) / changed.norm(dim=-1, keepdim=True).clamp(min=TINY))


def masked(hidden: torch.Tensor, changed: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Changed states where a mask [batch, tokens] says so, the former ones elsewhere."""
    return changed if mask is None else torch.where(mask[..., None], changed, hidden)


def real_positions(position_ids: torch.Tensor) -> torch.Tensor:
    """Which tokens are no padding on the left, bool [batch, tokens], told from position ids as RepE does: those from
    the last 0 on. An attention mask tells it better, and truing uses that; this is for what others hand over.
    """
    slots = torch.arange(position_ids.shape[1], device=position_ids.device)
    last = torch.where(position_ids == 0, slots, 0).max(1, keepdim=True).values
    return slots >= last


def _check(hidden: torch.Tensor, vector: torch.Tensor) -> None:
    if vector.dim() != 1 or vector.shape[0] != hidden.shape[-1]:
        raise SettingsError(
            f"A vector of shape {list(vector.shape)} does not fit hidden states of width {hidden.shape[-1]}."
        )
