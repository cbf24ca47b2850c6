"""``truing compare`` of runs and results, and ``truing measure --power``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Truing
from tests.measures.results import first, outcome, result
from tests.runs.recipes import write


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = []
    for name, share in (("base", 0.5), ("one", 0.55), ("two", 0.9)):
        words = [5.0 + at % 7 + (2 if name == "two" else 0) + (at % 3) * 0.1 for at in range(80)]
        result(outcome(first(share, 80), words), name).save(tmp_path / f"{name}.json")
        made.append(tmp_path / f"{name}.json")
    return made


@pytest.mark.parametrize("width", [44, 70, 100, 200])
def test_one_table_that_fits(truing: Truing, files: list[Path], width: int) -> None:
    done = truing("compare", *files, width=width)
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    for part in ("50.0 % [38.6, 61.4]", "+40.0 pp", "p (Holm)", "▲ better", "◆ changed", "no clear change"):
        assert part in words
    assert max(map(len, done.out.splitlines())) <= width


def test_json_and_page(truing: Truing, files: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "deep" / "c.html"
    done = truing(
        "compare", *files, "--json", "--html", page, "--correction", "benjamini-hochberg", "--figure", "right"
    )
    value = json.loads(done.out)
    assert value["models"] == ["base", "one", "two"]
    assert value["correction"] == "benjamini-hochberg"
    assert {test["figure"] for test in value["tests"]} == {"right"}
    assert "Benjamini" in page.read_text()
    assert f"Page: {page}" in truing("compare", *files, "--html", page).out
    turned = json.loads(truing("compare", *files, "--json", "--baseline", "two").out)
    assert turned["baseline"] == "two"


def test_runs_of_real_recipes(truing: Truing, tmp_path: Path) -> None:
    outs = []
    for name in ("Answer briefly.", "Answer at length and with care."):
        recipe = write(
            tmp_path, f"r{len(outs)}.yaml", steps=[{"system_message": {"text": name}}], side_effects=False,
            measures=[{"hhh": {"limit": 10}}, {"length": {"limit": 10}}],
        )  # fmt: skip
        outs.append(tmp_path / f"out{len(outs)}")
        assert truing("run", recipe, "--out", outs[-1]).code == 0
    value = json.loads(truing("compare", *outs, "--baseline", "before", "--json").out)
    assert value["models"] == ["sandbox/small", "out0", "out1"]
    assert all(test["paired"] for test in value["tests"])
    one = json.loads((outs[1] / "measures" / "length.json").read_text())
    found = next(test for test in value["tests"] if (test["figure"], test["model"]) == ("length", "out1"))
    assert found["difference"]["value"] == pytest.approx(one["differences"]["length"]["value"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["one.json", "sandbox/base"], "Compare runs with runs"),
        (["sandbox/base", "one.json"], "Compare runs with runs"),
        (["sandbox/base"], "is one model"),
        (["one.json", "two.json", "--top", "3"], "--top is for a comparison of two models' answers"),
        (["sandbox/base", "sandbox/small", "--html", "x.html"], "--html is for a comparison of runs"),
        (["one.json", "--baseline", "tow"], "no model `tow`"),
        (["one.json", "two.json", "--correction", "bonferroni"], "holm, benjamini-hochberg, none"),
        (["one.json", "two.json", "--figure", "rigth"], "Did you mean `right`"),
        (["one.json", "nowhere.json"], "no run folder and no result"),
        (["one.json", "two.json", "--html", "."], "is a folder"),
    ],
)
def test_mistakes(
    truing: Truing, files: list[Path], monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(files[0].parent)
    done = truing("compare", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


def test_names_of_models_are_printed_and_not_obeyed(truing: Truing, tmp_path: Path) -> None:
    for at, name in enumerate(("[red]a[/red]\x1b[2J", "b\u202e")):
        result(outcome(first(0.5, 20)), name).save(tmp_path / f"{at}.json")
    done = truing("compare", tmp_path / "0.json", tmp_path / "1.json")
    assert done.code == 0
    assert "[red]a[/red]\\x1b[2J" in done.out
    assert not {"\x1b", "\u202e"} & set(done.out)


# --- sample sizes ---


def test_sizes_without_a_measure_and_without_a_pilot(truing: Truing) -> None:
    from truing.measures.sample_size import advice

    for words in (["--power", "0.05"], ["hhh", "--power", "0.05"]):
        done = truing("measure", *words)
        assert done.code == 0, done.err
        for row in advice(0.05):
            assert f"{row.needed:,}" in done.out
        value = json.loads(truing("measure", *words, "--json").out)
        assert [row["needed"] for row in value["advice"]] == [row.needed for row in advice(0.05)]


@pytest.mark.parametrize("width", [60, 140])
def test_sizes_from_a_pilot(truing: Truing, tmp_path: Path, width: int) -> None:
    file = tmp_path / "length.json"
    words = ["--model", "sandbox/small", "--against", "sandbox/base", "--limit", 12]
    assert truing("measure", "length", *words, "--out", file).code == 0
    done = truing("measure", "length", "--power", "0.5", "--pilot", file, width=width)
    assert done.code == 0, done.err
    assert "the same items" in " ".join(done.out.split())
    assert max(map(len, done.out.splitlines())) <= width
    (same, other) = json.loads(truing("measure", "length", "--power", "0.5", "--pilot", file, "--json").out)["advice"]
    assert (same["unit"], same["figure"], other["items"]) == ("words", "length", "different items")
    assert same["needed"] >= 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--power", "0"], "above 0"), (["--power", "2"], "below 1"), (["hhh", "--power", "much"], "--power"),
        (["hhh", "--pilot", "x.json"], "--pilot goes with --power"),
        (["hhh", "--power", "0.1", "--pilot", "none.json"], "holds no result"),
        (["hhh", "--power", "0.1", "--pilot", "one.json"], "is a result of `exam`, not of `hhh`"),
        (["hhh", "--power", "0.1", "--seed", "3"], "has no use here"),
        (["hhhh", "--power", "0.1"], "Did you mean `hhh`"),
    ],
)  # fmt: skip
def test_mistakes_of_sizes(
    truing: Truing, files: list[Path], monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(files[0].parent)
    done = truing("measure", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
