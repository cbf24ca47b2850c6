"""What a run gives back, read from its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.errors import RunError, SettingsError
from truing.runs.folder import STATE, read_json
from truing.runs.gate import Gate, as_require, judge

if TYPE_CHECKING:
    from truing.measures.result import Result
    from truing.models import AnyModel


@dataclasses.dataclass
class RunResult:
    """A finished run.

    Args:
        folder: where everything lies.
        state: what ``run.json`` says: the resolved recipe, steps with settings, data and times, versions, seeds.
        results: label to `Result`, in the order of the recipe; the last model, beside what it was compared with.
        by_step: for each step that was measured before the last one (``measure_each_step``), its results.
        report: the HTML report, or None when the recipe wants none.
        gate: what the recipe requires, tested on the last model's results; without checks where it requires nothing.
    """

    folder: Path
    state: dict[str, Any]
    results: dict[str, Result]
    by_step: dict[str, dict[str, Result]] = dataclasses.field(default_factory=dict)
    report: Path | None = None
    gate: Gate = dataclasses.field(default_factory=Gate)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.state["name"])

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        return dict(self.state["recipe"])

    def model_path(self) -> Path | None:
        """The folder of the last step's model; None without steps."""
        steps = self.state["steps"]
        return self.folder / "steps" / steps[-1]["folder"] / "model" if steps else None

    def model(self) -> AnyModel:
        """The last step's model, loaded again."""
        from truing.models import load as load_model

        path = self.model_path()
        return load_model(str(path) if path is not None else self.recipe["model"])

    def logs(self, step: dict[str, Any]) -> list[dict[str, Any]]:
        """What a training step logged, one dict a logged step; empty where it trained nothing."""
        import json

        path = self.folder / "steps" / step["folder"] / "log.jsonl"
        rows: dict[Any, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    # The last line of a killed session may be cut; the session after it wrote the step again.
                    continue
                if isinstance(row, dict) and "step" in row:
                    rows[row["step"]] = {**rows.get(row["step"], {}), **row}
        return [rows[step] for step in sorted(rows)]

    def __str__(self) -> str:
        from truing.reports.tables import as_text

        return as_text(self)


def load(folder: str | Path) -> RunResult:
    """Read a finished run.

    Raises:
        RunError: the folder holds no run, or one that is not finished.
    """
    folder = Path(folder)
    if not (folder / STATE).is_file():
        raise RunError(
            f"{folder} is no run folder: it has no {STATE}. `truing run RECIPE --out {folder}` would make it one."
        )
    state = read_json(folder / STATE)
    if not isinstance(state, dict) or state.get("format") != 1:
        raise RunError(f"{folder / STATE} is not a state of this version of truing. Choose another folder.")
    if state.get("state") != "finished":
        raise RunError(f"The run in {folder} is not finished. `{state.get('command', 'truing run')}` goes on with it.")
    return collect(folder, state)


def collect(folder: Path, state: dict[str, Any]) -> RunResult:
    """The results that lie in a run folder."""
    from truing.measures.result import Result

    results = {
        item["label"]: Result.load(folder / "measures" / item["file"])
        for item in state["measures"]
        if item["state"] == "done"
    }
    by_step: dict[str, dict[str, Result]] = {}
    for step in state["steps"][:-1]:
        found = {}
        for item in state["measures"]:
            path = folder / "measures" / step["folder"] / item["file"]
            if path.is_file():
                found[item["label"]] = Result.load(path)
        if found:
            by_step[step["folder"]] = found
    report = state["recipe"].get("report")
    gate = judge(required(state), results, left_out(state))
    return RunResult(folder, state, results, by_step, folder / report if report else None, gate)


def required(state: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """What the recipe of a run requires.

    Raises:
        RunError: the state was changed by hand, and holds no conditions.
    """
    try:
        return as_require(state["recipe"].get("require") or {})
    except SettingsError as error:
        raise RunError(f"`require` in {STATE} cannot be read: {error}") from None


def left_out(state: dict[str, Any]) -> dict[str, str]:
    """Why a measure was left out, by its label."""
    return {item["label"]: str(item.get("why", "")) for item in state["measures"] if item["state"] == "left out"}
