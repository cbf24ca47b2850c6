"""What is inside an adapter: the transformers model of a PEFT model, and the one that it becomes when merged."""

from __future__ import annotations

import copy
from typing import Any


def core_of(weights: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return weights.get_base_model() if hasattr(weights, "get_base_model") else weights


def merged(weights: Any) -> Any:
    """A copy in which the adapter is merged into its base; plain weights themselves."""
    return copy.deepcopy(weights).merge_and_unload() if hasattr(weights, "merge_and_unload") else weights


def context_length(weights: Any) -> int | None:
    """Most tokens that a model reads, the answer included; None where nothing bounds it."""
    return getattr(core_of(weights).config.get_text_config(), "max_position_embeddings", None)
