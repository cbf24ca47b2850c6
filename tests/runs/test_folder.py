from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from truing.errors import RecipeError, RunError
from truing.runs.folder import differences, locked, read_json, write_json
from truing.runs.library import find_recipe, recipe_names

HOLD = """
import sys, time
from pathlib import Path
from truing.runs.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_used_by_one_process_until_it_dies(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"Another process \(process {other.pid}\)"), locked(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with locked(tmp_path):
        pass


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path) == {"x": 1}
    path.write_text('{"x": ')
    with pytest.raises(RunError, match="cannot be read"):
        read_json(path)


def test_differences_name_the_place() -> None:
    old = {"model": "a", "steps": [{"method": "sft", "settings": {}}], "seed": 0}
    new = {"model": "a", "steps": [{"method": "sft", "settings": {"beta": 0.1}}, {"method": "dpo"}], "seed": False}
    assert differences(old, new) == [
        "seed: 0 in the folder, false in the recipe",
        "steps.1.settings.beta: nothing in the folder, 0.1 in the recipe",
        'steps.2: nothing in the folder, {"method": "dpo"} in the recipe',
    ]
    assert differences(old, old) == []


def test_ready_recipes_are_found_by_name() -> None:
    names = recipe_names()
    assert names[0] == "quickstart"
    assert {"best-of-n", "steering", "system-message", "hh-dpo"} <= set(names)
    assert find_recipe("Best_of_N")[0] == "best-of-n"
    with pytest.raises(RecipeError, match="Did you mean `quickstart`"):
        find_recipe("quikstart")


def test_recipe_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("model: a\n")
    assert find_recipe(tmp_path / "mine.yaml") == ("mine", "model: a\n")
    (tmp_path / "recipe.yaml").write_text("model: b\n")
    assert find_recipe(str(tmp_path) + "/") == (tmp_path.name, "model: b\n")
    with pytest.raises(RecipeError, match="no recipe file"):
        find_recipe("absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        find_recipe(tmp_path / "bytes.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(RecipeError, match=r"write \./mine"):
        find_recipe("mine")
