"""Reading: a file, a folder, a hub name, a sandbox name or rows in memory, as checked records."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing import progress
from truing.errors import RecordError, TruingError
from truing.records.converters import Format, apply, detect, find_format
from truing.records.files import Raw, raw_rows, suffix_of
from truing.records.kinds import KINDS, RowError, check_kind, normalise, only_prompts, recognise, shorten
from truing.records.records import Records
from truing.records.table import build

if TYPE_CHECKING:
    import datasets

ON_ERROR = ("raise", "set_aside")
_LOOK = 200
_HUB = re.compile(r"^[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?$")


def read(
    source: str | Path,
    kind: str | None = None,
    on_error: str = "raise",
    *,
    format: str | None = None,
    set_aside: str | Path | None = None,
    among: Sequence[str] = (),
) -> Records:
    """Read records and check every row.

    Args:
        source: a file (.jsonl, .json, .csv, .parquet, each also with .gz), a folder of such files, a sandbox name
            (``sandbox/preferences``, ``sandbox/preferences:test``) or a hub name (``org/name``, ``org/name:split``).
        kind: the kind of record; recognised from the columns when not given.
        on_error: "raise" stops at the first bad row; "set_aside" writes bad rows, whole, to a file, counts and reports
            them.
        format: how the rows are written (hh, sharegpt, alpaca, ultrafeedback, ultrafeedback_binarized, trl); recognised
            when not given.
        set_aside: where bad rows go. Default: ``<file>.set-aside.jsonl`` beside the file.
        among: kinds the caller can use, which decides where the columns fit several.

    Raises:
        RecordError: the source cannot be read, or a row is bad; it names file, line, column, what was expected and what
            was found.
    """
    reading = Reading(str(source), kind, on_error, format, set_aside, among)
    with reading:
        dataset = build(reading.rows(raws_of(source)), columns=())
    return reading.records(dataset)


def stream(
    source: str | Path,
    kind: str | None = None,
    on_error: str = "raise",
    *,
    format: str | None = None,
    set_aside: str | Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Checked rows one at a time, for files larger than memory. Arguments as in `read`.

    A .json file is one value and is read whole; every other format is read row by row.
    """
    reading = Reading(str(source), kind, on_error, format, set_aside, ())
    with reading:
        yield from reading.rows(raws_of(source))
    reading.report()


def as_records(records: Any, kinds: Sequence[str] = (), what: str = "this") -> Records:
    """What a user gave for records, as records of one of these kinds.

    Args:
        records: `Records`, a list of rows, a `datasets.Dataset`, a path, or a name as for `read`.
        kinds: the kinds that can be used; empty for any.
        what: who asks, for the error.

    Raises:
        RecordError: they are of another kind, empty, or bad.
    """
    if isinstance(records, Records):
        out = records
    elif isinstance(records, (str, Path)):
        out = read(records, among=kinds)
    else:
        out = from_rows(records, among=kinds)
    if kinds and out.kind not in kinds:
        raise RecordError(
            f"{what} works on {' or '.join(kinds)} records, and {out.source} holds {out.kind} records. "
            f"A {kinds[0]} record has the columns {', '.join(KINDS[kinds[0]].required)}."
        )
    if not len(out):
        raise RecordError(f"{what} was given no record.")
    return out


def from_rows(
    rows: Iterable[dict[str, Any]] | datasets.Dataset,
    kind: str | None = None,
    *,
    format: str | None = None,
    among: Sequence[str] = (),
    source: str = "rows in memory",
) -> Records:
    """Rows in memory (a list of dicts, a `datasets.Dataset`) as checked records."""
    if type(rows).__name__ in ("DatasetDict", "IterableDatasetDict"):
        raise RecordError(f'This is several splits, {shorten(list(rows))}. Choose one: dataset["train"].')
    if isinstance(rows, (str, bytes, dict)) or not isinstance(rows, Iterable):
        raise RecordError(f"Expected records, a list of rows, a dataset, a path or a name, found {shorten(rows)}.")
    raws = (Raw(f"{source}, row {number}", row) for number, row in enumerate(rows, 1))
    reading = Reading(source, kind, "raise", format, None, among)
    return reading.records(build(reading.rows(raws)))


class Reading:
    """The state of one pass over a source: which kind and format, what was set aside, what converters noted."""

    def __init__(
        self,
        source: str,
        kind: str | None,
        on_error: str,
        format: str | None,
        set_aside: str | Path | None = None,
        among: Sequence[str] = (),
        on_bad: Callable[[Raw, RowError], None] | None = None,
    ) -> None:
        self.on_bad = on_bad or self._write
        if on_error not in ON_ERROR:
            raise RecordError(f"on_error is {' or '.join(ON_ERROR)}, not {shorten(on_error)}.")
        self.source, self.keep, self.among = source, on_error == "set_aside", tuple(among)
        self.kind = check_kind(kind) if kind is not None else None
        self.format: Format | None = find_format(format) if format is not None else None
        name = source if Path(source).exists() else re.sub(r"[^\w.-]+", "-", source)
        self.aside_path = Path(set_aside) if set_aside is not None else Path(f"{name.rstrip('/')}.set-aside.jsonl")
        self.aside: Any = None
        self.notes: Counter[str] = Counter()
        self.count = 0
        # Prompts without anything else, for whoever wants no more: questions without answers.
        self.bare = False
        self.bad: list[RowError] = []

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        if self.aside is not None:
            self.aside.close()

    def decide(self, first: Sequence[Raw]) -> None:
        """Settle format and kind by the first row that shows them."""
        fault: RecordError | None = None
        # Rows in a format that is recognised come first: a broken row at the top must not decide for the file.
        for raw in sorted(first, key=lambda raw: detect(raw.value) is None):
            row = raw.value
            if not isinstance(row, dict):
                continue
            form = self.format or detect(row)
            if form is not None and self.format is None and not self._wanted(form):
                form = None
            try:
                columns = apply(form, row)[0] if form else row
                kind = self.kind or (form.kind if form and (form.kind in self.among or not self.among) else "")
                names = [name for name, value in columns.items() if value is not None]
                self.bare = not kind and "question" in self.among and only_prompts(names)
                kind = kind or ("question" if self.bare else recognise(names, self.among, raw.place))
            except RecordError as error:
                fault = fault or error
                if not self.keep:
                    raise error.at(raw.place) if isinstance(error, RowError) else error from None
                continue
            self.format, self.kind = form, kind
            return
        if fault is not None:
            raise fault
        if first and isinstance(first[0].value, RowError) and not self.keep:
            raise first[0].value
        if first and self.kind is None:
            raise RecordError(
                f"{first[0].place}: expected an object with columns, found {shorten(first[0].value)}; "
                "and no row after it shows which kind of record this is."
            )

    def _wanted(self, form: Format) -> bool:
        return self.kind is None or form.kind == self.kind or (form.name == "sharegpt" and self.kind == "dialogue")

    def rows(self, raws: Iterator[Raw]) -> Iterator[dict[str, Any]]:
        """Checked rows."""
        first = list(islice(raws, _LOOK if self.keep else 1))
        self.decide(first)
        for raw in chain(first, raws):
            try:
                if isinstance(raw.value, RowError):
                    raise raw.value
                row, notes = apply(self.format, raw.value) if self.format else (raw.value, ())
                if self.bare and isinstance(row, dict):
                    row = {"answers": [], **row}
                row = normalise(row, self.kind or "")
            except RowError as error:
                named = error.at(raw.place)
                if not self.keep:
                    raise named from None
                self._set_aside(raw, named)
                continue
            self.notes.update(notes)
            yield row

    def _set_aside(self, raw: Raw, error: RowError) -> None:
        self.on_bad(raw, error)
        self.count += 1
        if len(self.bad) < 20:
            self.bad.append(error)

    def _write(self, raw: Raw, error: RowError) -> None:
        if self.aside is None:
            self.aside_path.parent.mkdir(parents=True, exist_ok=True)
            self.aside = self.aside_path.open("w", encoding="utf-8")
        whole: dict[str, Any] = {"text": raw.text} if raw.text is not None else {"row": raw.value}
        self.aside.write(json.dumps({"place": raw.place, "problem": str(error), **whole}, default=repr) + "\n")

    def report(self) -> None:
        """Say what was set aside and what converters noted."""
        if self.count:
            progress.say(
                f"{self.source}: {self.count:,} bad rows set aside in {self.aside_path}. The first: {self.bad[0]}"
            )
        for note, count in self.notes.items():
            progress.say(f"{self.source}: {count:,} {note}.")

    def records(self, dataset: datasets.Dataset) -> Records:
        """The rows with what is known of them."""
        self.report()
        if self.kind is None:
            raise RecordError(f"{self.source} holds no row. Name a kind to make empty records of it.")
        if not len(dataset) and self.count:
            raise RecordError(f"{self.source}: all {self.count:,} rows are bad. The first: {self.bad[0]}")
        return Records(self.kind, dataset, self.source, self.count, dict(self.notes), tuple(self.bad))


def raws_of(source: str | Path) -> Iterator[Raw]:
    name = str(source)
    if name.startswith("sandbox/") and not Path(name).exists():
        return _sandbox(name)
    path = Path(source)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError):  # too long a name, or one that holds a null byte
        raise RecordError(f"{shorten(name)} is not a path that can be opened.") from None
    if is_folder:
        return _folder(path)
    if exists:
        return raw_rows(path)
    if (
        isinstance(source, str)
        and _HUB.match(name)
        and name.lower().split(".")[-1] not in ("jsonl", "json", "csv", "parquet", "gz", "ndjson")
    ):
        return _hub(name)
    raise RecordError(f"There is no file or folder {name}.")


def _sandbox(name: str) -> Iterator[Raw]:
    from truing import sandbox

    short, _, split = name.partition(":")
    rows = sandbox.records(short.removeprefix("sandbox/"), split=split or "train")
    return (Raw(f"{name}, row {number}", row) for number, row in enumerate(rows, 1))


def _folder(path: Path) -> Iterator[Raw]:
    if (path / "state.json").exists() and (path / "dataset_info.json").exists():
        import datasets

        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            raise RecordError(
                f"{path} holds the splits {', '.join(saved)}. Name the folder of one: {path / next(iter(saved))}."
            )
        return (Raw(f"{path}, row {number}", row) for number, row in enumerate(saved, 1))
    files, others = [], []
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or file.name.endswith(".set-aside.jsonl") or file.is_dir():
            continue
        try:
            suffix_of(file)
            files.append(file)
        except RecordError:
            others.append(file.name)
    if not files:
        raise RecordError(f"{path} holds no file that records are read from (.jsonl, .json, .csv, .parquet).")
    if others:
        progress.say(f"{path}: read {len(files)} files; {len(others)} hold no records: {', '.join(others[:5])}.")
    return chain.from_iterable(raw_rows(file) for file in files)


def _hub(name: str) -> Iterator[Raw]:
    import datasets

    short, _, split = name.partition(":")
    try:
        rows = datasets.load_dataset(short, split=split or "train")
    except TruingError:
        raise
    except Exception as error:  # the hub client raises dozens of kinds, from requests' to its own
        raise RecordError(
            f"There is no file {name}, and as a data set of the hub it cannot be loaded: "
            f"{' '.join(str(error).split())[:300]} "
            "Check the name, the split (org/name:split) and the connection, or give a file."
        ) from None
    return (Raw(f"{name}, row {number}", row) for number, row in enumerate(rows, 1))
