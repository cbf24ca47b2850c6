"""A server for aligned models that speaks OpenAI's protocol; needs the extra ``serve``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from truing._lazy import lazy

if TYPE_CHECKING:
    from truing.serving.limits import Limits as Limits
    from truing.serving.server import Server as Server

__getattr__, __dir__, __all__ = lazy(__name__, {"Limits": "truing.serving.limits", "Server": "truing.serving.server"})
