"""The report of a run: one HTML page that opens offline, without script, with every text of models and data escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.coverage import cards
from truing.measures.show import chance
from truing.reports.plane import plane
from truing.reports.radar import radar
from truing.reports.rows import Line, change, interval, lines, number, unit_words
from truing.reports.svg import curve, figure_curve, interval_plot, path_plot
from truing.reports.tables import notes, result_lines
from truing.reports.texts import conversation, word_diff
from truing.safe_text import visible

if TYPE_CHECKING:
    from truing.measures.result import Grid, Result
    from truing.runs.result import RunResult

SAMPLES_A_GROUP = 4
GROUP_KEYS = ("kind", "group", "category", "aspect")
CURVES = (
    "loss",
    "eval_loss",
    "rewards/accuracies",
    "rewards/margins",
    "accuracy",
    "margin",
    "grad_norm",
    "learning_rate",
)
NOT_CURVES = ("step", "steps", "epoch", "seconds", "total_steps", "time")
MOST_CURVES = 6


def write_report(result: RunResult, path: Path) -> None:
    """Write the page, whole or not at all."""
    from truing.files import write_atomic

    write_atomic(path, render(result))


def render(result: RunResult) -> str:
    """The page as text."""
    found = result_lines(result)
    page = environment().get_template("report.html.j2")
    text = page.render(
        name=result.name,
        description=result.recipe.get("description") or "",
        state=result.state,
        steps=result.state["steps"],
        found=found,
        compared=any(line.before is not None for line in found),
        before_name=_before_name(result),
        verdicts=_verdicts(found),
        gate=result.gate,
        interval_plot=interval_plot,
        paths=_paths(result),
        followed=[
            (label, [*(figure_curve(each) for each in one.curves), *(plane(each) for each in one.planes)])
            for label, one in result.results.items()
            if one.curves or one.planes
        ],
        curves=[(step, _curves(result.logs(step))) for step in result.state["steps"]],
        coverage=cards(result),
        grids=[
            (label, grid.title, grid.columns, _grid(one, grid), radar(one, grid) if grid.radar else "")
            for label, one in result.results.items()
            for grid in one.grids
        ],
        samples=[
            (label, _samples(label, one))
            for label, one in result.results.items()
            if any("answer" in row for row in one.samples)
        ],
        costs=[_cost(result, label, one) for label, one in result.results.items()],
        notes=notes(result),
        recipe=(result.folder / "recipe.yaml").read_text(encoding="utf-8")
        if (result.folder / "recipe.yaml").is_file()
        else "",
        session=result.state["sessions"][-1],
        total=sum(step.get("seconds", 0) for step in result.state["steps"])
        + sum(item.get("seconds", 0) for item in result.state["measures"]),
    )
    return str(text).encode("utf-8", errors="replace").decode("utf-8")


def environment() -> Any:
    """The templates, in which every value is escaped, with what they call."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("truing.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        number=number, interval=interval, change=change, visible=visible, unit_words=unit_words, duration=duration,
        chance=chance, gate_class=gate_class, gate_sign=gate_sign,
    )  # fmt: skip
    return made


def gate_class(status: str) -> str:
    """How an answer of the gate is drawn."""
    return status if status in ("passed", "failed") else "undecided"


def gate_sign(status: str) -> str:
    """A sign beside the words, for those who see no colours."""
    return {"passed": "✓", "failed": "✗"}.get(status, "?")


def duration(seconds: float) -> str:
    """``0.4 s``, ``2 min 5 s``, ``1 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def _before_name(result: RunResult) -> str:
    return str(result.recipe.get("against") or result.recipe["model"])


def _verdicts(found: list[Line]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"better": [], "worse": [], "changed": [], "unclear": []}
    for line in found:
        if line.verdict:
            groups[line.verdict].append(line.name)
    return groups


def _paths(result: RunResult) -> list[Any]:
    """A drawing for each figure that was measured after every step."""
    if not result.by_step:
        return []
    drawn = []
    final = result_lines(result)
    stages = [
        (step["method"], {(line.measure, line.name): line for line in lines(result.by_step.get(step["folder"], {}))})
        for step in result.state["steps"]
    ]
    for line in final:
        key = (line.measure, line.name)
        points = [("start", line.before)] if line.before is not None else []
        points += [(method, known[key].after) for method, known in stages[:-1] if key in known]
        points.append((stages[-1][0], line.after))
        if len(points) > 2:
            drawn.append(path_plot(line.name, points))
    return drawn


def _curves(rows: list[dict[str, Any]]) -> list[Any]:
    keys = [
        key
        for row in rows
        for key, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    known = [key for key in dict.fromkeys(keys) if key not in NOT_CURVES]
    ordered = [key for key in CURVES if key in known] + [key for key in known if key not in CURVES]
    drawn = []
    for key in ordered:
        points = [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), (int, float))]
        picture = curve(visible(key, 40), points)
        if picture:
            drawn.append(picture)
    return drawn[:MOST_CURVES]


def _grid(result: Result, grid: Grid) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of a grid: a label, and for each cell the figure and its paired difference to the other model."""
    differences = result.differences or {}
    return [
        (
            label,
            [
                (result.grid_cell(grid, at, name), change(differences[name]) if name in differences else "")
                for at, name in enumerate(names)
            ],
        )
        for label, names in grid.rows
    ]


def _samples(label: str, result: Result) -> list[dict[str, Any]]:
    """Groups of samples; in each, those whose grade changed come first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in result.samples:
        if "answer" in row:
            key = next((str(row[name]) for name in GROUP_KEYS if row.get(name) not in (None, "")), label)
            groups.setdefault(key, []).append(row)
    shown = []
    for name, rows in groups.items():
        ranked = sorted(enumerate(rows), key=lambda pair: (_interest(pair[1]), pair[0]))
        chosen = [_sample(row) for _, row in ranked[:SAMPLES_A_GROUP]]
        changed = sum(_interest(row) == 0 for row in rows)
        shown.append(
            {"name": visible(name, 60).replace("_", " "), "total": len(rows), "changed": changed, "rows": chosen}
        )
    return shown


def _interest(row: Mapping[str, Any]) -> int:
    if _grade(row, "") != _grade(row, "against_"):
        return 0
    return 1 if row.get("answer") != row.get("against_answer") else 2


def _grade(row: Mapping[str, Any], prefix: str) -> str:
    for name in ("grade", "outcome", "label", "verdict"):
        value = row.get(prefix + name)
        if isinstance(value, str) and value:
            return value
    return ""


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    after = visible(row.get("answer", ""))
    before = visible(row["against_answer"]) if row.get("against_answer") is not None else None
    left, right = word_diff(before, after) if before is not None else ([], [(False, after)])
    return {
        "prompt": conversation(row.get("prompt", "")),
        "before": left,
        "after": right,
        "paired": before is not None,
        "before_grade": visible(_grade(row, "against_"), 60).replace("_", " "),
        "after_grade": visible(_grade(row, ""), 60).replace("_", " "),
        "moved": before is not None and _grade(row, "") != _grade(row, "against_"),
    }


def _cost(result: RunResult, label: str, one: Result) -> dict[str, Any]:
    usage = one.usage if isinstance(one.usage, Mapping) else {}
    item: dict[str, Any] = next((item for item in result.state["measures"] if item["label"] == label), {})

    def count(name: str) -> str:
        value = usage.get(name)
        if isinstance(value, Mapping):
            return ", ".join(f"{visible(who, 40)} {times:,}" for who, times in value.items()) or "–"
        return f"{value:,}" if isinstance(value, int) else "–"

    return {
        "label": label.replace("_", " "),
        "samples": len(one.samples),
        "seconds": item.get("seconds", one.seconds),
        "calls": count("calls"),
        "positions": count("positions"),
        "tokens": count("completion_tokens"),
    }
