from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Truing, shell

Models = dict[str, Path]
QUICK = ("--max-steps", 2, "--batch-size", 2, "--max-length", 128)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "the cat", "chosen": f"sat {n}", "rejected": f"the mat {n}"} for n in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_align_from_start_to_a_model_that_loads(truing: Truing, models: Models, pairs: Path, tmp_path: Path) -> None:
    from truing.models import load

    out = tmp_path / "dpo"
    words = ["align", "dpo", "--model", models["a"], "--records", pairs, "--out", out, *QUICK, "--beta", "0.3"]
    done = truing(*words, "--learning-rate", "1e-3")
    assert done.code == 0, done.err
    assert "dpo on 6 preference records" in done.out
    assert f"truing chat --model {out}" in done.out
    aligned = load(out)
    step = aligned.history[-1]
    assert step.settings["beta"] == 0.3
    assert step.settings["max_steps"] == 2
    assert step.data is not None
    assert step.data["rows"] == 6
    before = load(models["a"]).logprobs(["the cat"], ["sat 1"])
    assert aligned.logprobs(["the cat"], ["sat 1"])[0] != pytest.approx(before[0], abs=1e-4)
    assert sorted(item.name for item in (out / "training").iterdir()) == [".lock", "align.json", "log.jsonl"]
    # It is finished: the same command reads, another one is refused, and neither changes a file.
    weights = (out / "model.safetensors").stat()
    again = truing(*words, "--learning-rate", "1e-3")
    assert again.code == 0
    assert "nothing was repeated" in again.out
    other = truing(*words[:-1], "0.4", "--learning-rate", "1e-3")
    assert other.code == 2
    assert "beta: 0.3 there, 0.4 here" in other.err
    assert (out / "model.safetensors").stat().st_mtime_ns == weights.st_mtime_ns
    # What it made is a model like any other, and can be aligned further.
    further = truing("align", "system-message", "-m", out, "--text", "Be brief.", "--out", tmp_path / "further")
    assert further.code == 0, further.err
    assert [step.method for step in load(tmp_path / "further").history] == ["dpo", "system_message"]


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    truing: Truing, models: Models, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = truing("align", "dpo", "--model", models["a"], "--records", pairs, "--dry-run", "--batch-size", 4)
    assert done.code == 0, done.err
    assert "6 rows" in done.out
    assert "2 steps, about" in done.out
    assert sorted(tmp_path.iterdir()) == before
    nothing = truing("align", "system-message", "-m", models["a"], "--text", "Be brief.", "--dry-run")
    assert nothing.code == 2
    assert "trains nothing" in nothing.err


def test_models_and_rewards_among_the_settings(truing: Truing, models: Models, tmp_path: Path) -> None:
    from truing.models import load

    nudged = truing("align", "nudging", "-m", models["a"], "--guide", models["b"], "--out", tmp_path / "nudged")
    assert nudged.code == 0, nudged.err
    assert load(tmp_path / "nudged").modifiers[0].guide.fingerprint == load(models["b"]).fingerprint  # type: ignore[attr-defined]
    best = truing(
        "align", "best-of-n", "-m", models["a"], "--reward", "{keyword: {words: [cat, mat]}}", "--n", 2,
        "--out", tmp_path / "best",
    )  # fmt: skip
    assert best.code == 0, best.err
    reward = load(tmp_path / "best").modifiers[0].reward  # type: ignore[attr-defined]
    assert list(reward.words) == ["cat", "mat"]


def test_decoding_with_two_models_from_the_command_line_and_from_a_recipe(
    truing: Truing, models: Models, tmp_path: Path
) -> None:
    from truing import ContrastiveDecoding, Ensemble, Nudging, ProxyTuning
    from truing.models import load

    a, b = load(models["a"]), load(models["b"])
    made = {
        "proxy-tuning": (ProxyTuning(guide=b, untuned=a, weight=0.5), "--guide", "b", "--untuned", "a"),
        "ensemble": (Ensemble(guide=b, weight=0.5), "--guide", "b"),
        "contrastive-decoding": (ContrastiveDecoding(amateur=b), "--amateur", "b"),
    }
    for name, (method, *words) in made.items():
        given = [models.get(word, word) for word in words]
        weight = ["--weight", 0.5] if hasattr(method, "weight") else []
        done = truing("align", name, "-m", models["a"], *given, *weight, "--out", tmp_path / name)
        assert done.code == 0, done.err
        wanted = method.align(a).generate("the cat", max_new_tokens=6)[0].tokens
        assert load(tmp_path / name).generate("the cat", max_new_tokens=6)[0].tokens == wanted
    other = truing("align", "ensemble", "-m", models["a"], "--guide", models["other"], "--out", tmp_path / "other")
    assert (other.code, (tmp_path / "other" / "truing.json").exists()) == (2, False)
    assert "different vocabularies" in other.err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {models['a']}\nsteps:\n  - ensemble: {{guide: {models['b']}}}\n"
        f"  - nudging: {{guide: {models['b']}, lookahead: 3}}\n"
    )
    done = truing("run", recipe, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    wanted = Nudging(guide=b, lookahead=3).align(Ensemble(guide=b).align(a)).generate("the cat", max_new_tokens=6)
    found = load(tmp_path / "run" / "steps" / "02-nudging" / "model").generate("the cat", max_new_tokens=6)
    assert found[0].tokens == wanted[0].tokens


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--bta", "0.3"], "Did you mean --beta?"),
        (["--beta", "much"], "--beta: `beta` takes float, not 'much'"),
        (["--beta", "-1"], "beta is a number over 0"),
        (["--loss", "sigmod"], "sigmod"),
        (["--guide", "x"], "`dpo` has no setting `guide`"),
        (["--on-error", "skip"], "raise or set-aside"),
    ],
)
def test_a_bad_setting_stops_before_anything_is_read(
    truing: Truing, tmp_path: Path, words: list[str], expected: str
) -> None:
    # Neither the model nor the records exist: a check that came after reading them would complain of that.
    done = truing("align", "dpo", "-m", "./no-model", "--records", "no-records.jsonl", "--out", tmp_path / "o", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert not (tmp_path / "o").exists()


def test_what_is_missing_or_not_wanted(truing: Truing, models: Models, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert "Name a method first" in truing("align").err
    assert "Name the method before" in truing("align", "--beta", "1", "dpo").err
    assert "Did you mean `dpo`?" in truing("align", "dpi").err
    assert "--model" in truing("align", "dpo", "--out", out).err
    assert "--out" in truing("align", "dpo", "-m", models["a"]).err
    assert "preference records" in truing("align", "dpo", "-m", models["a"], "--out", out).err
    words = ["align", "system-message", "-m", "x", "--text", "Be kind.", "--records", pairs, "--out", out]
    assert "--records: `system_message` reads no records" in truing(*words).err
    assert "guide" in truing("align", "nudging", "-m", models["a"], "--out", out).err
    assert "no file" in truing("align", "dpo", "-m", models["a"], "--records", "nofile.jsonl", "--out", out).err
    assert "no-model" in truing("align", "dpo", "-m", "./no-model", "--records", pairs, "--out", out).err


def test_a_folder_with_something_else_is_left_alone(
    truing: Truing, models: Models, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    words = ["align", "dpo", "-m", models["a"], "--records", pairs, *QUICK, "--out"]
    done = truing(*words, out)
    assert done.code == 2
    assert "holds other files" in done.err
    assert [item.name for item in out.iterdir()] == ["thesis.txt"]
    assert "is a file" in truing(*words, out / "thesis.txt").err


def test_bad_rows_stop_or_are_set_aside(truing: Truing, models: Models, pairs: Path, tmp_path: Path) -> None:
    with pairs.open("a") as stream:
        stream.write('{"prompt": "x", "chosen": 3, "rejected": "y"}\n')
    words = ["align", "dpo", "-m", models["a"], "--records", pairs, *QUICK, "--out", tmp_path / "o"]
    refused = truing(*words)
    assert refused.code == 2
    assert "line 7" in refused.err
    done = truing(*words, "--on-error", "set-aside")
    assert done.code == 0, done.err
    assert "1 bad rows set aside" in done.err
    assert "on 6 preference records" in done.out


def test_help_of_a_method_lists_its_settings(truing: Truing) -> None:
    import dataclasses

    from truing.methods.training.dpo import DPO

    done = truing("align", "dpo", "--help", width=80)
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for field in dataclasses.fields(DPO):  # type: ignore[arg-type]
        assert f"--{field.name.replace('_', '-')} " in done.out
    words = " ".join(done.out.split())
    assert "learns from preference records" in words
    assert "[default: 0.1]" in words
    assert done.out.index("--beta") < done.out.index("--learning-rate")
    assert "[default: 'sigmoid']" in words
    assert "Usage: truing align [OPTIONS]" in truing("align", "--help").out


def test_a_killed_alignment_goes_on(truing: Truing, models: Models, tmp_path: Path) -> None:
    """SIGKILL in the middle; the same command ends with the weights of an undisturbed one, and trains no step twice."""
    from safetensors.torch import load_file

    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"cat {n}", "chosen": "sat", "rejected": "mat"}) + "\n" for n in range(40))
    )
    words = [
        "align", "dpo", "--model", models["a"], "--records", file, "--max-steps", "150", "--batch-size", "2",
        "--save-every", "5", "--learning-rate", "1e-3", "--out",
    ]  # fmt: skip
    out = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "truing", *map(str, words), str(out)]
    victim = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    marks = list((out / "training").glob("checkpoints/checkpoint-*/complete"))
    while not marks and time.monotonic() < deadline and victim.poll() is None:
        time.sleep(0.02)
        marks = list((out / "training").glob("checkpoints/checkpoint-*/complete"))
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert marks, "it was not killed between its first checkpoint and its end"
    assert not (out / "config.json").exists()
    done = shell(*words, out)
    assert done.returncode == 0, done.stderr
    assert truing(*words, tmp_path / "whole").code == 0
    killed, undisturbed = (load_file(place / "model.safetensors") for place in (out, tmp_path / "whole"))
    assert killed.keys() == undisturbed.keys()
    for name, weight in undisturbed.items():
        assert killed[name].equal(weight), name
    steps = [json.loads(line).get("step") for line in (out / "training" / "log.jsonl").read_text().splitlines()]
    assert [step for step in steps if step] == list(range(1, 151))


def test_a_writer_of_prompts_is_trained_and_used(truing: Truing, models: Models, pairs: Path, tmp_path: Path) -> None:
    from truing.models import load

    pytest.importorskip("trl")
    writer, out = tmp_path / "writer", tmp_path / "aligned"
    short = ("--instruction", "{prompt}", "--max-new-tokens", 6, "--response-tokens", 6)
    done = truing(
        "align", "derived-prompt", "--model", models["a"], "--records", pairs, "--responder", models["b"],
        "--reward", "{answer_length: {target: 3}}", "--max-steps", 2, "--prompts-per-step", 2, *short, "--out", writer,
    )  # fmt: skip
    assert done.code == 0, done.err
    log = [json.loads(line) for line in (writer / "training" / "log.jsonl").read_text().splitlines()]
    assert {"similarity", "original_reward", "greedy_reward"} <= set(log[-1])
    done = truing(
        "align", "in-context-query", "--model", models["b"], "--writer", writer, "--how", "turns", *short, "--room", 8,
        "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    aligned = load(out)
    assert [step.method for step in aligned.history] == ["in_context_query"]
    assert aligned.modifiers[-1].writer.history[-1].method == "derived_prompt"
    assert aligned.modifiers[-1].derivation("the cat") is not None
    refused = truing(
        "align", "derived-prompt", "--model", models["a"], "--records", pairs, "--responder", models["b"],
        "--reward", "{answer_length: {target: 3}}", "--baseline", "mean", "--out", tmp_path / "x",
    )  # fmt: skip
    assert refused.code == 2
    assert "baseline is one of greedy, others" in refused.err
