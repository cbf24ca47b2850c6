"""Grounded decoding and SayCan from the command line and from recipes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Truing

Models = dict[str, Path]
SKILLS = "{the cat sat.: 0.9, it is grey.: 0.4}"


def test_align_and_answer(truing: Truing, models: Models, tmp_path: Path) -> None:
    from truing.models import load

    done = truing(
        "align", "grounded-decoding", "-m", models["a"], "--out", tmp_path / "grounded", "--beam", 2, "--terminal", ".",
        "--scorers", f"[{{affordance: {{skills: {SKILLS}}}}}, {{avoid: {{words: [grey], epsilon: 0.01}}}}]",
    )  # fmt: skip
    assert done.code == 0, done.err
    grounded = load(tmp_path / "grounded")
    assert grounded.modifiers[0].settings()["beam"] == 2
    assert grounded.generate("what?", max_new_tokens=30)[0].text.strip() in ("the cat sat.", "it is grey.")
    done = truing("align", "saycan", "-m", models["a"], "--out", tmp_path / "saycan", "--skills", SKILLS)
    assert done.code == 0, done.err
    assert load(tmp_path / "saycan").generate("what?")[0].text in ("the cat sat.", "it is grey.")


def test_what_cannot_work_is_one_line(truing: Truing, models: Models, tmp_path: Path) -> None:
    for words, message in (
        (("grounded-decoding", "--scorers", "[{avoyd: {words: [a]}}]"), "Did you mean `avoid`"),
        (("grounded-decoding", "--scorers", "[{avoid: {words: [a]}}]", "--beam", 0), "beam is a whole number over 0"),
        (("grounded-decoding",), "scorers"),
        (("saycan", "--skills", "[go, go]"), "'go' is named twice"),
    ):
        done = truing("align", *words, "-m", models["a"], "--out", tmp_path / "out")
        assert done.code == 2
        assert message in " ".join(done.err.split())
        assert not (tmp_path / "out").exists()


def test_recipes(truing: Truing, models: Models, tmp_path: Path) -> None:
    recipe = tmp_path / "grounded.yaml"
    recipe.write_text(
        f"model: {models['a']}\nsteps:\n  - grounded_decoding:\n      terminal: ['.']\n      scorers:\n"
        "        - affordance: {skills: [the cat sat., it is grey.]}\n"
        "        - tempered: {reward: {keyword: {words: [i], whole_words: false}}, tau: 0.02}\n"
        "measures: []\nside_effects: false\n"
    )
    done = truing("run", recipe, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    from truing.models import load

    made = load(next((tmp_path / "run" / "steps").iterdir()) / "model")
    assert made.generate("what?", max_new_tokens=30)[0].text.strip() == "it is grey."
