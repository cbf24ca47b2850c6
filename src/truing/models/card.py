"""A model card in the hub's format, from what a model knows of itself: its history, settings and data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from truing.safe_text import code, plain

LOADING = """## Load it

```python
import truing as tr

model = tr.load("path/to/this/folder")
print(model.generate(["Hello!"])[0])
```"""
SCORING = """## Load it

```python
import truing as tr

scorer = tr.load("path/to/this/folder")
print(scorer(["A question"], ["An answer"]))
```

transformers reads it too, as a sequence-classification model."""
TRAINED = "`truing.json` holds the whole history."
MODIFIED = (
    "The last step adds a modifier: the folder holds it in `truing.json`, and only truing applies it. "
    "The weights alone, loaded elsewhere, answer as before that step."
)


def front_matter(base: str, methods: Sequence[str], sources: Sequence[str], task: str = "text-generation") -> str:
    """The card's YAML head; the base and the data are linked where the hub could have them."""
    front: dict[str, Any] = {
        "library_name": "truing",
        "pipeline_tag": task,
        "tags": ["truing", "alignment", *dict.fromkeys(methods)],
    }
    if _on_the_hub(base):
        front["base_model"] = base
    hub = [source for source in dict.fromkeys(sources) if _on_the_hub(source)]
    if hub:
        front["datasets"] = hub
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---"


def _on_the_hub(name: str) -> bool:
    """Whether the hub could link it: owner/name, and neither a file of this machine nor part of the sandbox."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and not name.startswith("sandbox/")


def history_line(number: int, method: str, changed: dict[str, Any], data: dict[str, Any] | None) -> str:
    """One step: its method, what it learned from, and the settings that are not the defaults."""
    settings = ", ".join(code(f"{key}={value}") for key, value in changed.items()) or "default settings"
    on = ""
    if data and {"rows", "kind", "source", "fingerprint"} <= data.keys():
        fingerprint = code(str(data["fingerprint"])[:16])
        on = f" on {data['rows']:,} {data['kind']} records from {code(data['source'])} (fingerprint {fingerprint})"
    return f"{number}. **{plain(method)}**{on}: {settings}"


def card(model: Any) -> str:
    """The card of a model that was measured by nobody yet."""
    from truing.models.history import versions

    source, steps = str(model.source) or "a model in memory", model.history
    done = ", then ".join(step.method.replace("_", " ") for step in steps)
    last = steps and _class_of(steps[-1].method)
    scores = "scores" in model.offers
    task = "text-classification" if scores else "text-generation"
    read = [str(step.data["source"]) for step in steps if step.data and step.data.get("source")]
    parts = [
        front_matter(source, [step.method for step in steps], read, task),
        f"# {plain(model.name)}{': ' + plain(done) if done else ''}",
        f"Made with truing from {code(source)}.",
        "## History\n\n"
        + ("\n".join(_line(at, step) for at, step in enumerate(steps, 1)) or "Nothing was done to it."),
        (SCORING if "scores" in model.offers else LOADING)
        + "\n\n"
        + (MODIFIED if last and last.modifier is not None else TRAINED),
        "## Figures\n\nNot measured. `truing measure hhh --model path/to/this/folder` is a start.",
        "Made with " + ", ".join(f"{plain(name)} {plain(version)}" for name, version in versions().items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _class_of(method: str) -> Any:
    from truing.catalogue import find
    from truing.errors import SettingsError

    try:
        return find(method, "method").load()
    except SettingsError:  # a method of somebody's own, which this process has not registered
        return None


def _line(number: int, step: Any) -> str:
    cls = _class_of(step.method)
    fields = dataclasses.fields(cls) if cls is not None else ()
    defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    changed = {key: value for key, value in step.settings.items() if key not in defaults or value != defaults[key]}
    return history_line(number, step.method, changed, step.data)
