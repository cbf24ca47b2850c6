from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Truing

Models = dict[str, Path]


def test_a_manifest_is_written_and_checked(truing: Truing, models: Models, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.json"
    done = truing("audit", "manifest", models["a"], "--out", file, "--canaries", 4)
    assert done.code == 0, done.err
    assert "4 canaries" in done.out
    same = truing("audit", "check", models["a"], file)
    assert (same.code, same.err) == (0, "")
    assert "Nothing has changed" in same.out
    other = truing("audit", "check", models["b"], file, "--json")
    assert other.code == 1
    found = json.loads(other.out)
    assert not found["ok"]
    assert {finding["kind"] for finding in found["findings"]} >= {"tensor", "canary", "file"}
    assert found["checked"]["canaries"] == 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["manifest", "{a}"], "--out"),
        (["manifest", "{a}", "--out", "{a}/m.json"], "lies in the model's own folder"),
        (["manifest", "{a}", "--out", "."], "is a folder"),
        (["check", "{a}", "absent.json"], "cannot be read"),
        (["check", "./no-model", "{a}/config.json"], "is no manifest"),
    ],
)
def test_mistakes(truing: Truing, models: Models, words: list[str], expected: str) -> None:
    done = truing("audit", *(word.replace("{a}", str(models["a"])) for word in words))
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


def test_the_attack_from_the_command_line(truing: Truing, models: Models, tmp_path: Path) -> None:
    from truing.measures.result import Result

    file = tmp_path / "attack.json"
    done = truing(
        "measure", "activation-attack", "--model", models["a"], "--limit", 22, "--strengths", "0,-0.5",
        "--max-new-tokens", 4, "--draws", 1, "--position", 0, "--out", file, width=160,
    )  # fmt: skip
    assert done.code == 0, done.err
    for part in (
        "Behaviour by strength",
        "Layers searched",
        "Alarms by strength",
        "attack -0.5",
        "Note: harmless (attack on harmless):",
    ):
        assert part in done.out
    result = Result.load(file)
    assert result.settings["strengths"] == [0.0, -0.5]
    assert "harmless -0.5 random" in result.figures
    assert "harmless -0.5 random" not in done.out
    assert not any("prompt" in row or "answer" in row for row in result.samples)


def test_the_attack_from_a_recipe_with_rewards_and_its_report(truing: Truing, models: Models, tmp_path: Path) -> None:
    from tests.measures.test_activation_attack import PAIRS

    pairs, recipe = tmp_path / "pairs.jsonl", tmp_path / "mine.yaml"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in PAIRS * 2))
    recipe.write_text(
        f"model: {models['a']}\nsteps:\n  - system_message: {{text: Be kind.}}\nmeasures:\n  - activation_attack:\n"
        f"      contrasts: {pairs}\n      harmless: {{pattern: {{pattern: cat}}}}\n      strengths: [-0.5]\n"
        "      draws: 1\n      max_new_tokens: 4\n      show_answers: true\nside_effects: false\n"
    )
    done = truing("run", recipe, "--out", tmp_path / "run", width=120)
    assert done.code == 0, done.err
    page = (tmp_path / "run" / "report.html").read_text()
    for part in ("Behaviour by strength", "Layers searched", "harmless: change at -0.5", "what is the"):
        assert part in page
    wrong = truing("run", recipe, "--out", tmp_path / "other", "--set", "activation_attack.score=kl")
    assert wrong.code == 2
    assert "score is one of" in wrong.err
