from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Truing

Models = dict[str, Path]


def test_measure_a_model(truing: Truing, models: Models) -> None:
    from truing.measures.run import measure
    from truing.models import load

    done = truing("measure", "length", "--model", models["a"], "--limit", 6, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    expected = measure("length", load(models["a"]), limit=6).to_json()
    assert found["figures"] == expected["figures"]
    assert found["samples"] == expected["samples"]
    assert found["settings"]["limit"] == 6


def test_measure_against_another_and_write_it(truing: Truing, models: Models, tmp_path: Path) -> None:
    from truing.measures.result import Result
    from truing.measures.show import change, interval

    file = tmp_path / "deep" / "length.json"
    words = ["measure", "length", "--model", models["a"], "--against", models["b"], "--limit", 6, "--out", file]
    for width in (60, 140):
        done = truing(*words, width=width)
        assert done.code == 0, done.err
        result = Result.load(file)
        assert result.differences is not None
        assert result.against is not None
        for name, figure in result.figures.items():
            assert interval(figure) in done.out
            assert interval(result.against[name]) in done.out
            assert change(result.differences[name]) in done.out
        assert "95 % intervals" in done.out
        assert max(map(len, done.out.splitlines()[:-1])) <= width  # the last line names the file
    assert result.model["name"] == "a"


def test_settings_of_a_measure_are_options(truing: Truing, models: Models, tmp_path: Path) -> None:
    import dataclasses

    from truing.measures.side_effects import Length

    names = [field.name for field in dataclasses.fields(Length)]  # type: ignore[arg-type]
    help_text = truing("measure", "length", "--help", width=80).out
    assert all(f"--{name.replace('_', '-')}" in help_text for name in names)
    assert "Usage: truing measure [OPTIONS]" in truing("measure", "--help").out
    found = truing("measure", "length", "-m", models["a"], "--limit", 3, "--seed", 5, "--json")
    assert json.loads(found.out)["settings"]["seed"] == 5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "Name a measure first"),
        (["--limit", "3"], "Name a measure first"),
        (["lenght", "-m", "x"], "Did you mean `length`?"),
        (["length"], "--model"),
        (["length", "-m", "./no-model", "--sede", "1"], "Did you mean --seed?"),
        (["length", "-m", "./no-model", "--seed", "one"], "--seed: `seed` takes int, not 'one'"),
        (["length", "-m", "./no-model", "--out", "."], "is a folder"),
        (["length", "-m", "./no-model"], "no-model"),
    ],
)
def test_mistakes(truing: Truing, words: list[str], expected: str) -> None:
    done = truing("measure", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


def test_a_run_ends_with_its_figures_and_its_report(truing: Truing, models: Models, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"model: {models['a']}\nsteps:\n  - system_message: {{text: Be kind.}}\nmeasures: [length]\nlimit: 4\n"
        "side_effects: false\n"
    )
    out = tmp_path / "run"
    for again in (False, True):
        done = truing("run", recipe, "--out", out, width=80)
        assert done.code == 0, done.err
        assert f"Report: {out / 'report.html'}" in done.out
        assert f"Model: {out / 'steps' / '01-system-message' / 'model'}" in done.out
        assert "before" in done.out
        assert "length (words)" in done.out
        assert ("finished already" in done.err) == again
    assert (out / "report.html").is_file()
    changed = truing("run", recipe, "--out", out, "--set", "limit=5")
    assert changed.code == 2
    assert "limit: 4 in the folder, 5 in the recipe" in changed.err


def test_side_effects_stand_apart() -> None:
    from rich.console import Console

    from truing.cli.figures import figures
    from truing.measures.result import Figure
    from truing.reports.rows import Line

    half = Figure(0.5, 0.4, 0.6, 100, "exact")
    more = Figure(0.1, 0.05, 0.15, 100, "paired")
    lines = [
        Line("hhh", "helpful", half, half, more),
        Line("length", "length", half, half, more, side_effect=True),
    ]
    console = Console(width=200)
    for width in (70, 200):
        with console.capture() as written:
            console.print(figures(lines, "after", "before", width=width))
        text = written.get()
        assert text.index("helpful") < text.index("side effects") < text.index("length")
        assert text.count("better") == 2
        assert text.count("50.0 % [40.0, 60.0]") == 4
