"""Results that were read from files: whatever a hand has changed in them, one clear error or a right answer."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.measures.results import first, outcome, result
from truing.cli.app import app
from truing.errors import RunError, TruingError
from truing.measures.comparison import compare_results
from truing.measures.result import Result
from truing.measures.sample_size import advice
from truing.runs.gate import judge

PILOT = result(outcome(first(0.7, 12), [float(at) for at in range(12)]), against=("base", outcome(
    first(0.4, 12), [1.5 * at for at in range(12)])))  # fmt: skip
GOOD = PILOT.to_json()
BAD = [None, float("nan"), float("inf"), -1, 1e308, 10**400, "x", "", [1], {}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values, and to the first of each list."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def changed(path: tuple[Any, ...], *new: Any) -> Any:
    """The good result with one value replaced, or taken out."""
    whole = copy.deepcopy(GOOD)
    at = whole
    for key in path[:-1]:
        at = at[key]
    if new:
        at[path[-1]] = new[0]
    else:
        del at[path[-1]]
    return whole


def used(path: Path) -> None:
    """All that is done with a result that lies in a file."""
    try:
        found = Result.load(path)
    except TruingError:
        return
    for use in (
        lambda: advice(0.05, found), lambda: str(found),
        lambda: judge({"right": (">= 0.5", "better than base by 0.1")}, {"exam": found}).to_json(),
        lambda: str(compare_results({"one": {"exam": found}, "two": {"exam": PILOT}})),
    ):  # fmt: skip
        with contextlib.suppress(TruingError):
            use()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("part", ["figures", "samples", "columns", "against", "differences", "rest"])
def test_no_change_by_hand_is_an_internal_error(part: str, tmp_path: Path) -> None:
    named = ("figures", "samples", "columns", "against", "differences")
    paths = [path for path in places(GOOD) if path[0] == part or (part == "rest" and path[0] not in named)]
    assert len(paths) > 5
    for path in paths:
        for whole in (changed(path), *(changed(path, bad) for bad in BAD)):
            (tmp_path / "r.json").write_text(json.dumps(whole))
            used(tmp_path / "r.json")


@pytest.mark.parametrize("text", ["", "[", "null", "3", "[]", "{}", '{"figures": {}}', "[" * 100_000])
def test_no_result_at_all(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(RunError, match="holds no result of a measure"):
        Result.load(tmp_path / "r.json")


def test_a_good_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    PILOT.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json").to_json() == GOOD


@pytest.mark.parametrize(
    ("path", "new", "words"),
    [
        (("figures", "right", "n"), None, "`figures`, right: `n` is a number of samples, not None"),
        (("figures", "right", "value"), "0.5", "`value` is a number or null"),
        (("samples", 0, "right"), "x", "`samples`, row 1: `right` is a number, true, false or null"),
        (("samples", 0, "right"), 3, "counts for a share, from 0 to 1"),
        (("columns", "right", "statistic"), "median", "`statistic` is one of share, stratified_share, mean"),
        (("against_model",), "base", "`against_model` is an object"),
    ],
)
def test_the_error_names_the_place(path: tuple[Any, ...], new: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "pilot.json").write_text(json.dumps(changed(path, new)))
    done = CliRunner().invoke(app, ["measure", "--power", "0.1", "--pilot", str(tmp_path / "pilot.json")])
    assert done.exit_code == 1
    assert isinstance(done.exception, (RunError, SystemExit))
    said = f"{done.output} {done.exception}"
    assert words in " ".join(said.split())


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_the_pieces_of_a_file_are_its_json(rows: int, tmp_path: Path) -> None:
    some = [{"id": str(at), "prompt": "a \u202e \ud800", "right": float("nan")} for at in range(rows)]
    whole = dataclasses.replace(PILOT, samples=some)
    assert json.loads("".join(whole.pieces())) == whole.to_json()
    whole.save(tmp_path / "r.json")
    assert len((tmp_path / "r.json").read_text(encoding="utf-8").split('"samples": [')[1].splitlines()) == rows + 3
