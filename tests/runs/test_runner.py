from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.runs.recipes import figures, write
from truing.errors import RecipeError, RunError, TruingError
from truing.runs import load, run
from truing.runs.facts import folder_name

PROGRAM = "import sys; from truing.runs import run; run(sys.argv[1], out=sys.argv[2])"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe and the folder of its undisturbed run, in a process of its own as in the test of kills."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write(folder, measure_each_step=True)
    start(recipe, folder / "out").wait(timeout=300)
    return recipe, folder / "out"


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(recipe), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_folder_holds_what_it_promises(finished: tuple[Path, Path]) -> None:
    _, out = finished
    for name in ("recipe.yaml", "run.json", "log.txt", "report.html", "measures/hhh.json", "measures/kl.json"):
        assert (out / name).is_file(), name
    state = json.loads((out / "run.json").read_text())
    assert state["state"] == "finished"
    assert [step["folder"] for step in state["steps"]] == ["01-sft", "02-dpo", "03-system-message"]
    assert all(step["state"] == "done" and step["seconds"] >= 0 for step in state["steps"])
    assert state["steps"][0]["data"]["rows"] == 24
    assert len(state["steps"][0]["data"]["fingerprint"]) == 64
    assert state["sessions"][0]["threads"] == 1
    assert state["sessions"][0]["versions"]["torch"]
    assert {item["label"] for item in state["measures"]} == {
        "hhh", "capability", "over_refusal", "length", "diversity", "kl"
    }  # fmt: skip
    for step in ("01-sft", "02-dpo", "03-system-message"):
        assert (out / "steps" / step / "model" / "README.md").is_file()
        assert not (out / "steps" / step / "checkpoints").exists()
    assert (out / "measures" / "01-sft" / "hhh.json").is_file()
    assert "Step 2 of 3: dpo on 24 preference records." in (out / "log.txt").read_text()


def test_a_finished_run_is_read_back(finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    before = (out / "run.json").read_text()
    (out / "report.html").unlink()
    began = time.monotonic()
    again = run(recipe, out=out)
    assert time.monotonic() - began < 5
    assert (out / "run.json").read_text() == before
    assert (out / "report.html").is_file()
    assert next(iter(again.results)) == "hhh"
    assert again.by_step.keys() == {"01-sft", "02-dpo"}
    assert "helpful" in str(again)
    assert len(again.model().history) == 3
    assert load(out).results["hhh"].figures == again.results["hhh"].figures
    assert run(out / "recipe.yaml", out=out).results.keys() == again.results.keys()


def test_another_recipe_is_refused_and_shown(finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    with pytest.raises(RunError, match=r"steps\.2\.settings\.beta: nothing in the folder, 0\.7 in the recipe"):
        run(recipe, out=out, overrides=["dpo.beta=0.7"])
    with pytest.raises(RunError, match="seed: 0 in the folder, 1 in the recipe"):
        run(recipe, out=out, overrides=["seed=1"])


def wait_for_work(process: subprocess.Popen[str], out: Path) -> None:
    """Until the run has written a line to its log, so that a kill hits work and not imports."""
    log = out / "log.txt"
    size = log.stat().st_size if log.exists() else 0
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 120:
        if log.exists() and log.stat().st_size > size:
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_at_any_moment_the_figures_are_the_same(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, undisturbed = finished
    out = tmp_path / "killed"
    moments = random.Random(int(os.environ.get("TRUING_KILL_SEED", "0")))
    written = [
        datetime.fromisoformat(line.split(" ")[0]) for line in (undisturbed / "log.txt").read_text().splitlines()
    ]
    whole = max(1.0, (written[-1] - written[0]).total_seconds())
    kills = 0
    for _ in range(int(os.environ.get("TRUING_KILLS", "3"))):
        process = start(recipe, out)
        wait_for_work(process, out)
        time.sleep(moments.uniform(0, 0.5 * whole))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 1, "the first run was over before the kill"
    last = start(recipe, out)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert figures(out) == figures(undisturbed)
    state = json.loads((out / "run.json").read_text())
    assert state["state"] == "finished"
    assert len(state["sessions"]) >= 2
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("checkpoints"))


def test_what_a_kill_left_of_a_save_is_removed(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    left = tmp_path / "out" / "steps" / "01-sft" / ".model.partial.5f5f6d74.partial"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("cut")
    (tmp_path / "out" / "run.json").write_text(
        (finished[1] / "run.json").read_text().replace('"finished"', '"running"')
    )
    assert start(recipe, tmp_path / "out").wait(timeout=300) == 0
    assert not left.exists()
    assert (tmp_path / "out" / "steps" / "01-sft" / "model" / "truing.json").is_file()


def test_two_processes_do_not_share_a_folder(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    out = tmp_path / "shared"
    first = start(recipe, out)
    try:
        began = time.monotonic()
        while not (out / "log.txt").exists() and time.monotonic() - began < 60:
            time.sleep(0.05)
        with pytest.raises(RunError, match="Another process"):
            run(recipe, out=out)
    finally:
        first.kill()
        first.wait()


def test_bad_records_stop_the_run_before_any_work(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": 7}\n')
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: sandbox/small\nsteps:\n  - dpo:\n      records: {{path: {pairs}, kind: preference}}\nmeasures: [hhh]\n"
    )
    with pytest.raises(RecipeError, match=r"r\.yaml, line 4: .*pairs\.jsonl"):
        run(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out" / "steps").exists()
    assert "stopped: RecipeError" in (tmp_path / "out" / "log.txt").read_text()
    # Nothing was begun, so the folder can be used once the file is repaired or another recipe is meant.
    with pytest.raises(TruingError, match="no-such-model"):
        run(recipe, out=tmp_path / "out", overrides=["model=no-such-model"])


def test_records_that_change_under_a_run_are_noticed(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "completion": "an answer"} for n in range(4)]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    recipe = write(
        tmp_path, steps=[{"sft": {"records": str(data), "learning_rate": 1e-4}}], measures=[{"hhh": {"limit": 2}}]
    )
    out = tmp_path / "out"
    run(recipe, out=out, overrides=["side_effects=false"])
    state = json.loads((out / "run.json").read_text())
    state["state"] = state["steps"][0]["state"] = "running"
    (out / "run.json").write_text(json.dumps(state))
    (out / "steps" / "01-sft" / "done.json").unlink()
    data.write_text(json.dumps(rows[0]))
    with pytest.raises(RunError, match="have changed since this run began"):
        run(recipe, out=out, overrides=["side_effects=false"])


def test_no_steps_measures_the_model_alone(tmp_path: Path) -> None:
    recipe = write(tmp_path, steps=[], measures=[{"hhh": {"limit": 4}}, {"hhh": {"limit": 3}}], report=False)
    result = run(recipe, out=tmp_path / "out")
    assert list(result.results) == ["hhh", "hhh-2"]
    assert result.results["hhh"].against is None
    assert result.report is None
    assert not (tmp_path / "out" / "report.html").exists()


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        run(recipe, out=tmp_path / "file")
    with pytest.raises(RunError, match="holds files that are no run"):
        run(recipe, out=tmp_path)
    with pytest.raises(RunError, match="is no run folder"):
        load(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        run(recipe, out=broken)


@pytest.mark.parametrize(("name", "folder"), [("quickstart", "quickstart"), ("../../x y", "x-y"), ("...", "run")])
def test_names_of_recipes_are_never_paths(name: str, folder: str) -> None:
    assert folder_name(name) == folder
