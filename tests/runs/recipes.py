"""Small recipes on the sandbox's small model, with the settings that methods call quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def write(folder: Path, name: str = "small.yaml", **changes: Any) -> Path:
    """A recipe of two trained steps and a modifier, a few seconds long."""
    from truing.methods.training.dpo import DPO
    from truing.methods.training.sft import SFT

    recipe = {
        "model": "sandbox/small",
        "steps": [
            {"sft": {"records": {"path": "sandbox/demonstrations", "limit": 24}, **SFT.quick}},
            {"dpo": {"records": {"path": "sandbox/preferences", "limit": 24}, **DPO.quick}},
            {"system_message": {"text": "Answer briefly."}},
        ],
        "measures": [{"hhh": {"limit": 8}}],
        "limit": 6,
        **changes,
    }
    path = folder / name
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def figures(folder: Path) -> dict[str, Any]:
    """What must not depend on kills: every figure and every sample of every measure, without times."""
    import json

    found = {}
    for path in sorted((folder / "measures").rglob("*.json")):
        value = json.loads(path.read_text())
        found[str(path.relative_to(folder))] = {
            key: value[key] for key in ("name", "figures", "against", "differences", "samples", "settings", "notes")
        }
    return found
