"""A checked recipe as YAML again, with overrides in place, so that a run folder holds what repeats it."""

from __future__ import annotations

from typing import Any

import yaml

from truing.runs.schema import Recipe


def as_yaml(recipe: Recipe) -> str:
    """YAML that `parse` reads as the same recipe. Only what differs from the defaults is written."""
    value: dict[str, Any] = {}
    fields = Recipe.model_fields
    for key in ("name", "description", "model"):
        if getattr(recipe, key):
            value[key] = getattr(recipe, key)
    if recipe.steps:
        value["steps"] = []
        for step in recipe.steps:
            settings: dict[str, Any] = {}
            if step.records is not None:
                changed = step.records.model_dump(exclude_defaults=True)
                settings["records"] = changed["path"] if len(changed) == 1 else changed
            settings.update({key: name for key, name in (("as", step.name), ("from", step.start)) if name})
            value["steps"].append(
                {step.method: {**settings, **step.settings}} if {**settings, **step.settings} else step.method
            )
    if recipe.measures:
        value["measures"] = [
            {item.measure: item.settings} if item.settings else item.measure for item in recipe.measures
        ]
    if recipe.require:
        value["require"] = {
            figure: conditions[0] if len(conditions) == 1 else list(conditions)
            for figure, conditions in recipe.require.items()
        }
    for key in fields:
        if (
            key not in value
            and key not in ("steps", "measures", "name", "description", "require")
            and getattr(recipe, key) != fields[key].default
        ):
            value[key] = getattr(recipe, key)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
