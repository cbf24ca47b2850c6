"""``truing align``: one method, from the command line, into a folder."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli.options import DEVICE, DTYPE, TRUST

if TYPE_CHECKING:
    from truing.contracts import Method
    from truing.models import AnyModel
    from truing.records import Records
    from truing.runs.schema import Recipe, RecordsSpec

EXTRA: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}
"""Options that the command does not know are settings of the method."""

OWN = (
    "model", "records", "out", "kind", "format", "on-error", "dtype", "device", "trust-remote-code", "help",
    "dry-run",
)  # fmt: skip
STATE = "align.json"


def align(
    context: typer.Context,
    method: Annotated[str | None, typer.Argument(help="A method of `truing methods`.", metavar="METHOD")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="What to start from: sandbox/base, a folder, a hub name.", metavar="MODEL"),
    ] = None,
    records: Annotated[
        str | None, typer.Option(help="What to learn from: a file, a folder, a name.", metavar="SOURCE")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the aligned model goes.", metavar="FOLDER")] = None,
    kind: Annotated[
        str | None, typer.Option(help="The kind of the records; recognised if left out.", metavar="KIND")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="How they are written; recognised if left out.", metavar="FORMAT"),
    ] = None,
    on_error: Annotated[
        str, typer.Option(help="raise, or set-aside to put bad rows into a file in FOLDER.", metavar="WHAT")
    ] = "raise",
    dtype: DTYPE = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all rows, and say how long and how large it will be.")
    ] = False,
    wants_help: Annotated[
        bool, typer.Option("--help", help="Show this, or after METHOD its own settings, and exit.")
    ] = False,
) -> None:
    """Align a model with one method, and save it.

    Every setting of the method is an option: `truing align METHOD --help` lists
    them. The same command, after a kill, goes on from the newest checkpoint.

    \b
    Examples:
      truing align dpo --model sandbox/base --records sandbox/preferences \\
          --out out/dpo --beta 0.3 --learning-rate 1e-4
      truing align nudging --model out/dpo --guide sandbox/guide --out out/nudged
      truing align sft --model sandbox/base --records mine.jsonl --dry-run
      truing align dpo --help
    """
    from truing.catalogue import find
    from truing.cli.settings import given_settings, print_settings
    from truing.errors import SettingsError

    if method is None or (wants_help and method.startswith("-")):
        if wants_help:
            typer.echo(context.get_help())
            return
        raise SettingsError("Name a method first: `truing align dpo …`. `truing methods` lists them.")
    if method.startswith("-"):
        raise SettingsError(f"Name the method before its settings: `truing align METHOD {method} …`.")
    entry = find(method, "method")
    if wants_help:
        takes = " --records SOURCE" if entry.records else ""
        usage = f"truing align {entry.name} --model MODEL{takes} --out FOLDER [--SETTING VALUE …]"
        print_settings(entry, usage)
        return
    for name, value in (("model", model), ("out", out)):
        if dry_run and name == "out":
            continue
        if value is None:
            raise SettingsError(f"`truing align` needs --{name}. See `truing align --help`.")
    from truing.runs.schema import Recipe, RecordsSpec, StepSpec

    settings = given_settings(context.args, entry.load(), entry.name, OWN)
    spec = None
    if records:
        spec = RecordsSpec(path=records, kind=kind, format=format, on_error=_on_error(on_error))
    recipe = Recipe(
        model=str(model),
        steps=(StepSpec(method=entry.name, records=spec, settings=settings),),
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    from truing.cli.watching import watching

    with watching():
        if dry_run:
            with tempfile.TemporaryDirectory() as nowhere:
                _Alignment(recipe, Path(nowhere)).plan()
        else:
            assert out is not None
            _Alignment(recipe, out).go()


def _on_error(text: str) -> str:
    from truing.errors import SettingsError

    if text not in ("raise", "set-aside", "set_aside"):
        raise SettingsError(f"--on-error is raise or set-aside, not `{text}`.")
    return text.replace("-", "_")


class _Alignment:
    """One method into one folder: ``training/`` holds the state, the checkpoints and the log; the model lies beside."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        from truing.runs.reading import Source
        from truing.runs.resolve import build_method, check_settings

        self.recipe, self.out, self.work = recipe, out, out / "training"
        self.step = recipe.steps[0]
        place = ("steps", 0, self.step.method)
        self.source = Source(f"truing align {self.step.method}", None, {(*place, "records"): "--records"})
        self.source.lines.update({(*place, key): f"--{key.replace('_', '-')}" for key in self.step.settings})
        self._check_records_given()
        check_settings(recipe, self.source)
        self.planned = build_method(self.step, recipe, self.source, 0)

    def _check_records_given(self) -> None:
        from truing.catalogue import find
        from truing.errors import RecordError

        cls = find(self.step.method, "method").load()
        kinds = " or ".join(cls.record_kinds)
        if kinds and not cls.records_optional and self.step.records is None:
            raise RecordError(
                f"`{self.step.method}` learns from {kinds} records. Give --records: a file, or a sandbox name "
                "(`truing sandbox show`)."
            )

    def plan(self) -> None:
        """Say what the training would take."""
        from truing.cli.loading import loader
        from truing.cli.text import emit, printable
        from truing.errors import UnsupportedError
        from truing.runs.resolve import build_method

        load = loader(self.recipe)
        model = load(self.recipe.model)
        method: Any = build_method(self.step, self.recipe, self.source, 0, load)
        if not hasattr(method, "plan"):
            raise UnsupportedError(f"`{self.step.method}` trains nothing, so --dry-run has nothing to say.")
        emit(printable(str(method.plan(model, self._records()))))

    def go(self) -> None:
        from truing.methods.training.processes import rank
        from truing.runs.folder import locked

        if rank() != 0:
            self._follow()
            return
        self._check_folder()
        with locked(self.work):
            state = self._state()
            if state.get("finished"):
                self._tell(state, again=True)
                return
            self._work(state)
            self._tell(state)

    def _follow(self) -> None:
        """Train along with the first process of a launcher, which alone writes and speaks."""
        from truing.cli.loading import loader
        from truing.progress import SilentListener, listening
        from truing.runs.resolve import build_method

        with listening(SilentListener()):
            load = loader(self.recipe)
            model = load(self.recipe.model)
            build_method(self.step, self.recipe, self.source, 0, load).align(model, self._records(), out=self.work)

    def _check_folder(self) -> None:
        from truing.errors import RunError

        if self.out.exists() and not self.out.is_dir():
            raise RunError(f"{self.out} is a file; the model needs a folder. Choose another with --out.")
        if (
            self.out.is_dir()
            and not (self.work / STATE).is_file()
            and any(item != self.work for item in self.out.iterdir())
        ):
            raise RunError(f"{self.out} holds other files. Choose an empty or new folder with --out.")

    def _state(self) -> dict[str, Any]:
        from truing.errors import RunError
        from truing.runs.facts import plain_settings
        from truing.runs.folder import read_json

        spec = self.step.records
        wanted = {
            "method": self.step.method,
            "model": self.recipe.model,
            "records": spec.model_dump(mode="json", exclude_none=True) if spec else None,
            "dtype": self.recipe.dtype,
            **plain_settings({**self.planned.settings(), **self._as_typed()}),
        }
        path = self.work / STATE
        if not path.is_file():
            return {"format": 1, "what": wanted}
        state = read_json(path)
        held = state.get("what") if isinstance(state, dict) else None
        if not isinstance(held, dict) or state.get("format") != 1:
            raise RunError(f"{path} is not a state of this version of truing. Choose another folder with --out.")
        lines = [
            f"  {key}: {held.get(key)!r} there, {wanted.get(key)!r} here"
            for key in {**wanted, **held}
            if held.get(key) != wanted.get(key)
        ]
        if lines:
            raise RunError(
                f"{self.out} holds another alignment:\n" + "\n".join(lines) + "\n"
                "Choose another folder with --out, or remove this one."
            )
        return dict(state)

    def _as_typed(self) -> dict[str, Any]:
        """Settings that are models or rewards, as they were typed: the same words mean the same thing."""
        values = self.planned.settings()
        plain = (str, bool, int, float, list, tuple, dict, type(None))
        return {key: given for key, given in self.step.settings.items() if not isinstance(values[key], plain)}

    def _work(self, state: dict[str, Any]) -> None:
        from truing.cli.loading import loader
        from truing.errors import RunError
        from truing.runs.folder import write_json
        from truing.runs.resolve import build_method

        records = self._records()
        fingerprint = records.fingerprint if records is not None else None
        if state.get("fingerprint") not in (None, fingerprint):
            raise RunError(
                f"The records have changed since this alignment began in {self.out}. Bring the old ones back, or "
                "choose another folder with --out."
            )
        load = loader(self.recipe)
        model = load(self.recipe.model)
        method = build_method(self.step, self.recipe, self.source, 0, load)
        method.check_model(model)
        state["fingerprint"] = fingerprint
        state["rows"] = len(records) if records is not None else None
        state["kind"] = records.kind if records is not None else None
        write_json(self.work / STATE, state)
        aligned, seconds = self._align(method, model, records)
        self._save(aligned)
        state.update(seconds=round(state.get("seconds", 0) + seconds, 1), finished=True)
        write_json(self.work / STATE, state)

    def _records(self) -> Records | None:
        from truing.runs.runner import read_records

        spec: RecordsSpec | None = self.step.records
        if spec is None:
            return None
        return read_records(
            spec, self.planned.record_kinds, self.step.method, self.recipe.seed, self.work / "set-aside.jsonl"
        )

    def _align(self, method: Method, model: AnyModel, records: Records | None) -> tuple[AnyModel, float]:
        began = time.monotonic()
        return method.align(model, records, out=self.work), time.monotonic() - began

    def _save(self, aligned: AnyModel) -> None:
        """Write the model aside, whole, then move it up; only after that do the checkpoints go."""
        from truing.runs.folder import remove

        aside = self.work / "model"
        remove(aside)
        aligned.save(aside)
        for item in sorted(aside.iterdir()):
            remove(self.out / item.name)
            os.replace(item, self.out / item.name)
        remove(aside)
        remove(self.work / "checkpoints")

    def _tell(self, state: dict[str, Any], again: bool = False) -> None:
        import shlex

        from truing.cli.text import emit, printable

        on = f" on {state['rows']:,} {state['kind']} records" if state.get("rows") else ""
        changed = ", ".join(f"{key} {value}" for key, value in self.step.settings.items())
        if again:
            emit(f"{self.out} is finished already; nothing was repeated. Remove it to align anew.")
        emit(printable(f"{self.step.method}{on}, from {self.recipe.model}, in {state['seconds']:.1f} s"))
        if changed:
            emit(printable(f"  with {changed}"))
        for line in self._losses():
            emit(f"  {line}")
        place = shlex.quote(str(self.out))
        emit(printable(f"Saved in {self.out}. Next:"))
        emit(f"  truing chat --model {place}")
        emit(f"  truing measure hhh --model {place} --against {shlex.quote(self.recipe.model)}")

    def _losses(self) -> list[str]:
        """How the training log went, from its first logged steps to its last."""
        import json

        path = self.work / "log.jsonl"
        if not path.is_file():
            return []
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if "loss" in row]
        if not rows:
            return []
        few = max(1, len(rows) // 10)
        lines = []
        for key, name in (("loss", "loss"), ("rewards/accuracies", "chosen ranked above rejected")):
            if key in rows[-1] and key in rows[0]:
                first, last = (sum(row[key] for row in part) / few for part in (rows[:few], rows[-few:]))
                lines.append(f"{name}: {first:.3g} at first, {last:.3g} at last, over {rows[-1]['step']:,} steps")
        return lines
