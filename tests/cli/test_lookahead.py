"""Look-ahead decoding from the command line and from recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Truing
from truing.runs import find_recipe, parse

Models = dict[str, Path]


def test_align_deal_and_transfer_q(truing: Truing, models: Models, tmp_path: Path) -> None:
    from truing.models import load

    reward = json.dumps({"keyword": {"words": ["cat", "mat"]}})
    for name, more in (
        ("deal", ["--weight", "3", "--beam", "2"]),
        ("transfer-q", ["--rollout", models["a"], "--alpha", "0.5"]),
        ("args", ["--weight", "3"]),
        ("controlled-decoding", ["--n", "2"]),
    ):
        out = tmp_path / name
        ahead = [] if name == "args" else ["--lookahead", "4"]
        done = truing("align", name, "-m", models["a"], "--reward", reward, "--k", "3", *ahead, *more, "--out", out)
        assert done.code == 0, done.err
        aligned = load(out)
        assert aligned.modifiers[-1].k == 3
        one = aligned.generate("the cat", max_new_tokens=4)[0]
        assert len(one.trace["steps"]) == len(one.tokens)
        assert all(len(step) <= 6 for step in one.trace["steps"])
    wrong = truing("align", "deal", "-m", models["a"], "--reward", reward, "--weight", "-1", "--out", tmp_path / "x")
    assert wrong.code == 2
    assert "weight is a finite number of at least 0" in wrong.err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["deal", "transfer-q", "args", "controlled-decoding"])
def test_ready_recipes(name: str) -> None:
    recipe, _ = parse(find_recipe(name)[1], name)
    assert [step.method for step in recipe.steps] == [name.replace("-", "_")]
