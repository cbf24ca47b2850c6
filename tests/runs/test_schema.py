from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.errors import RecipeError
from truing.runs import find_recipe, parse, recipe_names
from truing.runs.schema import SIDE_EFFECTS, Recipe, StepSpec
from truing.runs.writing import as_yaml

TEXT = """\
model: sandbox/base
steps:
  - sft: {records: sandbox/demonstrations}
  - DPO:
      records: {path: pairs.jsonl, kind: preference, limit: 10}
      beta: 0.1
  - nudging: {guide: sandbox/guide}
measures: [hhh, over-refusal, {perplexity: {limit: 5}}]
"""


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yaml", overrides)
    return str(caught.value)


def test_a_recipe_becomes_steps_and_measures() -> None:
    recipe, _ = parse(TEXT, "r.yaml")
    assert [step.method for step in recipe.steps] == ["sft", "dpo", "nudging"]
    assert recipe.steps[1] == StepSpec(
        method="dpo", records={"path": "pairs.jsonl", "kind": "preference", "limit": 10}, settings={"beta": 0.1}
    )
    assert [item.measure for item in recipe.measures] == ["hhh", "over_refusal", "perplexity"]
    assert recipe.measures[2].settings == {"limit": 5}
    assert (recipe.seed, recipe.report, recipe.side_effects) == (0, "report.html", True)


def test_side_effects_are_added_once() -> None:
    recipe, _ = parse(TEXT, "r.yaml")
    names = [item.measure for item in recipe.all_measures()]
    assert sorted(names) == sorted({"hhh", "perplexity", *SIDE_EFFECTS})
    assert [item.side_effect for item in recipe.all_measures()][:3] == [False] * 3
    quiet, _ = parse(TEXT, "r.yaml", ["side_effects=false"])
    assert len(quiet.all_measures()) == 3


def test_overrides_are_checked_like_the_file() -> None:
    recipe, _ = parse(TEXT, "r.yaml", ["dpo.beta=0.3", "seed=5", "hhh.limit=7", "report=false"])
    assert recipe.steps[1].settings == {"beta": 0.3}
    assert recipe.measures[0].settings == {"limit": 7}
    assert (recipe.seed, recipe.report) == (5, False)
    assert error_of(TEXT, "dpo.beta=true").startswith("--set dpo.beta=true: ")
    assert error_of(TEXT, "seed=-1").startswith("--set seed=-1: ")
    assert "Did you mean `beta`" in error_of(TEXT, "dpo.betta=0.1")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "the recipe is empty"),
        ("- a\n", 1, "the recipe holds a list"),
        ("steps: []\n", 1, "names no `model`"),
        ("model: a\nmeasurse: [hhh]\n", 2, "Did you mean `measures`"),
        ("model: 3\n", 1, "`model` is 3: it must be"),
        ("model: ''\n", 1, "`model` is empty"),
        ("model: a\nsteps: {sft: {}}\n", 2, "`steps` must be a list"),
        ("model: a\nsteps:\n  - 3\n", 3, "found a number"),
        ("model: a\nsteps:\n  - sft: {records: x}\n    dpo: {}\n", 3, "found 2 keys (sft, dpo)"),
        ("model: a\nsteps:\n  - dop: {records: x}\n", 3, "Did you mean `dpo`"),
        ("model: a\nsteps:\n  - dpo: {records: x,\n      betta: 0.1}\n", 4, "no setting `betta`. Did you mean `beta`"),
        ("model: a\nsteps:\n  - dpo: {records: x,\n      beta: true}\n", 4, "beta"),
        ("model: a\nsteps:\n  - dpo: {records: x,\n      beta: much}\n", 4, "beta"),
        ("model: a\nsteps:\n  - dpo: {records: x, beta: -1}\n", 3, "beta"),
        ("model: a\nsteps:\n  - dpo: {beta: 0.1}\n", 3, "learns from preference records"),
        ("model: a\nsteps:\n  - dpo: {records: {pth: x}}\n", 3, "Did you mean `path`"),
        ("model: a\nsteps:\n  - dpo: {records: {path: x, limit: 0}}\n", 3, "`limit` is 0"),
        ("model: a\nsteps:\n  - dpo: {records: [x]}\n", 3, "`records` is a file or a name"),
        ("model: a\nsteps:\n  - dpo: 3\n", 3, "the settings of `dpo` must be a mapping"),
        ("model: a\nsteps:\n  - nudging: {guide: g,\n      records: x}\n", 4, "`nudging` reads no records"),
        ("model: a\nsteps:\n  - nudging: {guide: g}\n  - best_of_n: {reward: sandbox_grade}\n", 4, "order of search"),
        ("model: a\nsteps:\n  - best_of_n: {reward: kyword}\n", 3, "Did you mean `keyword`"),
        ("model: a\nsteps:\n  - best_of_n: {reward: {keyword: {wrds: [a]}}}\n", 3, "Did you mean `words`"),
        ("model: a\nsteps:\n  - best_of_n: {reward: [1, 2]}\n", 3, "a reward is a name"),
        ("model: a\nmeasures: [hhhh]\n", 2, "Did you mean `hhh`"),
        ("model: a\nmeasures:\n  - hhh: {limt: 3}\n", 3, "Did you mean `limit`"),
        ("model: a\nmeasures:\n  - hhh: {limit: some}\n", 3, "limit"),
        ("model: a\nreport: ../x.html\n", 2, "plain file name"),
        ("model: a\nreport: 3\n", 2, "`report` is 3"),
        ("model: a\nseed: 1.5\n", 2, "`seed` is 1.5"),
        ("model: a\nside_effects: 1\n", 2, "`side_effects` is 1"),
        ("model: a\nlimit: 0\n", 2, "`limit` is 0"),
    ],
)  # fmt: skip
def test_errors_name_the_line_and_the_remedy(text: str, line: int | None, message: str) -> None:
    error = error_of(text)
    assert error.startswith(f"r.yaml, line {line}: " if line else "r.yaml"), error
    assert message in error
    assert "\n" not in error


def test_numbers_that_yaml_takes_for_text() -> None:
    from truing.runs.resolve import build_method

    recipe, source = parse("model: a\nsteps:\n  - dpo: {records: x, learning_rate: 1e-5, beta: 1}\n", "r.yaml")
    method = build_method(recipe.steps[0], recipe, source, 0)
    assert method.learning_rate == 1e-5
    assert method.beta == 1.0


def test_seed_and_limit_reach_what_sets_none() -> None:
    from truing.runs.resolve import build_measure, build_method

    recipe, source = parse(TEXT, "r.yaml", ["seed=9", "limit=20", "sft.seed=4"])
    assert build_method(recipe.steps[0], recipe, source, 0).seed == 4
    assert build_method(recipe.steps[1], recipe, source, 1).seed == 9
    assert build_measure(recipe.measures[0], recipe, source, 0).limit == 20
    assert build_measure(recipe.measures[2], recipe, source, 2).limit == 5


def test_rewards_are_made_from_their_settings() -> None:
    from truing.rewards.functions import Keyword
    from truing.runs.resolve import build_method

    text = "model: a\nsteps:\n  - best_of_n: {n: 2, reward: {keyword: {words: [please]}}}\n"
    recipe, source = parse(text, "r.yaml")
    assert build_method(recipe.steps[0], recipe, source, 0).reward == Keyword(words=["please"])


def test_a_written_recipe_reads_as_the_same() -> None:
    recipe, _ = parse(TEXT, "r.yaml", ["seed=3", "limit=5", "report=false", "name='x: y'", "steps.2.records.limit=4"])
    again, _ = parse(as_yaml(recipe), "again")
    assert again == recipe
    assert Recipe(model="m") == parse(as_yaml(Recipe(model="m")), "m")[0]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SETTINGS = st.dictionaries(
    st.sampled_from(["records", "beta", "learning_rate", "guide", "reward", "n", "limit", "seed", "x"]),
    VALUES,
    max_size=3,
)
NAMES = st.sampled_from(["sft", "dpo", "nudging", "best_of_n", "system_message", "hhh", "kl", "nothing"])
ENTRIES = st.lists(st.dictionaries(NAMES, SETTINGS | VALUES, max_size=2) | NAMES | VALUES, max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {"model": st.just("sandbox/base") | VALUES},
        optional={
            "steps": ENTRIES | VALUES,
            "measures": ENTRIES | VALUES,
            "seed": VALUES,
            "report": VALUES,
            "limit": VALUES,
        },
    )
)
def test_any_recipe_is_read_or_refused_in_one_line(value: dict[str, object]) -> None:
    with contextlib.suppress(RecipeError):
        parse(yaml.safe_dump(value), "r.yaml")


@pytest.mark.parametrize("name", recipe_names())
def test_ready_recipes_pass_their_own_check(name: str) -> None:
    found, text = find_recipe(name)
    recipe, _ = parse(text, name)
    assert recipe.name == found == name
    assert recipe.description
    assert recipe.measures


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, truing.runs; from truing.runs import recipe_names; recipe_names()\n"
        "print([m for m in ('torch', 'numpy', 'datasets', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert run.stdout.strip() == "[]"
