from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Truing
from truing.coverage import MAPS

Models = dict[str, Path]


def test_what_a_run_has_evidence_for(truing: Truing, models: Models, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: {models['a']}\nmeasures: [hhh: {{limit: 10, max_new_tokens: 2}}]\nreport: false\n")
    assert truing("run", recipe, "--out", tmp_path / "run").code == 0
    shown = truing("coverage", tmp_path / "run", "--map", "goals", width=120)
    assert "What the model is aligned with (goals): 2 of 18" in shown.out
    assert "hhh.harmless" in shown.out
    assert "records tagged goals/goal/values/norms" in shown.out
    missing = truing("coverage", tmp_path / "run", "--map", "goals", "--missing", width=120)
    assert "hhh.harmless" not in missing.out
    found = json.loads(truing("coverage", tmp_path / "run", "--json").out)
    assert [one["map"] for one in found] == list(MAPS)


def test_the_maps_themselves_and_mistakes(truing: Truing, tmp_path: Path) -> None:
    shown = truing("coverage")
    assert shown.code == 0
    assert "Trustworthiness (trustworthiness)\n" in shown.out
    assert "no map `risks`" in truing("coverage", "--map", "risks").err
    assert "no run folder" in truing("coverage", tmp_path).err
