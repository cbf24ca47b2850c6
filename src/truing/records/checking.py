"""What the command line shows of a file (kind, problems, lengths, duplicates), and conversion to another file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from truing.errors import RecordError
from truing.records.converters import to_trl
from truing.records.kinds import KINDS
from truing.records.reading import Reading, raws_of
from truing.records.table import canonical
from truing.records.writing import write_rows

EXAMPLES = 3


@dataclass
class Lengths:
    """Characters of text in one column: fewest, median, 95th percentile, most."""

    least: int
    median: int
    p95: int
    most: int


@dataclass
class Report:
    """What `check_file` found.

    Attributes:
        source: what was checked.
        kind: the kind of record.
        format: the format it is written in, where a converter reads it.
        rows: good rows.
        bad: bad rows.
        problems: how often each problem occurs, the most frequent first.
        examples: the first few errors of each problem, with file and line.
        notes: what a converter did, and what is allowed but worth knowing, with counts.
        lengths: characters of text by column.
        duplicates: rows that repeat an earlier one exactly.
        repeated_prompts: rows whose prompt (or first messages) an earlier row has too.
        columns: how many rows have each column.
    """

    source: str
    kind: str
    format: str | None = None
    rows: int = 0
    bad: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, Lengths] = field(default_factory=dict)
    duplicates: int = 0
    repeated_prompts: int = 0
    columns: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No bad row."""
        return self.bad == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        form = f", written as {self.format}" if self.format else ""
        lines = [f"{self.source}: {self.rows:,} {self.kind} records{form}; {self.bad:,} bad rows"]
        for problem, count in self.problems.items():
            lines.append(f"  {count:,} x {problem}")
            lines += [f"      {example}" for example in self.examples[problem]]
        lines += [f"  note: {count:,} {note}" for note, count in self.notes.items()]
        lines.append(f"  {self.duplicates:,} exact duplicates; {self.repeated_prompts:,} rows repeat an earlier prompt")
        lines += [
            f"  {name}: {at.least:,} to {at.most:,} characters, median {at.median:,}, 95 % up to {at.p95:,}"
            for name, at in self.lengths.items()
        ]
        return "\n".join(lines)


def text_length(value: Any) -> int:
    """Characters of text in a value: a string, messages, parts, or a list of these."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(text_length, value))
    if isinstance(value, dict):
        return text_length(value.get("content", value.get("text", "")))
    return 0


def _lengths(values: list[int]) -> Lengths:
    ordered = sorted(values)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return Lengths(ordered[0], at(0.5), at(0.95), ordered[-1])


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(canonical(value).encode(), digest_size=12).digest()


def _remarks(row: dict[str, Any], kind: str) -> Iterator[str]:
    if kind in ("preference", "contrast"):
        one, two = ("chosen", "rejected") if kind == "preference" else ("positive", "negative")
        if row[one] == row[two]:
            yield f"rows whose {one} and {two} are equal"
    for name in KINDS[kind].required:
        if row[name] == "" or (isinstance(row[name], list) and "" in row[name]):
            yield f"rows with an empty {name}"
    if kind == "question" and not row["answers"]:
        yield "questions without an answer"


def check_file(path: str | Path, kind: str | None = None, *, format: str | None = None) -> Report:
    """Check every row of a source and count what is wrong; nothing is written.

    Args:
        path: anything `read` takes.
        kind: the kind of record; recognised when not given.
        format: how it is written; recognised when not given.

    Raises:
        RecordError: the source cannot be read as a whole, or its kind cannot be told.
    """
    problems: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}

    def note_bad(raw: Any, error: Any) -> None:
        problems[error.problem] += 1
        shown = examples.setdefault(error.problem, [])
        if len(shown) < EXAMPLES:
            shown.append(str(error))

    reading = Reading(str(path), kind, "set_aside", format, on_bad=note_bad)
    report = Report(str(path), "")
    lengths: dict[str, list[int]] = {}
    columns: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    rows_seen: set[bytes] = set()
    prompts_seen: set[bytes] = set()
    for row in reading.rows(raws_of(path)):
        kind = str(reading.kind)
        report.rows += 1
        columns.update(list(row))  # a Counter given the dict would add its values
        remarks.update(_remarks(row, kind))
        for name in KINDS[kind].required:
            if name not in ("label", "scores"):
                lengths.setdefault(name, []).append(text_length(row[name]))
        for seen, value, counter in (
            (rows_seen, row, "duplicates"),
            (prompts_seen, row.get("prompt", row.get("messages")), "repeated_prompts"),
        ):
            digest = _digest(value)
            if digest in seen:
                setattr(report, counter, getattr(report, counter) + 1)
            seen.add(digest)
    if reading.kind is None:
        raise RecordError(
            f"{path}: no row shows which kind of record this is. " + " ".join(str(error) for error in reading.bad[:1])
        )
    report.kind, report.bad = reading.kind, reading.count
    report.format = reading.format.name if reading.format else None
    report.problems = dict(problems.most_common())
    report.examples = examples
    report.notes = {**{note: count for note, count in reading.notes.items() if not _said(note)}, **remarks}
    report.lengths = {name: _lengths(values) for name, values in lengths.items()}
    report.columns = dict(columns)
    return report


def _said(note: str) -> bool:
    # The remarks count these for every format.
    return note in ("pairs with an empty response", "pairs whose two responses are equal")


@dataclass
class Conversion:
    """What `convert_file` did."""

    path: Path
    kind: str
    rows: int
    set_aside: int
    set_aside_path: Path | None
    notes: dict[str, int]

    def __str__(self) -> str:
        aside = f"; {self.set_aside:,} bad rows set aside in {self.set_aside_path}" if self.set_aside else ""
        notes = "".join(f"; {count:,} {note}" for note, count in self.notes.items())
        return f"{self.path}: {self.rows:,} {self.kind} records{aside}{notes}"


def convert_file(
    src: str | Path,
    dst: str | Path,
    to: str | None = None,
    *,
    kind: str | None = None,
    format: str | None = None,
    on_error: str = "raise",
) -> Conversion:
    """Read a source, row by row, and write it to a file whose suffix says the format; bad rows go beside that file.

    Args:
        src: anything `read` takes.
        dst: .jsonl, .json, .csv or .parquet, each also with .gz. It appears whole or not at all.
        to: "trl" writes TRL's conversational columns; the name of a kind asks for that kind; None keeps
            what is recognised.
        kind: the kind to read the source as.
        format: how the source is written; recognised when not given.
        on_error: "raise" or "set_aside".

    Raises:
        RecordError: the source cannot be read, a row is bad, or there is no such conversion.
    """
    if to is not None and to != "trl" and to not in KINDS:
        raise RecordError(f"Records are converted to trl or to a kind ({', '.join(KINDS)}), not to `{to}`.")
    dst = Path(dst)
    wanted = kind or (to if to in KINDS else None)
    if Path(src).exists() and dst.exists() and dst.resolve() == Path(src).resolve():
        raise RecordError(f"{dst} is the file to read. Write to another one.")
    reading = Reading(str(src), wanted, on_error, format, set_aside=Path(f"{dst}.set-aside.jsonl"))
    rows = 0

    def out() -> Iterator[dict[str, Any]]:
        nonlocal rows
        for row in reading.rows(raws_of(src)):
            rows += 1
            yield to_trl(row, str(reading.kind), conversational=True) if to == "trl" else row

    with reading:
        write_rows(out(), dst)
    reading.report()
    return Conversion(
        dst, str(reading.kind), rows, reading.count, reading.aside_path if reading.count else None, dict(reading.notes)
    )
