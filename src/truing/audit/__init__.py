"""Whether a model is still the one that was released: its parts, its scores, and how its hidden states move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from truing._lazy import lazy

if TYPE_CHECKING:
    from truing.audit.canaries import consistency as consistency
    from truing.audit.comparing import integrity as integrity
    from truing.audit.manifests import Manifest as Manifest
    from truing.audit.manifests import manifest as manifest
    from truing.audit.monitor import CalibratedMonitor as CalibratedMonitor
    from truing.audit.monitor import Monitor as Monitor
    from truing.audit.report import Finding as Finding
    from truing.audit.report import Report as Report

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "CalibratedMonitor": "truing.audit.monitor",
        "Finding": "truing.audit.report",
        "Manifest": "truing.audit.manifests",
        "Monitor": "truing.audit.monitor",
        "Report": "truing.audit.report",
        "consistency": "truing.audit.canaries",
        "integrity": "truing.audit.comparing",
        "manifest": "truing.audit.manifests",
    },
)
