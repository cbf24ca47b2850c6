"""A model card in the hub's format beside each saved model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.coverage import cards
from truing.models.card import LOADING, MODIFIED, TRAINED, front_matter, history_line
from truing.reports.rows import change, interval, lines, unit_words
from truing.reports.tables import result_lines
from truing.safe_text import block, code, plain

if TYPE_CHECKING:
    from truing.runs.result import RunResult


LIMITS = """## Limits

The figures above are about the items of these measures and no others; intervals say how sure they are about those."""


def write_cards(result: RunResult) -> list[Path]:
    """Write ``README.md`` into every step's model folder."""
    from truing.files import write_atomic

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
    sources = [step["data"]["source"] for step in steps if step.get("data")]
    title = f"{result.name}: {base}, {', then '.join(step['method'].replace('_', ' ') for step in steps)}"
    found = result.state["sessions"][-1]["versions"].items()
    versions = ", ".join(f"{plain(package)} {plain(version)}" for package, version in found)
    parts = [
        front_matter(base, [step["method"] for step in steps], sources),
        f"# {plain(title)}",
        plain(result.recipe.get("description") or "") or f"Made with truing from {code(base)}.",
        "## History\n\n" + "\n".join(_history(number, step) for number, step in enumerate(steps, 1)),
        _figures(result, index, last),
        _gate(result) if last else "",
        _coverage(result) if last else "",
        LOADING + "\n\n" + (TRAINED if steps[-1].get("trained") else MODIFIED),
        f"{LIMITS} The start model's licence and limits still hold: see {code(base)}.",
        f"## Repeat it\n\nSeed {result.state['seed']}, {versions}.\n\n{block(result.state['command'])}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _coverage(result: RunResult) -> str:
    rows = ["| map | places with evidence | which |", "| --- | --- | --- |"]
    remarks = []
    for card in cards(result):
        names = [one.leaf.name for one in card.covered if one.evidence]
        rows.append(f"| {card.map.title} | {card.count} of {len(card.covered)} | {'; '.join(names) or 'none'} |")
        remarks += [plain(remark) for remark in card.remarks]
    return "\n\n".join(["## What there is evidence for", "\n".join(rows), *remarks])


def _history(number: int, step: dict[str, Any]) -> str:
    return history_line(number, step["method"], step.get("changed", {}), step.get("data"))


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


def _gate(result: RunResult) -> str:
    if not result.gate.checks:
        return ""
    rows = ["| required | | found |", "| --- | --- | --- |"]
    rows += [
        f"| {plain(f'{check.figure} {check.condition}')} | {check.status} | {plain(check.words())} |"
        for check in result.gate.checks
    ]
    return (
        "## Gate\n\nWhat the recipe requires, tested with 95 % intervals: a condition passes when the whole interval "
        "fulfils it, and fails when none of it does.\n\n" + "\n".join(rows)
    )
