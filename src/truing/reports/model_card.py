"""A model card in the hub's format beside each saved model of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from truing.reports.rows import change, interval, lines, unit_words
from truing.reports.tables import result_lines
from truing.reports.texts import visible

if TYPE_CHECKING:
    from truing.runs.result import RunResult


LOADING = """## Load it

```python
import truing as tr

model = tr.load("path/to/this/folder")
print(model.generate(["Hello!"])[0])
```"""
TRAINED = "`truing.json` holds the whole history."
MODIFIED = (
    "The last step adds a modifier: the folder holds it in `truing.json`, and only truing applies it. "
    "The weights alone, loaded elsewhere, answer as before that step."
)
LIMITS = """## Limits

The figures above are about the items of these measures and no others; intervals say how sure they are about those."""


def write_cards(result: RunResult) -> list[Path]:
    """Write ``README.md`` into every step's model folder."""
    from truing.runs.folder import write_atomic

    written = []
    for index, step in enumerate(result.state["steps"]):
        folder = result.folder / "steps" / step["folder"] / "model"
        if folder.is_dir():
            path = folder / "README.md"
            write_atomic(path, card(result, index))
            written.append(path)
    return written


def card(result: RunResult, index: int) -> str:
    """The card of the model after one step, counted from 0."""
    steps = result.state["steps"][: index + 1]
    last = index == len(result.state["steps"]) - 1
    base = str(result.recipe["model"])
    front: dict[str, Any] = {
        "library_name": "truing",
        "pipeline_tag": "text-generation",
        "tags": ["truing", "alignment", *dict.fromkeys(step["method"] for step in steps)],
    }
    if _on_the_hub(base):
        front["base_model"] = base
    sources = [step["data"]["source"] for step in steps if step.get("data")]
    hub = [source for source in dict.fromkeys(sources) if _on_the_hub(source)]
    if hub:
        front["datasets"] = hub
    title = f"{result.name}: {base}, {', then '.join(step['method'].replace('_', ' ') for step in steps)}"
    found = result.state["sessions"][-1]["versions"].items()
    versions = ", ".join(f"{plain(package)} {plain(version)}" for package, version in found)
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        f"# {plain(title)}",
        plain(result.recipe.get("description") or "") or f"Made with truing from {code(base)}.",
        "## History\n\n" + "\n".join(_history(number, step) for number, step in enumerate(steps, 1)),
        _figures(result, index, last),
        LOADING + "\n\n" + (TRAINED if steps[-1].get("trained") else MODIFIED),
        f"{LIMITS} The start model's licence and limits still hold: see {code(base)}.",
        f"## Repeat it\n\nSeed {result.state['seed']}, {versions}.\n\n{block(result.state['command'])}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _on_the_hub(name: str) -> bool:
    """Whether the hub could link it: owner/name, and neither a file of this machine nor part of the sandbox."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and not name.startswith("sandbox/")


def _history(number: int, step: dict[str, Any]) -> str:
    settings = ", ".join(code(f"{key}={value}") for key, value in step.get("changed", {}).items()) or "default settings"
    data = step.get("data")
    on = ""
    if data:
        fingerprint = code(str(data["fingerprint"])[:16])
        on = f" on {data['rows']:,} {data['kind']} records from {code(data['source'])} (fingerprint {fingerprint})"
    return f"{number}. **{plain(step['method'])}**{on}: {settings}"


def _figures(result: RunResult, index: int, last: bool) -> str:
    step = result.state["steps"][index]
    found = result_lines(result) if last else lines(result.by_step.get(step["folder"], {}))
    if not found:
        return (
            "## Figures\n\nThis model was not measured by itself; the last step's model was."
            if not last
            else "## Figures\n\nNot measured."
        )
    rows = ["| figure | before | after | difference | |", "| --- | --- | --- | --- | --- |"]
    for line in found:
        unit = unit_words(line.after.unit)
        name = plain(line.name + (f" ({unit})" if unit and unit != line.name else ""))
        before = interval(line.before) if line.before else ""
        moved = change(line.difference) if line.difference else ""
        rows.append(f"| {name} | {before} | {interval(line.after)} | {moved} | {line.words} |")
    against = str(result.recipe.get("against") or result.recipe["model"])
    return (
        f"## Figures\n\nBefore is {code(against)}. 95 % intervals; differences are paired, on the same items.\n\n"
        + "\n".join(rows)
    )


def plain(text: Any) -> str:
    """Text in which Markdown and HTML mean nothing, on one line."""
    line = " ".join(visible(text, 1000).split())
    line = re.sub(r"([\\`*_{}\[\]()#+!|~>])", r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;")


def code(text: str) -> str:
    """Text as inline code, whatever backticks it holds."""
    line = " ".join(visible(text, 300).split()).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: str) -> str:
    """Text as a code block, whatever backticks it holds."""
    shown = visible(text)
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", shown)), default=0) + 1)
    return f"{fence}\n{shown}\n{fence}"
