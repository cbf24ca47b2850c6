"""Whatever stands in a file, only a RecordError comes out; and what is written reads back the same."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.records.rows import EXAMPLES, metadata, valid_rows
from truing.errors import RecordError
from truing.records import KINDS, check_file, read, write
from truing.records.kinds import normalise
from truing.records.reading import from_rows

QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SEEDS = [
    json.dumps(EXAMPLES["preference"]).encode(),
    b"prompt,completion\na,b\n",
    b"\xef\xbb\xbf",
    b'{"data": [',
    b"PAR1",
    b"\x1f\x8b",
]
pieces = (
    st.sampled_from(SEEDS)
    | st.binary(max_size=20)
    | st.sampled_from([b"\n", b'"', b",", b"{", b"}", b"[", b"]", b"\\", b"NaN", b"\x00"])
)
content = st.lists(pieces, max_size=6).map(b"".join)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_any_bytes(suffix: str, tmp_path: Path) -> None:
    @QUICK
    @given(
        content,
        st.sampled_from([None, *KINDS]),
        st.sampled_from(["raise", "set_aside"]),
        st.booleans(),
        st.integers(0, 9),
    )
    def check(data: bytes, kind: str | None, on_error: str, packed: bool, cut: int) -> None:
        path = tmp_path / (f"f.{suffix}.gz" if packed else f"f.{suffix}")
        path.write_bytes(gzip.compress(data)[: -cut or None] if packed else data)
        for action in (lambda: read(path, kind, on_error), lambda: check_file(path, kind)):
            try:
                action()
            except RecordError as error:
                str(error).encode("utf-8")

    check()


def test_any_bytes_inside_a_parquet_file(tmp_path: Path) -> None:
    whole = write(from_rows([EXAMPLES["preference"]] * 3), tmp_path / "good.parquet").read_bytes()

    @QUICK
    @given(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=8), st.booleans())
    def check(at: int, data: bytes, cut: bool) -> None:
        path = tmp_path / "bad.parquet"
        path.write_bytes(whole[:at] + data + (b"" if cut else whole[at + len(data) :]))
        try:
            read(path)
        except RecordError:
            return

    check()


odd = st.floats() | st.integers() | st.text() | st.binary(max_size=3) | st.none() | metadata
columns = sorted(
    {name for kind in KINDS.values() for name in kind.required}
    | {"conversations", "instruction", "output", "score_chosen", "score_rejected"}
)
rows = st.lists(
    odd | st.dictionaries(st.sampled_from(columns) | st.integers() | st.text(max_size=3), odd, max_size=6), max_size=4
)


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from([None, *KINDS]))
def test_any_values_as_rows(given_rows: list[Any], kind: str | None) -> None:
    try:
        records = from_rows(given_rows, kind)
    except RecordError as error:
        str(error).encode("utf-8")
    else:
        assert [normalise(row, records.kind) for row in records] == list(records)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_any_valid_rows_read_back_the_same(suffix: str, tmp_path: Path) -> None:
    @QUICK
    @given(st.sampled_from(list(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), valid_rows(kind))))
    def check(drawn: tuple[str, list[dict[str, Any]]]) -> None:
        kind, wanted = drawn
        records = from_rows(wanted, kind, format="trl")
        assert list(records) == wanted
        if suffix == "csv":
            try:
                path = write(records, tmp_path / "rows.csv")
            except RecordError:  # text that looks like messages: CSV cannot hold it, and says so
                return
        else:
            path = write(records, tmp_path / f"rows.{suffix}")
        again = read(path, kind, format="trl")
        assert list(again) == wanted
        assert again.fingerprint == records.fingerprint

    check()
