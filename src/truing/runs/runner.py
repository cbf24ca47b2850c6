"""Runs a recipe into a folder; each finished piece is on disk before the next begins, so a killed run can go on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing import progress
from truing.errors import RecipeError, RunError, TruingError, UnsupportedError
from truing.files import write_atomic
from truing.runs import facts
from truing.runs.folder import GATE, STATE, differences, locked, read_json, remove, write_json
from truing.runs.library import find_recipe
from truing.runs.log import logging_to
from truing.runs.resolve import START, build_measure, build_method, check_require, references, with_references
from truing.runs.result import RunResult, collect, load
from truing.runs.schema import MeasureSpec, Recipe, RecordsSpec, StepSpec, labels, parse
from truing.runs.writing import as_yaml

if TYPE_CHECKING:
    from truing.contracts import Measure
    from truing.records import Records
    from truing.runs.reading import Source

AROUND = ("name", "description", "report", "require")
"""Keys in which a recipe may differ from the folder's and still be the same run: nothing is measured anew for them."""


def run(
    recipe: str | Path, out: str | Path | None = None, overrides: Sequence[str] = (), command: str | None = None
) -> RunResult:
    """Run a recipe, or go on with it.

    Started again on the same folder it repeats no finished step and no journaled answer, and ends with the figures of
    an undisturbed run. A finished run is only read.

    Args:
        recipe: the name of a ready recipe, or a YAML file.
        out: the run folder; ``runs/<name>`` by default.
        overrides: ``key=value`` changes, as ``--set`` takes them.
        command: what a person would type to repeat this; made from the arguments by default.

    Raises:
        RecipeError: the recipe cannot work; nothing was started.
        RunError: the folder holds another run, or another process is using it.
        TruingError: what a method, a model or a measure found wrong.
    """
    name, text = find_recipe(recipe)
    checked, source = parse(text, name if "/" not in str(recipe) else str(recipe), overrides)
    name = checked.name or name
    folder = Path(out) if out is not None else Path("runs") / facts.folder_name(name)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; a run needs a folder. Choose another with --out.")
    if folder.is_dir() and not (folder / STATE).exists() and any(not _ours(item.name) for item in folder.iterdir()):
        raise RunError(f"{folder} holds files that are no run. Choose an empty or new folder with --out.")
    with locked(folder):
        if command is None:
            command = facts.command(recipe, folder, overrides)
        return _Run(checked, source, folder, name, command).go()


class _Run:
    def __init__(self, recipe: Recipe, source: Source, folder: Path, name: str, command: str) -> None:
        self.recipe = recipe
        self.source = source
        self.folder = folder
        self.name = name
        self.command = command
        self.models: dict[str, Any] = {}
        self.state = self._state()

    def go(self) -> RunResult:
        if self.state["state"] == "finished":
            progress.say(f"This run is finished already; nothing was repeated. Remove {self.folder} to run it anew.")
            require = self.recipe.resolved()["require"]
            anew = self.state["recipe"].get("require", {}) != require
            if anew:
                self.state["recipe"]["require"] = require
                self._save()
                write_atomic(self.folder / "recipe.yaml", as_yaml(self.recipe))
            result = load(self.folder)
            if anew:
                progress.say("What is required has changed; it is tested on what was measured.")
                self._around(result)
            elif result.report is not None and not result.report.is_file():
                self._report(result)
            return result
        with logging_to(self.folder / "log.txt") as log:
            try:
                self._work()
            except BaseException as error:
                log.write(f"stopped: {type(error).__name__}: {error}")
                raise
            return self._finish()

    def _work(self) -> None:
        steps = [
            (index, step, f"{index + 1:02d}-{step.method.replace('_', '-')}")
            for index, step in enumerate(self.recipe.steps)
        ]
        try:
            started_from = self._named_model(self.recipe.model) if self.recipe.model else None
        except TruingError as error:
            raise self.source.error(("model",), str(error)) from None
        later = check_require(self.recipe, self.source)
        if later:
            named = ", ".join(f"`{figure}`" for figure in later)
            progress.say(f"Checked after measuring, since the data name such figures: {named}.")
        plan = self.recipe.plan()
        # Models of earlier steps are not there yet: settings that name one are checked now, and read when it is time.
        methods = [
            build_method(step, self.recipe, self.source, i, None if references(step.settings) else self._named_model)
            for i, step, _ in steps
        ]
        measures = [
            build_measure(spec, self.recipe, self.source, index, self._named_model) for index, spec in enumerate(plan)
        ]
        data = [
            None if self._done(folder) else self._records(index, step, methods[index].record_kinds)
            for index, step, folder in steps
        ]
        offers = frozenset() if started_from is None else started_from.offers
        plan_files = self._check_measures(plan, measures, offers)
        self.state["start"] = {} if started_from is None else facts.identity(started_from)
        self.state["steps"] = [self._planned_step(folder, step) for _, step, folder in steps]
        self.state["sessions"].append(
            {"started": facts.now(), "pid": os.getpid(), "versions": facts.versions(), "threads": facts.threads()}
        )
        self._save()
        write_atomic(self.folder / "recipe.yaml", as_yaml(self.recipe))
        pieces = len(steps) + len(plan_files) * (len(steps) if self.recipe.measure_each_step else 1)
        with progress.task(self.name, pieces) as bar:
            for index, step, folder in steps:
                self._step(index, step, folder, methods[index], data[index])
                bar.advance(1, f"{folder} done")
            stages = [folder for _, _, folder in steps] or [""]
            for stage in stages if self.recipe.measure_each_step else stages[-1:]:
                if stage != stages[-1] and not self._writes(stage):
                    bar.advance(len(plan_files), f"{stage} writes no answers")
                    continue
                for position, (measure, item) in enumerate(zip(measures, self.state["measures"])):
                    if item["state"] == "left out":
                        continue
                    self._measure(measure, item, stage, last=stage == stages[-1], label=plan[position].measure)
                    bar.advance(1, item["label"])

    # --- state -----------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        resolved = self.recipe.resolved()
        path = self.folder / STATE
        if not path.exists():
            return {
                "format": 1, "state": "running", "name": self.name, "recipe": resolved, "command": self.command,
                "seed": self.recipe.seed, "started": facts.now(), "machine": facts.machine(), "start": {}, "steps": [],
                "measures": [], "notes": [], "sessions": [],
            }  # fmt: skip
        state = read_json(path)
        if not isinstance(state, dict) or state.get("format") != 1:
            raise RunError(f"{path} is not a state of this version of truing. Choose another folder with --out.")
        old, new = (
            {key: value for key, value in recipe.items() if key not in AROUND} for recipe in (state["recipe"], resolved)
        )
        lines = differences(old, new)
        if lines:
            shown = "\n".join(f"  {line}" for line in lines[:12])
            more = f"\n  and {len(lines) - 12} more" if len(lines) > 12 else ""
            raise RunError(
                f"{self.folder} holds a run of another recipe:\n{shown}{more}\n"
                "Choose another folder with --out, or remove this one."
            )
        if state["state"] != "finished":
            state["recipe"]["require"] = resolved["require"]
        return state

    def _save(self) -> None:
        write_json(self.folder / STATE, self.state)

    def _step_folder(self, folder: str) -> Path:
        return self.folder / "steps" / folder

    def _done(self, folder: str) -> bool:
        return (self._step_folder(folder) / "done.json").is_file()

    def _planned_step(self, folder: str, step: StepSpec) -> dict[str, Any]:
        if self._done(folder):
            return dict(read_json(self._step_folder(folder) / "done.json"))
        before: dict[str, Any] = next((item for item in self.state["steps"] if item["folder"] == folder), {})
        return {
            "folder": folder,
            "method": step.method,
            "state": "waiting",
            "starts": before.get("starts", 0),
            "data": before.get("data"),
        }

    # --- models and records ----------------------------------------------------------------------------------------

    def _named_model(self, name: str) -> Any:
        if name not in self.models:
            from truing.models import load as load_model

            self.models[name] = load_model(
                name,
                dtype=self.recipe.dtype,
                device=self.recipe.device,
                trust_remote_code=self.recipe.trust_remote_code,
            )
        return self.models[name]

    def _stage(self, folder: str) -> Any:
        """The model after a step, read back from its folder: a resumed run and an undisturbed one use the same."""
        if not folder:
            return self._named_model(self.recipe.model)
        key = f"steps/{folder}"
        if key not in self.models:
            for old in [old for old in self.models if old.startswith("steps/")]:
                del self.models[old]
            from truing.models import load as load_model

            self.models[key] = load_model(
                str(self._step_folder(folder) / "model"),
                dtype=self.recipe.dtype,
                device=self.recipe.device,
                trust_remote_code=self.recipe.trust_remote_code,
            )
        return self.models[key]

    def _writes(self, folder: str) -> bool:
        """Whether the model after a step can be asked: a reward model cannot."""
        return "scores" not in self._stage(folder).offers

    def _records(self, index: int, step: StepSpec, kinds: tuple[str, ...]) -> Records | None:
        if step.records is None:
            return None
        try:
            return read_records(
                step.records, kinds, step.method, self.recipe.seed, self.folder / f"set-aside-{index + 1}.jsonl"
            )
        except TruingError as error:
            place = next(
                (path for path in self.source.lines if path[:2] == ("steps", index) and path[-1:] == ("records",)),
                ("steps", index),
            )
            raise RecipeError(f"{self.source.where(place)}: {error}") from None

    # --- work ------------------------------------------------------------------------------------------------------

    def _step(self, index: int, step: StepSpec, folder: str, method: Any, records: Records | None) -> None:
        state = self.state["steps"][index]
        place = self._step_folder(folder)
        if self._done(folder):
            progress.say(f"Step {index + 1}, {step.method}: finished already.")
            remove(place / "checkpoints")
            return
        fingerprint = None if records is None else records.fingerprint
        if state["starts"] and (state["data"] or {}).get("fingerprint") not in (None, fingerprint):
            raise RunError(
                f"The records of step {index + 1} ({step.method}) have changed since this run began: "
                f"{records.source if records is not None else 'none'}. "
                "Bring the old ones back, or choose another folder with --out."
            )
        state.update(state="running", starts=state["starts"] + 1, data=facts.data(records))
        self._save()
        on = f" on {len(records):,} {records.kind} records" if records is not None else ""
        progress.say(f"Step {index + 1} of {len(self.recipe.steps)}: {step.method}{on}.")
        before = self._stage(self._folder_before(index, step))
        if references(step.settings):
            found = with_references(step.settings, lambda name: str(self._step_folder(self._folder_of(name)) / "model"))
            there = step.model_copy(update={"settings": found})
            method = build_method(there, self.recipe, self.source, index, self._named_model)
        place.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        aligned = method.align(before, records, out=place)
        seconds = time.monotonic() - began
        # A kill in the middle of saving leaves its hidden folder; this run holds the lock, so nobody is writing it now.
        for partial in (place / "model", place / "model.partial", *place.glob(".model.partial.*")):
            remove(partial)
        aligned.save(place / "model.partial")
        (place / "model.partial").replace(place / "model")
        last = aligned.history[-1].to_json() if aligned.history else {}
        state.update(
            state="done", seconds=round(seconds, 3), settings=last.get("settings", {}),
            changed=facts.plain_settings(method.changed()), trained=method.modifier is None, finished=facts.now(),
        )  # fmt: skip
        write_json(place / "done.json", state)
        self._save()
        remove(place / "checkpoints")
        progress.say(f"Step {index + 1}, {step.method}: done in {seconds:.1f} s.")

    def _folder_of(self, name: str) -> str:
        index = next(at for at, step in enumerate(self.recipe.steps) if step.name == name)
        return str(self.state["steps"][index]["folder"])

    def _folder_before(self, index: int, step: StepSpec) -> str:
        """The folder of the step that this one starts from; "" for the start model."""
        if step.start is not None:
            return "" if step.start == START else self._folder_of(step.start)
        return str(self.state["steps"][index - 1]["folder"]) if index else ""

    def _check_measures(
        self, plan: Sequence[MeasureSpec], measures: Sequence[Measure], offers: frozenset[str]
    ) -> list[dict[str, Any]]:
        """Fill ``state["measures"]``. A side effect that this model cannot show is left out, with a note."""
        items: list[dict[str, Any]] = []
        for index, (spec, measure, label) in enumerate(zip(plan, measures, labels(plan))):
            item: dict[str, Any] = {
                "label": label,
                "file": f"{label}.json",
                "side_effect": spec.side_effect,
                "state": "waiting",
            }
            lacking = sorted(measure.needs & {"gradients", "local_weights", "logits", "activations"} - offers)
            if lacking:
                what = ", ".join(lacking).replace("_", " ")
                why = f"`{spec.measure}` needs {what}, which {self.recipe.model} does not offer"
                if not spec.side_effect:
                    raise self.source.error(("measures", index), f"{why}. Take it out, or start from local weights.")
                item.update(state="left out", why=f"{why}.")
                if item["why"] not in self.state["notes"]:
                    self.state["notes"].append(item["why"])
            before = next(
                (old for old in self.state["measures"] if old["label"] == label and old["state"] == "done"), None
            )
            items.append(before or item)
        self.state["measures"] = items
        return [item for item in items if item["state"] != "left out"]

    def _measure(self, measure: Measure, item: dict[str, Any], stage: str, last: bool, label: str) -> None:
        from truing.measures.run import measure as run_measure

        if not measure.needs_model and not last:
            return
        path = self.folder / "measures" / (item["file"] if last else f"{stage}/{item['file']}")
        if path.is_file():
            if last and item["state"] != "done":
                item["state"] = "done"
                self._save()
            return
        subject = against = None
        if measure.needs_model:
            subject = self._stage(stage)
            other = self.recipe.against or (self.recipe.model if stage else None)
            against = None if other is None else self._named_model(other)
        began = time.monotonic()
        try:
            result = run_measure(measure, subject, against, out=self.folder / "answers")
        except UnsupportedError as error:
            if not item["side_effect"]:
                raise
            note = f"`{label}` was left out: {error}"
            item.update(state="left out", why=note)
            self.state["notes"].append(note)
            self._save()
            return
        write_json(path, result.to_json())
        if last:
            item.update(state="done", seconds=round(time.monotonic() - began, 3))
            self._save()

    def _finish(self) -> RunResult:
        self.state.setdefault("finished", facts.now())
        result = collect(self.folder, self.state)
        self._around(result)
        self.state["state"] = "finished"
        self._save()
        return result

    def _around(self, result: RunResult) -> None:
        """What is written of the results: the gate, the model cards, the report."""
        if result.gate.checks:
            write_json(self.folder / GATE, result.gate.to_json())
        else:
            remove(self.folder / GATE)
        with _explained("The model cards"):
            from truing.reports.model_card import write_cards

            write_cards(result)
        if result.report is not None:
            self._report(result)

    def _report(self, result: RunResult) -> None:
        from truing.reports.html import write_report

        assert result.report is not None
        write_report(result, result.report)


def read_records(spec: RecordsSpec, kinds: tuple[str, ...], what: str, seed: int, set_aside: Path) -> Records:
    """The records a step asks for, of a kind it reads, at most ``limit``; bad rows go where ``set_aside`` says."""
    import random

    from truing.records import as_records, read

    read_rows = read(spec.path, spec.kind, spec.on_error, format=spec.format, set_aside=set_aside, among=kinds)
    rows = as_records(read_rows, kinds=kinds, what=what)
    if spec.limit is not None and spec.limit < len(rows):
        chosen = random.Random(seed if spec.seed is None else spec.seed).sample(range(len(rows)), spec.limit)
        rows = rows.select(sorted(chosen))
    return rows


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} could not be written: {error}.") from None


def _ours(name: str) -> bool:
    """What a run may leave in its folder before it has a state: it was killed, or found its records wrong."""
    return name == "log.txt" or name.startswith((".", "set-aside-"))
